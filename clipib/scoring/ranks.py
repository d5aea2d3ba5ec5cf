"""Exact ranks over large sets, tile by tile: N x M scores never lie in memory whole."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import torch
from torch import Tensor

from clipib.scoring.cosine import COSINE
from clipib.scoring.features import Features, as_features
from clipib.scoring.near_ties import Near, near_ties
from clipib.scoring.running_top import RunningTop
from clipib.scoring.scorer import Scorer, Tile
from clipib.scoring.similarity import Similarity

TILE = 1024
OWN_TEXTS = 16  # a tile has so many pairs for every own text of its images, or it has one image
CROWDED = 16  # near ties a line of a tile, beyond which float64 settles most of them for less


class Ranks(NamedTuple):
    """How many items stand before the first own one; 0 is a hit at k = 1.

    text_to_image: (M,) int64, over images; a tie goes to the lowest index.
    image_to_text: (N,) int64, of the best own caption among all captions.
    ahead_texts, ahead_images: (M,), (N,) int64, only what scores more: the rank if every tie were won.
    tied_texts: (M,) int64, how many other images share the own image's score; `ahead + tied` is the rank if every tie
    were lost.
    tied_images: (N,) int64, how many foreign captions share the score of the best own one.
    own_text_ranks: (M,) int64, how many of all captions stand before this one in the list of its own image; R, the
    number of the image's captions, stands for R and more.
    """

    text_to_image: Tensor
    image_to_text: Tensor
    ahead_texts: Tensor
    ahead_images: Tensor
    tied_texts: Tensor
    tied_images: Tensor
    own_text_ranks: Tensor


def retrieval_ranks(
    images: Tensor | Features,
    texts: Tensor | Features,
    image_of_text: Tensor,
    *,
    similarity: Similarity = COSINE,
    logit_scale: float = 1.0,
    tile: int | tuple[int, int] | None = None,
) -> Ranks:
    """Exact retrieval ranks both ways; a tie goes to the lowest index.

    One float32 tile of logits settles most pairs, for both directions and every cut-off. A pair whose score lies within
    `Similarity.rounding` of the one that it is compared with is scored again as that one was, in float64 and summed in
    one fixed order, so that neither the tile's shape nor its place changes a rank, and equal items tie.

    Beside the features memory holds a few numbers for every image and every text, and some hundred bytes for every pair
    of one tile even where all of them tie.

    Args:
        images: (N, D) unit norm float32, or N prepared items of the similarity.
        texts: (M, D) unit norm float32, or M prepared items.
        image_of_text: (M,) int64, the image that each text describes; every image has at least one text.
        similarity, logit_scale: how an image is scored against a text; the scale of a cosine changes no rank.
        tile: rows and columns of a tile, which is wider where it has fewer rows; left out, about a million numbers.

    Raises:
        ValueError: when an image has no text, shapes do not fit, or a feature is not finite.
    """
    images, texts = (as_features(x) if isinstance(x, Tensor) else x for x in (images, texts))
    _check(images, texts, image_of_text)
    scorer = Scorer(images, texts, image_of_text, similarity, logit_scale)
    own = scorer.pairs(image_of_text, torch.arange(texts.n))
    of_texts = _Queries.of(own, image_of_text, along=0)
    of_images = _Queries.of(*_best_own_text(own, image_of_text, images.n), along=1)
    own_text_ranks = torch.bincount(image_of_text)[image_of_text]  # R, until found among the first R
    high, wide = _shape(tile, images, texts)
    for rows, mine in _blocks_of_images(image_of_text, high, high * wide // OWN_TEXTS):
        top = RunningTop(image_of_text[mine] - rows.start, mine, own[mine])
        width = high * wide // (rows.stop - rows.start)  # the fewer rows, the wider
        for start in range(0, texts.n, width):
            columns = slice(start, min(start + width, texts.n))
            scores = scorer.tile(rows, columns)
            near = [q.near(scores) for q in (of_texts, of_images)]
            if sum(len(found.row) for found in near) > CROWDED * sum(scores.scores.shape):
                scores = scorer.tile(rows, columns, dtype=torch.float64)
                near = [q.near(scores) for q in (of_texts, of_images)]
            of_texts.add(scores, near[0], scorer)
            of_images.add(scores, near[1], scorer)
            top.add(scores, scorer)
        image, text, place = top.texts()
        is_own = image_of_text[text] == image + rows.start
        own_text_ranks[text[is_own]] = place[is_own]
    ranks = [q.ahead + q.earlier for q in (of_texts, of_images)]
    return Ranks(*ranks, of_texts.ahead, of_images.ahead, of_texts.tied, of_images.tied, own_text_ranks)


class _Queries(NamedTuple):
    """Texts that look for their image, or images that look for their best text; counts grow in place.

    own, threshold: (q,) the item looked for, and its score, float64.
    ahead, tied, earlier: (q,) int64, foreign items of a higher score, of the same, and of the same and a lower index.
    along: the axis of a tile on which the items lie.
    """

    own: Tensor
    threshold: Tensor
    ahead: Tensor
    tied: Tensor
    earlier: Tensor
    along: int

    @classmethod
    def of(cls, threshold: Tensor, own: Tensor, *, along: int) -> _Queries:
        return cls(own, threshold, *(torch.zeros_like(own) for _ in range(3)), along)

    def near(self, tile: Tile) -> Near:
        return near_ties(tile, self.threshold[self._lines(tile)], along=self.along)

    def add(self, tile: Tile, near: Near, scorer: Scorer) -> None:
        """Count what the tile settles, and settle what it leaves open."""
        lines = self._lines(tile)
        self.ahead[lines] += near.ahead
        image, text = near.row + tile.rows.start, near.column + tile.columns.start
        query, item = (image, text) if self.along else (text, image)
        exact, threshold = scorer.pairs_of(tile, near.row, near.column), self.threshold[query]
        equal = exact == threshold
        for count, which in (
            (self.ahead, exact > threshold),
            (self.tied, equal),
            (self.earlier, equal & (item < self.own[query])),
        ):
            count[lines] += torch.bincount(query[which] - lines.start, minlength=lines.stop - lines.start)

    def _lines(self, tile: Tile) -> slice:
        return tile.rows if self.along else tile.columns


def _best_own_text(own: Tensor, image_of_text: Tensor, n: int) -> tuple[Tensor, Tensor]:
    """For each image its best own text's score (n,) float64 and index (n,), the lowest among equals."""
    best = torch.full((n,), -torch.inf, dtype=torch.float64).scatter_reduce(0, image_of_text, own, "amax")
    if torch.isinf(best).any():
        raise ValueError(f"image {int(torch.isinf(best).nonzero()[0])} has no text")
    index = torch.arange(len(own))
    candidates = torch.where(own == best[image_of_text], index, len(own))
    return best, torch.full((n,), len(own)).scatter_reduce(0, image_of_text, candidates, "amin")


