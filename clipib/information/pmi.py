"""How far a score is from the pointwise mutual information where that is known."""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np

KNOTS = 60


class Agreement(NamedTuple):
    """Of scores with the true PMI over a set of pairs.

    slope: Cov(s, PMI) / Var(PMI), 1 if the temperature is right; noise in s does not bias it.
    calibration_slope: Cov(s, PMI) / Var(s), the factor on s that predicts PMI; noise shrinks it.
    constant_nats: the mean of s - PMI. rmse_nats: what is left after that one number.
    """

    pearson: float
    slope: float
    calibration_slope: float
    constant_nats: float
    rmse_nats: float


def agreement(scores: np.ndarray, truth: np.ndarray, *, constant: float | None = None) -> Agreement:
    """Scores and PMI (n,) of the same pairs.

    Args:
        constant: what the training loss fixes of mean(s - PMI); None where it is free and fitted here.

    Raises:
        ValueError: where scores or PMI are all equal.

    Example:
        >>> pmi = np.array([-1.0, 0.0, 2.0, 3.0])
        >>> found = agreement(2 * pmi + 5, pmi)
        >>> round(found.pearson, 6), round(float(found.slope), 6), round(found.rmse_nats, 4)
        (1.0, 2.0, 1.5811)
    """
    s, t = np.asarray(scores, np.float64), np.asarray(truth, np.float64)
    if s.std() < 1e-12 or t.std() < 1e-12:
        raise ValueError("all scores, or all values of PMI, are equal")
    covariance = float(((s - s.mean()) * (t - t.mean())).mean())
    d = s - t
    free = d.mean() if constant is None else constant
    rmse = math.sqrt(float(((d - free) ** 2).mean()))
    pearson = covariance / float(s.std() * t.std())
    slopes = covariance / float(t.var()), covariance / float(s.var())
    return Agreement(pearson, *slopes, float(d.mean()), rmse)


def rank_correlation(scores: np.ndarray, truth: np.ndarray) -> float:
    """Spearman's correlation of scores and PMI (n,); ties share their mean rank."""
    from scipy.stats import spearmanr

    return float(spearmanr(scores, truth).statistic)


class Parts(NamedTuple):
    """Root mean squares of what a matrix is made of; their squares add up to its mean square."""

    constant: float
    row: float
    column: float
    interaction: float


def two_way(d: np.ndarray) -> Parts:
    """The exact two-way decomposition of (N, M): d_ij = m + a_i + b_j + e_ij, with zero means over rows and columns."""
    mean = d.mean()
    a, b = d.mean(1) - mean, d.mean(0) - mean
    e = d - mean - a[:, None] - b
    return Parts(abs(float(mean)), *(math.sqrt(float((x * x).mean())) for x in (a, b, e)))


class Diagnosis(NamedTuple):
    """s = curve(PMI) + a(x) + b(y) + noise, with a monotone curve.

    slope: of the line through the curve, weighted as the pairs are. knots, curve: (K,) PMI and the fitted curve.
    bend_nats, image_nats, text_nats, noise_nats: root mean squares of the curve around its line, of a, of b, and of
    what no such form explains.
    """

    slope: float
    knots: np.ndarray
    curve: np.ndarray
    bend_nats: float
    image_nats: float
    text_nats: float
    noise_nats: float


def diagnose(scores: np.ndarray, truth: np.ndarray, *, rounds: int = 30) -> Diagnosis:
    """Which simple fault, or mixture of them, makes scores (N, M) differ from the true PMI (N, M).

    Backfitting: the curve is the isotonic regression of s - a - b on PMI, on 60 bins and linear in between; a and b are
    the row and column means of what it leaves; in turn until nothing moves. A score that is twice PMI has the slope 2,
    one that is cut off has a bend, one with offsets has them in a or b, and independent noise stays over.
    """
    s, t = np.asarray(scores, np.float64), np.asarray(truth, np.float64)
    edges = np.unique(np.quantile(t, np.linspace(0, 1, KNOTS + 1)))
    if len(edges) < 2:
        raise ValueError("all values of PMI are equal")
    place = np.clip(np.searchsorted(edges, t, side="right") - 1, 0, len(edges) - 2)
    counts = np.bincount(place.ravel(), minlength=len(edges) - 1)
    filled = counts > 0
    knots = np.bincount(place.ravel(), t.ravel(), len(counts))[filled] / counts[filled]
    a, b, curve = np.zeros(len(s)), np.zeros(s.shape[1]), None
    for _ in range(rounds):
        before = curve
        curve = _monotone(place, s - a[:, None] - b, counts, filled)
        fitted = _along(t, knots, curve)
        rest = s - fitted
        a = rest.mean(1) - rest.mean()
        b = rest.mean(0) - rest.mean()
        if before is not None and np.abs(curve - before).max() < 1e-4:
            break
    noise = s - fitted - a[:, None] - b
    slope = float(np.cov(fitted.ravel(), t.ravel(), bias=True)[0, 1] / t.var())
    bend = fitted - slope * t
    rms = [math.sqrt(float(np.mean((x - x.mean()) ** 2))) for x in (bend, a, b, noise)]
    return Diagnosis(slope, knots, curve, *rms)


def _monotone(place: np.ndarray, s: np.ndarray, counts: np.ndarray, filled: np.ndarray) -> np.ndarray:
    from sklearn.isotonic import IsotonicRegression

    means = np.bincount(place.ravel(), s.ravel(), len(counts))[filled] / counts[filled]
    steps = np.arange(len(means))
    return IsotonicRegression().fit(steps, means, counts[filled]).predict(steps)


def _along(t: np.ndarray, knots: np.ndarray, curve: np.ndarray) -> np.ndarray:
    """The curve at t: linear between knots and, as steep as its last piece, beyond them."""
    if len(knots) == 1:
        return np.full_like(t, curve[0])
    steps = np.diff(curve) / np.diff(knots)
    below, above = np.minimum(t - knots[0], 0), np.maximum(t - knots[-1], 0)
    return np.interp(t, knots, curve) + steps[0] * below + steps[-1] * above
