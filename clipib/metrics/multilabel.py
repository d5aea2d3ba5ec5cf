"""Average precision where an image may show several classes."""

from __future__ import annotations

import numpy as np


def average_precision_per_class(scores: np.ndarray, targets: np.ndarray) -> np.ndarray:
    """Average precision of each class over the images: the mean of the precision at each of its positives.

        AP = 1/P sum over positives p of  #(positives with score >= s_p) / #(images with score >= s_p)

    Images with equal scores enter together, so the number does not depend on their order; scikit-learn's
    `average_precision_score` does the same. CLIP_benchmark takes ties in whatever order its sort leaves them, and is
    equal where there are none.

    Args:
        scores: (N, C) one column per class, higher is more likely.
        targets: (N, C) bool or 0/1.

    Returns:
        (C,) in [0, 1]; 0 for a class without positives.

    Raises:
        ValueError: when shapes differ, targets are neither 0 nor 1, or a score is not a number.

    Example:
        >>> average_precision_per_class(np.array([[0.9], [0.5], [0.5]]), np.array([[1], [1], [0]])).round(4)
        array([0.8333])
    """
    if scores.ndim != 2 or scores.shape != targets.shape or not len(scores):
        raise ValueError(f"expected scores and targets (N, C), got {scores.shape} and {targets.shape}")
    if not np.isin(targets, (0, 1)).all():
        raise ValueError("expected targets of 0 and 1")
    if np.isnan(scores).any():
        raise ValueError("scores hold NaN")
    columns = zip(scores.T, targets.T.astype(bool), strict=True)
    return np.array([_average_precision(column, positive) for column, positive in columns])


def mean_average_precision(scores: np.ndarray, targets: np.ndarray) -> float:
    """Mean over all classes of `average_precision_per_class`; a class without positives counts as 0.

    Reference:
        CLIP_benchmark's `mean_average_precision`, the main metric of VOC2007-multilabel.

    Example:
        >>> mean_average_precision(np.array([[0.9, 0.1], [0.5, 0.2]]), np.array([[0, 0], [1, 0]]))
        0.25
    """
    return float(average_precision_per_class(scores, targets).mean())


def _average_precision(scores: np.ndarray, positive: np.ndarray) -> float:
    if not positive.any():
        return 0.0
    falling = -np.sort(-scores)
    at_least = np.searchsorted(-falling, -scores[positive], side="right")  # images scored as high as each positive
    found = np.searchsorted(np.sort(-scores[positive]), -scores[positive], side="right")
    return float((found / at_least).mean())
