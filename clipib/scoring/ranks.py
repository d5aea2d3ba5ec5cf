"""Exact ranks over large sets, tile by tile: N x M scores never lie in memory whole."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from clipib.scoring.cosine import COSINE
from clipib.scoring.features import Features, as_features
from clipib.scoring.similarity import Similarity

TILE = 1024
PAIRS_AT_ONCE = 4096


class Ranks(NamedTuple):
    """How many items stand before the first own one; 0 is a hit at k = 1.

    text_to_image: (M,) int64, over images.
    image_to_text: (N,) int64, of the best own caption among all captions.
    tied_texts: (M,) bool, the own image shares its score with another image.
    tied_images: (N,) bool, the best own caption shares its score with a foreign caption.
    """

    text_to_image: Tensor
    image_to_text: Tensor
    tied_texts: Tensor
    tied_images: Tensor


def retrieval_ranks(
    images: Tensor | Features,
    texts: Tensor | Features,
    image_of_text: Tensor,
    *,
    similarity: Similarity = COSINE,
    logit_scale: float = 1.0,
    tile: int | None = None,
) -> Ranks:
    """Exact retrieval ranks both ways; a tie goes to the lowest index.

    One float32 tile of logits settles most pairs. A score within rounding of the threshold (twice
    `Similarity.rounding`) is computed again in float64, one pair at a time, as the thresholds are, so that neither the
    tile's shape nor its place changes a rank.

    Args:
        images: (N, D) unit norm float32, or N prepared items of the similarity.
        texts: (M, D) unit norm float32, or M prepared items.
        image_of_text: (M,) int64, the image that each text describes; every image has at least one text.
        similarity, logit_scale: how an image is scored against a text; the scale of a cosine changes no rank.
        tile: rows and columns of a tile; left out, about a million numbers.

    Raises:
        ValueError: when an image has no text, shapes do not fit, or a feature is not finite.
    """
    images, texts = (as_features(x) if isinstance(x, Tensor) else x for x in (images, texts))
    n, width = images.n, images.points.shape[2]
    if texts.points.shape[2] != width or image_of_text.shape != (texts.n,):
        shapes = f"{tuple(texts.points.shape)}, {tuple(image_of_text.shape)}"
        raise ValueError(
            f"expected points of the same width and (M,) images, got {tuple(images.points.shape)}, {shapes}"
        )
    if not all(torch.isfinite(t).all() for t in (*images, *texts)):
        raise ValueError("features are not finite")
    points = images.weights.shape[1] * texts.weights.shape[1]
    tile = tile or max(1, int(TILE / points**0.5))

    def scores_of(image: Tensor, text: Tensor) -> Tensor:
        """(P,) float64, for indices of images and of texts."""
        pairs = zip(image.split(PAIRS_AT_ONCE), text.split(PAIRS_AT_ONCE), strict=True)
        found = [similarity.pair_scores(images.rows(i), texts.rows(t), logit_scale=logit_scale) for i, t in pairs]
        return torch.cat(found) if found else torch.zeros(0, dtype=torch.float64)

    own = scores_of(image_of_text, torch.arange(texts.n))
    best, best_text = _best_own_text(own, image_of_text, n)
    tolerance = 2 * similarity.rounding(images, texts, logit_scale=logit_scale)  # of the tile and of the threshold
    to_image, to_text = torch.zeros(texts.n, dtype=torch.int64), torch.zeros(n, dtype=torch.int64)
    tied_texts, tied_images = torch.zeros(texts.n, dtype=torch.bool), torch.zeros(n, dtype=torch.bool)
    for i in range(0, n, tile):
        rows = slice(i, min(i + tile, n))
        of_rows = torch.arange(rows.start, rows.stop)
        for t in range(0, texts.n, tile):
            columns = slice(t, min(t + tile, texts.n))
            of_columns = torch.arange(columns.start, columns.stop)
            scores = similarity.logits(images.rows(rows), texts.rows(columns), logit_scale=logit_scale)  # (n, m)
            foreign = image_of_text[columns] != of_rows[:, None]
            queries = _Queries(of_columns, own[columns], image_of_text[columns])
            ahead, tied = _count_ahead(
                queries, of_rows, scores.T, foreign.T, tolerance, lambda text, image: scores_of(image, text)
            )
            to_image[columns] += ahead
            tied_texts[columns] |= tied
            queries = _Queries(of_rows, best[rows], best_text[rows])
            ahead, tied = _count_ahead(queries, of_columns, scores, foreign, tolerance, scores_of)
            to_text[rows] += ahead
            tied_images[rows] |= tied
    return Ranks(to_image, to_text, tied_texts, tied_images)


class _Queries(NamedTuple):
    index: Tensor  # (q,)
    threshold: Tensor  # (q,) float64, score of the best own item
    own_index: Tensor  # (q,) that item


def _count_ahead(
    queries: _Queries, items: Tensor, scores: Tensor, foreign: Tensor, tolerance: float, scores_of: Callable
) -> tuple[Tensor, Tensor]:
    """Of a tile (q, c): how many foreign items stand before each query's own, and whether one ties with it.

    Args:
        items: (c,) indices. scores_of: the float64 scores of indices of queries and of items.
    """
    lead = scores - queries.threshold.float()[:, None]
    close = (lead.abs() <= tolerance) & foreign
    ahead = ((lead > tolerance) & foreign).sum(1)
    tied = torch.zeros(len(scores), dtype=torch.bool)
    query, item = close.nonzero(as_tuple=True)
    exact = scores_of(queries.index[query], items[item])
    equal = exact == queries.threshold[query]
    first = (exact > queries.threshold[query]) | (equal & (items[item] < queries.own_index[query]))
    ahead += torch.bincount(query[first], minlength=len(scores))
    tied[query[equal]] = True
    return ahead, tied


def _best_own_text(own: Tensor, image_of_text: Tensor, n: int) -> tuple[Tensor, Tensor]:
    """For each image its best own text's score (n,) float64 and index (n,), the lowest among equals."""
    best = torch.full((n,), -torch.inf, dtype=torch.float64).scatter_reduce(0, image_of_text, own, "amax")
    if torch.isinf(best).any():
        raise ValueError(f"image {int(torch.isinf(best).nonzero()[0])} has no text")
    index = torch.arange(len(own))
    candidates = torch.where(own == best[image_of_text], index, len(own))
    return best, torch.full((n,), len(own)).scatter_reduce(0, image_of_text, candidates, "amin")
