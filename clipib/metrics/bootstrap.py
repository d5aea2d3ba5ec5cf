"""Bootstrap intervals of means and of statistics of all samples at once."""

from __future__ import annotations

import math
from collections.abc import Callable
from statistics import NormalDist
from typing import NamedTuple

import numpy as np

from clipib.metrics.sampling import (
    Design,
    make_design,
    moments_of_mean,
    normal_of_student,
    proportion_interval,
    student_of_normal,
    totals,
)
from clipib.metrics.statistics import Interval

NORMAL = NormalDist()
BLOCK = 1 << 20  # numbers drawn at once, 8 MB
FARTHEST = 5.0  # normal quantiles beyond which a few thousand draws say nothing


class Draws(NamedTuple):
    """A statistic, drawn anew many times, and what corrects the draws.

    value: the statistic of the samples. draws: (draws,) sorted. acceleration: a of BCa, skewness / 6.
    bias: z0 of BCa; both are 0 for plain percentiles.
    stretch: standard error that is right for small strata, divided by that of the draws. freedom: for Student's t.
    """

    value: float
    draws: np.ndarray
    acceleration: float
    bias: float
    stretch: float
    freedom: int


def bootstrap_mean(
    values: np.ndarray,
    *,
    strata: np.ndarray | None = None,
    clusters: np.ndarray | None = None,
    proportion: bool = True,
    alpha: float = 0.05,
    draws: int = 2000,
    seed: int = 0,
) -> Interval:
    """Interval of a mean over samples, over the means of strata, or over clustered samples.

    BCa bootstrap, resampled within strata or by whole clusters. Its normal quantiles are those of Student's t times
    the ratio of the unbiased standard error to the bootstrap's, which is too small by sqrt((m - 1) / m) where strata
    have m samples. Values that are all 0 or 1 have a better one, `proportion_interval`, which is what they get: a
    bootstrap of few misses covers less than it says, and of no miss it is a point.

    Args:
        values: (N,) numbers.
        strata: (N,) classes; the mean is that over classes of the mean of their samples.
        clusters: (N,) clusters of samples that are not independent; the mean is that over samples.
        proportion: the mean lies in [0, 1]; not so of ranks and likelihoods, which may all be 0 or 1 by chance.
        alpha: 1 - level; draws should be some 40 / alpha or more.

    Returns:
        The interval: a point where all values are equal and not all 0 or 1, (-inf, inf) of a single unit.

    Reference:
        Efron, 1987, Better bootstrap confidence intervals; Hesterberg, 2015, What Teachers Should Know About the
        Bootstrap, arXiv 1411.5279, on small samples.

    Example:
        >>> tuple(round(x) for x in bootstrap_mean(np.arange(100.0)))
        (44, 55)
    """
    values = np.asarray(values, dtype=float)
    if proportion and is_binary(values):
        return proportion_interval(values, strata=strata, clusters=clusters, alpha=alpha)
    design = make_design(len(values), strata=strata, clusters=clusters)
    return interval_of(draw_mean(values, design, draws, seed), alpha)


def is_binary(values: np.ndarray) -> bool:
    """Whether all values are 0 or 1."""
    return bool(((values == 0) | (values == 1)).all())


