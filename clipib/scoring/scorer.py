"""Scores of images against texts in two ways: a fast tile that is off by its rounding, and single pairs."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from clipib.scoring.features import Features, pack
from clipib.scoring.similarity import Similarity

NUMBERS_AT_ONCE = 2**15  # of one side's points while pairs are scored: torch starts no threads for so few
FEW_PAIRS = 2**14  # up to which looking for equal items costs more than it saves
FLOAT64_BY_FLOAT32 = 2.0**-29  # the rounding of the one by that of the other


class Tile(NamedTuple):
    """scores: (n, m) of some images with some texts, -inf where the text is the image's own.

    rows, columns: which of all images and of all texts.
    slack: a bound of how far a score is from that of the pair alone.
    """

    scores: Tensor
    rows: slice
    columns: slice
    slack: float


class Scorer:
    """N images and M texts under a similarity.

    Args:
        images, texts: prepared items.
        image_of_text: (M,) int64, the image that each text describes.
        similarity, logit_scale: how an image is scored against a text.
    """

    def __init__(
        self, images: Features, texts: Features, image_of_text: Tensor, similarity: Similarity, logit_scale: float
    ) -> None:
        self.images, self.texts, self.image_of_text = images, texts, image_of_text
        self.similarity, self.logit_scale = similarity, logit_scale
        self._rounding = similarity.rounding(images, texts, logit_scale=logit_scale)
        width = max(f.points.shape[1] * f.points.shape[2] for f in (images, texts))
        self._pairs_at_once = max(1, NUMBERS_AT_ONCE // max(1, width))

    def tile(self, rows: slice, columns: slice, *, dtype: torch.dtype = torch.float32) -> Tile:
        """Logits of a block of images with a block of texts, own pairs struck out."""
        images, texts = (
            Features(*(t.to(dtype) for t in f)) for f in (self.images.rows(rows), self.texts.rows(columns))
        )
        scores = self.similarity.logits(images, texts, logit_scale=self.logit_scale)
        row = self.image_of_text[columns] - rows.start
        own = ((row >= 0) & (row < len(scores))).nonzero()[:, 0]
        scores[row[own], own] = -torch.inf
        return Tile(scores, rows, columns, self._rounding * (FLOAT64_BY_FLOAT32 if dtype == torch.float64 else 1.0))

    def pairs(self, image: Tensor, text: Tensor) -> Tensor:
        """(P,) float64 scores of P pairs of indices; those of equal items are equal, whatever else is asked for."""
        scores = torch.empty(len(image), dtype=torch.float64)  # small results between large blocks would scatter memory
        for start in range(0, len(image), self._pairs_at_once):
            some = slice(start, start + self._pairs_at_once)
            images, texts = _select(self.images, image[some]), _select(self.texts, text[some])
            scores[some] = self.similarity.pair_scores(images, texts, logit_scale=self.logit_scale)
        return scores

    def pairs_of(self, tile: Tile, row: Tensor, column: Tensor) -> Tensor:
        """`pairs` at P places of a tile; where they are many, what is equal is scored once."""
        image, text = row + tile.rows.start, column + tile.columns.start
        if len(row) <= FEW_PAIRS:
            return self.pairs(image, text)
        (row_kind, n), (column_kind, m) = _kinds(self.images.rows(tile.rows)), _kinds(self.texts.rows(tile.columns))
        key = row_kind[row] * m + column_kind[column]
        one = torch.full((n * m,), -1).scatter_(0, key, torch.arange(len(key)))  # some pair of those kinds
        used = (one >= 0).nonzero()[:, 0]
        table = torch.empty(n * m, dtype=torch.float64)
        table[used] = self.pairs(image[one[used]], text[one[used]])
        return table[key]


def _select(features: Features, index: Tensor) -> Features:
    """`rows`, without the threads that indexing starts for any number of them."""
    return Features(*(t.index_select(0, index) for t in features))


def _kinds(features: Features) -> tuple[Tensor, int]:
    """(n,) numbers that are the same where the items are, and how many there are."""
    distinct, kind = pack(features).flatten(1).unique(dim=0, return_inverse=True)
    return kind, len(distinct)
