"""Zero-shot classification from a matrix of logits: accuracies, per-class recall, ties."""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

import numpy as np


class Predictions(NamedTuple):
    """What the logits say of each of N images.

    predicted: (N,) class of the largest logit, the lowest index among equals.
    target_rank: (N,) classes placed before the target; 0 is a hit.
    tied: (N,) bool, the largest logit is held by more than one class.
    top5: (N, min(5, K)) classes, best first, ties by lowest index.
    confidence: (N,) softmax probability of the predicted class.
    """

    predicted: np.ndarray
    target_rank: np.ndarray
    tied: np.ndarray
    top5: np.ndarray
    confidence: np.ndarray


def predict(logits: np.ndarray, targets: np.ndarray) -> Predictions:
    """Rank the classes of every image; equal logits go to the lowest class index.

    Args:
        logits: (N, K) float32.
        targets: (N,) class indices in [0, K).

    Raises:
        ValueError: when shapes do not fit or a logit is not a number.
    """
    if logits.ndim != 2 or targets.shape != logits.shape[:1]:
        raise ValueError(f"expected logits (N, K) and targets (N,), got {logits.shape} and {targets.shape}")
    if np.isnan(logits).any():
        raise ValueError("logits hold NaN")
    own = np.take_along_axis(logits, targets[:, None], axis=1)  # (N, 1)
    classes = np.arange(logits.shape[1])
    before = (logits > own) | ((logits == own) & (classes < targets[:, None]))
    top = logits.max(axis=1, keepdims=True)
    exponentials = np.exp((logits - top).astype(np.float64))
    order = np.argsort(-logits, axis=1, kind="stable")[:, :5]
    return Predictions(
        predicted=logits.argmax(axis=1),
        target_rank=before.sum(axis=1),
        tied=(logits == top).sum(axis=1) > 1,
        top5=order,
        confidence=1.0 / exponentials.sum(axis=1),
    )


def join_predictions(parts: Iterable[Predictions]) -> Predictions:
    """The predictions of consecutive blocks of images as one."""
    return Predictions(*(np.concatenate(columns) for columns in zip(*parts, strict=True)))


def accuracy_at_k(target_rank: np.ndarray, k: int) -> float:
    """Share of images whose target is among the first k classes, in [0, 1]."""
    return float((target_rank < k).mean())


def mean_per_class_recall(predicted: np.ndarray, targets: np.ndarray) -> float:
    """Mean over the classes that occur among the targets of the share of their images that were hit.

    The same number as scikit-learn's `balanced_accuracy_score`: classes without an image are left out.

    Example:
        >>> mean_per_class_recall(np.array([0, 0, 1]), np.array([0, 0, 0]))
        0.6666666666666666
    """
    n_images = np.bincount(targets)
    n_hits = np.bincount(targets[predicted == targets], minlength=len(n_images))
    present = n_images > 0
    return float((n_hits[present] / n_images[present]).mean())
