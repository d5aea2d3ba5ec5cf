"""Exact ranks over large sets, tile by tile: N x M scores never lie in memory whole."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

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


def pair_scores(a: Tensor, b: Tensor) -> Tensor:
    """Inner products of matching rows, (P, D) and (P, D) -> (P,), in float64 and in one fixed order of summation.

    Equal rows give equal numbers whatever stands beside them; a matrix product does not promise that.
    """
    scores = [
        (a[i : i + PAIRS_AT_ONCE].double() * b[i : i + PAIRS_AT_ONCE].double()).sum(-1)
        for i in range(0, len(a), PAIRS_AT_ONCE)
    ]
    return torch.cat(scores) if scores else a.new_zeros(0, dtype=torch.float64)


def retrieval_ranks(images: Tensor, texts: Tensor, image_of_text: Tensor, *, tile: int = TILE) -> Ranks:
    """Exact retrieval ranks both ways by inner product; a tie goes to the lowest index.

    One float32 product per tile settles most pairs. A score within rounding of the threshold (the bound
    (D + 2) 2^-24 for unit vectors) is computed again by `pair_scores`, as the thresholds are, so that neither the
    tile's shape nor its place changes a rank.

    Args:
        images: (N, D) unit norm float32.
        texts: (M, D) unit norm float32.
        image_of_text: (M,) int64, the image that each text describes; every image has at least one text.
        tile: rows and columns of a tile.

    Raises:
        ValueError: when an image has no text, shapes do not fit, or a feature is not finite.
    """
    n, width = images.shape
    if texts.shape[1] != width or image_of_text.shape != texts.shape[:1]:
        raise ValueError(f"expected (N, D), (M, D), (M,), got {(n, width)}, {texts.shape}, {image_of_text.shape}")
    if not (torch.isfinite(images).all() and torch.isfinite(texts).all()):
        raise ValueError("features are not finite")
    own = torch.cat(
        [pair_scores(images[i], t) for i, t in zip(image_of_text.split(TILE), texts.split(TILE), strict=True)]
    )
    best, best_text = _best_own_text(own, image_of_text, n)
    tolerance = (width + 2) * 2.0**-24
    to_image, to_text = torch.zeros(len(texts), dtype=torch.int64), torch.zeros(n, dtype=torch.int64)
    tied_texts, tied_images = torch.zeros(len(texts), dtype=torch.bool), torch.zeros(n, dtype=torch.bool)
    for i in range(0, n, tile):
        for t in range(0, len(texts), tile):
            rows, columns = slice(i, i + tile), slice(t, t + tile)
            scores = images[rows] @ texts[columns].T  # (n, m) float32
            foreign = image_of_text[columns] != torch.arange(i, i + len(scores))[:, None]
            block = _Queries(texts[columns], own[columns], image_of_text[columns] - i)
            ahead, tied = _count_ahead(block, images[rows], scores.T, foreign.T, tolerance)
            to_image[columns] += ahead
            tied_texts[columns] |= tied
            block = _Queries(images[rows], best[rows], best_text[rows] - t)
            ahead, tied = _count_ahead(block, texts[columns], scores, foreign, tolerance)
            to_text[rows] += ahead
            tied_images[rows] |= tied
    return Ranks(to_image, to_text, tied_texts, tied_images)


class _Queries(NamedTuple):
    features: Tensor  # (q, D)
    threshold: Tensor  # (q,) float64, score of the best own item
    own_index: Tensor  # (q,) its place relative to the tile, which may lie outside it


def _count_ahead(queries: _Queries, items: Tensor, scores: Tensor, foreign: Tensor, tolerance: float):
    """Of a tile (q, c): how many foreign items stand before each query's own, and whether one ties with it."""
    lead = scores - queries.threshold.float()[:, None]
    close = (lead.abs() <= tolerance) & foreign
    ahead = ((lead > tolerance) & foreign).sum(1)
    tied = torch.zeros(len(scores), dtype=torch.bool)
    query, item = close.nonzero(as_tuple=True)
    for q, c in zip(query.split(PAIRS_AT_ONCE), item.split(PAIRS_AT_ONCE), strict=True):
        exact = pair_scores(queries.features[q], items[c])
        equal = exact == queries.threshold[q]
        first = (exact > queries.threshold[q]) | (equal & (c < queries.own_index[q]))
        ahead += torch.bincount(q[first], minlength=len(scores))
        tied[q[equal]] = True
    return ahead, tied


def _best_own_text(own: Tensor, image_of_text: Tensor, n: int) -> tuple[Tensor, Tensor]:
    """For each image its best own text's score (n,) float64 and index (n,), the lowest among equals."""
    best = torch.full((n,), -torch.inf, dtype=torch.float64).scatter_reduce(0, image_of_text, own, "amax")
    if torch.isinf(best).any():
        raise ValueError(f"image {int(torch.isinf(best).nonzero()[0])} has no text")
    index = torch.arange(len(own))
    candidates = torch.where(own == best[image_of_text], index, len(own))
    return best, torch.full((n,), len(own)).scatter_reduce(0, image_of_text, candidates, "amin")