def draw_mean(values: np.ndarray, design: Design, draws: int, seed: int) -> Draws:
    """Draw a mean anew: units of every group with replacement from that group."""
    m = moments_of_mean(values, design)
    order, first, counts = _grouped(design)
    start, count = np.repeat(first, counts), np.repeat(counts, counts)
    top = (design.weight * totals(values, design))[order]
    bottom = (design.weight * design.size)[order]
    equal = bool((design.size == design.size[0]).all())  # then the denominator is the same in all draws
    rng = np.random.default_rng(seed)
    found = np.empty(draws)
    rows = max(1, BLOCK // len(top))
    for at in range(0, draws, rows):
        chosen = start + (rng.random((min(rows, draws - at), len(top))) * count).astype(np.int64)
        found[at : at + rows] = top[chosen].sum(1) / (bottom.sum() if equal else bottom[chosen].sum(1))
    found.sort()
    a = min(max(m.skewness / 6, -0.15), 0.15)
    # For a mean the bias of BCa is its acceleration, to the order that matters, and free of the noise of the draws.
    return Draws(m.value, found, a, a, _stretch(m.variance, top, bottom, m.value, first, counts), m.freedom)


def _stretch(
    variance: float, top: np.ndarray, bottom: np.ndarray, mean: float, first: np.ndarray, m: np.ndarray
) -> float:
    """Unbiased standard error over that of the draws, whose variance has no factor m / (m - 1)."""
    r = (top - mean * bottom) / bottom.sum()
    plain = (np.add.reduceat(r**2, first) - np.add.reduceat(r, first) ** 2 / m).sum()
    return math.sqrt(variance / plain) if variance > 0 and plain > 0 else 1.0


def bootstrap_statistic(
    statistic: Callable[[np.ndarray], float],
    n: int,
    *,
    strata: np.ndarray | None = None,
    clusters: np.ndarray | None = None,
    alpha: float = 0.05,
    draws: int = 2000,
    seed: int = 0,
) -> Interval:
    """Interval of any smooth statistic of n samples, as of mean average precision.

    Percentiles of the draws, widened as for means of n samples in strata of equal size. They do not mend bias: a
    statistic that is biased by as much as its error, as the expected calibration error is, should be given no interval.

    Args:
        statistic: of (M,) indices in [0, n), some of them several times, to a number; M is n but for clusters.
        strata: (n,) classes within which to resample.
        clusters: (n,) clusters to resample as a whole.

    Reference:
        Hesterberg, 2015, What Teachers Should Know About the Bootstrap, arXiv 1411.5279: expanded percentiles.

    Example:
        >>> x = np.arange(100.0)
        >>> tuple(round(v) for v in bootstrap_statistic(lambda rows: np.median(x[rows]), 100, draws=500))
        (41, 59)
    """
    design = make_design(n, strata=strata, clusters=clusters)
    return interval_of(draw_statistic(statistic, design, draws, seed), alpha)


def draw_statistic(statistic: Callable[[np.ndarray], float], design: Design, draws: int, seed: int) -> Draws:
    """Draw a statistic of rows anew: units of every group with replacement from that group."""
    order, first, counts = _grouped(design)
    start, count = np.repeat(first, counts), np.repeat(counts, counts)
    rows = np.split(np.argsort(design.place, kind="stable"), np.cumsum(design.size)[:-1].astype(int))  # of each unit
    whole = len(rows) < len(design.place)
    rng = np.random.default_rng(seed)
    value, found = float(statistic(np.arange(len(design.place)))), np.empty(draws)
    for i in range(draws):
        chosen = order[start + (rng.random(len(order)) * count).astype(np.int64)]
        found[i] = statistic(np.concatenate([rows[unit] for unit in chosen]) if whole else chosen)
    found.sort()
    freedom = len(order) - len(counts)
    return Draws(value, found, 0.0, 0.0, math.sqrt(len(order) / max(freedom, 1)), freedom)


def _grouped(design: Design) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Units in the order of their groups; where each group starts, and how many units it has."""
    order = np.argsort(design.group, kind="stable")
    _, first, counts = np.unique(design.group[order], return_index=True, return_counts=True)
    return order, first, counts


def mirrored(d: Draws) -> Draws:
    """Draws and their mirror image about the statistic, for what is symmetric but for the noise of its samples."""
    both = np.sort(np.concatenate([d.draws, 2 * d.value - d.draws]))
    return d._replace(draws=both, acceleration=0.0, bias=0.0)


def interval_of(d: Draws, alpha: float) -> Interval:
    """The BCa interval of a statistic at level 1 - alpha.

    level = Phi(z0 + (z0 + z) / (1 - a (z0 + z))),    z = stretch t_{alpha / 2} and stretch t_{1 - alpha / 2}
    """
    if d.freedom < 1:
        return Interval(-math.inf, math.inf)
    levels = []
    for tail in (alpha / 2, 1 - alpha / 2):
        z = d.stretch * student_of_normal(NORMAL.inv_cdf(tail), d.freedom)
        shifted = d.bias + min(max(z, -FARTHEST), FARTHEST)
        levels.append(NORMAL.cdf(d.bias + shifted / (1 - d.acceleration * shifted)))
    return Interval(*np.quantile(d.draws, levels, method="weibull").tolist())


def p_of(d: Draws, null: float = 0.0) -> float:
    """Two-sided p: the smallest alpha at which `interval_of` leaves `null` out, to the resolution of the draws."""
    if d.freedom < 1:
        return 1.0
    w = NORMAL.inv_cdf(_share_below(d.draws, null)) - d.bias
    z = (w / (1 + d.acceleration * w) - d.bias) / d.stretch
    return min(1.0, 2 * NORMAL.cdf(-abs(normal_of_student(z, d.freedom))))


def _share_below(draws: np.ndarray, value: float) -> float:
    """Share of sorted draws below the value, those within rounding of it counted half; never 0 or 1."""
    near = 1e-12 * max(abs(value), float(np.abs(draws[[0, -1]]).max()))
    low, high = np.searchsorted(draws, value - near), np.searchsorted(draws, value + near, side="right")
    return float((low + high + 1) / 2 / (len(draws) + 1))
