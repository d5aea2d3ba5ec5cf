"""The log density ratio of a fitted Gaussian, for any image and any text."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from clipib.information.checks import centred_features, check_same_items, checked_features
from clipib.information.gaussian import checked_correlations, principal_directions
from clipib.information.normal_scores import NormalScores, fit_normal_scores


class GaussianSide(NamedTuple):
    """x -> its coordinates: (normal scores of x - mean) weight."""

    scores: NormalScores | None
    mean: Tensor  # (d,)
    weight: Tensor  # (d, r)

    def __call__(self, x: Tensor) -> Tensor:
        x = checked_features(x, least=1) if self.scores is None else self.scores(x)
        if x.shape[1] != len(self.mean):
            raise ValueError(f"expected features of shape (n, {len(self.mean)}) as fitted, got {tuple(x.shape)}")
        return (x - self.mean) @ self.weight


class GaussianCritic(NamedTuple):
    """log p(x, y) / (p(x) p(y)) of a Gaussian that `fit_gaussian_critic` fitted.

        s(x, y) = sum_k [ rho_k u_k v_k - rho_k^2 (u_k^2 + v_k^2) / 2 ] / (1 - rho_k^2) - 1/2 sum_k log(1 - rho_k^2)

    u and v are the canonical coordinates of x and y, in which the Gaussian is a product of r pairs of correlation
    rho_k. The score is an inner product of width r + 2, so N x M scores cost one matrix product.

    Status: a critic, no estimate. On pairs that it was NOT fitted on, every lower bound (InfoNCE, DV, NWJ) of its
    scores is a valid lower bound of the information in expectation, whatever the data are; it is low where they
    are far from Gaussian or the fit is poor, and may be negative. On the fitted pairs it is far too high:
    independent data of width 40 with 400 pairs give about 2 nats there and -3 on fresh pairs without shrinkage.
    """

    x_side: GaussianSide
    y_side: GaussianSide
    correlations: Tensor  # (r,) of the fitted Gaussian, largest first
    shrinkage: float  # share of the identity in its covariance

    def __call__(self, x: Tensor, y: Tensor) -> Tensor:
        """Scores of every x with every y.

        Args:
            x, y: (N, dx) and (M, dy), of the widths that were fitted; a block of rows of x gives a block of rows.

        Returns:
            (N, M) float64, nats, no free constant.

        Raises:
            ValueError: for another width, or values that are not finite.
        """
        return self.embed_x(x) @ self.embed_y(y).T

    def embed_x(self, x: Tensor) -> Tensor:
        """(N, r + 2), to be multiplied with `embed_y`."""
        u, rho = self.x_side(x), self.correlations
        own = -u.square() @ (rho.square() / (1 - rho.square()) / 2)
        return torch.cat([u * rho / (1 - rho.square()), own[:, None], torch.ones_like(own)[:, None]], 1)

    def embed_y(self, y: Tensor) -> Tensor:
        """(M, r + 2), to be multiplied with `embed_x`."""
        v, rho = self.y_side(y), self.correlations
        own = -v.square() @ (rho.square() / (1 - rho.square()) / 2) - torch.log1p(-rho.square()).sum() / 2
        return torch.cat([v, torch.ones_like(own)[:, None], own[:, None]], 1)


def fit_gaussian_critic(
    x: Tensor, y: Tensor, *, normal: bool = True, width: int | None = 64, shrinkage: float | None = None
) -> GaussianCritic:
    """Fits a Gaussian to paired features, as a critic for pairs that it has not seen.

        covariance = (1 - shrinkage) S + shrinkage I

    S is the covariance of both sides joined, after each side went through normal scores per coordinate, PCA to
    `width`, and one factor that makes its mean variance 1 (else the louder side would set the other's shrinkage).

    Bias: the scores of fitted noise cost held-out bounds about dx dy / (2 n) nats, with dx and dy at most `width`:
    with few pairs, a smaller width tells more.

    Args:
        x, y: (n, dx) and (n, dy), row i paired with row i.
        normal: use normal scores; they undo any rising distortion of single coordinates, such as a cube.
        width: directions kept per side; None keeps all.
        shrinkage: in [0, 1); None takes the share of Ledoit and Wolf, estimated from the same pairs.

    Raises:
        ValueError: for one pair, different lengths, features that do not vary or are not finite, no shrinkage with
            n <= dx + dy, or x and y that share a direction exactly.

    Reference:
        Ledoit and Wolf, 2004, A well-conditioned estimator for large-dimensional covariance matrices.

    Example:
        >>> pairs = torch.randn(1000, 2, generator=torch.Generator().manual_seed(0))
        >>> x, y = pairs[:, :1], pairs @ torch.tensor([[0.8], [0.6]])
        >>> critic = fit_gaussian_critic(x[:500], y[:500].exp())
        >>> critic(x[500:], y[500:].exp()).shape
        torch.Size([500, 500])
    """
    x_side, u = _fit_side(x, "x", normal, width)
    y_side, v = _fit_side(y, "y", normal, width)
    check_same_items(u, v)
    covariance, share = shrunk_covariance(torch.cat([u, v], 1), shrinkage)
    left, rho, right = canonical_form(covariance, u.shape[1])
    return GaussianCritic(
        x_side._replace(weight=x_side.weight @ left), y_side._replace(weight=y_side.weight @ right), rho, share
    )


def shrunk_covariance(centred: Tensor, shrinkage: float | None) -> tuple[Tensor, float]:
    """The covariance pulled towards a multiple of the identity, and by which share.

    Args:
        centred: (n, p) with column means 0.
        shrinkage: in [0, 1]; None takes the share of Ledoit and Wolf.
    """
    n, p = centred.shape
    if shrinkage is None:
        from sklearn.covariance import ledoit_wolf_shrinkage

        shrinkage = float(ledoit_wolf_shrinkage(centred.cpu().numpy(), assume_centered=True))
    elif not 0 <= shrinkage <= 1:
        raise ValueError(f"expected a shrinkage from 0 to 1, got {shrinkage}")
    if shrinkage == 0 and n <= p:
        raise ValueError(f"expected more pairs than dimensions where nothing is shrunk, got n={n}, dx + dy={p}")
    sample = centred.T @ centred / n
    identity = torch.eye(p, dtype=sample.dtype, device=sample.device)
    return (1 - shrinkage) * sample + shrinkage * sample.diagonal().mean() * identity, shrinkage


def canonical_form(covariance: Tensor, dx: int) -> tuple[Tensor, Tensor, Tensor]:
    """Left (dx, r), rho (r,), right (dy, r) with left^T S_x left = right^T S_y right = I, left^T S_xy right = rho.

    Raises:
        ValueError: where a correlation is 1, or either side has no inverse.
    """
    own, cross, other = covariance[:dx, :dx], covariance[:dx, dx:], covariance[dx:, dx:]
    factor_x, factor_y = torch.linalg.cholesky(own), torch.linalg.cholesky(other)
    half = torch.linalg.solve_triangular(factor_x, cross, upper=False)
    between = torch.linalg.solve_triangular(factor_y, half.T, upper=False).T
    left, rho, right = torch.linalg.svd(between, full_matrices=False)
    left = torch.linalg.solve_triangular(factor_x.T, left, upper=True)
    right = torch.linalg.solve_triangular(factor_y.T, right.T, upper=True)
    return left, checked_correlations(rho), right


def _fit_side(x: Tensor, name: str, normal: bool, width: int | None) -> tuple[GaussianSide, Tensor]:
    """Normal scores, PCA and one scale, and what they make of `x`: mean 0 and mean variance 1."""
    centred_features(x, name)
    scores = fit_normal_scores(x) if normal else None
    values = scores(x) if scores else checked_features(x, name)
    mean = values.mean(0)
    directions = principal_directions(values - mean, width)
    along = (values - mean) @ directions  # (n, p)
    scale = along.square().mean().sqrt()
    return GaussianSide(scores, mean, directions / scale), along / scale
