"""Multinomial logistic regression that cannot be certain of what it never saw."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import torch
from scipy.optimize import minimize
from torch import Tensor

STRENGTHS = tuple(10.0 ** (power / 2) for power in range(2, -11, -1))  # of the ridge per row, the strongest first


class Softmax(NamedTuple):
    """p(k | x) = softmax(x weight + bias)_k; weight (d, K), bias (K,), float64."""

    weight: Tensor
    bias: Tensor


class Rows(NamedTuple):
    """Rows as a fit wants them: features (n, d) float64, labels (n,) int64 from 0 to K - 1."""

    features: Tensor
    labels: Tensor


def log_probabilities(model: Softmax, features: Tensor) -> Tensor:
    """log p(k | x) of each row, (n, K)."""
    return torch.log_softmax(features @ model.weight + model.bias, 1)


def fit_logistic(
    features: Tensor, labels: Tensor, *, classes: int, strength: float | Tensor, start: Softmax | None = None
) -> Softmax:
    """The weights that code the labels best, under a ridge and with one imagined row of each class at the origin.

        minimise  - sum_i log p(a_i | x_i) - sum_k log p(k | 0) + 1/2 sum_j strength_j |weight_j|^2

    The imagined rows keep every probability above 0, also of a class that no row has, so that a held-out code is
    finite. Without features the result is Laplace's rule (n_k + 1) / (n + K).

    Args:
        features: (n, d) float64, centred near 0; d may be 0.
        labels: (n,) int64 below `classes`.
        classes: K.
        strength: of the ridge, one number or one per feature (d,); above 0 if the classes may be separable.
        start: weights to begin at, which the result does not depend on.

    Example:
        >>> model = fit_logistic(torch.zeros(3, 0).double(), torch.tensor([0, 0, 1]), classes=3, strength=1.0)
        >>> [round(p, 3) for p in model.bias.exp().tolist()]
        [0.5, 0.333, 0.167]
    """
    n, width = features.shape
    x, onehot = features.numpy(), np.eye(classes)[labels.numpy()]
    ridge = np.broadcast_to(np.asarray(strength, dtype=np.float64), (width,))[:, None]
    counts = onehot.sum(0) + 1
    # In these units no curvature exceeds 2 where the features are uncorrelated (Boehning, 1992), so that few steps do,
    # and a gradient is the square root of the nats that are left to gain, about.
    scale = np.sqrt(np.append(np.square(x).sum(0) / 4, (n + classes) / 4) + np.append(ridge, 0))[:, None]

    def objective(flat: np.ndarray) -> tuple[float, np.ndarray]:
        theta = flat.reshape(width + 1, classes) / scale
        weight, bias = theta[:-1], theta[-1]
        logits = x @ weight + bias
        logits -= logits.max(1, keepdims=True)
        p = np.exp(logits)
        total = p.sum(1, keepdims=True)
        p /= total
        at_origin = np.exp(bias - np.logaddexp.reduce(bias))
        loss = np.log(total).sum() - (logits * onehot).sum() - np.log(at_origin).sum()
        p -= onehot
        gradient = np.vstack([x.T @ p + ridge * weight, p.sum(0) + classes * at_origin - 1])
        return loss + (ridge * weight**2).sum() / 2, (gradient / scale).ravel()

    if start is None:
        start = Softmax(torch.zeros(width, classes), torch.from_numpy(np.log(counts / counts.sum())))
    first = (torch.cat([start.weight, start.bias[None]]).numpy() * scale).ravel()
    found = minimize(objective, first, jac=True, method="L-BFGS-B", options={"gtol": 1e-5, "ftol": 0, "maxiter": 1000})
    theta = torch.from_numpy(found.x.reshape(width + 1, classes) / scale)
    return Softmax(theta[:-1], theta[-1])


def choose_logistic(
    fit: Rows,
    calibrate: Rows,
    *,
    classes: int,
    side: Tensor | None = None,
    start: Softmax | None = None,
) -> tuple[Softmax, float]:
    """The fit whose ridge gives the calibration rows the shortest code, and the strength of that ridge.

    Args:
        fit, calibrate: features (n, d) and labels (n,) of two sets of rows.
        classes: K.
        side: strengths (s,) of the last s features, which are not chosen; the first d - s share one.
        start: weights to begin at.
    """
    side = torch.zeros(0, dtype=torch.float64) if side is None else side
    free = fit.features.shape[1] - len(side)
    # All of them: where the signal lies on axes of little spread, the stronger ridges fit noise first and look worse.
    best, chosen, lowest = start, 0.0, float("inf")
    for share in STRENGTHS:
        strength = torch.cat([torch.full((free,), share * len(fit.labels), dtype=torch.float64), side])
        start = fit_logistic(fit.features, fit.labels, classes=classes, strength=strength, start=start)
        loss = float(cross_entropies(log_probabilities(start, calibrate.features), calibrate.labels).mean())
        if loss < lowest:
            best, chosen, lowest = start, share * len(fit.labels), loss
    return best, chosen


def cross_entropies(log_p: Tensor, labels: Tensor) -> Tensor:
    """-log p of the label of each row (n,), in nats."""
    return -log_p.gather(1, labels[:, None])[:, 0]


def standardise(fit: Tensor, *rest: Tensor) -> list[Tensor]:
    """All sets in float64, with the mean and the spread of the first taken out of each feature.

    A feature that does not vary in the first set becomes 0 in all of them: nothing can be learnt from it.

    Raises:
        ValueError: when no feature varies in the first set.
    """
    fit = fit.double()
    mean, spread = fit.mean(0), fit.std(0, correction=0)
    varies = spread > 1e-12 * fit.abs().amax(0)  # the mean of equal numbers is off by some 1e-16 of them
    if not bool(varies.any()):
        raise ValueError(f"expected features that vary, got {len(fit)} equal rows of width {fit.shape[1]}")
    return [torch.where(varies, (x.double() - mean) / spread, 0) for x in (fit, *rest)]


def turn(fit: Tensor, *rest: Tensor) -> list[Tensor]:
    """All sets on the principal axes of the first; a ridge does not see the turn, and L-BFGS needs far fewer steps."""
    eigenvalues, axes = torch.linalg.eigh(fit.T @ fit)
    axes = axes[:, eigenvalues > 1e-12 * eigenvalues[-1]]  # a ridge gives no weight to axes without spread
    return [x @ axes for x in (fit, *rest)]
