"""Features of images and texts, from the store where they lie there, from the model where they do not."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from clipib.data.dataset import Dataset
from clipib.data.images import content_key, decode_jpeg, why
from clipib.embeddings.store import Space, Store
from clipib.errors import UserError
from clipib.models.model import ENCODER_VERSION, Model
from clipib.progress import SILENT, Progress, counted

FLUSH_ROWS, FLUSH_SECONDS = 1024, 30.0
TEXT_BATCH = 64  # larger batches of short texts are slower on a CPU
NAMED_BAD = 10


class ImageFeatures(NamedTuple):
    """Features of what could be read.

    features: (n, D) unit norm float32 on the CPU. kept: (n,) indices of the images that they belong to.
    dataset: those images alone. bad: ids of the unreadable ones.
    """

    features: Tensor
    kept: np.ndarray
    dataset: Dataset
    bad: list[str]
    n_encoded: int


class TextFeatures(NamedTuple):
    """features: (M, D) unit norm float32 on the CPU."""

    features: Tensor
    n_encoded: int


def image_space(model: Model, store: Store) -> Space:
    """Where the image features of this checkpoint lie."""
    encoding = {**_encoding(model), "modality": "image", "transform": model.transform_key}
    return store.space(encoding, about={"model": model.name, "pretrained": model.pretrained})


def text_space(model: Model, store: Store) -> Space:
    """Where the text features of this checkpoint lie."""
    encoding = {**_encoding(model), "modality": "text", "tokenizer": model.tokenizer_key}
    return store.space(encoding, about={"model": model.name, "pretrained": model.pretrained})


def embed_images(
    model: Model,
    dataset: Dataset,
    *,
    store: Store | None,
    batch_size: int = 64,
    workers: int = 2,
    max_bad: int = 0,
    progress: Progress = SILENT,
) -> ImageFeatures:
    """Unit features of all images of a data set.

    Args:
        store: None encodes everything and keeps nothing, as in the middle of training.
        workers: decoding threads, one batch ahead of the model.
        max_bad: unreadable images to put up with; one more is an error that names them.

    Raises:
        UserError: for too many unreadable images, or features that are not finite.
    """
    rows = _Rows(image_space(model, store) if store else None, dataset.keys)
    bad: dict[str, str] = {}  # id -> reason; equal files each under their own
    if rows.missing:
        with progress.track(f"encoding {dataset.name}", len(rows.missing)) as advance:
            try:
                for chunk in _decoded(model, dataset, rows.missing, batch_size, workers):
                    good = [(i, pixels) for i, pixels in chunk if not isinstance(pixels, Exception)]
                    for i, error in ((i, p) for i, p in chunk if isinstance(p, Exception)):
                        bad |= dict.fromkeys(dataset.ids_like([i]), why(error))
                    if len(bad) > max_bad:
                        raise _too_many_bad(dataset, bad, rows.missing, chunk[-1][0], max_bad)
                    if good:
                        with torch.inference_mode():
                            features = model.encode_images(torch.stack([pixels for _, pixels in good]))
                        rows.add([i for i, _ in good], _finite(features, model))
                    advance(len(chunk))
            finally:
                rows.flush()
    kept = np.array([i for i in range(len(dataset)) if rows.has(i)], dtype=np.int64)
    if bad:
        warn_left_out(dataset, bad, progress)
    if not len(kept):
        raise UserError(f"'{dataset.name}' has no readable image.")
    readable = dataset.take(kept) if bad else dataset
    return ImageFeatures(torch.from_numpy(rows.get(kept)), kept, readable, list(bad), rows.n_new)


def embed_texts(
    model: Model, texts: tuple[str, ...] | list[str], *, store: Store | None, progress: Progress = SILENT
) -> TextFeatures:
    """Unit features of all texts; equal texts are encoded once, short ones together."""
    rows = _Rows(text_space(model, store) if store else None, [content_key(t.encode()) for t in texts])
    if rows.missing:
        tokens = model.tokenize([texts[i] for i in rows.missing])
        order = np.argsort(tokens.argmax(dim=-1).numpy(), kind="stable")
        with progress.track("encoding texts", len(order), unit="texts") as advance:
            try:
                for start in range(0, len(order), TEXT_BATCH):
                    chosen = order[start : start + TEXT_BATCH]
                    with torch.inference_mode():
                        features = model.encode_texts(tokens[chosen])
                    rows.add([rows.missing[j] for j in chosen], _finite(features, model))
                    advance(len(chosen))
            finally:
                rows.flush()
    return TextFeatures(torch.from_numpy(rows.get(np.arange(len(texts)))), rows.n_new)


class _Rows:
    """The rows asked for: those already stored, those missing, and the block in hand."""

    def __init__(self, space: Space | None, keys: list[bytes]) -> None:
        self.keys = keys
        self.space = space if space is not None else _Memory()
        first = {key: i for i, key in reversed(list(enumerate(keys)))}
        self.missing = sorted(i for key, i in first.items() if key not in self.space)
        self.n_new = 0
        self._keys: list[bytes] = []
        self._features: list[np.ndarray] = []
        self._flushed = time.monotonic()

    def add(self, indices: list[int], features: np.ndarray) -> None:
        self._keys += [self.keys[i] for i in indices]
        self._features.append(features)
        self.n_new += len(indices)
        if len(self._keys) >= FLUSH_ROWS or time.monotonic() - self._flushed > FLUSH_SECONDS:
            self.flush()

    def flush(self) -> None:
        if self._keys:
            keys, features = self._keys, np.concatenate(self._features)
            self._keys, self._features = [], []
            self.space.append(keys, features)
        self._flushed = time.monotonic()

    def has(self, index: int) -> bool:
        return self.keys[index] in self.space

    def get(self, indices: np.ndarray) -> np.ndarray:
        return self.space.get([self.keys[i] for i in indices])


class _Memory(dict):
    """A space that is forgotten."""

    def append(self, keys: list[bytes], features: np.ndarray) -> None:
        self.update(zip(keys, features, strict=True))

    def get(self, keys: list[bytes]) -> np.ndarray:
        return np.stack([self[k] for k in keys])


def _encoding(model: Model) -> dict[str, object]:
    return {"weights": model.fingerprint, "precision": model.computes_in, "encoder": ENCODER_VERSION}


def _decoded(
    model: Model, dataset: Dataset, indices: list[int], batch_size: int, workers: int
) -> Iterator[list[tuple[int, Tensor | Exception]]]:
    """Batches of (index, pixels or the error of decoding), decoded by threads one batch ahead."""

    def decode(index: int) -> Tensor | Exception:
        try:
            return model.preprocess_eval(_picture(model, dataset, index))
        except OSError as error:
            return error

    batches = [indices[i : i + batch_size] for i in range(0, len(indices), batch_size)]
    if workers == 0:
        yield from ([(i, decode(i)) for i in batch] for batch in batches)
        return
    with ThreadPoolExecutor(workers) as pool:
        ahead: deque[list[tuple[int, Future]]] = deque()
        try:
            for batch in batches:
                ahead.append([(i, pool.submit(decode, i)) for i in batch])
                if len(ahead) > 1:
                    yield [(i, future.result()) for i, future in ahead.popleft()]
            while ahead:
                yield [(i, future.result()) for i, future in ahead.popleft()]
        finally:
            for waiting in ahead:
                for _, future in waiting:
                    future.cancel()


def _picture(model: Model, dataset: Dataset, index: int):
    """What the model's transform takes: a picture, or uint8 pixels where it resizes tensors and the file is a JPEG."""
    pixels = decode_jpeg(dataset.images.content(index)) if model.preprocess_name == "fast" else None
    return dataset.images.open(index) if pixels is None else pixels


