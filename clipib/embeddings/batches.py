"""Features as CLIP_benchmark computes them: batch by batch in the order of the data, texts whole, in mixed precision.

In bfloat16 a feature depends on the batch that it is encoded in, so a stored one is found only by that whole batch.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from clipib.data.dataset import Dataset
from clipib.data.images import content_key, why
from clipib.embeddings.encode import ImageFeatures, TextFeatures, check_finite, decoded, too_many_bad
from clipib.embeddings.rows import Rows
from clipib.embeddings.store import Space, Store
from clipib.errors import UserError
from clipib.progress import SILENT, Progress

if TYPE_CHECKING:
    from torch import Tensor

    from clipib.models.model import Model


def embed_image_batches(
    model: Model,
    dataset: Dataset,
    *,
    amp: bool,
    store: Store | None,
    batch_size: int = 64,
    workers: int = 2,
    progress: Progress = SILENT,
) -> ImageFeatures:
    """Features of all images, as the unit norm of what autocast makes of each batch.

    Args:
        amp: under autocast, in the number format that is PyTorch's default on the device.

    Raises:
        UserError: for an unreadable image, which CLIP_benchmark cannot leave out either, and for sets of points.
    """
    import torch
    import torch.nn.functional as F

    batches = [list(range(i, min(i + batch_size, len(dataset)))) for i in range(0, len(dataset), batch_size)]
    space = _space(model, store, "image", amp)
    with Rows(space, _keys([[dataset.keys[i] for i in batch] for batch in batches])) as rows:
        missing = set(rows.missing())
        todo = [batch for batch in batches if missing.intersection(batch)]
        with progress.track(f"encoding {dataset.name}", sum(map(len, todo))) as advance:
            for chunk in decoded(model, dataset, todo, workers):
                bad = {dataset.images.ids[i]: why(p) for i, p in chunk if isinstance(p, Exception)}
                if bad:
                    raise too_many_bad(dataset, bad, 0, complete=False)
                pixels = torch.stack([p for _, p in chunk]).to(model.device)
                with torch.no_grad(), torch.autocast(model.device.type, enabled=amp):
                    features = F.normalize(model.module.encode_image(pixels), dim=-1)
                rows.add([i for i, _ in chunk], check_finite(features.float(), model))
                advance(len(chunk))
    everything = np.arange(len(dataset))
    return ImageFeatures(rows.get(everything), everything, dataset, [], rows.n_new)


def embed_text_batches(
    model: Model,
    batches: Sequence[Sequence[str]],
    *,
    amp: bool,
    store: Store | None,
    progress: Progress = SILENT,
) -> TextFeatures:
    """Features of the texts of all batches in order; each batch is encoded at once, at the full context length."""
    import torch
    import torch.nn.functional as F

    ends = np.cumsum([0, *map(len, batches)])
    with Rows(_space(model, store, "text", amp), _keys([[t.encode() for t in b] for b in batches])) as rows:
        missing = set(rows.missing())
        todo = [i for i in range(len(batches)) if missing.intersection(range(ends[i], ends[i + 1]))]
        with progress.track("encoding texts", sum(len(batches[i]) for i in todo), unit="texts") as advance:
            for i in todo:
                tokens = model.tokenize(batches[i]).to(model.device)
                with torch.no_grad(), torch.autocast(model.device.type, enabled=amp):
                    features = F.normalize(model.module.encode_text(tokens), dim=-1)
                rows.add(list(range(ends[i], ends[i + 1])), check_finite(features.float(), model))
                advance(len(batches[i]))
    return TextFeatures(rows.get(np.arange(ends[-1])), rows.n_new)


def as_computed(features: np.ndarray, device: str, *, amp: bool) -> Tensor:
    """Stored features in the number format that they were computed in; half of float32 holds them unchanged."""
    import torch

    stored = torch.from_numpy(features).to(device)
    half = stored.to(torch.get_autocast_dtype(device))
    return half if amp and torch.equal(half.float(), stored) else stored


def _space(model: Model, store: Store | None, modality: str, amp: bool) -> Space | None:
    import torch

    if model.has_points:
        hint = "Leave --protocol out: strict compares them by their own similarity."
        raise UserError(f"'{model.pretrained}' has sets of points, of which CLIP_benchmark knows nothing.", hint=hint)
    if store is None:
        return None
    depends_on = model.transform_key if modality == "image" else model.tokenizer_key
    encoding = {
        "weights": model.fingerprint,
        "precision": f"amp {torch.get_autocast_dtype(model.device.type)}" if amp else "fp32",
        "encoder": "as CLIP_benchmark",
        "modality": modality,
        "transform" if modality == "image" else "tokenizer": depends_on,
    }
    return store.space(encoding, about={"model": model.name, "pretrained": model.pretrained})


def _keys(batches: Sequence[Sequence[bytes]]) -> list[bytes]:
    """A key for every item, of its whole batch and its place there."""
    whole = [content_key(b"".join(content_key(item) for item in batch)) for batch in batches]
    return [content_key(key + i.to_bytes(4, "little")) for key, batch in zip(whole, batches) for i in range(len(batch))]
