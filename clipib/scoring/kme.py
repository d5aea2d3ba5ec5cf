"""KME-CLIP: the logarithm of the inner product of two kernel mean embeddings."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from clipib.scoring.cosine import EPS
from clipib.scoring.features import Features, in_full_precision, sum_in_fixed_order
from clipib.scoring.similarity import Similarity, as_they_are

PAIRS_AT_ONCE = 2**22  # numbers in one block of float64 products


def kme_logits(
    image_features: Features, text_features: Features, *, logit_scale: Tensor | float, logit_bias: Tensor | float = 0.0
) -> Tensor:
    """log sum_ij w_i a_j exp( -|u_i - v_j|^2 / (2 sigma^2) ) for every image and every text.

    With unit points this is logsumexp_ij( log w_i + log a_j + inv_sigma2 (<u_i, v_j> - 1) ): one product of all points
    with all points, an exponential and a sum over each block of points. One point of weight 1 a side gives CLIP's
    logits with the temperature sigma^2, less the constant inv_sigma2.

    Use it where the pointwise mutual information is no inner product of small width: exp of it is an inner product in
    a Hilbert space whenever image and text are independent given some latent, and this is its logarithm.

    Args:
        image_features: (n, m, D) unit points with positive weights (n, m).
        text_features: (k, m', D) and (k, m').
        logit_scale: inv_sigma2 = 1 / sigma^2 of the Gaussian kernel, which stands in the place of the logit scale.
        logit_bias: added to every logit, for sigmoid losses.

    Returns:
        (n, k) float32 logits; float64 stays float64.

    Reference:
        A re-implementation from a description of KME-CLIP (Yoshida et al., 2025, 2510.15508, abstract and public
        reviews): Gaussian kernel, log inner product and the case of one point are theirs; learnable 1 / sigma^2 in
        place of the temperature and softmax weights are inferred.
    """
    (u, w), (v, a) = in_full_precision(image_features), in_full_precision(text_features)
    (n, m, _), (k, other, _) = u.shape, v.shape
    log_w, log_a = w.log().flatten()[:, None], a.log().flatten()[:, None]
    left = torch.cat([logit_scale * u.flatten(0, 1), log_w - logit_scale, torch.ones_like(log_w)], dim=1)
    right = torch.cat([v.flatten(0, 1), torch.ones_like(log_a), log_a], dim=1)
    exponents = (left @ right.T).view(n, m, k, other)  # never above 0 for weights up to 1
    if _fits(u.dtype, logit_scale, m * other):
        return exponents.exp().sum(dim=(1, 3)).log() + logit_bias
    largest = exponents.detach().amax(dim=(1, 3), keepdim=True)
    return (exponents - largest).exp().sum(dim=(1, 3)).log() + largest[:, 0, :, 0] + logit_bias


def kme_pair_scores(image_features: Features, text_features: Features, *, logit_scale: Tensor | float) -> Tensor:
    """(P,) float64 scores of matching rows, every sum in one fixed order."""
    (n, m, width), other = image_features.points.shape, text_features.points.shape[1]
    size, scores = max(1, PAIRS_AT_ONCE // (m * other * width)), []
    for start in range(0, n, size):
        rows = slice(start, start + size)
        (u, w), (v, a) = (Features(*(t[rows].double() for t in f)) for f in (image_features, text_features))
        cosines = sum_in_fixed_order(u[:, :, None] * v[:, None])  # (P, m, m')
        exponents = w.log()[:, :, None] + a.log()[:, None] + float(logit_scale) * (cosines - 1)
        largest = exponents.amax(dim=(1, 2))
        sums = sum_in_fixed_order((exponents - largest[:, None, None]).exp().flatten(1))
        scores.append(sums.log() + largest)
    return torch.cat(scores) if scores else torch.zeros(0, dtype=torch.float64)


def kme_rounding(image_features: Features, text_features: Features, *, logit_scale: Tensor | float) -> float:
    """What rounding adds in a float32 tile.

    A logit's relative change in its sum is at most the largest absolute error of an exponent: the product over D + 2
    columns, whose terms are at most logit_scale, and log weights. The sum over all points and the logarithm, at most
    some hundred in size, add theirs.
    """
    width, points = image_features.points.shape[2], image_features.points.shape[1] * text_features.points.shape[1]
    smallest = min(float(f.weights.min()) if f.n else 1.0 for f in (image_features, text_features))
    size = float(logit_scale) + abs(math.log(max(smallest, 1e-38)))
    return EPS * ((width + 4) * 2 * size + points + 256)


def _fits(dtype: torch.dtype, logit_scale: Tensor | float, pairs: int) -> bool:
    """Whether exp(-2 logit_scale) times small weights is still far from the smallest normal number."""
    scale = float(logit_scale.detach()) if isinstance(logit_scale, Tensor) else float(logit_scale)
    room = -math.log(torch.finfo(dtype).tiny)
    return 2 * scale + math.log(pairs) + 16 < room


KME = Similarity(as_they_are, kme_logits, kme_pair_scores, kme_rounding)
