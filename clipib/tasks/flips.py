"""The samples whose hit became a miss, or whose miss a hit, between two runs: as lines and as pictures."""

from __future__ import annotations

import re
import textwrap
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any, NamedTuple

import numpy as np
from PIL import Image

from clipib.data.dataset import Dataset
from clipib.errors import UserError
from clipib.tasks.paired import Joined
from clipib.tasks.results import Row
from clipib.tasks.sheet import Tile, draw_sheet

SIDE, LETTERS = 160, 26  # px of a picture, letters of a line below it
MOST = 56  # pictures of each kind and metric: eight rows


class Flip(NamedTuple):
    """One sample that flipped; ranks count from 1, and what does not apply is None.

    change: "lost", a hit of A only, or "gained", a hit of B only.
    target, predicted_a, predicted_b: class indices.
    severity: how wrong the wrong side is, to show the worst first.
    """

    dataset: str
    split: str
    metric: str
    change: str
    sample_id: str
    caption: str
    target: int | None
    predicted_a: int | None
    predicted_b: int | None
    rank_a: int | None
    rank_b: int | None
    severity: float

    def record(self) -> dict[str, Any]:
        """The cells of a table."""
        return {k: v for k, v in self._asdict().items() if k != "severity"}


def find_flips(row: Row, joined: Joined) -> list[Flip]:
    """The flips of one metric of hits and misses, the lost ones first, the worst of each kind first."""
    a, b = joined.a.values, joined.b.values
    found = []
    for change, flipped in (("lost", np.flatnonzero(a & ~b)), ("gained", np.flatnonzero(b & ~a))):
        sides = (frame.iloc[flipped].to_dict("records") for frame in (joined.frame_a, joined.frame_b))
        found += [_flip(row, change, *lines) for lines in zip(*sides, strict=True)]
    return sorted(found, key=lambda flip: (flip.change == "gained", -flip.severity, flip.sample_id))


def draw_flips(
    flips: Sequence[Flip], datasets: Mapping[tuple[str, str], Dataset], *, name_a: str, name_b: str
) -> Image.Image:
    """A contact sheet: each flipped image with target and both predictions, or with its caption and both ranks."""
    groups: dict[tuple[str, str, str, str], list[Flip]] = {}
    for flip in flips:
        groups.setdefault((flip.dataset, flip.split, flip.metric, flip.change), []).append(flip)
    sections: list[tuple[str, list[list[Tile]]]] = [(f"A: {name_a}     B: {name_b}", [])]
    for (name, split, metric, change), group in groups.items():
        dataset = datasets[name, split]
        place = {sample_id: i for i, sample_id in enumerate(dataset.images.ids)}
        which = "lost: a hit of A only" if change == "lost" else "gained: a hit of B only"
        shown = f", the first {MOST} by how wrong the other is" if len(group) > MOST else ""
        text = _text_of(dataset)
        if lost := [flip.sample_id for flip in group[:MOST] if flip.sample_id not in place]:
            raise UserError(
                f"'{lost[0]}' of '{name}' bears another name now.",
                hint="Name the data as the run did, or leave --save out.",
            )
        blocks = [[_tile(dataset, place[flip.sample_id], text(flip, place))] for flip in group[:MOST]]
        sections.append((f"{name}{f' ({split})' * bool(split)}, {metric}: {len(group):,} {which}{shown}", blocks))
    if not groups:
        sections.append(("no sample flipped", []))
    return draw_sheet(sections, side=SIDE)


def _flip(row: Row, change: str, a: dict[str, Any], b: dict[str, Any]) -> Flip:
    wrong = b if change == "lost" else a
    rank_a, rank_b, behind = (_number(line, "target_rank", "rank") for line in (a, b, wrong))
    sure = wrong.get("confidence") if row.metric == "acc1" else None
    return Flip(
        row.dataset,
        row.split,
        row.metric,
        change,
        str(a["sample_id"]),
        "" if _missing(a.get("caption")) else str(a["caption"]),
        _number(a, "target"),
        _number(a, "predicted"),
        _number(b, "predicted"),
        None if rank_a is None else rank_a + 1,
        None if rank_b is None else rank_b + 1,
        float(behind or 0) if _missing(sure) else float(sure),
    )


def _number(line: dict[str, Any], *names: str) -> int | None:
    return next((int(line[n]) for n in names if not _missing(line.get(n))), None)


def _missing(value: Any) -> bool:
    """None, pandas' NA, or NaN."""
    return value is None or type(value).__name__ == "NAType" or value != value


def _tile(dataset: Dataset, index: int, text: str) -> Tile:
    return Tile(partial(dataset.images.open, index), text)


def _text_of(dataset: Dataset) -> Callable[[Flip, Mapping[str, int]], str]:
    """What stands below a picture of this data set."""

    def named(label: int | None) -> str:
        return dataset.classnames[label] if label is not None and label < len(dataset.classnames) else str(label)

    def text(flip: Flip, place: Mapping[str, int]) -> str:
        if flip.predicted_a is not None and re.fullmatch("acc1|mean_per_class_recall", flip.metric):
            return f"is {named(flip.target)}\nA: {named(flip.predicted_a)}\nB: {named(flip.predicted_b)}"
        ranks = f"A: rank {flip.rank_a:,}, B: {flip.rank_b:,}" if flip.rank_a is not None else flip.change
        if flip.target is not None:
            return f"is {named(flip.target)}\n{ranks}"
        caption = flip.caption or _first_caption(dataset, place[flip.sample_id])
        lines = textwrap.wrap(caption, LETTERS)
        lines = [*lines[:2], lines[2] + " .." * (len(lines) > 3)] if len(lines) > 2 else lines
        return "\n".join([*lines, ranks])

    return text


def _first_caption(dataset: Dataset, index: int) -> str:
    if dataset.captions is None:
        return ""
    own = np.flatnonzero(np.asarray(dataset.image_of_caption) == index)
    return dataset.captions[own[0]] if len(own) else ""
