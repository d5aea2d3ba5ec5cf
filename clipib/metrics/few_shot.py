"""Small training sets drawn from a labelled one, parts of them to validate on, and the spread over draws."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence

import numpy as np

from clipib.metrics.statistics import Interval


def draw_shots(labels: np.ndarray, shots: int, *, seed: int) -> np.ndarray:
    """The images of one few-shot training set: `shots` of every class, all of a class that has fewer.

    The first k of a larger draw with the same seed are the draw of k shots, so that more shots only add images.

    Args:
        labels: (N,) class of each image.
        shots: images per class, at least 1.

    Returns:
        (n,) indices in ascending order.

    Example:
        >>> draw_shots(np.array([0, 1, 0, 1, 0, 2]), 2, seed=0).tolist()
        [1, 2, 3, 4, 5]
    """
    if shots < 1:
        raise ValueError(f"expected at least one shot, got {shots}")
    return np.flatnonzero(_place_in_class(labels, seed) < shots)


def assign_folds(labels: np.ndarray, *, most: int = 5, seed: int) -> np.ndarray:
    """Cut a labelled set into folds over which the images of every class are spread.

    The only image of a class is in no fold: it can be learnt from, but nothing would be left to validate on. With fewer
    images in every class than `most` there are as many folds as the largest class has images.

    Args:
        labels: (N,) class of each image.

    Returns:
        (N,) the fold of each image from 0, or -1; all are -1 where no class has two images.

    Example:
        >>> assign_folds(np.array([0, 0, 1, 1, 1, 2]), seed=0).tolist()
        [0, 1, 1, 0, 2, -1]
    """
    several = np.bincount(labels)[labels] > 1
    return np.where(several, _place_in_class(labels, seed) % most, -1)


def rounds(folds: np.ndarray, *, most_rows: int) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """What to fit on and what to validate on, (n,) indices each: every fold in its turn, the others fitted on.

    Args:
        folds: (N,) as `assign_folds` gives them.
        most_rows: with more rows than this, the first fold alone is validated on: one split is enough there.
    """
    n_folds = int(folds.max(initial=-1)) + 1
    for fold in range(n_folds if len(folds) <= most_rows else min(1, n_folds)):
        yield np.flatnonzero(folds != fold), np.flatnonzero(folds == fold)


def t_interval(values: Sequence[float], *, alpha: float = 0.05) -> Interval | None:
    """Student's interval of the mean of independent draws.

        mean -+ t(1 - alpha/2, S - 1) sd / sqrt(S)

    Returns:
        The interval, cut to [0, 1] for proportions; None for fewer than two draws.

    Example:
        >>> tuple(round(x, 4) for x in t_interval([0.50, 0.52, 0.54]))
        (0.4703, 0.5697)
    """
    n = len(values)
    if n < 2:
        return None
    from scipy.special import stdtrit

    mean = math.fsum(values) / n
    half = float(stdtrit(n - 1, 1 - alpha / 2)) * math.sqrt(sum((v - mean) ** 2 for v in values) / (n - 1) / n)
    return Interval(max(0.0, mean - half), min(1.0, mean + half))


def _place_in_class(labels: np.ndarray, seed: int) -> np.ndarray:
    """(N,) how many images of its class stand before each in a random order."""
    order = np.random.default_rng(seed).permutation(len(labels))
    order = order[np.argsort(labels[order], kind="stable")]
    counts = np.bincount(labels)
    place = np.empty(len(labels), dtype=np.int64)
    place[order] = np.arange(len(labels)) - (np.cumsum(counts) - counts)[labels[order]]
    return place
