"""How much a noised embedding keeps of its input beyond what the other embeddings say: upper bounds, written once."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

RIDGE = 1e-3  # of 1 / D, the mean second moment of a coordinate on unit-norm embeddings
STRENGTHS = tuple(10.0**power for power in range(-6, 3))  # of the mean variance of a coordinate of the others


class LinearGaussian(NamedTuple):
    """q(z | z') = N(weight z' + bias, covariance); (D, K D), (D,), (D, D), float64, without gradient."""

    weight: Tensor
    bias: Tensor
    covariance: Tensor


class ConditionalBounds(NamedTuple):
    """Four upper bounds of I(Z; X | X_others) at one sigma, in nats; see `conditional_bounds`.

    sigma: standard deviation of the noise in each coordinate.
    raw_nats, centred_nats, ridge_nats, logdet_nats: the means of the columns of `samples`, in this order.
    strength: the ridge that was chosen, as a share of the mean variance of a coordinate of the others.
    samples: (n, 4) what each judged row adds, for intervals that keep the rows of one image together.
    """

    sigma: float
    raw_nats: float
    centred_nats: float
    ridge_nats: float
    logdet_nats: float
    strength: float
    samples: Tensor


def conditional_bounds(
    own: Tensor,
    others: Sequence[Tensor],
    *,
    fit_rows: Tensor,
    evaluate_rows: Tensor,
    sigmas: Sequence[float] = (0.1, 0.3, 1.0),
) -> list[ConditionalBounds]:
    """What z + N(0, sigma^2 I) keeps of its own input beyond the other embeddings, bounded by four guesses of z.

        I(Z; X | X_others) <= E KL( N(z, sigma^2 I) || q(. | others) )
        raw      E |z - m|^2 / (2 sigma^2),  m the mean of the others
        centred  E |z - m - b|^2 / (2 sigma^2)
        ridge    E |z - W others - b|^2 / (2 sigma^2)
        logdet   the same W and b with a full covariance C; at the best C it is 1/2 log det(I + Sigma_res / sigma^2)

    b, W and C come from the fit rows and are judged on the others. W is drawn towards the mean of the others by a
    ridge, whose strength and whose C come from residuals that leave the guessed row out.

    raw - centred is |E z - E m|^2 / (2 sigma^2) for the best b: the modality gap, which is no information.

    Status: each is an upper bound in expectation, because nothing that is judged was fitted. The log det of the
    judged rows' own residuals is not one: it falls short by about (tr T)^2 / (4 n) + tr T^2 / (4 n) with
    T = Sigma_res (Sigma_res + sigma^2 I)^-1. `logdet` errs upwards instead, by as much again with n the fit rows,
    and with few of them it can exceed `ridge`. It is the information itself, in the limit, where the residual is
    Gaussian and independent of the others. Compare checkpoints at equal sigma, on unit-norm embeddings alone.

    Args:
        own: (n, D) embeddings of one modality.
        others: one or several (n, D), row i belongs to row i of `own`.
        fit_rows: (a,) indices of the rows that b, W and C are fitted on, at least 2.
        evaluate_rows: (b,) indices of the rows that are judged, at least 2, none of them a fit row.
        sigmas: standard deviations of the noise, each above 0.

    Returns:
        One `ConditionalBounds` per sigma, in nats, in [0, inf) except `logdet` whose sampling error may take it below.

    Raises:
        ValueError: shapes that differ, NaN or infinite values, too few rows, shared rows, constant features of the
            others, a sigma that is not above 0.

    Reference:
        Cover and Thomas, Elements of Information Theory, 2006, ch. 8 and 9 (divergence of Gaussians); the bound as in
        Ji et al., 2025, 2503.24182, and Almudevar et al., 2025.

    Example:
        >>> generator = torch.Generator().manual_seed(0)
        >>> image = torch.randn(4000, 2, generator=generator)
        >>> text = image + 3  # an offset and nothing else
        >>> rows = torch.arange(4000)
        >>> bounds = conditional_bounds(image, [text], fit_rows=rows[:2000], evaluate_rows=rows[2000:], sigmas=[1.0])[0]
        >>> round(bounds.raw_nats, 3), round(abs(bounds.centred_nats), 3), round(abs(bounds.logdet_nats), 3)
        (9.0, 0.0, 0.0)
    """
    own, others = _checked(own, others, sigmas)
    fit_rows, evaluate_rows = fit_rows.cpu(), evaluate_rows.cpu()
    _check_rows(fit_rows, evaluate_rows, len(own))
    fit, fit_others = own[fit_rows], [other[fit_rows] for other in others]
    offset = (fit - torch.stack(fit_others).mean(0)).mean(0)
    strength, residuals = choose_ridge(fit, fit_others)
    guess = _fit_rows(fit, fit_others, strength)
    z, joined = own[evaluate_rows], torch.cat(others, 1)[evaluate_rows]
    middle = torch.stack(others).mean(0)[evaluate_rows]
    # |z - g|^2 / 2 of each row, to be divided by sigma^2
    halves = [half_square(z - g) for g in (middle, middle + offset, joined @ guess.weight.T + guess.bias)]

    def at(sigma: float) -> ConditionalBounds:
        variance = torch.tensor(sigma**2, dtype=torch.float64)
        covariance = residuals.T @ residuals / len(residuals) + variance * torch.eye(z.shape[1], dtype=torch.float64)
        logdet = linear_gaussian_divergences(z, joined, guess._replace(covariance=covariance), variance)
        samples = torch.stack([*(half / variance for half in halves), logdet], 1)
        return ConditionalBounds(sigma, *samples.mean(0).tolist(), strength, samples)

    return [at(sigma) for sigma in sigmas]


def trace_bound(z: Tensor, guess: Tensor, variance: Tensor) -> Tensor:
    """E KL( N(z, sigma^2 I) || N(g, sigma^2 I) ) = E |z - g|^2 / (2 sigma^2) over the rows, in nats.

    Status: an upper bound of I(Z; X | X_others) for any guess g of z from the others that these rows did not choose.

    Args:
        z, guess: (B, D); both receive gradient.
        variance: sigma^2.
    """
    return half_square(z - guess).mean() / variance


def half_square(x: Tensor) -> Tensor:
    """|x|^2 / 2 of each row."""
    return x.square().sum(-1) / 2


def linear_gaussian_bound(z: Tensor, other: Tensor, q: LinearGaussian, variance: Tensor) -> Tensor:
    """E KL( N(z, sigma^2 I) || N(W z' + b, C) ) over the pairs, in nats.

        1/2 [ log det C - D log sigma^2 + tr C^-1 (E r r^T + sigma^2 I) - D ],  r = z - W z' - b

    Status: an upper bound of I(Z; X | X_others) for any W, b and C, smallest at C = E r r^T + sigma^2 I.

    Args:
        z: (B, D). other: (B, K D), row i belongs to row i; both receive gradient.
        q: W, b and C, which must not come from this batch.
        variance: sigma^2.
    """
    quadratic, constant = _quadratic_and_constant(z, other, q, variance)
    return (quadratic.mean() + constant) / 2


def linear_gaussian_divergences(z: Tensor, other: Tensor, q: LinearGaussian, variance: Tensor) -> Tensor:
    """The divergence of each row (B,), whose mean is `linear_gaussian_bound`."""
    quadratic, constant = _quadratic_and_constant(z, other, q, variance)
    return (quadratic + constant) / 2


def fit_linear_gaussian(
    mean: Tensor, covariance: Tensor, variance: Tensor, *, others: int = 1, ridge: float = RIDGE
) -> LinearGaussian:
    """The best q(z | z') = N(W z' + b, C) for given moments of (z, z'), with a ridge that pulls W towards the mean.

        W = M + Cov(z - M z', z') (Cov(z') + ridge / D I)^-1,   b = E z - W E z',   C = Cov(z - W z') + sigma^2 I

    z' are K other embeddings side by side and M takes their mean; of one it is I.

    Args:
        mean: (D + K D,) float64. covariance: (D + K D, D + K D) float64.
        variance: sigma^2.
        others: K.
        ridge: in units of 1 / D.

    Returns:
        W, b and C; NaN where the moments are those of no data.
    """
    width = len(mean) // (others + 1)
    eye = torch.eye(width, dtype=mean.dtype, device=mean.device)
    own, cross, other = covariance[:width, :width], covariance[:width, width:], covariance[width:, width:]
    middle = cross.reshape(width, others, width).mean(1)  # Cov(z, M z')
    averaged = other.reshape(others, width, others * width).mean(0)  # Cov(M z', z')
    ridge = ridge / width
    missing = cross - averaged  # Cov(z - M z', z')
    damped = other + ridge * torch.eye(len(other), dtype=mean.dtype, device=mean.device)
    step = torch.cholesky_solve(missing.T, _cholesky(damped)).T  # W - M
    # Cov(d - V z') with d = z - M z', V = W - M, and V Cov(z') = missing - ridge V.
    spread = own - middle - middle.T + averaged.reshape(width, others, width).mean(1)  # Cov(d)
    residual = spread - step @ missing.T - ridge * step @ step.T
    weight = eye.repeat(1, others) / others + step
    residual = (residual + residual.T) / 2 + variance.to(residual) * eye
    return LinearGaussian(weight, mean[:width] - weight @ mean[width:], residual)


def choose_ridge(own: Tensor, others: Sequence[Tensor]) -> tuple[float, Tensor]:
    """The ridge of `STRENGTHS` that guesses a row best from the other rows, and its residuals when a row is left out.

        r_i / (1 - h_i),   h_i = 1/n + x_i^T (X^T X + n ridge I)^-1 x_i

    with r the residuals of the fit to all rows and x the centred others: exactly those of n separate fits.

    Args:
        own: (n, D) float64. others: K of (n, D).

    Returns:
        The strength as a share of the mean variance of a coordinate of the others; residuals (n, D).

    Raises:
        ValueError: when the others do not vary.

    Reference:
        Allen, 1974, the relationship between variable selection and data augmentation (PRESS).
    """
    x = torch.cat(list(others), 1)
    if not bool((x != x[0]).any()):
        raise ValueError(f"expected other embeddings that vary, got {len(x)} equal rows")
    target = own - torch.stack(list(others)).mean(0)
    x, target = x - x.mean(0), target - target.mean(0)
    eigenvalues, axes = torch.linalg.eigh(x.T @ x / len(x))
    eigenvalues, scores = eigenvalues.clamp(min=0), x @ axes  # (K D,), (n, K D)
    moments = scores.T @ target / len(x)

    def left_out(strength: float) -> Tensor:
        damped = eigenvalues + strength * eigenvalues.mean()
        leverage = 1 / len(x) + (scores.square() / damped).sum(1) / len(x)
        return (target - scores @ (moments / damped[:, None])) / (1 - leverage)[:, None]

    errors = [float(left_out(strength).square().mean()) for strength in STRENGTHS]
    strength = STRENGTHS[errors.index(min(errors))]
    return strength, left_out(strength)


def _fit_rows(own: Tensor, others: list[Tensor], strength: float) -> LinearGaussian:
    """W and b of these rows; C is that of the fit itself, and too small."""
    joined = torch.cat([own, *others], 1)
    mean, width = joined.mean(0), own.shape[1]
    covariance = (joined - mean).T @ (joined - mean) / len(joined)
    ridge = strength * float(covariance.diagonal()[width:].mean()) * width
    return fit_linear_gaussian(mean, covariance, torch.zeros(()), others=len(others), ridge=ridge)


def _quadratic_and_constant(z: Tensor, other: Tensor, q: LinearGaussian, variance: Tensor) -> tuple[Tensor, Tensor]:
    """r^T C^-1 r of each row, and the part of twice the divergence that is the same for all."""
    width = z.shape[1]
    factor = _cholesky(q.covariance)
    eye = torch.eye(width, dtype=factor.dtype, device=factor.device)
    whitener = torch.linalg.solve_triangular(factor, eye, upper=False)  # C^-1 = whitener^T whitener
    sigma2 = variance.to(factor)
    # log det C and D log sigma^2 are thousands at width 512, and their difference some tens: float64.
    constant = 2 * factor.diagonal().log().sum() - width * sigma2.log() + sigma2 * whitener.square().sum() - width
    residual = z - other @ q.weight.T.to(z) - q.bias.to(z)
    return (residual @ whitener.T.to(z)).square().sum(-1), constant.to(z)


def _cholesky(matrix: Tensor) -> Tensor:
    """The lower factor, or NaN where there is none: a training loop then stops with the name of the term."""
    factor, info = torch.linalg.cholesky_ex(matrix)
    return torch.where(info == 0, factor, torch.nan)


def _checked(own: Tensor, others: Sequence[Tensor], sigmas: Sequence[float]) -> tuple[Tensor, list[Tensor]]:
    """Both in float64 on the CPU."""
    shapes = [tuple(x.shape) for x in (own, *others)]
    if own.ndim != 2 or len(shapes) < 2 or len(set(shapes)) > 1:
        raise ValueError(f"expected two or more equal shapes (n, D), got {', '.join(map(str, shapes))}")
    if not all(bool(torch.isfinite(x).all()) for x in (own, *others)):
        raise ValueError("expected finite embeddings, got NaN or infinite values")
    for sigma in sigmas:
        if not 0 < sigma < float("inf"):
            raise ValueError(f"expected a sigma above 0, got {sigma}")
    return own.detach().double().cpu(), [x.detach().double().cpu() for x in others]


def _check_rows(fit_rows: Tensor, evaluate_rows: Tensor, n: int) -> None:
    for name, rows in (("fit_rows", fit_rows), ("evaluate_rows", evaluate_rows)):
        if rows.ndim != 1 or rows.dtype != torch.int64 or len(rows) < 2:
            raise ValueError(f"expected {name} (m,) int64 with m >= 2, got {tuple(rows.shape)} {rows.dtype}")
        if not 0 <= int(rows.min()) <= int(rows.max()) < n:
            raise ValueError(f"expected {name} in [0, {n}), got {int(rows.min())} to {int(rows.max())}")
    shared = int(torch.isin(evaluate_rows, fit_rows).sum())
    if shared:
        raise ValueError(f"expected fit_rows and evaluate_rows apart, got {shared} shared rows")
