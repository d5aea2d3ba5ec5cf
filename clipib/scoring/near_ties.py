"""How many scores of a tile exceed a threshold for each line, and where rounding leaves it open."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from clipib.scoring.scorer import Tile


class Near(NamedTuple):
    """ahead: (q,) int64, how many scores are above the threshold of their line beyond doubt.

    row, column: (P,) int64, the places in the tile that are too near to it.
    """

    ahead: Tensor
    row: Tensor
    column: Tensor


def near_ties(tile: Tile, threshold: Tensor, *, along: int) -> Near:
    """Count what is above the threshold, and find what is within the tile's slack of it.

    Args:
        threshold: (q,) float64, one for every row (along = 1) or every column (along = 0) of the tile.
        along: the axis that is counted over.
    """
    low, high = bounds(threshold, tile)
    lines = (tile.scores.amax(along) >= low).nonzero()[:, 0]
    if 2 * len(lines) > len(threshold):
        return _compare(tile.scores, low, high, along)
    # Where few lines have anything to count, these alone are compared.
    some = _compare(tile.scores.index_select(1 - along, lines), low[lines], high[lines], along)
    ahead = torch.zeros(len(threshold), dtype=torch.int64).index_copy_(0, lines, some.ahead)
    return Near(ahead, lines[some.row], some.column) if along else Near(ahead, some.row, lines[some.column])


def _compare(scores: Tensor, low: Tensor, high: Tensor, along: int) -> Near:
    # Comparisons written as float32 are summed several times faster than those written as bool, and as exactly.
    above, reach = (torch.empty(scores.shape) for _ in range(2))
    torch.gt(scores, high.unsqueeze(along), out=above)
    torch.ge(scores, low.unsqueeze(along), out=reach)
    return Near(above.sum(along).long(), *places_of(above.numpy() != reach.numpy()))


def places_of(mask: np.ndarray) -> tuple[Tensor, Tensor]:
    """(P,) row and (P,) column of what is true; NumPy finds it ten times as fast as torch."""
    row, column = np.divmod(np.flatnonzero(mask), max(1, mask.shape[1]))
    return torch.from_numpy(row), torch.from_numpy(column)


def bounds(threshold: Tensor, tile: Tile) -> tuple[Tensor, Tensor]:
    """Threshold less and plus the tile's slack, in the precision of its scores and rounded outwards."""
    slack, infinity = tile.slack, torch.tensor(torch.inf, dtype=tile.scores.dtype)
    low, high = ((threshold + s).to(tile.scores.dtype) for s in (-slack, slack))
    return low.nextafter(-infinity), high.nextafter(infinity)