def _finite(features: Tensor, model: Model) -> np.ndarray:
    if not torch.isfinite(features).all():
        hint = "Try --precision fp32." if model.precision != "fp32" else "The checkpoint holds NaN or overflows."
        raise UserError(f"{model.name} ({model.pretrained}) gives features that are not finite.", hint=hint)
    return features.cpu().numpy()


def _too_many_bad(dataset: Dataset, bad: dict[str, str], indices: list[int], last: int, max_bad: int) -> UserError:
    """Look through the rest, for half a minute at most, so that all bad images are named at once."""
    end, complete = time.monotonic() + 30, True
    for i, reason in dataset.unreadable(indices[indices.index(last) + 1 :]):
        if reason:
            bad |= dict.fromkeys(dataset.ids_like([i]), reason)
        if time.monotonic() > end:
            complete = False
            break
    return too_many_bad(dataset, bad, max_bad, complete=complete)


def too_many_bad(dataset: Dataset, bad: dict[str, str], max_bad: int, *, complete: bool = True) -> UserError:
    """The error that names unreadable images, each with the reason."""
    among = f"of {len(dataset):,} images" if complete else "images among those looked at so far"
    return UserError(
        f"'{dataset.name}': {len(bad)} {among} cannot be read ({max_bad} allowed): {_named(bad)}.",
        hint=f"Mend or remove them, or leave them out with --max-bad {len(bad)}.",
    )


def warn_left_out(dataset: Dataset, bad: dict[str, str], progress: Progress) -> None:
    """Say which unreadable images are put up with."""
    progress.warn(f"{dataset.name}: {counted(len(bad), 'image')} left out, unreadable: {_named(bad)}")


def _named(bad: dict[str, str]) -> str:
    """The first few unreadable images with the reason, and how many more there are."""
    shown = ", ".join(f"{name} ({reason})" for name, reason in list(bad.items())[:NAMED_BAD])
    return shown + (f" and {len(bad) - NAMED_BAD} more" if len(bad) > NAMED_BAD else "")
