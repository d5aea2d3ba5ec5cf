"""Scores of N images with M texts as a table that is read block by block, and the sums over it that estimators need.

A true pair is an image and one of its own texts, a draw from P = p(x, y). Every other entry, whose text is no text of
that image, is a negative: a draw from Q = p(x) p(y).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import NamedTuple

import torch
from torch import Tensor

BLOCK = 2**21  # scores in one block: 16 MiB in float64
HELD = 2**25  # scores up to which `hold` computes a table once: 128 MiB in float32
RANGE = 300.0  # exp of twice this still fits float64


@dataclass(frozen=True)
class ScoreTable:
    """Scores of N images with M texts, of which text t belongs to image `image_of_text[t]`.

    score: (r,) and (c,) int64 numbers of images and texts -> (r, c) scores.
    images, texts: (N,), (M,) the numbers that `score` knows them by.
    image_of_text: (M,) rows of the table.
    """

    score: Callable[[Tensor, Tensor], Tensor]
    images: Tensor
    texts: Tensor
    image_of_text: Tensor

    @property
    def shape(self) -> tuple[int, int]:
        return len(self.images), len(self.texts)

    def blocks(self) -> Iterator[tuple[slice, Tensor, Tensor]]:
        """Rows, their scores (r, M) float64, and the mask (r, M) of the true pairs among them.

        Raises:
            ValueError: for a score that is not finite.
        """
        n, m = self.shape
        high = max(1, BLOCK // m)
        for start in range(0, n, high):
            rows = slice(start, min(start + high, n))
            scores = self.score(self.images[rows], self.texts).double()
            if not bool(scores.sum().isfinite()):
                raise ValueError(f"a score of images {rows.start} to {rows.stop} is not finite")
            yield rows, scores, self.image_of_text == torch.arange(rows.start, rows.stop)[:, None]

    def take(self, images: Tensor) -> ScoreTable:
        """The table of some of the images, in this order, with their texts."""
        place = torch.full((len(self.images),), -1)
        place[images] = torch.arange(len(images))
        kept = (place[self.image_of_text] >= 0).nonzero()[:, 0]
        return replace(
            self, images=self.images[images], texts=self.texts[kept], image_of_text=place[self.image_of_text[kept]]
        )

    def one_text_each(self, generator: torch.Generator) -> ScoreTable:
        """N x N: a random text of every image, true pairs on the diagonal.

        Raises:
            ValueError: where an image has no text.
        """
        n = len(self.images)
        order = torch.randperm(len(self.texts), generator=generator)
        chosen = torch.full((n,), -1)
        chosen[self.image_of_text[order]] = order  # of several the last one stays
        if bool((chosen < 0).any()):
            raise ValueError(f"image {int((chosen < 0).nonzero()[0, 0])} has no text")
        return replace(self, texts=self.texts[chosen], image_of_text=torch.arange(n))

    def map(self, function: Callable[[Tensor], Tensor]) -> ScoreTable:
        """The same table with every score sent through a function."""
        return replace(self, score=lambda images, texts: function(self.score(images, texts)))

    def hold(self) -> ScoreTable:
        """The same table, computed once where that takes at most 128 MiB."""
        n, m = self.shape
        if n * m > HELD:
            return self
        parts = self.images.split(max(1, BLOCK // m))
        return as_table(torch.cat([self.score(part, self.texts) for part in parts]), self.image_of_text)


def as_table(scores: Tensor | ScoreTable, image_of_text: Tensor | None = None) -> ScoreTable:
    """A matrix of scores (N, M) as a table; without `image_of_text` it is square, with its true pairs on the diagonal.

    Raises:
        ValueError: for a matrix of another shape, or fewer than two images.
    """
    if isinstance(scores, ScoreTable):
        return scores
    if scores.ndim != 2 or scores.shape[0] < 2:
        raise ValueError(f"expected scores (N, M) of at least two images, got {tuple(scores.shape)}")
    n, m = scores.shape
    if image_of_text is None:
        if n != m:
            raise ValueError(f"expected a square matrix of pairs, got {tuple(scores.shape)}")
        image_of_text = torch.arange(n)
    if image_of_text.shape != (m,):
        raise ValueError(f"expected image_of_text ({m},), got {tuple(image_of_text.shape)}")

    def score(images: Tensor, texts: Tensor) -> Tensor:
        whole = len(texts) == m and bool((texts == torch.arange(m)).all())
        return scores[images] if whole else scores[images[:, None], texts]

    return ScoreTable(score, torch.arange(n), torch.arange(m), image_of_text)


class Tally(NamedTuple):
    """Sums over a table from one pass; all float64.

    positives: (M,) the score of every text with its own image; image_of_text: (M,).
    rows, columns: (N,), (M,) log sum exp of the scores over the negatives of an image, of a text.
    squared_rows, squared_columns: the same of twice the scores.
    row_sums, column_sums: sums of the scores over the negatives.
    row_counts, column_counts: how many negatives there are.
    """

    positives: Tensor
    image_of_text: Tensor
    rows: Tensor
    columns: Tensor
    squared_rows: Tensor
    squared_columns: Tensor
    row_sums: Tensor
    column_sums: Tensor
    row_counts: Tensor
    column_counts: Tensor

    @property
    def n_negatives(self) -> float:
        return float(self.row_counts.sum())

    @property
    def log_mean(self) -> float:
        """log of the mean of exp s over all negatives."""
        return float(self.rows.logsumexp(0)) - float(self.row_counts.sum().log())

    def shifted(self, by: float) -> Tally:
        """The same of scores with a number added, as far as bounds of exponentials use it."""
        return self._replace(positives=self.positives + by, rows=self.rows + by, columns=self.columns + by)

    @property
    def effective_negatives(self) -> float:
        """(sum w)^2 / sum w^2 with w = e^s: how many negatives the mean of e^s rests on."""
        return float((2 * self.rows.logsumexp(0) - self.squared_rows.logsumexp(0)).exp())


def tally(scores: Tensor | ScoreTable) -> Tally:
    """One pass over a table.

    Raises:
        ValueError: where an image or a text has no negative.
    """
    table = as_table(scores)
    n, m = table.shape
    positives = torch.empty(m, dtype=torch.float64)
    rows, squared_rows, row_sums = (torch.empty(n, dtype=torch.float64) for _ in range(3))
    columns, squared_columns = (torch.full((m,), -torch.inf, dtype=torch.float64) for _ in range(2))
    column_sums = torch.zeros(m, dtype=torch.float64)
    texts_of_image = torch.bincount(table.image_of_text, minlength=n)
    row_counts, column_counts = (m - texts_of_image).double(), torch.full((m,), n - 1.0, dtype=torch.float64)
    if n < 2 or float(row_counts.min()) < 1:
        raise ValueError(f"an image has no text of another among {n} images and {m} texts")
    for r, scores_of, own in table.blocks():
        where = own.nonzero()
        positives[where[:, 1]] = scores_of[own]
        row_sums[r] = scores_of.masked_fill(own, 0).sum(1)
        column_sums += scores_of.masked_fill(own, 0).sum(0)
        both, squared = _log_sums(scores_of, own)
        rows[r], squared_rows[r] = both[0], squared[0]
        columns = torch.logaddexp(columns, both[1])
        squared_columns = torch.logaddexp(squared_columns, squared[1])
    return Tally(
        positives,
        table.image_of_text,
        rows,
        columns,
        squared_rows,
        squared_columns,
        row_sums,
        column_sums,
        row_counts,
        column_counts,
    )


def _log_sums(scores: Tensor, own: Tensor) -> tuple[tuple[Tensor, Tensor], tuple[Tensor, Tensor]]:
    """log sum exp of s and of 2 s over the negatives, by row and by column, from one exponential where that fits."""
    largest = scores.amax()
    if float(largest - scores.amin()) > RANGE:
        s = scores.masked_fill(own, -torch.inf)
        return (s.logsumexp(1), s.logsumexp(0)), ((2 * s).logsumexp(1), (2 * s).logsumexp(0))
    e = (scores - largest).exp_().masked_fill_(own, 0)
    once = e.sum(1).log_() + largest, e.sum(0).log_() + largest
    e.square_()
    return once, (e.sum(1).log_() + 2 * largest, e.sum(0).log_() + 2 * largest)
