"""What samples drawn by class or by cluster say of a mean: its variance, its skewness, and a proportion's interval."""

from __future__ import annotations

import math
from statistics import NormalDist
from typing import NamedTuple

import numpy as np

from clipib.metrics.statistics import Interval, wilson_interval

PRIOR_TRIALS = 2.0  # how many rare outcomes the design effect of equal strata counts for; chosen by coverage


class Design(NamedTuple):
    """How a mean was sampled, as a weighted sum of units that are drawn anew within their group.

        mean = sum_i weight_i value_i / sum_i weight_i size_i

    place: (n,) which unit each sample belongs to, of `units`.
    group: (units,) the group within which a unit could have been another one.
    size: (units,) samples of each unit. weight: (units,) what a unit counts for.
    trials: independent trials that would say as much, were all strata alike; for clusters the geometric mean of their
        number (samples of a cluster all equal) and the number of samples (none alike).
    """

    place: np.ndarray
    group: np.ndarray
    size: np.ndarray
    weight: np.ndarray
    trials: float


class Moments(NamedTuple):
    """value: the mean. variance, skewness: of the mean over samples like this one. freedom: degrees of freedom."""

    value: float
    variance: float
    skewness: float
    freedom: int


def make_design(n: int, *, strata: np.ndarray | None = None, clusters: np.ndarray | None = None) -> Design:
    """The design of n samples: independent, in strata whose means are averaged, or in clusters that come as a whole.

    Strata of a single sample are drawn anew among each other, since alone they say nothing of their variance; that
    makes intervals wider, never narrower. A lone one is taken to be fixed.

    Args:
        n: number of samples.
        strata: (n,) the class of every sample.
        clusters: (n,) the cluster of every sample, as the image of every caption.

    Raises:
        ValueError: when a shape differs, nothing is there, or both are given.
    """
    given = strata if strata is not None else clusters
    if n < 1 or (given is not None and np.shape(given) != (n,)) or (strata is not None and clusters is not None):
        raise ValueError(f"expected n >= 1 and strata or clusters (n,), got n={n} and {np.shape(given)}")
    if clusters is not None:
        _, place, size = np.unique(clusters, return_inverse=True, return_counts=True)
        return Design(place, np.zeros(len(size), int), size, np.ones(len(size)), math.sqrt(n * len(size)))
    place, ones = np.arange(n), np.ones(n)
    if strata is None:
        return Design(place, np.zeros(n, int), ones, ones, float(n))
    _, stratum, counts = np.unique(strata, return_inverse=True, return_counts=True)
    alone = counts == 1
    group = np.where(alone, alone.argmax(), np.arange(len(counts)))[stratum]
    return Design(place, group, ones, 1.0 / counts[stratum], len(counts) ** 2 / float((1.0 / counts).sum()))


def totals(values: np.ndarray, design: Design) -> np.ndarray:
    """Sum of the values of every unit, (units,)."""
    return np.bincount(design.place, weights=values, minlength=len(design.size))


def moments_of_mean(values: np.ndarray, design: Design) -> Moments:
    """Mean of the values under a design, with the variance and skewness of that mean.

        variance = sum_g m_g / (m_g - 1)           sum_i r_i^2,     r_i = weight_i (total_i - mean size_i) / W
        third    = sum_g m_g^2 / (m_g - 1)(m_g - 2) sum_i (r_i - mean_g r)^3,   skewness = third / variance^1.5

    where g are the groups of m_g units, r is centred within each of them, and W = sum_i weight_i size_i. The factors
    make both unbiased for independent units, however few there are in a group: what a plain stratified bootstrap
    gets wrong by (m - 1) / m.

    Args:
        values: (N,) numbers.

    Raises:
        ValueError: when values is not (N,) or holds NaN.

    Reference:
        Cochran, 1977, Sampling Techniques, 3rd edition, sections 5.3 and 9A.

    Example:
        >>> m = moments_of_mean(np.array([0.0, 1, 1, 1]), make_design(4))
        >>> m.value, m.variance, m.freedom
        (0.75, 0.0625, 3)
    """
    values = np.asarray(values, dtype=float)
    if values.shape != design.place.shape or np.isnan(values).any():
        raise ValueError(f"expected values ({len(design.place)},) without NaN, got {values.shape}")
    total, whole = totals(values, design), float(design.weight @ design.size)
    mean = float(design.weight @ total) / whole
    _, group, m = np.unique(design.group, return_inverse=True, return_counts=True)
    r = design.weight * (total - mean * design.size) / whole
    r = r - (np.bincount(group, weights=r) / m)[group]
    variance = float(np.bincount(group, weights=r**2) @ (m / np.maximum(m - 1, 1)))
    third = float(np.bincount(group, weights=r**3) @ (m**2 / np.maximum((m - 1) * (m - 2), 1)))
    if math.sqrt(variance) <= 1e-12 * abs(mean):  # all equal but for rounding
        variance = 0.0
    skewness = third / variance**1.5 if variance > 0 else 0.0
    return Moments(mean, variance, skewness, int((m - 1).sum()))


