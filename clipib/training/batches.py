"""Which image and which text stand in which batch: everything follows from the seed and the step."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader

from clipib.data.dataset import Dataset
from clipib.models.model import Model


class Batch(NamedTuple):
    """pixels: (B, 3, H, W). texts: B strings, text i of image i. images: B indices into the data set."""

    pixels: Tensor
    texts: list[str]
    images: list[int]


class _Picked(NamedTuple):
    image: int
    text: str
    seed: int


def plan_epoch(dataset: Dataset, *, batch_size: int, seed: int, epoch: int) -> list[list[_Picked]]:
    """The batches of one epoch: every image once in random order, the rest that fills no batch left out.

    An image with several captions brings one of them at random; an image with a class alone brings one of the class's
    prompts.
    """
    rng = np.random.default_rng([seed, epoch])
    order = rng.permutation(len(dataset))
    chance = rng.random(len(dataset))
    seeds = rng.integers(0, 2**31, len(dataset))
    picked = [_Picked(int(i), _text_of(dataset, int(i), chance[i]), int(seeds[i])) for i in order]
    return [picked[i : i + batch_size] for i in range(0, len(picked) - batch_size + 1, batch_size)]


def positive_groups(dataset: Dataset, batch: Batch, positives: str) -> Tensor | None:
    """(B,) int64, equal for pairs that are positives of each other; None for `identity`.

    Args:
        positives: "identity", "same-caption" (equal texts), "same-image" (equal files) or "same-class".
    """
    if positives == "identity":
        return None
    if positives == "same-class":
        return torch.as_tensor(dataset.labels[batch.images], dtype=torch.int64)
    values = batch.texts if positives == "same-caption" else [dataset.keys[i] for i in batch.images]
    return torch.as_tensor(np.unique(np.array(values, dtype=object), return_inverse=True)[1].reshape(-1))


def steps_per_epoch(dataset: Dataset, batch_size: int) -> int:
    return len(dataset) // batch_size


def iterate_batches(
    model: Model, dataset: Dataset, *, batch_size: int, seed: int, first_step: int, steps: int, workers: int
) -> Iterator[Batch]:
    """Batches of the steps first_step .. steps - 1; the same ones whichever step it begins with."""
    per_epoch = steps_per_epoch(dataset, batch_size)

    def batches() -> Iterator[list[_Picked]]:
        for epoch in range(first_step // per_epoch, -(-steps // per_epoch)):
            skipped = max(0, first_step - epoch * per_epoch)
            left = steps - epoch * per_epoch
            yield from plan_epoch(dataset, batch_size=batch_size, seed=seed, epoch=epoch)[skipped:left]

    transform = model.preprocess_train if dataset.augment else model.preprocess_eval
    in_memory = dataset.world is not None  # rendering is cheaper than passing pixels between processes
    yield from DataLoader(
        _Pixels(dataset, transform),
        batch_sampler=_Once(batches()),
        collate_fn=_collate,
        num_workers=0 if in_memory else workers,
        pin_memory=model.device.type == "cuda",
    )


def _text_of(dataset: Dataset, image: int, chance: float) -> str:
    """One of the image's texts, chosen by a number in [0, 1)."""
    if dataset.captions is not None:
        first, last = np.searchsorted(dataset.image_of_caption, [image, image + 1])
        return dataset.captions[first + int(chance * (last - first))]
    template = dataset.templates[int(chance * len(dataset.templates))]
    return template.replace("{c}", dataset.classnames[dataset.labels[image]])


class _Pixels(torch.utils.data.Dataset):
    """Preprocessed images; the random crop of each follows from its own seed, whichever process draws it."""

    def __init__(self, dataset: Dataset, transform) -> None:
        self.dataset, self.transform = dataset, transform

    def __len__(self) -> int:
        return len(self.dataset)

    def __getitem__(self, picked: _Picked) -> tuple[Tensor, str, int]:
        picture = self.dataset.images.open(picked.image)
        if not self.dataset.augment:
            return self.transform(picture), picked.text, picked.image
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(picked.seed)
            return self.transform(picture), picked.text, picked.image


class _Once:
    """A batch sampler over an iterator that is used once."""

    def __init__(self, batches: Iterator[list[_Picked]]) -> None:
        self.batches = batches

    def __iter__(self) -> Iterator[list[_Picked]]:
        return self.batches


def _collate(items: list[tuple[Tensor, str, int]]) -> Batch:
    pixels, texts, images = zip(*items, strict=True)
    return Batch(torch.stack(pixels), list(texts), list(images))
