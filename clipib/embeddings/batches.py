"""Features as CLIP_benchmark computes them: batch by batch in the order of the data, texts whole, in mixed precision.

In bfloat16 a feature depends on the batch that it is encoded in, so a stored one is found only by that whole batch.
"""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from clipib.data.dataset import Dataset
from clipib.data.images import content_key, why
from clipib.embeddings.encode import ImageFeatures, TextFeatures, check_finite, decoded, named_bad
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
    batches = _cut(len(dataset), batch_size)
    with Rows(_space(model, store, "image", amp), _image_keys(dataset, batches)) as rows:
        bad = _fill([model], [rows], dataset, batches, amp=amp, workers=workers, progress=progress)
        if bad:
            raise UserError(
                f"'{dataset.name}': cannot be read: {named_bad(bad)}.",
                hint="CLIP_benchmark leaves no image out. Mend or remove it, or leave out --protocol for --max-bad.",
            )
    everything = np.arange(len(dataset))
    return ImageFeatures(rows.get(everything), everything, dataset, [], rows.n_new)


def encode_batches_together(
    models: Sequence[Model],
    dataset: Dataset,
    *,
    amp: bool,
    store: Store,
    batch_size: int = 64,
    workers: int = 2,
    progress: Progress = SILENT,
) -> int:
    """Fill the store with what several checkpoints of equal preprocessing lack; each image is decoded once for all.

    What cannot be decoded is left to `embed_image_batches`, which says so.

    Returns:
        How many features were new.
    """
    batches = _cut(len(dataset), batch_size)
    keys = _image_keys(dataset, batches)
    with contextlib.ExitStack() as stack:
        of_models = [stack.enter_context(Rows(_space(m, store, "image", amp), keys)) for m in models]
        _fill(models, of_models, dataset, batches, amp=amp, workers=workers, progress=progress)
        return sum(rows.n_new for rows in of_models)


def _fill(
    models: Sequence[Model],
    of_models: Sequence[Rows],
    dataset: Dataset,
    batches: list[list[int]],
    *,
    amp: bool,
    workers: int,
    progress: Progress,
) -> dict[str, str]:
    """Encode the batches that a checkpoint lacks, up to the first with an unreadable image; id -> reason of those."""
    import torch
    import torch.nn.functional as F

    missing = [set(rows.missing()) for rows in of_models]
    todo = [batch for batch in batches if set().union(*missing).intersection(batch)]
    if not todo:
        return {}
    together = f" for {len(models)} checkpoints" if len(models) > 1 else ""
    with progress.track(f"encoding {dataset.name}{together}", sum(map(len, todo))) as advance:
        reader = next((m for m, lacks in zip(models, missing, strict=True) if lacks), models[0])
        for chunk in decoded(reader, dataset, todo, workers):
            if bad := {dataset.images.ids[i]: why(p) for i, p in chunk if isinstance(p, Exception)}:
                return bad
            index, pixels = [i for i, _ in chunk], torch.stack([p for _, p in chunk])
            for model, rows, lacks in zip(models, of_models, missing, strict=True):
                if lacks.intersection(index):
                    with torch.no_grad(), torch.autocast(model.device.type, enabled=amp):
                        features = F.normalize(model.module.encode_image(pixels.to(model.device)), dim=-1)
                    rows.add(index, check_finite(features.float(), model))
            advance(len(chunk))
    return {}


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


def _cut(n: int, size: int) -> list[list[int]]:
    return [list(range(i, min(i + size, n))) for i in range(0, n, size)]


def _image_keys(dataset: Dataset, batches: list[list[int]]) -> list[bytes]:
    return _keys([[dataset.keys[i] for i in batch] for batch in batches])


def _keys(batches: Sequence[Sequence[bytes]]) -> list[bytes]:
    """A key for every item, of its whole batch and its place there."""
    whole = [content_key(b"".join(content_key(item) for item in batch)) for batch in batches]
    return [content_key(key + i.to_bytes(4, "little")) for key, batch in zip(whole, batches) for i in range(len(batch))]