def effective_trials(spread: float, variance: float, share: float, design: Design) -> float:
    """Independent trials that would give a mean the variance that it has.

        n_eff = trials / rho,    rho = (m variance / (spread / trials) + 2) / (m + 2),    m = share min(trials, units)

    rho is the design effect beside that of `design.trials`, drawn towards 1 as by two more outcomes: where the rare
    outcome is hardly seen, the variance within strata is hardly known, and would often come out as nothing.

    Args:
        spread: variance of one independent trial, p (1 - p) for a proportion.
        variance: of the mean under the design.
        share: of the rare outcome, in [0, 1].

    Reference:
        Kish, 1965, Survey Sampling, section 8.2. Shrinkage: ours.
    """
    seen = share * min(design.trials, len(design.size))
    raw = variance / (spread / design.trials) if spread > 0 else 1.0
    return design.trials * (seen + PRIOR_TRIALS) / (seen * raw + PRIOR_TRIALS)


def proportion_interval(
    hits: np.ndarray, *, strata: np.ndarray | None = None, clusters: np.ndarray | None = None, alpha: float = 0.05
) -> Interval:
    """Wilson interval of a mean of hits over classes, or over clustered samples.

    It is Wilson's interval at the effective number of trials, and so stays within [0, 1], is not symmetric near
    either end, and does not vanish when all are hit. Without strata or clusters it is Wilson's own.

    Args:
        hits: (N,) bool or 0 and 1.
        strata: (N,) classes; the proportion is the mean over classes of their share of hits.
        clusters: (N,) clusters of samples that are not independent; the proportion is the mean over samples.
        alpha: 1 - level.

    Reference:
        Korn and Graubard, 1998, Confidence intervals for proportions with small expected number of positive
        counts estimated from survey data; Franco et al., 2019, Comparative study of confidence intervals for
        proportions in complex sample surveys.

    Example:
        >>> tuple(round(x, 4) for x in proportion_interval(np.array([1] * 90 + [0] * 10), strata=np.arange(100) % 4))
        (0.8231, 0.9457)
    """
    hits = np.asarray(hits, dtype=float)
    z = NormalDist().inv_cdf(1 - alpha / 2)
    design = make_design(len(hits), strata=strata, clusters=clusters)
    m = moments_of_mean(hits, design)
    value = min(max(m.value, 0.0), 1.0)
    if strata is None and clusters is None:
        return wilson_interval(value, len(hits), z=z)
    trials = effective_trials(value * (1 - value), m.variance, min(value, 1 - value), design)
    return wilson_interval(value, trials, z=student_of_normal(z, max(m.freedom, 1)))


def student_of_normal(z: float, freedom: int) -> float:
    """Quantile of Student's t where the normal one is z; within 0.1 % from 9 degrees of freedom, too wide below 4.

    t = sign(z) sqrt(f (exp((z (8f + 3) / (8f + 1))^2 / f) - 1))

    A formula rather than SciPy, whose import takes longer than all the intervals of a run.

    Reference:
        Wallace, 1959, Bounds on normal approximations to Student's and the chi-square distributions.
    """
    scaled = z * (8 * freedom + 3) / (8 * freedom + 1)
    return math.copysign(math.sqrt(freedom * math.expm1(min(scaled**2 / freedom, 700.0))), z)


def normal_of_student(t: float, freedom: int) -> float:
    """The inverse of `student_of_normal`."""
    return math.copysign((8 * freedom + 1) / (8 * freedom + 3) * math.sqrt(freedom * math.log1p(t**2 / freedom)), t)
