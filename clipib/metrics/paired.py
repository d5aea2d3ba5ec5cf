"""Differences of two checkpoints on the same samples: intervals, tests, and how many samples flipped."""

from __future__ import annotations

import math
from collections.abc import Callable
from statistics import NormalDist
from typing import NamedTuple

import numpy as np

from clipib.metrics.bootstrap import draw_mean, draw_statistic, interval_of, is_binary, mirrored, p_of
from clipib.metrics.sampling import (
    Design,
    effective_trials,
    make_design,
    moments_of_mean,
    normal_of_student,
    student_of_normal,
)
from clipib.metrics.statistics import Interval

NORMAL = NormalDist()


class Difference(NamedTuple):
    """b less a on the same samples.

    value: the difference. low, high: its interval at level 1 - alpha. p: two-sided, for "no difference".
    n: independent units, samples or clusters.
    gained, lost: samples that only b and only a hits; None unless the values are all 0 or 1.

    A one-sided test at alpha against a margin takes the interval at 2 alpha: a drop beyond the margin is proved when
    high < -margin, and ruled out when low > -margin.
    """

    value: float
    low: float
    high: float
    p: float
    n: int
    gained: int | None
    lost: int | None


def paired_proportions(a: np.ndarray, b: np.ndarray, *, alpha: float = 0.05) -> Difference:
    """Difference of two proportions on the same samples, with Tango's interval and McNemar's mid-p.

    The interval does not vanish when no sample flips: n samples without one do not rule a difference of 1 / n out.

    Args:
        a, b: (N,) bool, whether each checkpoint hits the sample.

    Raises:
        ValueError: when shapes differ, there is no sample, or a value is neither 0 nor 1.

    Example:
        >>> a, b = np.array([1] * 80 + [0] * 20), np.array([1] * 78 + [0] * 14 + [1] * 8)
        >>> d = paired_proportions(a, b)
        >>> d.gained, d.lost, round(d.value, 4), round(d.p, 4), round(d.low, 4), round(d.high, 4)
        (8, 2, 0.06, 0.0654, -0.0024, 0.1336)
    """
    a, b = _pair(a, b)
    if not (is_binary(a) and is_binary(b)):
        raise ValueError("expected values 0 and 1, or bool")
    gained, lost = _flips(a, b)
    low, high = tango_interval(lost, gained, len(a), alpha=alpha)
    return Difference((gained - lost) / len(a), low, high, mcnemar_mid_p(lost, gained), len(a), gained, lost)


def paired_means(
    a: np.ndarray,
    b: np.ndarray,
    *,
    strata: np.ndarray | None = None,
    clusters: np.ndarray | None = None,
    alpha: float = 0.05,
    draws: int = 2000,
    seed: int = 0,
) -> Difference:
    """Difference of two means on the same samples: over samples, over the means of strata, or over clustered samples.

    Of numbers: the bootstrap of the differences, its percentiles taken of the draws and their mirror image and widened
    as those of `bootstrap_mean`, with the p at which the interval leaves 0 out. Checkpoints that could be exchanged
    have symmetric differences; to correct for the skewness seen (BCa) would add noise, and false alarms with it.
    Of hits: Tango's interval and score test at the effective number of trials, since there a bootstrap of few flips
    covers less than it says and of none is a point.

    Args:
        a, b: (N,) numbers or bool.
        strata: (N,) classes; the mean is that over classes of the mean of their samples.
        clusters: (N,) clusters of samples that are not independent.

    Returns:
        The difference. Equal numbers have the interval [0, 0] and p 1; a single unit has (-inf, inf) and p 1.

    Raises:
        ValueError: when shapes differ, nothing is there, or a value is NaN.

    Example:
        >>> losses = np.linspace(0.0, 1.0, 50)
        >>> d = paired_means(losses, losses - 0.1 + 0.05 * np.cos(np.arange(50)))
        >>> round(d.value, 3), d.low < d.value < d.high < 0, d.gained
        (-0.1, True, None)
    """
    a, b = _pair(a, b)
    design = make_design(len(a), strata=strata, clusters=clusters)
    n = len(design.size)
    if is_binary(a) and is_binary(b):
        return _paired_hits(a, b, design, alpha)
    d = mirrored(draw_mean(b - a, design, draws, seed))
    return Difference(d.value, *interval_of(d, alpha), p_of(d), n, None, None)


def paired_statistic(
    difference: Callable[[np.ndarray], float],
    n: int,
    *,
    strata: np.ndarray | None = None,
    clusters: np.ndarray | None = None,
    alpha: float = 0.05,
    draws: int = 2000,
    seed: int = 0,
) -> Difference:
    """Difference of any statistic of n samples, as of mean average precision, by the bootstrap of both together.

    Args:
        difference: of (M,) indices in [0, n), some of them several times, to the statistic of b less that of a.
        strata, clusters: as in `bootstrap_statistic`.

    Example:
        >>> a, b = np.arange(60.0), np.arange(60.0) + np.sin(np.arange(60)) + 0.5
        >>> d = paired_statistic(lambda rows: float(np.median(b[rows]) - np.median(a[rows])), 60, draws=200)
        >>> d.low <= d.value <= d.high
        True
    """
    design = make_design(n, strata=strata, clusters=clusters)
    d = draw_statistic(difference, design, draws, seed)
    return Difference(d.value, *interval_of(d, alpha), p_of(d), len(design.size), None, None)


