"""Training and validation images: readable, apart from each other, and known to be so."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from clipib.data.dataset import Dataset
from clipib.embeddings.encode import too_many_bad, warn_left_out
from clipib.errors import UserError
from clipib.models.checkpoint import Seen, short_keys
from clipib.progress import Progress, counted
from clipib.tasks.prepare import find_overlap

HELD_OUT = 0.1  # share of the training images that choose the checkpoint, without --val


class Parts(NamedTuple):
    """Training and validation images; overlap says what the validation images were used for before."""

    train: Dataset
    val: Dataset
    overlap: dict[str, str]


def keep_readable(dataset: Dataset, max_bad: int, workers: int, progress: Progress) -> Dataset:
    """The images that can be decoded, found before training starts and not in the middle of it.

    Raises:
        UserError: when more than `max_bad` cannot.
    """
    if dataset.world is not None:
        return dataset
    with progress.track(f"checking {dataset.name}", len(dataset)) as advance:
        bad = {}
        for i, reason in dataset.unreadable(range(len(dataset)), workers=workers):
            if reason:
                bad[i] = reason
            advance()
    if not bad:
        return dataset
    by_id = {dataset.images.ids[i]: reason for i, reason in bad.items()}
    if len(bad) > max_bad:
        raise too_many_bad(dataset, by_id, max_bad)
    warn_left_out(dataset, by_id, progress)
    return dataset.take(np.setdiff1d(np.arange(len(dataset)), list(bad)))


def split_parts(dataset: Dataset, val: Dataset | None, seen: Seen | None, *, seed: int, allow: bool) -> Parts:
    """Training and validation images, apart; where no validation is named, a seeded tenth is held out.

    Raises:
        UserError: when validation images are trained on, here or in what the checkpoint comes from, and `allow` is not
            set.
    """
    if val is None:
        train, val = _hold_out(dataset, seed, seen)
        shared = set()
    else:
        train, shared = dataset, set(dataset.keys) & set(val.keys)
    if shared and not allow:
        example = val.images.ids[next(i for i, key in enumerate(val.keys) if key in shared)]
        raise UserError(
            f"{counted(len(shared), 'image')} of the validation data stand in the training data, as '{example}'.",
            hint="Remove them from one, or leave --val out: a tenth of the training images is then held out. "
            "--allow-overlap marks the rows instead.",
        )
    in_train, in_val = find_overlap(seen, val)
    if in_train and not allow:
        raise UserError(
            f"The checkpoint was trained on {counted(in_train, 'image')} of '{val.name}' that are to choose the best.",
            hint="Name other images with --val, or add --allow-overlap to mark the rows with overlap=train.",
        )
    overlap = "train" if shared or in_train else "val" if in_val else ""
    return Parts(train, val, {"overlap": overlap} if overlap else {})


def prompts_of(dataset: Dataset) -> str:
    """Hash of the class prompts, where images are trained on or validated by them."""
    return dataset.prompts_sha256 if dataset.captions is None else ""


def all_seen(parts: Parts, before: Seen | None) -> Seen:
    """All images that the weights have met: in this run and in those that led to its start."""
    train_keys, val_keys = short_keys(parts.train.keys), short_keys(parts.val.keys)
    if before is None:
        return Seen(train_keys, val_keys)
    return Seen(np.union1d(before.train, train_keys), np.union1d(before.val, val_keys))


def _hold_out(dataset: Dataset, seed: int, seen: Seen | None) -> tuple[Dataset, Dataset]:
    """Training part and a seeded, class-balanced tenth, where possible of images new to the checkpoint."""
    wanted, keys = max(1, round(HELD_OUT * len(dataset))), dataset.keys  # hashed once: parts take their keys along
    unseen = np.arange(len(dataset))
    if seen is not None:
        short = np.frombuffer(b"".join(key[:8] for key in keys), dtype="<u8")
        unseen = np.flatnonzero(~np.isin(short, seen.train))
    pool = dataset.take(unseen) if len(unseen) >= wanted else dataset
    val = pool.sample(wanted, seed=seed)
    held = set(val.keys)
    kept = np.array([i for i, key in enumerate(keys) if key not in held], dtype=np.int64)
    if len(kept) < 2:
        raise UserError(f"'{dataset.name}' has too few different images: {len(kept)} are left to train on.")
    return dataset.take(kept), val.changed(limit=dataset.limit)
