"""The samples that a report shows: confident mistakes, the lowest ranks, and what only one of two checkpoints hits."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, NamedTuple

from clipib.tasks.flips import Flip, find_flips
from clipib.tasks.paired import join_samples
from clipib.tasks.per_class import classnames_of
from clipib.tasks.results import Row
from clipib.tasks.runs import Run, samples_of
from clipib.tasks.sound_samples import trouble_of

if TYPE_CHECKING:
    import pandas as pd

SHOWN = 12  # of each kind
LONG = 160  # letters of a caption


class Sample(NamedTuple):
    """One picture and what is said below it, line by line; the first line is the heading."""

    sample_id: str
    lines: tuple[str, ...]


class Shown(NamedTuple):
    """Samples of one kind. title: what kind. n: how many there are, of which the worst are shown."""

    title: str
    n: int
    samples: list[Sample]


def worst_samples(run: Run, row: Row) -> list[Shown]:
    """The wrong predictions of the highest confidence, or the queries of the lowest rank, one list for each direction.

    Nothing where the samples are gone or tell of neither.
    """
    frame = None if trouble_of(run, row) else samples_of(run, row)
    if frame is None:
        return []
    columns = set(frame.columns)
    if {"correct", "confidence", "target", "predicted"} <= columns:
        wrong = frame[~frame["correct"].astype(bool)].sort_values(
            ["confidence", "sample_id"], ascending=[False, True], kind="stable"
        )
        return [Shown("wrong with the highest confidence", len(wrong), [_mistake(s) for s in _first(wrong)])]
    if {"direction", "rank", "caption"} <= columns:
        return [shown for direction in ("text_to_image", "image_to_text") if (shown := _lowest(frame, direction))]
    return []


def flipped_samples(run_a: Run, run_b: Run, row_a: Row, row_b: Row, letters: str) -> list[Shown]:
    """The samples that one of two checkpoints hits and the other misses; nothing where that is not known.

    Args:
        letters: what the two are called.
    """
    joined, _ = join_samples(run_a, run_b, row_a, row_b)
    if joined is None or joined.a.values.dtype != bool:
        return []
    flips, names, (a, b) = find_flips(row_a, joined), [], letters
    if all({"target", "predicted"} <= set(frame.columns) for frame in (joined.frame_a, joined.frame_b)):
        import pandas as pd

        names = classnames_of(pd.concat([joined.frame_a, joined.frame_b]))
    found = []
    for change, title in (("lost", f"{a} right, {b} wrong"), ("gained", f"{b} right, {a} wrong")):
        own = [flip for flip in flips if flip.change == change]
        found.append(Shown(title, len(own), [_flipped(flip, names, letters) for flip in own[:SHOWN]]))
    return found


def _first(frame: pd.DataFrame) -> Iterable:
    return frame.head(SHOWN).itertuples(index=False)


def _mistake(sample) -> Sample:
    target, predicted = _name(sample, "target"), _name(sample, "predicted")
    return Sample(sample.sample_id, (target, f"taken for {predicted}", f"confidence {sample.confidence:.3f}"))


def _lowest(frame: pd.DataFrame, direction: str) -> Shown | None:
    queries = frame[frame["direction"] == direction]
    others = int((frame["direction"] != direction).sum())
    if not len(queries):
        return None
    missed = queries[queries["rank"] > 0].sort_values(["rank", "sample_id", "caption"], ascending=[False, True, True])
    if direction == "text_to_image":
        title, what = "captions whose image ranks lowest", "image"
    else:
        title, what = "images whose best caption ranks lowest", "caption"
    samples = [
        Sample(q.sample_id, (*([_cut(q.caption)] if q.caption else []), f"{what} at {q.rank + 1:,} of {others:,}"))
        for q in _first(missed)
    ]
    return Shown(title, len(missed), samples)


def _flipped(flip: Flip, names: list[str], letters: str) -> Sample:
    """A flip in words: the class and what the one that missed took it for, or the caption and both ranks."""
    a, b = letters
    if flip.target is not None and flip.predicted_a is not None and flip.predicted_b is not None:
        wrong, letter = (flip.predicted_b, b) if flip.change == "lost" else (flip.predicted_a, a)
        return Sample(flip.sample_id, (names[flip.target], f"{letter} takes it for {names[wrong]}"))
    ranks = f"rank {flip.rank_a:,} with {a}, {flip.rank_b:,} with {b}"
    return Sample(flip.sample_id, (*([_cut(flip.caption)] if flip.caption else []), ranks))


def _name(sample, column: str) -> str:
    """The class of a sample by its name, where the samples tell it."""
    name = getattr(sample, f"{column}_name", None)
    return name if isinstance(name, str) else f"class {getattr(sample, column)}"


def _cut(caption: str) -> str:
    return caption if len(caption) <= LONG else caption[: LONG - 1] + "…"
