"""Features of images and texts, from the store where they lie there, from the model where they do not."""

from __future__ import annotations

import contextlib
import time
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from clipib.data.dataset import Dataset
from clipib.data.images import content_key, decode_jpeg, why
from clipib.embeddings.rows import Rows
from clipib.embeddings.store import Space, Store
from clipib.errors import UserError
from clipib.models import ENCODER_VERSION
from clipib.progress import SILENT, Progress, counted

if TYPE_CHECKING:
    from torch import Tensor

    from clipib.models.model import Model

AUTO_BATCH = 256  # images, where nothing is said
TEXT_BATCH = 64  # larger batches of short texts are slower on a CPU
SHARED_TEXTS = 512  # claimed at once where texts that begin alike share the work
NAMED_BAD = 10


class ImageFeatures(NamedTuple):
    """Features of what could be read.

    array: (n, D) unit norm float32. kept: (n,) indices of the images that they belong to.
    dataset: those images alone. bad: ids of the unreadable ones.
    """

    array: np.ndarray
    kept: np.ndarray
    dataset: Dataset
    bad: list[str]
    n_encoded: int

    @property
    def features(self) -> Tensor:
        """The array as a tensor on the CPU."""
        return _as_tensor(self.array)


class TextFeatures(NamedTuple):
    """array: (M, D) unit norm float32."""

    array: np.ndarray
    n_encoded: int

    @property
    def features(self) -> Tensor:
        """The array as a tensor on the CPU."""
        return _as_tensor(self.array)


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
    batch_size: int | None = 64,
    workers: int = 2,
    max_bad: int = 0,
    progress: Progress = SILENT,
) -> ImageFeatures:
    """Unit features of all images of a data set.

    Args:
        store: None encodes everything and keeps nothing, as in the middle of training.
        batch_size: images at once; None starts with AUTO_BATCH. What does not fit into memory is cut in halves.
        workers: decoding threads, one batch ahead of the model.
        max_bad: unreadable images to put up with; one more is an error that names them.

    Raises:
        UserError: for too many unreadable images, or features that are not finite.
    """
    with Rows(image_space(model, store) if store else None, dataset.keys) as rows:
        _warn_damaged(rows, progress)
        bad = _encode_images(model, dataset, rows, batch_size, workers, max_bad, progress) if rows.missing() else {}
    kept = np.array([i for i in range(len(dataset)) if rows.has(i)], dtype=np.int64)
    if bad:
        warn_left_out(dataset, bad, progress)
    if not len(kept):
        raise UserError(f"'{dataset.name}' has no readable image.")
    readable = dataset.take(kept) if bad else dataset
    return ImageFeatures(rows.get(kept), kept, readable, list(bad), rows.n_new)


def encode_together(
    models: Sequence[Model],
    dataset: Dataset,
    *,
    store: Store,
    batch_size: int | None = 64,
    workers: int = 2,
    progress: Progress = SILENT,
) -> int:
    """Fill the store with what several checkpoints of equal preprocessing lack; each image is decoded once for all.

    What cannot be decoded is left to `embed_images`, which says so.

    Returns:
        How many features were new.
    """
    import torch

    with contextlib.ExitStack() as stack:
        of_models = [stack.enter_context(Rows(image_space(m, store), dataset.keys)) for m in models]
        missing = [set(rows.missing()) for rows in of_models]
        todo = sorted(set().union(*missing))
        if not todo:
            return 0
        size = batch_size or AUTO_BATCH
        batches = (todo[i : i + size] for i in range(0, len(todo), size))
        with progress.track(f"encoding {dataset.name} for {len(models)} checkpoints", len(todo)) as advance:
            reader = next((m for m, lacks in zip(models, missing) if lacks), models[0])
            for chunk in decoded(reader, dataset, batches, workers):
                pixels = {i: p for i, p in chunk if not isinstance(p, Exception)}
                for model, rows, lacks in zip(models, of_models, missing, strict=True):
                    for own in rows.claimed([i for i in pixels if i in lacks], size):
                        rows.add(own, _encode_pixels(model, torch.stack([pixels[i] for i in own])))
                advance(len(chunk))
        return sum(rows.n_new for rows in of_models)


def embed_texts(
    model: Model, texts: tuple[str, ...] | list[str], *, store: Store | None, progress: Progress = SILENT
) -> TextFeatures:
    """Unit features of all texts; equal texts are encoded once, short ones together."""
    with Rows(text_space(model, store) if store else None, [content_key(t.encode()) for t in texts]) as rows:
        _warn_damaged(rows, progress)
        if rows.missing():
            _encode_texts(model, texts, rows, progress)
    return TextFeatures(rows.get(np.arange(len(texts))), rows.n_new)


def seconds_per_image(model: Model, *, n: int = 8) -> float:
    """How long encoding takes, measured on a batch of blank images after one to warm up; reading is not in it."""
    import torch
    from PIL import Image

    pixels = torch.stack([model.preprocess_eval(Image.new("RGB", (256, 256)))] * n)
    with torch.inference_mode():
        model.encode_images(pixels)
        start = time.perf_counter()
        model.encode_images(pixels).cpu()
    return (time.perf_counter() - start) / n