def _paired_hits(a: np.ndarray, b: np.ndarray, design: Design, alpha: float) -> Difference:
    m = moments_of_mean(b - a, design)
    flipped = moments_of_mean(abs(b - a), design).value
    n = effective_trials(flipped - m.value**2, m.variance, flipped, design)
    lost, gained = n * max(flipped - m.value, 0.0) / 2, n * max(flipped + m.value, 0.0) / 2
    if m.freedom < 1:
        return Difference(m.value, -1.0, 1.0, 1.0, len(design.size), *_flips(a, b))
    wide = student_of_normal(NORMAL.inv_cdf(1 - alpha / 2), m.freedom)
    low, high = _tango(lost, gained, n, wide)
    z = (gained - lost) / math.sqrt(gained + lost) if gained + lost > 0 else 0.0
    p = 2 * NORMAL.cdf(-abs(normal_of_student(z, m.freedom)))
    return Difference(m.value, low, high, p, len(design.size), *_flips(a, b))


def mcnemar_mid_p(lost: int, gained: int) -> float:
    """Two-sided mid-p of McNemar's test: whether flips one way are as likely as flips the other way.

        p = 2 (P(X < k) + P(X = k) / 2),    X ~ Binomial(lost + gained, 1/2),    k = min(lost, gained)

    Returns:
        p, in (0, 1]; 1 when nothing flipped.

    Reference:
        Fagerland, Lydersen and Laake, 2013, The McNemar test for binary matched-pairs data: mid-p and
        asymptotic are better than exact conditional.

    Example:
        >>> round(mcnemar_mid_p(0, 3), 6)
        0.125
    """
    if min(lost, gained) < 0:
        raise ValueError(f"expected counts, got lost={lost} and gained={gained}")
    n, k = lost + gained, min(lost, gained)
    i = np.arange(k + 1)
    steps = np.log((n - i[1:] + 1) / i[1:])  # of log C(n, i) from one i to the next
    log_p = np.concatenate([[0.0], np.cumsum(steps)]) - n * math.log(2)
    terms = np.exp(log_p)
    return min(1.0, float(2 * terms.sum() - terms[-1]))


def tango_interval(lost: float, gained: float, n: float, *, alpha: float = 0.05) -> Interval:
    """Score interval of the difference of paired proportions, (gained - lost) / n.

        {D : |gained - lost - n D| <= z sqrt(n (2 q + D (1 - D)))}

    where q is the most likely probability of a loss given D, the positive root of
    2n q^2 + (D (2n - gained + lost) - lost - gained) q - lost D (1 - D) = 0.

    Args:
        lost, gained: flips each way; need not be whole numbers. n: all pairs.

    Returns:
        The interval, within [-1, 1]; +-z^2 / (n + z^2) when nothing flipped.

    Reference:
        Tango, 1998, Equivalence test and confidence interval for the difference in proportions for the
        paired-sample design.

    Example:
        >>> tuple(round(x, 4) for x in tango_interval(0, 0, 100))
        (-0.037, 0.037)
    """
    return _tango(lost, gained, n, NORMAL.inv_cdf(1 - alpha / 2))


def _tango(lost: float, gained: float, n: float, z: float) -> Interval:
    return Interval(-_tango_end(gained, lost, n, z), _tango_end(lost, gained, n, z))


def _tango_end(lost: float, gained: float, n: float, z: float) -> float:
    """The upper end, by halving: the score falls in D from the estimate on."""
    low, high = (gained - lost) / n, 1.0
    for _ in range(60):
        middle = (low + high) / 2
        b = middle * (2 * n - gained + lost) - lost - gained
        q = (math.sqrt(max(b * b + 8 * n * lost * middle * (1 - middle), 0.0)) - b) / (4 * n)
        variance = max(n * (2 * q + middle * (1 - middle)), 0.0)
        inside = n * middle - (gained - lost) <= z * math.sqrt(variance)
        low, high = (middle, high) if inside else (low, middle)
    return low


def _pair(a: np.ndarray, b: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    a, b = np.asarray(a, dtype=float), np.asarray(b, dtype=float)
    if a.ndim != 1 or a.shape != b.shape or not len(a):
        raise ValueError(f"expected a and b (N,) with N >= 1, got {a.shape} and {b.shape}")
    return a, b


def _flips(a: np.ndarray, b: np.ndarray) -> tuple[int, int]:
    """Samples that only b hits, and that only a hits."""
    return int(((a == 0) & (b == 1)).sum()), int(((a == 1) & (b == 0)).sum())
