"""Mutual information as if two sets of features were jointly Gaussian."""

from __future__ import annotations

import torch
from torch import Tensor

from clipib.information.checks import centred_features, check_same_items

ONE = 1 - 1e-12  # a squared correlation above this is 1 for float64: its information would be rounding
FLAT = 1e-12  # a variance below this share of the largest is rounding


def canonical_correlations(x: Tensor, y: Tensor) -> Tensor:
    """The correlations of the best linear views of two sets of features, largest first.

        rho_k = k-th singular value of Q_x^T Q_y,  Q an orthonormal basis of the centred columns

    Unchanged by any invertible linear map of either side. Constant and repeated columns add nothing. Bias: upwards;
    with n - 1 pairs or fewer than dx + dy, some are 1 whatever the data.

    Args:
        x, y: (n, dx) and (n, dy), row i paired with row i.

    Returns:
        (min(rank x, rank y),) float64, in [0, 1].

    Raises:
        ValueError: for one pair, different lengths, features that do not vary or are not finite.

    Reference:
        Hotelling, 1936, Relations between two sets of variates; Björck and Golub, 1973, for the form.
    """
    return _correlations(*_paired_bases(x, y))


def gaussian_mi(x: Tensor, y: Tensor, *, correct: bool = True) -> float:
    """Mutual information of the jointly Gaussian pair that has the covariances of `x` and `y`.

        I = -1/2 sum_k log(1 - rho_k^2)  [ - gaussian_bias(n, dx, dy) ]
          =  1/2 [ log det S_x + log det S_y - log det S ]

    Status: of the population value, a lower bound of the information where both margins are Gaussian, whatever their
    joint law; without that, no bound: make the margins normal first (`normal_scores`) or judge a `GaussianCritic` on
    pairs that it was not fitted on. Bias: the plug-in value is too high by about dx dy / (2 n), which the correction
    takes away exactly for Gaussian data of full rank; then the value may be negative. Standard deviation: about
    sqrt(sum rho_k^2 / n) while dx dy is far below n. No saturation.

    Args:
        x, y: (n, dx) and (n, dy), n > dx + dy; narrow them with `reduce_width` where n is no multiple of that.
        correct: subtract the bias; dx and dy are then the ranks of x and y.

    Returns:
        Nats.

    Raises:
        ValueError: for n <= dx + dy, or where a direction of x is a direction of y and the value would be infinite.

    Reference:
        Cover and Thomas, 2006, Elements of Information Theory, section 8.5; bias: see `gaussian_bias`.

    Example:
        >>> pairs = torch.randn(1000, 2, generator=torch.Generator().manual_seed(0))
        >>> x, y = pairs[:, :1], pairs @ torch.tensor([[0.8], [0.6]])  # correlation 0.8, so 0.51 nats
        >>> round(gaussian_mi(x, y), 1)
        0.5
    """
    basis_x, basis_y = _paired_bases(x, y)
    n, dx, dy = len(basis_x), basis_x.shape[1], basis_y.shape[1]
    bias = gaussian_bias(n, dx, dy)
    rho = checked_correlations(_correlations(basis_x, basis_y))
    plugin = float(-torch.log1p(-rho.square()).sum() / 2)
    return plugin - bias if correct else plugin


def gaussian_bias(n: int, dx: int, dy: int) -> float:
    """How far the plug-in Gaussian information lies above the truth on average, exact for Gaussian data.

        1/2 [ L(dx) + L(dy) - L(dx + dy) ],   L(d) = sum_{i=1..d} psi((n - i) / 2)   ~  dx dy / (2 n)

    It follows from E log det of a Wishart matrix with n - 1 degrees of freedom and does not depend on the truth.

    Args:
        n: number of pairs, above dx + dy.
        dx, dy: dimensions of the two sides.

    Returns:
        Nats, above 0.

    Raises:
        ValueError: for n <= dx + dy, where the plug-in value is infinite.

    Reference:
        Anderson, 2003, An Introduction to Multivariate Statistical Analysis, section 7.5; Misra, Singh and Demchuk,
        2005, Estimation of the entropy of a multivariate normal distribution.

    Example:
        >>> [round(gaussian_bias(n, d, d), 2) for n, d in [(5000, 64), (5000, 512), (50000, 512)]]
        [0.42, 29.28, 2.65]
    """
    if dx < 1 or dy < 1 or n <= dx + dy:
        raise ValueError(f"expected more pairs than dimensions, n > dx + dy, got n={n}, dx={dx}, dy={dy}")
    i = torch.arange(1, dx + 1, dtype=torch.float64)
    return float((torch.digamma((n - i) / 2) - torch.digamma((n - dy - i) / 2)).sum() / 2)


def reduce_width(x: Tensor, k: int) -> Tensor:
    """The coordinates of `x` along its k directions of largest variance (PCA), centred.

    Directions are chosen without a look at the partner, so information can only be lost. The correction of
    `gaussian_mi` is exact for directions fixed beforehand and a good approximation for these.

    Args:
        x: (n, d).
        k: the width wanted; fewer columns come back where x has a lower rank.

    Returns:
        (n, min(k, rank)) float64, columns uncorrelated, largest variance first, each up to its sign.

    Example:
        >>> x = torch.randn(50, 7, generator=torch.Generator().manual_seed(0))
        >>> reduce_width(x, 3).shape
        torch.Size([50, 3])
    """
    centred = centred_features(x, "x")
    return centred @ principal_directions(centred, k)


def principal_directions(centred: Tensor, k: int | None) -> Tensor:
    """The orthonormal directions of largest variance, (d, min(k, rank)), of features with column means 0.

    Raises:
        ValueError: for k below 1.
    """
    if k is not None and k < 1:
        raise ValueError(f"expected a width of at least 1, got {k}")
    variances, directions = torch.linalg.eigh(centred.T @ centred)
    varying = int((variances > FLAT * variances[-1]).sum())
    return directions.flip(1)[:, : varying if k is None else min(k, varying)]


def checked_correlations(rho: Tensor) -> Tensor:
    """`rho` itself where it gives a finite information.

    Raises:
        ValueError: where a correlation is 1 within rounding.
    """
    if equal := int((rho.square() > ONE).sum()):
        raise ValueError(
            f"expected canonical correlations below 1, got {equal} of {len(rho)} that are 1: x and y share a direction "
            "exactly, and its Gaussian information is infinite"
        )
    return rho


def _paired_bases(x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
    x, y = centred_features(x, "x"), centred_features(y, "y")
    check_same_items(x, y)
    return _basis(x), _basis(y)


def _basis(centred: Tensor) -> Tensor:
    """An orthonormal basis of the columns, (n, rank)."""
    vectors, values, _ = torch.linalg.svd(centred, full_matrices=False)
    rounding = max(centred.shape) * torch.finfo(centred.dtype).eps * values[0]
    return vectors[:, values > rounding]


def _correlations(basis_x: Tensor, basis_y: Tensor) -> Tensor:
    return torch.linalg.svdvals(basis_x.T @ basis_y).clamp(max=1)
