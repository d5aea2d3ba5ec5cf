"""Average precision where an image may show several classes."""

from __future__ import annotations

from collections.abc import Callable

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
    _check(scores, targets)
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


def mean_average_precision_by_order(scores: np.ndarray, targets: np.ndarray) -> tuple[float, float]:
    """The smallest and largest mean average precision if images with equal scores enter one by one, in some order.

    Example:
        >>> scores, targets = np.array([[0.5], [0.5]]), np.array([[1], [0]])
        >>> mean_average_precision_by_order(scores, targets)
        (0.5, 1.0)
    """
    _check(scores, targets)
    ends = []
    for later in (targets.astype(bool), ~targets.astype(bool)):  # among equals
        places = np.argsort(np.lexsort((later, -scores), axis=0), axis=0)
        ends.append(mean_average_precision(-places, targets))
    return ends[0], ends[1]


def mean_average_precision_of_rows(scores: np.ndarray, targets: np.ndarray) -> Callable[[np.ndarray], float]:
    """`mean_average_precision` of any images, some of them several times: for a bootstrap, as nothing is sorted anew.

        AP = sum_p w_p #(weight of positives with score >= s_p) / #(weight of images with score >= s_p) / sum_p w_p

    where the weight w of an image is how often it was drawn.

    Args:
        scores, targets: (N, C) as in `average_precision_per_class`.

    Returns:
        A function of (M,) indices in [0, N).

    Example:
        >>> scores, targets = np.array([[0.9, 0.1], [0.5, 0.2], [0.3, 0.4]]), np.array([[0, 1], [1, 0], [1, 0]])
        >>> rows = np.array([0, 1, 1])
        >>> of_rows = mean_average_precision_of_rows(scores, targets)
        >>> of_rows(rows) == mean_average_precision(scores[rows], targets[rows])
        True
    """
    _check(scores, targets)
    n, k = scores.shape
    order = np.argsort(-scores, axis=0, kind="stable").T  # (C, N), best first
    rising = np.take_along_axis(-scores.T, order, axis=1)
    ends = np.stack([np.searchsorted(row, row, side="right") - 1 for row in rising])  # the last one of equal scores
    places = np.flatnonzero(np.take_along_axis(targets.T.astype(bool), order, axis=1))  # of positives, class by class
    of_class, image = places // n, order.ravel()[places]
    end = ends.ravel()[places] + of_class * n
    last = np.searchsorted(places, end, side="right") - 1  # the last positive of equal score
    first = np.searchsorted(of_class, np.arange(k))[of_class]  # the first positive of the class
    # Weights are summed from one positive to the next: a running sum over all places takes several times as long.
    cuts = np.unique(np.concatenate([[0], of_class * n, end + 1]))
    start, stop = np.searchsorted(cuts, of_class * n), np.searchsorted(cuts, end + 1)
    cuts, flat, drawn = cuts[cuts < n * k], order.ravel(), np.empty(n * k, dtype=np.int32)

    def of_rows(rows: np.ndarray) -> float:
        weights = np.bincount(rows, minlength=n).astype(np.int32)
        own = weights[image]
        before = np.concatenate([[0], np.cumsum(own)])
        found = before[last + 1] - before[first]
        passed = np.concatenate([[0], np.cumsum(np.add.reduceat(weights.take(flat, out=drawn, mode="clip"), cuts))])
        at_least = np.maximum(passed[stop] - passed[start], 1)
        sums = np.bincount(of_class, weights=own * found / at_least, minlength=k)
        return float((sums / np.maximum(np.bincount(of_class, weights=own, minlength=k), 1)).mean())

    return of_rows


def _check(scores: np.ndarray, targets: np.ndarray) -> None:
    if scores.ndim != 2 or scores.shape != targets.shape or not len(scores):
        raise ValueError(f"expected scores and targets (N, C), got {scores.shape} and {targets.shape}")
    if not np.isin(targets, (0, 1)).all():
        raise ValueError("expected targets of 0 and 1")
    if np.isnan(scores).any():
        raise ValueError("scores hold NaN")


def _average_precision(scores: np.ndarray, positive: np.ndarray) -> float:
    if not positive.any():
        return 0.0
    falling = -np.sort(-scores)
    at_least = np.searchsorted(-falling, -scores[positive], side="right")  # images scored as high as each positive
    found = np.searchsorted(np.sort(-scores[positive]), -scores[positive], side="right")
    return float((found / at_least).mean())
