"""How a checkpoint scores images against texts: by its own similarity, from what the store keeps."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from clipib.models.model import Model
    from clipib.scoring.features import Features
    from clipib.scoring.ranks import Ranks

POINTS_A_SIDE = 2**11  # of a tile of float64 kernel values, 32 MiB
POINTS_AT_ONCE = 2**12  # prepared at once: `wpse` has a thousand waves for each


def own_features(model: Model, array: np.ndarray, *, similarity: str | None = None) -> Features:
    """Stored rows as prepared items of the checkpoint's similarity, or of another one that is named.

    A preparation that computes does so in float64, block by block, and is rounded to float32: equal items stay equal
    whatever stands beside them.
    """
    import torch

    from clipib.scoring.features import Features, unpack
    from clipib.scoring.similarity import as_they_are

    prepare = own_similarity(model, similarity).prepare
    array = np.asarray(array)
    if prepare is as_they_are:
        return unpack(torch.from_numpy(array))
    size = max(1, POINTS_AT_ONCE // (array.shape[1] if array.ndim == 3 else 1))
    blocks = [
        prepare(unpack(torch.from_numpy(array[i : i + size]).double()), 0) for i in range(0, len(array) or 1, size)
    ]
    return Features(*(torch.cat([t.float() for t in part]) for part in zip(*blocks, strict=True)))


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
        # Multiplying could make equal what differs in the last bit, and changes no rank of a plain product.
        logit_scale=as_number(model.logit_scale) if model.similarity == "kme" else 1.0,
    )


def score_matrix(model: Model, images: np.ndarray, texts: np.ndarray, *, similarity: str | None = None) -> np.ndarray:
    """What the checkpoint's loss sees of every image with every text: scale and bias included.

    Args:
        images, texts: N and M stored rows.
        similarity: in place of the checkpoint's own.

    Returns:
        (N, M) float32, computed in float64 tile by tile, so that equal items get equal scores.
    """
    return scorer_against(model, texts, similarity=similarity)(images)


def scorer_against(
    model: Model, texts: np.ndarray, *, similarity: str | None = None
) -> Callable[[np.ndarray], np.ndarray]:
    """`score_matrix` as a function of the images, for which the texts are prepared once."""
    kind, right = own_similarity(model, similarity), own_features(model, texts, similarity=similarity)
    options = {"logit_scale": as_number(model.logit_scale), "logit_bias": as_number(model.logit_bias)}

    def scores_of(images: np.ndarray) -> np.ndarray:
        left = own_features(model, images, similarity=similarity)
        scores = np.empty((left.n, right.n), dtype=np.float32)
        # Both sides are cut: a class may be the union of hundreds of points, and `kme` copies what it is given.
        high, wide = (max(1, POINTS_A_SIDE // f.weights.shape[1]) for f in (left, right))
        for i in range(0, left.n, high):
            block = _in_float64(left.rows(slice(i, i + high)))
            for t in range(0, right.n, wide):
                tile = kind.logits(block, _in_float64(right.rows(slice(t, t + wide))), **options)
                scores[i : i + high, t : t + wide] = tile.float().numpy()
        return scores

    return scores_of


def as_number(scalar: Any) -> float:
    """A tensor of one element, a number, or None for 0."""
    return scalar.item() if hasattr(scalar, "item") else float(scalar or 0.0)


def _in_float64(features: Features) -> Features:
    return type(features)(*(t.double() for t in features))
