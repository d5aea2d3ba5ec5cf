"""What a similarity compares: weighted sets of unit vectors, of which a plain embedding is the case of one point."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor


class Features(NamedTuple):
    """A block of n items, each a set of m weighted points of width D.

    points: (n, m, D), unit norm.
    weights: (n, m), the weights themselves: positive for `kme`, of either sign for `wpse`, ones for a plain embedding.
    """

    points: Tensor
    weights: Tensor

    @property
    def n(self) -> int:
        return len(self.points)

    def rows(self, which: slice | Tensor) -> Features:
        """Some of the items."""
        return Features(self.points[which], self.weights[which])


def as_features(embeddings: Tensor) -> Features:
    """Plain embeddings (n, D) as sets of one point of weight 1."""
    if embeddings.ndim != 2:
        raise ValueError(f"expected embeddings (n, D), got {tuple(embeddings.shape)}")
    return Features(embeddings[:, None], embeddings.new_ones(len(embeddings), 1))


def pack(features: Features) -> Tensor:
    """One array (n, m, D + 1) whose last column holds the weights, as the store keeps point sets."""
    return torch.cat([features.points, features.weights[..., None]], dim=-1)


def unpack(array: Tensor) -> Features:
    """The inverse of `pack`; plain embeddings (n, D) become sets of one point."""
    return as_features(array) if array.ndim == 2 else Features(array[..., :-1], array[..., -1])


def at_least_float32(tensor: Tensor) -> Tensor:
    """float16 and bfloat16 become float32; float64 stays, for references and gradient checks."""
    return tensor if tensor.dtype == torch.float64 else tensor.float()


def in_full_precision(features: Features) -> Features:
    """The same items in float32, or float64 where they came so."""
    return Features(at_least_float32(features.points), at_least_float32(features.weights))


def sum_in_fixed_order(numbers: Tensor) -> Tensor:
    """Sums over the last axis, in an order that only its length decides.

    What torch's sum adds to what depends on how many rows it is given and on threads. NumPy sums each row of
    contiguous numbers by itself, pairwise, so that equal rows have equal sums.

    Args:
        numbers: (..., D) on the CPU, with D at least 1.

    Example:
        >>> sum_in_fixed_order(torch.arange(7.0))
        tensor(21.)
    """
    return torch.as_tensor(np.add.reduce(numbers.contiguous().numpy(), axis=-1))


def effective_points(features: Features, kernel_scale: Tensor | float) -> Tensor:
    """How many of its points each item really has: 1 / sum_ij w_i w_j exp(kernel_scale (<u_i, u_j> - 1)).

    The weights are made positive and to sum to 1. It is 1 when all points coincide and m when they are far apart with
    equal weights; a head that does not use its points shows as 1.

    Args:
        kernel_scale: 1 / sigma^2 of the Gaussian kernel.

    Returns:
        (n,) numbers in [1, m].
    """
    points, weights = in_full_precision(features)
    weights = weights.abs() / weights.abs().sum(-1, keepdim=True)
    kernel = torch.exp(kernel_scale * (points @ points.mT - 1).clamp(max=0))
    return 1 / torch.einsum("ni,nij,nj->n", weights, kernel, weights)
