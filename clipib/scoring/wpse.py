"""WPSE: the inner product of weighted point sets under a linear and a random-feature kernel."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from clipib.scoring.cosine import cosine_logits, cosine_pair_scores, cosine_rounding
from clipib.scoring.features import Features, in_full_precision
from clipib.scoring.similarity import Similarity

LINEAR, GAUSSIAN = 2 / 3, 1 / 3  # shares of the two kernels
BANDWIDTH = 0.5  # sigma of the Gaussian kernel
N_FEATURES = 1024
EVALUATION_DRAW = 0


def embed_point_sets(features: Features, draw: int = EVALUATION_DRAW, *, n_features: int = N_FEATURES) -> Features:
    """Every set of weighted points as one vector, whose inner products are the similarities of the sets.

        phi(x) = [ sqrt(2/3) sum_i w_i u_i ,  sqrt(1/3) sum_i w_i z(u_i) ],   z(u) = sqrt(2/F) cos(W u + b)

    with W ~ N(0, 1 / sigma^2), b ~ U[0, 2 pi), so that <z(u), z(v)> approaches exp(-|u - v|^2 / (2 sigma^2)) with an
    error of the order 1 / sqrt(F). The frequencies follow from `draw`: a new one at every step of training, so that
    nothing is learned about one of them, and always the same in evaluation.

    Args:
        features: (n, m, D) unit points, (n, m) weights of either sign.
        draw: 0 in evaluation.
        n_features: F.

    Returns:
        n items of one point (n, 1, D + F), not of unit norm, and of weight 1.

    Reference:
        Uesaka et al., 2025, Weighted point set embedding, 2404.19228; constants as in their public configuration
        (Gaussian kernel of 0.5, shares 2/3 and 1/3, 1,024 features). Weights sum over the points here.
    """
    points, weights = in_full_precision(features)
    frequencies, phases = _draw(points.shape[2], n_features, draw)
    frequencies, phases = (t.to(points.device, points.dtype) for t in (frequencies, phases))
    waves = torch.cos(points @ frequencies + phases)  # (n, m, F)
    linear = math.sqrt(LINEAR) * torch.einsum("nm,nmd->nd", weights, points)
    gaussian = math.sqrt(GAUSSIAN * 2 / n_features) * torch.einsum("nm,nmf->nf", weights, waves)
    phi = torch.cat([linear, gaussian], dim=1)[:, None]
    return Features(phi, phi.new_ones(len(phi), 1))


def _draw(width: int, n_features: int, draw: int) -> tuple[Tensor, Tensor]:
    """Frequencies (D, F) and phases (F,), drawn on the CPU so that every device has the same."""
    generator = torch.Generator().manual_seed(draw)
    frequencies = torch.randn(width, n_features, generator=generator) / BANDWIDTH
    return frequencies, torch.rand(n_features, generator=generator) * 2 * math.pi


WPSE = Similarity(embed_point_sets, cosine_logits, cosine_pair_scores, cosine_rounding)
