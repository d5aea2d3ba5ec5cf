"""Linear CKA and HSIC of two sets of features of the same items, each of its own width."""

from __future__ import annotations

from typing import NamedTuple

from torch import Tensor

from clipib.information.checks import CONSTANT, centred_features, check_same_items


class _Centred(NamedTuple):
    """Features with column means 0, and what both estimators need of them alone."""

    features: Tensor  # (n, d) float64
    squares: Tensor  # (n,) squared length of each row


def hsic_biased(x: Tensor, y: Tensor) -> float:
    """HSIC with linear kernels, the biased form.

        tr(K H L H) / (n - 1)^2 = ||X^T Y||_F^2 / (n - 1)^2,   K = X X^T, L = Y Y^T, X and Y centred on the right

    It is the squared Frobenius norm of the cross-covariance matrix.

    Status: biased up; on independent features it is tr(Cov x) tr(Cov y) / (n - 1) in the mean, and not 0.

    Args:
        x: (n, dx) features.
        y: (n, dy) features of the same items.

    Returns:
        At least 0, in squared units of x times those of y.

    Raises:
        ValueError: for different numbers of rows, fewer than two, NaN, or features that do not vary.

    Reference:
        Gretton et al., 2005, Measuring statistical dependence with Hilbert-Schmidt norms, def. 2.
    """
    x, y = _both(x, y, least=2)
    return _cross(x, y) / (len(x.squares) - 1) ** 2


def hsic_unbiased(x: Tensor, y: Tensor) -> float:
    """HSIC with linear kernels, without bias.

        [ tr K~ L~ + 1^T K~ 1  1^T L~ 1 / ((n-1)(n-2)) - 2/(n-2) 1^T K~ L~ 1 ] / (n (n-3))

    with K~ = X X^T and L~ = Y Y^T whose diagonals are set to 0. The value does not change when X and Y are centred.
    Then rows of X X^T sum to 0, so K~ 1 = -k with k_i = ||x_i||^2, and in O(n d^2) without any (n, n) matrix it is

        [ ||X^T Y||_F^2 - n/(n-2) k^T l + sum k sum l / ((n-1)(n-2)) ] / (n (n-3))

    Status: unbiased, so negative on about every second sample of independent features.

    Args:
        x: (n, dx) features.
        y: (n, dy) features of the same items, n >= 4.

    Returns:
        The squared Frobenius norm of the cross-covariance matrix in the mean, in squared units of x times those of y.

    Raises:
        ValueError: for different numbers of rows, fewer than four, NaN, or features that do not vary.

    Reference:
        Song et al., 2012, Feature selection via dependence maximization, JMLR 13.
    """
    return _unbiased(*_both(x, y, least=4))


def cka_biased(x: Tensor, y: Tensor) -> float:
    """Linear CKA, the biased form.

        ||X^T Y||_F^2 / (||X^T X||_F ||Y^T Y||_F),   X and Y centred

    Invariant to rotation and common scale of either side, not to a general linear map.

    Status: biased up, and badly where n is not far above the widths: `cka_null` is what independent features give.

    Args:
        x: (n, dx) features.
        y: (n, dy) features of the same items.

    Returns:
        In [0, 1]; 1 for a rotated and scaled copy.

    Raises:
        ValueError: for different numbers of rows, fewer than two, NaN, or features that do not vary.

    Reference:
        Kornblith et al., 2019, Similarity of neural network representations revisited, 1905.00414.

    Example:
        >>> import torch
        >>> round(cka_biased(torch.tensor([[1.0], [2.0], [4.0]]), torch.tensor([[-3.0], [-6.0], [-12.0]])), 12)
        1.0
    """
    x, y = _both(x, y, least=2)
    return _cross(x, y) / (_cross(x, x) * _cross(y, y)) ** 0.5


def cka_unbiased(x: Tensor, y: Tensor) -> float:
    """Linear CKA from unbiased HSIC; the one to report.

        HSIC_u(x, y) / sqrt(HSIC_u(x, x) HSIC_u(y, y))

    Status: consistent; a ratio of unbiased numbers, so not unbiased itself, but 0 in the mean on independent features
    up to O(1/n). May be negative; print it as it is.

    Args:
        x: (n, dx) features.
        y: (n, dy) features of the same items, n >= 4.

    Returns:
        In [-1, 1]; 1 for a rotated and scaled copy.

    Raises:
        ValueError: as `hsic_unbiased`, and where HSIC_u of one side with itself is 0: every squared distance is then
            a_i + a_j, as between orthogonal items, and leaves nothing to compare.

    Reference:
        Song et al., 2012; Kornblith et al., 2019; Nguyen et al., 2021, 2010.15327.

    Example:
        >>> import torch
        >>> x = torch.tensor([[1.0], [2.0], [4.0], [9.0]])
        >>> round(cka_unbiased(x, 5 - 2 * x), 12)
        1.0
    """
    x, y = _both(x, y, least=4)
    own = [_own(z, name) for z, name in ((x, "x"), (y, "y"))]
    return _unbiased(x, y) / (own[0] * own[1]) ** 0.5


def cka_null(n: int, x_width: int, y_width: int) -> float:
    """What `cka_biased` is about on independent isotropic features.

        sqrt( dx dy / ((n + dx) (n + dy)) )

    Args:
        n: number of items.
        x_width, y_width: dx and dy; on anisotropic features the participation ratio takes the place of the width.

    Returns:
        In (0, 1).

    Example:
        >>> cka_null(128, 512, 512), cka_null(512, 512, 512)
        (0.8, 0.5)
    """
    return (x_width * y_width / ((n + x_width) * (n + y_width))) ** 0.5


def _both(x: Tensor, y: Tensor, *, least: int) -> tuple[_Centred, _Centred]:
    x, y = centred_features(x, "x", least=least), centred_features(y, "y", least=least)
    check_same_items(x, y)
    return _Centred(x, x.square().sum(1)), _Centred(y, y.square().sum(1))


def _cross(x: _Centred, y: _Centred) -> float:
    """||X^T Y||_F^2 = <X X^T, Y Y^T>, by whichever matrix is smaller."""
    n = len(x.squares)
    if n * n < x.features.shape[1] * y.features.shape[1]:
        return float(((x.features @ x.features.T) * (y.features @ y.features.T)).sum())
    return float((x.features.T @ y.features).square().sum())


def _unbiased(x: _Centred, y: _Centred) -> float:
    n = len(x.squares)
    total = _cross(x, y) - n / (n - 2) * float(x.squares @ y.squares)
    total += float(x.squares.sum() * y.squares.sum()) / ((n - 1) * (n - 2))
    return total / (n * (n - 3))


def _own(z: _Centred, name: str) -> float:
    """Unbiased HSIC of one side with itself, above 0: a sum of squares that can vanish."""
    n, own = len(z.squares), _unbiased(z, z)
    if own <= CONSTANT * _cross(z, z) / (n * (n - 3)):
        raise ValueError(f"expected {name} with distances that differ, got each squared distance as a_i + a_j (n={n})")
    return own
