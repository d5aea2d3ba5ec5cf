"""How a checkpoint scores images against texts: by its own similarity, from what the store keeps."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from clipib.models.model import Model
    from clipib.scoring.features import Features
    from clipib.scoring.ranks import Ranks

NUMBERS_AT_ONCE = 2**22  # kernel values in one block of float64


def own_features(model: Model, array: np.ndarray, *, similarity: str | None = None) -> Features:
    """Stored rows as prepared items of the checkpoint's similarity, or of another one that is named."""
    import torch

    from clipib.scoring.features import unpack

    return own_similarity(model, similarity).prepare(unpack(torch.from_numpy(np.asarray(array))), 0)


def own_similarity(model: Model, name: str | None = None):
    """The row of `SIMILARITIES` that the checkpoint is scored by."""
    from clipib.registry import resolve
    from clipib.scoring import SIMILARITIES

    return resolve("similarity", SIMILARITIES, name or model.similarity)


def rank(model: Model, images: np.ndarray, texts: np.ndarray, image_of_text: np.ndarray) -> Ranks:
    """Exact retrieval ranks both ways by the checkpoint's own score."""
    import torch

    from clipib.scoring.ranks import retrieval_ranks

    return retrieval_ranks(
        own_features(model, images),
        own_features(model, texts),
        torch.from_numpy(image_of_text),
        similarity=own_similarity(model),
        logit_scale=as_number(model.logit_scale),
    )


def score_matrix(model: Model, images: np.ndarray, texts: np.ndarray, *, similarity: str | None = None) -> np.ndarray:
    """What the checkpoint's loss sees of every image with every text: scale and bias included.

    Args:
        images, texts: N and M stored rows.
        similarity: in place of the checkpoint's own.

    Returns:
        (N, M) float32, computed in float64 block by block, so that equal items get equal scores.
    """
    kind = own_similarity(model, similarity)
    left, right = (_in_float64(own_features(model, array, similarity=similarity)) for array in (images, texts))
    scale, bias = as_number(model.logit_scale), as_number(model.logit_bias)
    points = left.weights.shape[1] * right.weights.shape[1]
    size = max(1, NUMBERS_AT_ONCE // max(1, points * right.n))
    blocks = [
        kind.logits(left.rows(slice(i, i + size)), right, logit_scale=scale, logit_bias=bias).float().numpy()
        for i in range(0, left.n, size)
    ]
    return np.concatenate(blocks)


def as_number(scalar: Any) -> float:
    """A tensor of one element, a number, or None for 0."""
    return scalar.item() if hasattr(scalar, "item") else float(scalar or 0.0)


def _in_float64(features: Features) -> Features:
    return type(features)(*(t.double() for t in features))
