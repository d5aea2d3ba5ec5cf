"""Whether confidences mean what they say: likelihood, calibration error, temperature."""

from __future__ import annotations

import math

import numpy as np

TEMPERATURES = (1e-3, 1e3)  # where the fitted one is looked for


def negative_log_likelihood(logits: np.ndarray, targets: np.ndarray, *, temperature: float = 1.0) -> np.ndarray:
    """Negative log-likelihood of the right class of every image, in nats; the metric nll is its mean.

        nll_i = log sum_c exp(logit_ic / T) - logit_i,target / T

    Args:
        logits: (N, K), already multiplied by logit_scale.
        targets: (N,) class indices.

    Returns:
        (N,) float64, at least 0.

    Example:
        >>> negative_log_likelihood(np.zeros((1, 4)), np.array([2])).round(4).tolist()
        [1.3863]
    """
    _check(logits, targets)
    scaled = logits.astype(np.float64) / temperature
    scaled -= scaled.max(axis=1, keepdims=True)
    return np.log(np.exp(scaled).sum(axis=1)) - np.take_along_axis(scaled, targets[:, None], axis=1)[:, 0]


def expected_calibration_error(confidence: np.ndarray, correct: np.ndarray, *, bins: int = 15) -> float:
    """Mean distance of accuracy and confidence over bins of confidence, weighted by their samples.

        ECE = sum_b (n_b / N) |accuracy_b - confidence_b|

    Bins have equal width and hold (low, high]; a confidence of 0 is in the first. It is biased upwards, since chance
    lengthens every gap: a perfectly calibrated model of 1,000 samples has some 0.03. No interval is given of it, as
    none of the bootstrap's covers what it says; `debiased_calibration_error` takes a part of the bias off.

    Args:
        confidence: (N,) probability of the predicted class, in [0, 1].
        correct: (N,) bool.

    Returns:
        In [0, 1].

    Reference:
        Guo et al., 2017, On Calibration of Modern Neural Networks, arXiv 1706.04599, section 2.

    Example:
        >>> round(expected_calibration_error(np.array([0.9, 0.8, 0.6]), np.array([True, True, False]), bins=2), 4)
        0.1
    """
    count, hits, total = _binned(confidence, correct, bins)
    return float(np.abs(hits - total).sum() / count.sum())


def debiased_calibration_error(confidence: np.ndarray, correct: np.ndarray, *, bins: int = 15) -> float:
    """Expected calibration error less most of what chance adds to it.

        sum_b (n_b / N) (2 g_b - E|Normal(g_b, s_b)|),
        g_b = |accuracy_b - confidence_b|,    s_b^2 = a_b (1 - a_b) / n_b

    where a_b is the accuracy with one more sample that hits with probability confidence_b, so that a bin of few
    samples, all hit, is not taken for certain. E|Normal| - g_b is by how much chance would lengthen a gap of that
    size. The gap seen is itself too long already, so that some 60 % of the bias stay where the model is calibrated, and
    less the larger the true error. Bins as in `expected_calibration_error`.

    Returns:
        In [0, 1].

    Reference:
        Kumar, Liang and Ma, 2019, Verified Uncertainty Calibration, arXiv 1909.10155, section 5, for the squared
        error; the closed form for the absolute one, and the added sample, are ours.

    Example:
        >>> confidence, correct = np.full(100, 0.75), np.arange(100) < 70
        >>> round(debiased_calibration_error(confidence, correct), 4)
        0.0436
    """
    count, hits, total = _binned(confidence, correct, bins)
    n, hits, total = (x[count > 0] for x in (count, hits, total))
    gap, accuracy = np.abs(hits - total) / n, (hits + total / n) / (n + 1)
    deviation = np.sqrt(np.maximum(accuracy * (1 - accuracy), 1e-12) / n)
    return max(0.0, float((n * (2 * gap - _mean_of_folded_normal(gap, deviation))).sum() / n.sum()))


def _mean_of_folded_normal(mean: np.ndarray, deviation: np.ndarray) -> np.ndarray:
    """E|X| of X ~ Normal(mean, deviation^2)."""
    r = mean / deviation
    erf = np.array([math.erf(x / math.sqrt(2)) for x in r])
    return deviation * math.sqrt(2 / math.pi) * np.exp(-(r**2) / 2) + mean * erf


def fit_temperature(logits: np.ndarray, targets: np.ndarray) -> float:
    """The temperature at which the mean negative log-likelihood is smallest.

    The likelihood is convex in 1 / T: its derivative, mean(E_c logit / T - logit of the target), has one zero, found
    by Newton's steps kept inside a bracket.

    Returns:
        T > 0 by which to divide logits. It is looked for in [0.001, 1000]; an end of that range says that these
        samples do not determine it (all targets ranked first, or no better than chance).

    Reference:
        Guo et al., 2017, arXiv 1706.04599, section 4.2.

    Example:
        >>> logits = np.array([[2.0, 0.0]] * 4)
        >>> round(fit_temperature(logits, np.array([0, 0, 0, 1])), 4)  # 2 / log 3
        1.8205
    """
    _check(logits, targets)
    low, high = 1 / TEMPERATURES[1], 1 / TEMPERATURES[0]
    if (np.sort(logits, axis=1)[:, -2:] @ [-1.0, 1.0] > 0).all() and (logits.argmax(axis=1) == targets).all():
        return TEMPERATURES[0]
    if _slope(logits, targets, low)[0] >= 0:
        return TEMPERATURES[1]
    beta, last = 1.0, np.inf
    for _ in range(100):
        slope, curvature = _slope(logits, targets, beta)
        low, high = (beta, high) if slope < 0 else (low, beta)
        step = beta - slope / curvature if curvature > 0 else low
        # In an exponential tail Newton's steps all have the same length; halving gets out of it.
        fast = low < step < high and abs(slope) < last / 4
        new, last = (step if fast else math.sqrt(low * high)), abs(slope)
        if abs(new - beta) <= 1e-9 * beta:
            break
        beta = new
    return float(1 / beta)


def _slope(logits: np.ndarray, targets: np.ndarray, beta: float) -> tuple[float, float]:
    """First and second derivative of the mean likelihood by beta = 1 / T."""
    own = np.take_along_axis(logits, targets[:, None], axis=1).astype(np.float64)
    centred = logits - own  # (N, K)
    scaled = beta * centred
    p = np.exp(scaled - scaled.max(axis=1, keepdims=True))
    p /= p.sum(axis=1, keepdims=True)
    mean = (p * centred).sum(axis=1)
    return float(mean.mean()), float(((p * centred**2).sum(axis=1) - mean**2).mean())


def _binned(confidence: np.ndarray, correct: np.ndarray, bins: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Samples, hits and summed confidence of every bin, each (bins,)."""
    if confidence.ndim != 1 or confidence.shape != correct.shape or not len(confidence):
        raise ValueError(f"expected confidence and correct (N,), N >= 1, got {confidence.shape} and {correct.shape}")
    edges = np.linspace(0, 1, bins + 1)
    place = np.clip(np.searchsorted(edges, confidence, side="left") - 1, 0, bins - 1)
    return tuple(np.bincount(place, weights=w, minlength=bins) for w in (np.ones(len(place)), correct, confidence))


def _check(logits: np.ndarray, targets: np.ndarray) -> None:
    if logits.ndim != 2 or not len(logits) or targets.shape != logits.shape[:1]:
        raise ValueError(f"expected logits (N, K) and targets (N,), got {logits.shape} and {targets.shape}")
