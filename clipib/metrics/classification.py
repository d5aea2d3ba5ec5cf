"""Zero-shot classification from a matrix of logits: accuracies, per-class table, macro F1, worst group, ties."""

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
    nll: (N,) negative logarithm of the target's softmax probability, in nats.
    """

    predicted: np.ndarray
    target_rank: np.ndarray
    tied: np.ndarray
    top5: np.ndarray
    confidence: np.ndarray
    nll: np.ndarray


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
        nll=np.log(exponentials.sum(axis=1)) - (own - top)[:, 0].astype(np.float64),
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


def macro_f1(predicted: np.ndarray, targets: np.ndarray) -> float:
    """Mean over the classes that occur among the targets of F1, the harmonic mean of precision and recall.

        F1_c = 2 TP_c / (2 TP_c + FP_c + FN_c)

    A class that is predicted but never a target has no F1 of its own and lowers those of others, as in WILDS, whose
    number DataComp takes for iWildCam. It is scikit-learn's `f1_score(targets, predicted, average="macro",
    labels=np.unique(targets))`; without `labels` scikit-learn counts such a class as one more 0.

    Args:
        predicted, targets: (N,) class indices from 0, N at least 1.

    Returns:
        The mean, in [0, 1].

    Raises:
        ValueError: when shapes differ or there is nothing to count.

    Reference:
        Koh et al., 2021, WILDS, arXiv 2012.07421, section 4.1.1 (iWildCam).

    Example:
        >>> macro_f1(np.array([0, 0, 1, 2]), np.array([0, 0, 1, 1]))
        0.8333333333333333
    """
    _check_pairs(predicted, targets)
    n_classes = int(max(predicted.max(), targets.max())) + 1
    hits = np.bincount(targets[predicted == targets], minlength=n_classes)
    n_targets = np.bincount(targets, minlength=n_classes)
    n_predicted = np.bincount(predicted, minlength=n_classes)
    present = n_targets > 0
    return float((2 * hits[present] / (n_targets + n_predicted)[present]).mean())


class WorstGroup(NamedTuple):
    """accuracy in [0, 1] of the group where it is smallest, that group's index, and how many samples it has."""

    accuracy: float
    group: int
    n: int


def worst_group_accuracy(target_rank: np.ndarray, groups: np.ndarray, k: int = 1) -> WorstGroup:
    """The smallest accuracy at k over groups of samples, and the group; the lowest index among equals.

    Groups without a sample do not count. Samples with a negative index belong to no group (FMoW leaves the region
    "Other" out).

    Args:
        target_rank: (N,) classes placed before the target, as in `Predictions`.
        groups: (N,) whole numbers.

    Raises:
        ValueError: when shapes differ or no sample belongs to a group.

    Reference:
        Koh et al., 2021, WILDS, arXiv 2012.07421. DataComp takes k = 1 for FMoW and GeoDE and k = 5 for
        Dollar Street.

    Example:
        >>> worst_group_accuracy(np.array([0, 3, 0, 0, 1]), np.array([0, 0, 2, 2, -1]))
        WorstGroup(accuracy=0.5, group=0, n=2)
    """
    _check_pairs(target_rank, groups)
    member = groups >= 0
    if not member.any():
        raise ValueError("expected at least one sample in a group, got none")
    present, place, counts = np.unique(groups[member], return_inverse=True, return_counts=True)
    accuracies = np.bincount(place, weights=target_rank[member] < k) / counts
    worst = int(accuracies.argmin())
    return WorstGroup(float(accuracies[worst]), int(present[worst]), int(counts[worst]))


class ClassTable(NamedTuple):
    """How each of K classes fared; NaN where nothing is defined.

    n: (K,) images of the class. recall: (K,) share of them that were hit, NaN without images.
    precision: (K,) share of the images taken for the class that are of it, NaN where there are none.
    f1: (K,) harmonic mean of the two, NaN without images.
    mistaken_for: (K,) the class that its missed images were taken for most often, the lowest index among equals; -1
    where all were hit. n_mistaken: (K,) how many were.
    """

    n: np.ndarray
    recall: np.ndarray
    precision: np.ndarray
    f1: np.ndarray
    mistaken_for: np.ndarray
    n_mistaken: np.ndarray


def confusion_matrix(predicted: np.ndarray, targets: np.ndarray, n_classes: int) -> np.ndarray:
    """How many images of each class (row) were taken for each class (column).

    Args:
        predicted, targets: (N,) class indices in [0, n_classes).

    Returns:
        (n_classes, n_classes) counts that sum to N.

    Raises:
        ValueError: when shapes differ, there is nothing to count, or a class is out of range.

    Example:
        >>> confusion_matrix(np.array([0, 1, 1]), np.array([0, 0, 1]), 2).tolist()
        [[1, 1], [0, 1]]
    """
    _check_pairs(predicted, targets)
    low, high = min(predicted.min(), targets.min()), max(predicted.max(), targets.max())
    if low < 0 or high >= n_classes:
        raise ValueError(f"expected classes in [0, {n_classes}), got {low} to {high}")
    return np.bincount(targets * n_classes + predicted, minlength=n_classes**2).reshape(n_classes, n_classes)


def class_table(confusion: np.ndarray) -> ClassTable:
    """Recall, precision, F1 and the most frequent mistake of every class.

        recall_c = C_cc / sum_j C_cj    precision_c = C_cc / sum_i C_ic    F1_c = 2 C_cc / (sum_j C_cj + sum_i C_ic)

    Args:
        confusion: (K, K) counts, rows are the true classes.

    Returns:
        The mean of `recall` over the classes that have images is `mean_per_class_recall`.

    Example:
        >>> class_table(np.array([[1, 1], [0, 1]])).recall.tolist()
        [0.5, 1.0]
    """
    if confusion.ndim != 2 or confusion.shape[0] != confusion.shape[1]:
        raise ValueError(f"expected a confusion matrix (K, K), got {confusion.shape}")
    hits, n, n_predicted = np.diag(confusion), confusion.sum(axis=1), confusion.sum(axis=0)
    mistakes = confusion - np.diag(hits)
    most = mistakes.max(axis=1)
    with np.errstate(invalid="ignore"):
        recall, precision = hits / n, hits / n_predicted
        f1 = np.where(n > 0, 2 * hits / (n + n_predicted), np.nan)
    return ClassTable(n, recall, precision, f1, np.where(most > 0, mistakes.argmax(axis=1), -1), most)


def _check_pairs(first: np.ndarray, second: np.ndarray) -> None:
    if first.ndim != 1 or first.shape != second.shape or not len(first):
        raise ValueError(f"expected two arrays (N,) with N >= 1, got {first.shape} and {second.shape}")
