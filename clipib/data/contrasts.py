"""Captions beside wrong ones, as in SugarCrepe, and pairs of images with crossed captions, as in Winoground."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from clipib.data.images import content_key
from clipib.errors import UserError

NEGATIVE_NAMES = ("negative_caption", "negative", "hard_negative", "hard_negative_caption", "foil", "false_caption")
KIND_NAMES = ("kind", "category", "collapsed_tag", "tag", "type", "negative_type")
PAIR_NAMES = ("image_0", "image_1", "caption_0", "caption_1")


class Contrasts(NamedTuple):
    """G questions which caption belongs to which image.

    images: (G, 1) the image that has the first caption, or (G, 2) the images of both captions.
    captions: (G, 2) texts. kinds: (G,) names of what the captions differ in, "" where that is not said.
    """

    images: np.ndarray
    captions: tuple[tuple[str, str], ...]
    kinds: tuple[str, ...]

    def rows(self, indices: Sequence[int]) -> Contrasts:
        """The questions at these indices."""
        captions, kinds = (tuple(part[g] for g in indices) for part in (self.captions, self.kinds))
        return Contrasts(self.images[np.asarray(indices, dtype=np.int64)], captions, kinds)

    def among(self, place: np.ndarray) -> Contrasts:
        """Those whose images all stay, where image i becomes `place[i]`; -1 is one that goes."""
        moved = self.rows(np.flatnonzero((place[self.images] >= 0).all(axis=1)))
        return moved._replace(images=place[moved.images])

    def digest(self) -> bytes:
        """(32,) what a number of these questions depends on, beside the images."""
        texts = (text for pair, kind in zip(self.captions, self.kinds, strict=True) for text in (*pair, kind))
        indices = np.asarray(self.images, dtype="<i8").tobytes()
        return content_key(indices + b"".join(content_key(t.encode()) for t in texts))


def find_name(columns: dict[str, list[Any]], names: Sequence[str]) -> str:
    """The column that bears the first of these names, whatever its case, or ""."""
    by_lower = {c.strip().lower(): c for c in reversed(columns)}
    return next((by_lower[n] for n in names if n in by_lower), "")


def unfold_pairs(columns: dict[str, list[Any]]) -> dict[str, list[Any]] | None:
    """A table with `image_0`, `image_1`, `caption_0`, `caption_1` as one with two rows for each; None for any other."""
    found = [find_name(columns, [name]) for name in PAIR_NAMES]
    if not all(found):
        return None
    own = {"image": found[:2], "caption": found[2:]}
    twice = {name: (name, name) for name in columns if name not in (*found, *own)}
    return {
        name: [cell for pair in zip(columns[first], columns[second], strict=True) for cell in pair]
        for name, (first, second) in (own | twice).items()
    }


def read_contrasts(
    captions: list[list[str]],
    negatives: list[list[str]] | None,
    image_of_row: list[int],
    kinds: list[str],
    source: object,
) -> Contrasts:
    """The questions of a table.

    Args:
        captions: (R,) the captions of each row: one.
        negatives: (R,) wrong captions of each row, each of which makes a question; None where rows 2g and 2g + 1 are a
            pair whose captions are crossed.
        image_of_row: (R,) the image of each. kinds: (R,) names.

    Raises:
        UserError: for a row without caption or wrong caption, or one whose wrong caption is its own.
    """
    _check_one("caption", captions, source)
    rows = range(len(captions))
    if negatives is None:
        even, crossed = rows[::2], [(captions[r][0], captions[r + 1][0]) for r in rows[::2]]
        images = np.array(image_of_row, dtype=np.int64).reshape(-1, 2)
        kinds = [kinds[r] for r in even]
    else:
        if empty := [r for r in rows if not negatives[r]]:
            raise UserError(
                f"'{source}' has no negative caption in {len(empty):,} rows; the first is row {empty[0] + 1}.",
                hint="Give each row one, or remove it.",
            )
        pairs = [(r, negative) for r in rows for negative in negatives[r]]
        crossed = [(captions[r][0], negative) for r, negative in pairs]
        images = np.array([[image_of_row[r]] for r, _ in pairs], dtype=np.int64)
        kinds = [kinds[r] for r, _ in pairs]
    if same := [own for own, wrong in crossed if own == wrong]:
        raise UserError(
            f"{len(same):,} of {len(crossed):,} wrong captions in '{source}' are the right one, as '{same[0]:.60}'.",
            hint="Nothing can tell them apart: remove these rows.",
        )
    return Contrasts(images, tuple(crossed), tuple(kinds))


def _check_one(what: str, texts: list[list[str]], source: object) -> None:
    if bad := [r for r, found in enumerate(texts) if len(found) != 1]:
        found = len(texts[bad[0]])
        raise UserError(
            f"'{source}' has {len(bad):,} rows without exactly one {what}; row {bad[0] + 1} has {found}.",
            hint="Beside a wrong caption stands one right caption; write several as several rows.",
        )
