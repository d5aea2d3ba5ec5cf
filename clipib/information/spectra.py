"""How many directions features use, from singular values, and the spectrum of a score matrix.

Three effective ranks that must not be mixed up:

    participation_ratio    of the covariance eigenvalues; features centred
    von_neumann_rank       of sigma^2; features not centred; the Vendi score of the cosine kernel for unit rows
    rankme                 of sigma; features not centred

Shares of sigma are flatter than those of sigma^2, so rankme is never below von_neumann_rank. All three are too low at
finite n and grow with it: compare checkpoints at the same n only.
"""

from __future__ import annotations

import torch
from torch import Tensor

from clipib.information.checks import centred_features, checked_features

RANKME_EPSILON = 1e-7  # of the paper, for float32 features


def singular_values(features: Tensor) -> Tensor:
    """Singular values of the features as they are, for `rankme` and `von_neumann_rank`.

    Args:
        features: (n, d).

    Returns:
        (min(n, d),) float64, descending.

    Raises:
        ValueError: for fewer than two rows or NaN.
    """
    return torch.linalg.svdvals(checked_features(features))


def covariance_eigenvalues(features: Tensor) -> Tensor:
    """Eigenvalues of the sample covariance, for `participation_ratio`.

        sigma_k(X - mean)^2 / (n - 1)

    Status: each consistent; for n not much above d the large ones are too large and the small ones too small.

    Args:
        features: (n, d).

    Returns:
        (min(n, d),) float64, descending; the sum is the total variance.

    Raises:
        ValueError: for fewer than two rows, NaN, or rows that are all the same.

    Example:
        >>> [round(float(l), 6) for l in covariance_eigenvalues(torch.tensor([[3.0], [0.0], [-3.0]]))]
        [9.0]
    """
    centred = centred_features(features)
    return torch.linalg.svdvals(centred).square() / (len(centred) - 1)


def participation_ratio(eigenvalues: Tensor) -> float:
    """The number of equal eigenvalues with the same sum and sum of squares.

        (sum l)^2 / sum l^2

    Status: biased down, 1/PR of a sample is about 1/PR + 1/n.

    Args:
        eigenvalues: (r,) of `covariance_eigenvalues`, any scale.

    Returns:
        In [1, r].

    Raises:
        ValueError: for a negative or NaN eigenvalue, or none above 0.

    Reference:
        Gao et al., 2017, A theory of multineuronal dimensionality, dynamics and measurement.

    Example:
        >>> participation_ratio(torch.tensor([2.0, 2.0, 0.0]))
        2.0
    """
    return float(1 / _shares(eigenvalues, "eigenvalues").square().sum())


def rankme(singular_values: Tensor) -> float:
    """RankMe, the exponential of the entropy of the singular values.

        exp(-sum_k p_k log p_k),   p_k = sigma_k / sum_j sigma_j + 1e-7

    As published, without a new normalisation after 1e-7 is added; r singular values of 0 add 1.6e-6 r to the exponent.

    Status: biased down, by a factor of about exp(-d/(8n)) on isotropic features.

    Args:
        singular_values: (r,) of `singular_values`, any scale.

    Returns:
        From 1 to r, up to the effect of 1e-7.

    Raises:
        ValueError: for a negative or NaN singular value, or none above 0.

    Reference:
        Garrido et al., 2023, RankMe, 2210.02885, eq. 1 and 2.

    Example:
        >>> round(rankme(torch.tensor([3.0, 3.0])), 4)
        2.0
    """
    p = _shares(singular_values, "singular values") + RANKME_EPSILON
    return float((-(p * p.log()).sum()).exp())


def von_neumann_rank(singular_values: Tensor) -> float:
    """Exponential of the von Neumann entropy of X X^T / tr X X^T; for unit rows the Vendi score of the cosine kernel.

        exp(-sum_k q_k log q_k),   q_k = sigma_k^2 / sum_j sigma_j^2

    Status: biased down, by a factor of about exp(-d/(2n)) on isotropic features.

    Args:
        singular_values: (r,) of `singular_values`, any scale.

    Returns:
        In [1, r]; 1 for one point, n for orthogonal items.

    Raises:
        ValueError: for a negative or NaN singular value, or none above 0.

    Reference:
        Friedman and Dieng, 2022, The Vendi score, 2210.02410.

    Example:
        >>> round(von_neumann_rank(torch.tensor([3.0, 3.0, 0.0])), 4)
        2.0
    """
    q = _shares(_shares(singular_values, "singular values").square(), "singular values")
    return float(torch.special.entr(q).sum().exp())  # entr(0) = 0


def double_centred_spectrum(scores: Tensor) -> Tensor:
    """Singular values of a score matrix after row and column means are taken out.

        sigma_k( (I - 11^T/N) S (I - 11^T/M) ) / sqrt(N M)

    Scores that differ by a(x) + b(y) have the same spectrum. The root of the sum of squares beyond the first r is the
    rms error, in the unit of the scores, of the best rank-r matrix plus a(x) + b(y).

    Status: describes the model and the items that were drawn, not the world.

    Args:
        scores: (N, M), all images against all texts.

    Returns:
        (min(N, M),) float64, descending, in the unit of the scores.

    Raises:
        ValueError: for fewer than two rows or columns, or NaN.
    """
    scores = checked_features(scores, "scores")
    if scores.shape[1] < 2:
        raise ValueError(f"expected at least 2 columns of scores, got {scores.shape[1]}")
    centred = scores - scores.mean(0)
    centred -= centred.mean(1, keepdim=True)
    return torch.linalg.svdvals(centred) / scores.numel() ** 0.5


def inner_product_spectrum(image: Tensor, text: Tensor, *, scale: float = 1.0) -> Tensor:
    """`double_centred_spectrum` of scale * <u_i, v_j> from the features, in O((N + M) d^2) without the (N, M) matrix.

    Centring the scores is centring both sets of features. With QR of each, S = Q_u (R_u R_v^T) Q_v^T, and the middle
    (d, d) matrix has the same singular values.

    Args:
        image: (N, d) features, as the score takes them.
        text: (M, d) features of any number of texts.
        scale: factor on the scores, such as logit_scale.

    Returns:
        (min(N, M, d),) float64, descending, in the unit of the scores; all others are 0.

    Raises:
        ValueError: for fewer than two rows, NaN or widths that differ.
    """
    image, text = checked_features(image, "image features"), checked_features(text, "text features")
    if image.shape[1] != text.shape[1]:
        raise ValueError(f"expected features of one width, got {image.shape[1]} and {text.shape[1]}")
    r_image, r_text = (torch.linalg.qr(z - z.mean(0), mode="r").R for z in (image, text))  # (min(n, d), d)
    return abs(scale) * torch.linalg.svdvals(r_image @ r_text.T) / (len(image) * len(text)) ** 0.5


def _shares(spectrum: Tensor, name: str) -> Tensor:
    """The spectrum in float64 as shares of its sum."""
    spectrum = spectrum.double()
    if spectrum.ndim != 1 or not (spectrum >= 0).all() or not spectrum.isfinite().all() or not (spectrum > 0).any():
        raise ValueError(f"expected {name} (r,), none negative and one above 0, got {spectrum}")
    return spectrum / spectrum.sum()
