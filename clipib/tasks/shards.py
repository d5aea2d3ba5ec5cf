"""Encoding shared out among processes and machines: each encodes one part, a last run without `--shard` joins them.

A shard is an embed folder of its own, OUT/shards/002-of-004. Where the machines share the store the last run finds
everything there; where they do not, copy their folders into one OUT/shards, and it takes the features from those.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import NamedTuple

import numpy as np

from clipib.data.dataset import Dataset
from clipib.data.images import content_key
from clipib.embeddings.encode import image_space, text_space
from clipib.embeddings.folder import ABOUT_FILE, Embedded, read_embedded
from clipib.embeddings.store import Store
from clipib.errors import UserError
from clipib.models.model import Model
from clipib.progress import Progress, counted

SHARDS = "shards"


class Shard(NamedTuple):
    """The `number`-th of `of` parts, from 1."""

    number: int
    of: int

    def bounds(self, n: int) -> slice:
        """This part of n things: a stretch of them; all parts together are all, and differ in length by one at most."""
        return slice(n * (self.number - 1) // self.of, n * self.number // self.of)

    def folder(self, out: Path) -> Path:
        return out / SHARDS / f"{self.number:03d}-of-{self.of:03d}"


def parse_shard(text: str) -> Shard:
    """`"2/4"` -> the second of four.

    Raises:
        UserError: for anything else.
    """
    match = re.fullmatch(r"\s*(\d{1,6})\s*/\s*(\d{1,6})\s*", text)
    if not match or not 1 <= int(match[1]) <= int(match[2]):
        hint = "Write --shard 2/4 for the second of four parts, --shard 4/4 for the last."
        raise UserError(f"--shard '{text}' names no part: I/N is expected, I from 1 to N.", hint=hint)
    return Shard(int(match[1]), int(match[2]))


def take_part(dataset: Dataset, shard: Shard) -> Dataset:
    """The images of one part, with their labels and captions.

    Raises:
        UserError: when there are more parts than images.
    """
    if shard.of > len(dataset):
        raise UserError(
            f"--shard {shard.number}/{shard.of}: '{dataset.name}' has only {counted(len(dataset), 'image')}.",
            hint=f"Share them out among {len(dataset)} at most.",
        )
    return dataset.take(np.arange(len(dataset))[shard.bounds(len(dataset))])


def take_in_shards(out: Path, model: Model, store: Store, progress: Progress) -> None:
    """Put what the finished shards in OUT/shards hold into the store, where it does not lie there already.

    Raises:
        UserError: when one is damaged, or holds features of another checkpoint or preprocessing.
    """
    folders = sorted((out / SHARDS).glob("*-of-*"))
    finished = [folder for folder in folders if (folder / ABOUT_FILE).is_file()]
    if not folders:
        return
    n_new = sum(_take_in(read_embedded(folder), model, store) for folder in finished)
    progress.say(f"{counted(len(finished), 'shard')} in {out / SHARDS}; {counted(n_new, 'feature')} new to the store")
    known = {folder.name for folder in finished}
    totals = {folder.name.partition("-of-")[2] for folder in folders}
    wanted = {f"{i:03d}-of-{total}" for total in totals if total.isdecimal() for i in range(1, int(total) + 1)}
    if missing := sorted(wanted - known):
        progress.warn(f"not there or not finished: {', '.join(missing)}; what the store lacks of them is encoded here")


def _take_in(shard: Embedded, model: Model, store: Store) -> int:
    """How many features were new to the store."""
    spaces = {"images": image_space(model, store), "texts": text_space(model, store)}
    n_new = 0
    for what, features in shard.features.items():
        space = spaces[what]
        if shard.about["spaces"][what] != space.folder.name:
            raise UserError(
                f"'{shard.folder}' holds features of {shard.about['model']} ({shard.about['pretrained']}) in "
                f"{shard.about['precision']}, not of the {model.name} ({model.pretrained}) in {model.precision} asked "
                "for, or with another preprocessing.",
                hint=f"Name another --out, or remove '{shard.folder.parent}'.",
            )
        keys = _keys(shard, what)
        stored = space.find(keys).has
        rows = {key: row for row, key in enumerate(keys) if not stored[row]}
        if rows:
            space.append(list(rows), features[list(rows.values())])
        n_new += len(rows)
    return n_new


def _keys(shard: Embedded, what: str) -> list[bytes]:
    table = shard.tables[what]
    if what == "images":
        return [bytes.fromhex(digits) for digits in table["sha256"]]
    return [content_key(text.encode()) for text in table["text"]]