def _check(images: Features, texts: Features, image_of_text: Tensor) -> None:
    if texts.points.shape[2] != images.points.shape[2] or image_of_text.shape != (texts.n,):
        shapes = f"{tuple(texts.points.shape)}, {tuple(image_of_text.shape)}"
        raise ValueError(
            f"expected points of the same width and (M,) images, got {tuple(images.points.shape)}, {shapes}"
        )
    # The extremes show what is not finite, and take no memory.
    if not all(torch.isfinite(torch.stack(t.aminmax())).all() for t in (*images, *texts) if t.numel()):
        raise ValueError("features are not finite")


def _shape(tile: int | tuple[int, int] | None, images: Features, texts: Features) -> tuple[int, int]:
    if tile is None:
        points = images.weights.shape[1] * texts.weights.shape[1]
        tile = max(1, int(TILE / points**0.5))
    return (tile, tile) if isinstance(tile, int) else tile


def _blocks_of_images(image_of_text: Tensor, size: int, n_texts: int) -> Iterator[tuple[slice, Tensor]]:
    """Up to `size` images at a time, fewer where they have more than `n_texts` texts, and which texts they have."""
    by_image, ends = image_of_text.argsort(stable=True), torch.bincount(image_of_text).cumsum(0)
    start = first = 0
    while start < len(ends):
        fitting = int(torch.searchsorted(ends, first + n_texts, right=True))
        stop = min(start + size, max(start + 1, fitting))
        yield slice(start, stop), by_image[first : ends[stop - 1]]
        start, first = stop, int(ends[stop - 1])
