"""What a similarity compares: weighted sets of unit vectors, of which a plain embedding is the case of one point."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor


class Features(NamedTuple):
    """A block of n items, each a set of m weighted points of width D.

    points: (n, m, D), unit norm.
    log_weights: (n, m), the logarithms of positive weights; zeros for a plain embedding.
    """

    points: Tensor
    log_weights: Tensor


def as_features(embeddings: Tensor) -> Features:
    """Plain embeddings (n, D) as sets of one point of weight 1."""
    if embeddings.ndim != 2:
        raise ValueError(f"expected embeddings (n, D), got {tuple(embeddings.shape)}")
    return Features(embeddings[:, None], torch.zeros(len(embeddings), 1, device=embeddings.device))
