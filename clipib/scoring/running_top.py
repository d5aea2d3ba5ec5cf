"""The first R texts of every image, found tile by tile, where R is the number of the image's own texts."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from clipib.scoring.near_ties import bounds, places_of
from clipib.scoring.scorer import Scorer, Tile


class RunningTop:
    """The lists of a block of images; they begin as the own texts, in whose place better ones then stand.

    A list keeps its length, so that all of them hold no more than there are texts, and its last score is what a text
    must reach to get in. Texts that do are gathered until there are as many as places, and then sorted in.

    Args:
        image: (E,) int64, within the block, the image of each own text; every image of the block has one.
        text: (E,) int64, that text. score: (E,) float64.
    """

    def __init__(self, image: Tensor, text: Tensor, score: Tensor) -> None:
        self.length = torch.bincount(image)  # R of each image
        self._starts = self.length.cumsum(0) - self.length
        self._found = [(image, text, score)]
        self._n_own, self._first = len(text), True
        self._sort()

    def add(self, tile: Tile, scorer: Scorer) -> None:
        """See the foreign texts of one tile of all images of the block."""
        low = bounds(self._last, tile)[0]
        first, self._first = self._first, False
        if first:  # its own first R keep most of the others out, of this tile and of the next
            low = torch.maximum(low, self._best_of(tile))
        hit = (tile.scores.amax(1) >= low).nonzero()[:, 0]
        if not len(hit):
            return
        line, column = places_of(tile.scores[hit].numpy() >= low[hit, None].numpy())
        self._found.append((hit[line], column + tile.columns.start, scorer.pairs_of(tile, hit[line], column)))
        if first or sum(len(t) for _, t, _ in self._found) > 2 * self._n_own:
            self._sort()

    def texts(self) -> tuple[Tensor, Tensor, Tensor]:
        """(E,) image, (E,) text and (E,) place from 0, of all lists one after the other."""
        self._sort()
        image, text, _ = self._found[0]
        return image, text, torch.arange(len(text)) - self._starts[image]

    def _best_of(self, tile: Tile) -> Tensor:
        """(n,) a bound that the first R of each line of the tile reach, or all of a shorter line."""
        most = min(int(self.length.max()), tile.scores.shape[1])
        best = tile.scores.topk(most, dim=1).values
        last = best.gather(1, (self.length - 1).clamp(max=most - 1)[:, None])[:, 0]
        # The R-th best by the tile and the R-th best in truth are each within the slack of one another.
        return bounds(last.double() - tile.slack, tile)[0]

    def _sort(self) -> None:
        image, text, score = (torch.cat(part) for part in zip(*self._found, strict=True))
        order = torch.from_numpy(np.lexsort((text.numpy(), -score.numpy(), image.numpy())))
        image, text, score = image[order], text[order], score[order]
        count = torch.bincount(image)
        place = torch.arange(len(image)) - (count.cumsum(0) - count)[image]
        keep = place < self.length[image]
        self._found = [(image[keep], text[keep], score[keep])]
        self._last = score[keep][self._starts + self.length - 1]  # (n,) of each list