def _encode_images(
    model: Model, dataset: Dataset, rows: Rows, batch_size: int | None, workers: int, max_bad: int, progress: Progress
) -> dict[str, str]:
    """Fill in what is missing; returns the unreadable ones, id -> reason, equal files each under their own."""
    import torch

    bad: dict[str, str] = {}
    batch_size = batch_size or AUTO_BATCH
    with progress.track(f"encoding {dataset.name}", len(rows.missing())) as advance:
        for todo in rows.passes():
            for chunk in decoded(model, dataset, rows.claimed(todo, batch_size), workers):
                good = [(i, pixels) for i, pixels in chunk if not isinstance(pixels, Exception)]
                for i, error in ((i, p) for i, p in chunk if isinstance(p, Exception)):
                    rows.give_up([i])
                    bad |= dict.fromkeys(dataset.ids_like([i]), why(error))
                if len(bad) > max_bad:
                    raise _too_many_bad(dataset, bad, todo, chunk[-1][0], max_bad)
                if good:
                    pixels = torch.stack([pixels for _, pixels in good])
                    rows.add([i for i, _ in good], _encode_pixels(model, pixels))
                advance(len(chunk))
    return bad


def _encode_pixels(model: Model, pixels: Tensor) -> np.ndarray:
    """Features of (n, 3, H, W) pixels, in parts where memory does not hold all; the model remembers what it held."""
    import torch

    most = min(len(pixels), model.images_at_once or len(pixels))
    try:
        with torch.inference_mode():
            parts = [model.encode_images(part) for part in pixels.split(most)]
    except torch.OutOfMemoryError:
        if most == 1:
            raise
        model.images_at_once = -(-most // 2)
    else:
        return check_finite(torch.cat(parts), model)
    if model.device.type == "cuda":  # after the error, which holds what it was raised in
        torch.cuda.empty_cache()
    return _encode_pixels(model, pixels)


def _encode_texts(model: Model, texts: tuple[str, ...] | list[str], rows: Rows, progress: Progress) -> None:
    """Fill in what is missing: texts that begin alike together where they share the work, else shortest first."""
    import torch

    from clipib.models.shared_head import text_order

    missing, shares = rows.missing(), model.shares_heads
    tokens = model.tokenize([texts[i] for i in missing])
    order = text_order(tokens).tolist() if shares else tokens.argmax(dim=-1).argsort(stable=True).tolist()
    place = {i: j for j, i in enumerate(missing)}
    with progress.track("encoding texts", len(missing), unit="texts") as advance:
        for todo in rows.passes():
            left = set(todo)
            ordered = [missing[j] for j in order if missing[j] in left]
            for chunk in rows.claimed(ordered, SHARED_TEXTS if shares else TEXT_BATCH):
                with torch.inference_mode():
                    for places, features in model.encode_text_batches(tokens[[place[i] for i in chunk]]):
                        rows.add([chunk[j] for j in places], check_finite(features, model))
                        advance(len(places))


def _as_tensor(array: np.ndarray) -> Tensor:
    import torch

    return torch.from_numpy(array)


def _encoding(model: Model) -> dict[str, object]:
    return {"weights": model.fingerprint, "precision": model.computes_in, "encoder": ENCODER_VERSION}


def decoded(
    model: Model, dataset: Dataset, batches: Iterable[list[int]], workers: int
) -> Iterator[list[tuple[int, Tensor | Exception]]]:
    """Batches of (index, pixels or the error of decoding), decoded by threads one batch ahead."""

    def decode(index: int) -> Tensor | Exception:
        try:
            return model.preprocess_eval(_picture(model, dataset, index))
        except OSError as error:
            return error

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


def check_finite(features: Tensor, model: Model) -> np.ndarray:
    import torch

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
    among = f"{len(bad):,} of {len(dataset):,} images" if complete else f"{counted(len(bad), 'image')} seen so far"
    return UserError(
        f"'{dataset.name}': {among} cannot be read ({max_bad} allowed): {named_bad(bad)}.",
        hint=f"Mend or remove them, or leave them out with --max-bad {len(bad)}.",
    )


def warn_left_out(dataset: Dataset, bad: dict[str, str], progress: Progress) -> None:
    """Say which unreadable images are put up with."""
    progress.warn(f"{dataset.name}: {counted(len(bad), 'image')} left out, unreadable: {named_bad(bad)}")


def _warn_damaged(rows: Rows, progress: Progress) -> None:
    if rows.space is not None and rows.space.damaged:
        found = counted(len(rows.space.damaged), "damaged block")
        progress.warn(f"{found} in the store; their rows are encoded again (`clipib cache verify` looks for others)")


def named_bad(bad: dict[str, str]) -> str:
    """The first few unreadable images with the reason, and how many more there are."""
    shown = ", ".join(f"{name} ({reason})" for name, reason in list(bad.items())[:NAMED_BAD])
    return shown + (f" and {len(bad) - NAMED_BAD} more" if len(bad) > NAMED_BAD else "")
