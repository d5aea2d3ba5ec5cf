"""Entropies of the spectrum of a kernel matrix."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from clipib.information.checks import checked_features

ROUNDING = 1e-6  # of the trace, what a kernel matrix in float32 may miss of symmetry and of positive eigenvalues


def matrix_entropy(gram: Tensor, *, alpha: float = 1.01) -> float:
    """Rényi entropy of the eigenvalues of a kernel matrix; von Neumann's at alpha = 1.

        A_ij = K_ij / (n sqrt(K_ii K_jj)),   S_alpha = log( sum_i lambda_i(A)^alpha ) / (1 - alpha),
        S_1 = - sum_i lambda_i log lambda_i

    Status: no estimate of Shannon or differential entropy, and no bound; a number about the kernel. It runs from 0
    (all items alike) to log n (all items apart, which a narrow enough kernel sees in any data).
    Cost: O(n^3) by eigenvalues; keep n <= 2,000.

    Args:
        gram: (n, n) symmetric and positive semidefinite, diagonal above 0.
        alpha: the order, above 0; 1.01 stays near Shannon's.

    Returns:
        Nats, in [0, log n].

    Raises:
        ValueError: for a matrix that is not square, finite, symmetric or positive semidefinite, or alpha <= 0.

    Reference:
        Sanchez Giraldo, Rao and Principe, 2014, Measures of entropy from data using infinitely divisible kernels.

    Example:
        >>> round(matrix_entropy(torch.eye(4)), 4), round(matrix_entropy(torch.ones(4, 4)), 4)
        (1.3863, 0.0)
    """
    if not 0 < alpha < math.inf:
        raise ValueError(f"expected a finite alpha above 0, got {alpha}")
    shares = torch.linalg.eigvalsh(_density(gram))
    if shares[0] < -ROUNDING:
        raise ValueError(
            f"expected a positive semidefinite matrix, got an eigenvalue of {float(shares[0]):.3g} / trace"
        )
    logs = shares[shares > len(shares) * torch.finfo(shares.dtype).eps].log()
    if alpha == 1:
        return float(-(logs.exp() * logs).sum().clamp(max=0))
    # sum p^alpha = 1 + sum p (p^(alpha - 1) - 1): near alpha = 1 the sum itself would lose all its digits.
    return float(torch.log1p((logs.exp() * torch.expm1((alpha - 1) * logs)).sum()) / (1 - alpha))


def matrix_mi(gram_x: Tensor, gram_y: Tensor, *, alpha: float = 1.01) -> float:
    """Mutual information of two kernel matrices on the same items.

        I_alpha = S_alpha(A) + S_alpha(B) - S_alpha( A o B / tr A o B ),   o = entry by entry

    Status: NOT mutual information of the data and no bound of it: the kernel width sets the value. For normal
    pairs of 0.83 nats it falls from above 3 to below 0.5 as the width goes from 0.02 to 1, and it falls with n
    at a small width. Compare at ONE width and one n. At most min(S(A), S(B)) <= log n. At
    alpha = 1 it is a quantum mutual information, hence >= 0; for other alpha the difference can be negative,
    as it can for Rényi entropies of tables. With `delta_gram` and alpha = 1 it is the plug-in
    information of the labels.

    Args:
        gram_x, gram_y: (n, n), as `matrix_entropy` wants them.
        alpha: the order.

    Returns:
        Nats.

    Raises:
        ValueError: as `matrix_entropy`, and for matrices of different sizes.

    Reference:
        Sanchez Giraldo, Rao and Principe, 2014.

    Example:
        >>> labels = torch.tensor([0, 0, 1, 1])
        >>> round(matrix_mi(delta_gram(labels), delta_gram(labels), alpha=1), 4)
        0.6931
    """
    if gram_x.shape != gram_y.shape:
        raise ValueError(f"expected matrices of one size, got {tuple(gram_x.shape)} and {tuple(gram_y.shape)}")
    joint = _density(gram_x) * _density(gram_y)
    return sum(matrix_entropy(gram, alpha=alpha) for gram in (gram_x, gram_y)) - matrix_entropy(joint, alpha=alpha)


def gaussian_gram(x: Tensor, width: float) -> Tensor:
    """The Gaussian kernel between all rows.

        K_ij = exp( -|x_i - x_j|^2 / (2 width^2) )

    Args:
        x: (n, d).
        width: the standard deviation of the kernel, in units of x; nothing is scaled here.

    Returns:
        (n, n) float64, diagonal 1.

    Raises:
        ValueError: for a width that is not above 0, or features that are not finite.
    """
    if not 0 < width < math.inf:
        raise ValueError(f"expected a finite kernel width above 0, got {width}")
    x = checked_features(x, "x")
    # By differences: the matrix product form loses small distances.
    distances = torch.cdist(x, x, compute_mode="donot_use_mm_for_euclid_dist")
    return (-(distances / width).square() / 2).exp()


def delta_gram(labels: Tensor) -> Tensor:
    """The kernel of labels: 1 where two are equal, else 0.

    Its matrix entropy is the Rényi entropy of the histogram of the labels.

    Args:
        labels: (n,) integers.

    Returns:
        (n, n) float64.
    """
    if labels.ndim != 1 or labels.is_floating_point():
        raise ValueError(f"expected integer labels of shape (n,), got {tuple(labels.shape)} of {labels.dtype}")
    return (labels[:, None] == labels).double()


def _density(gram: Tensor) -> Tensor:
    """Diagonal 1 / n, so that the eigenvalues sum to 1."""
    if gram.ndim != 2 or gram.shape[0] != gram.shape[1]:
        raise ValueError(f"expected a kernel matrix of shape (n, n), got {tuple(gram.shape)}")
    gram = checked_features(gram, "kernel values")
    diagonal = gram.diagonal()
    if not bool((diagonal > 0).all()):
        raise ValueError(f"expected a diagonal above 0, got {float(diagonal.min()):.3g}")
    scale = diagonal.rsqrt()
    density = scale[:, None] * gram * scale / len(gram)
    if (gap := float((density - density.T).abs().max()) * len(gram)) > ROUNDING:
        raise ValueError(f"expected a symmetric kernel matrix, got entries that differ by {gap:.3g} of the diagonal")
    return density
