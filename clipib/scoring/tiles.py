"""What a contrastive loss needs of all logits, with or without ever holding them: sums over rows and columns.

A batch of N images and N texts has N x N logits, and a similarity of point sets N m x N m kernel values. Up to a few
million of those they are computed at once, which is fastest. Beyond, tile by tile: the forward pass keeps N numbers a
side, the backward pass computes each tile again. Values and gradients are the same up to rounding.

`reduce_logits` is the one seam: a fused kernel would take its place and nothing else.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from clipib.scoring.features import Features, in_full_precision
from clipib.scoring.similarity import Similarity

STATISTICS = ("log_sum_exp", "log_sum_exp_foreign", "softplus")
TILE_NUMBERS = 2**20  # logits or kernel values in one tile: 4 MiB, which a core's cache can hold
AT_ONCE = 4 * TILE_NUMBERS  # up to here the whole matrix is as fast and simpler
RANGE = 80.0  # exp of a difference up to this stays a normal float32


class Reduced(NamedTuple):
    """What contrasts are made of, for N pairs.

    rows: (N,), for every image over all texts, by statistic:
        log_sum_exp: log sum_j exp s_ij. log_sum_exp_foreign: the same without positives.
        softplus: sum_j log(1 + exp(-y_ij s_ij)), y = 1 for positives and -1 for all others.
    columns: (N,), for every text over all images; zeros for softplus.
    positives: (N,), the mean of an image's logits with its positives.
    """

    rows: Tensor
    columns: Tensor
    positives: Tensor


def reduce_logits(
    similarity: Similarity,
    images: Features,
    texts: Features,
    *,
    logit_scale: Tensor,
    logit_bias: Tensor | None = None,
    groups: Tensor | None = None,
    statistic: str = "log_sum_exp",
    tile: int | None = None,
) -> Reduced:
    """Row and column statistics of the logits of a batch of pairs, in float32 also under autocast.

    Args:
        images, texts: N prepared items each, pair i at i.
        logit_bias: None for softmax losses.
        groups: (N,) int64; equal numbers are positives of each other. None: only the pairs themselves.
        tile: items a side of a tile; left out, everything at once where that is small, else tiles of 4 MiB.

    Raises:
        ValueError: for unequal numbers of images and texts, or groups of another length.
        RuntimeError: when a streamed result is differentiated twice.
    """
    n = images.n
    if texts.n != n or (groups is not None and groups.shape != (n,)):
        groups_shape = None if groups is None else tuple(groups.shape)
        raise ValueError(f"expected N pairs and (N,) groups, got {n} images, {texts.n} texts, groups {groups_shape}")
    if statistic not in STATISTICS:
        raise ValueError(f"statistic is one of {', '.join(STATISTICS)}, not {statistic!r}")
    with torch.autocast(images.points.device.type, enabled=False):
        images, texts = in_full_precision(images), in_full_precision(texts)
        numbers = images.weights.shape[1] * texts.weights.shape[1]
        if tile is None and n * n * numbers <= AT_ONCE:
            bias = 0.0 if logit_bias is None else logit_bias
            logits = similarity.logits(images, texts, logit_scale=logit_scale, logit_bias=bias)
            return reduce_matrix(logits, groups, statistic)
        tile = tile or max(1, int((TILE_NUMBERS / numbers) ** 0.5))
        return Reduced(
            *_Streamed.apply(*images, *texts, logit_scale, logit_bias, groups, similarity.logits, statistic, tile)
        )


def reduce_matrix(logits: Tensor, groups: Tensor | None = None, statistic: str = "log_sum_exp") -> Reduced:
    """The same of a matrix of logits (N, N) that is there already; differentiable as often as one likes."""
    if logits.ndim != 2 or logits.shape[0] != logits.shape[1]:
        raise ValueError(f"expected logits (N, N), got {tuple(logits.shape)}")
    n = len(logits)
    if groups is None:
        positive = torch.eye(n, dtype=torch.bool, device=logits.device)
        positives = logits.diagonal()
    else:
        positive = groups[:, None] == groups
        positives = torch.where(positive, logits, 0).sum(1) / positive.sum(1)
    if statistic == "softplus":
        rows = F.softplus(torch.where(positive, -logits, logits)).sum(1)
        return Reduced(rows, torch.zeros_like(rows), positives)
    if statistic == "log_sum_exp_foreign":
        logits = logits.masked_fill(positive, -torch.inf)
    return Reduced(logits.logsumexp(1), logits.logsumexp(0), positives)


class _Streamed(torch.autograd.Function):
    """`reduce_matrix` of logits that are computed tile by tile, once forward and once backward."""

    @staticmethod
    def forward(ctx, u, w, v, a, scale, bias, groups, logits_of: Callable, statistic: str, tile: int):
        images, texts = Features(u, w), Features(v, a)
        n = images.n
        empty = 0.0 if statistic == "softplus" else -torch.inf
        rows, columns = (u.new_full((n,), empty) for _ in range(2))
        positives, n_positives = u.new_zeros(n), _count_positives(groups, n, u)
        for r in _blocks(n, tile):
            block = images.rows(r)
            for c in _blocks(n, tile):
                logits = logits_of(block, texts.rows(c), logit_scale=scale, logit_bias=_or_zero(bias))
                positive = _positive_mask(groups, r, c, logits)
                if positive is not None:
                    positives[r] += torch.where(positive, logits, 0).sum(1)
                if statistic == "softplus":
                    signed = logits if positive is None else torch.where(positive, -logits, logits)
                    rows[r] += F.softplus(signed).sum(1)
                    continue
                if positive is not None and statistic == "log_sum_exp_foreign":
                    logits = logits.masked_fill(positive, -torch.inf)
                row, column = _log_sum_exp_both(logits)
                rows[r] = torch.logaddexp(rows[r], row)
                columns[c] = torch.logaddexp(columns[c], column)
        if statistic == "softplus":
            columns.zero_()
        positives /= n_positives
        ctx.save_for_backward(u, w, v, a, scale, bias, groups, rows, columns, n_positives)
        ctx.settings = logits_of, statistic, tile
        return rows, columns, positives

    @staticmethod
    def backward(ctx, grad_rows, grad_columns, grad_positives):
        if torch.is_grad_enabled():
            raise RuntimeError("streamed logits cannot be differentiated twice; use a batch that fits at once")
        u, w, v, a, scale, bias, groups, rows, columns, n_positives = ctx.saved_tensors
        logits_of, statistic, tile = ctx.settings
        wanted = ctx.needs_input_grad[:6]
        given, places = (u, w, v, a, scale, bias), ("r", "r", "c", "c", "", "")
        grads = [torch.zeros_like(t) if need else None for t, need in zip(given, wanted)]
        n = len(u)
        share = grad_positives / n_positives
        for r in _blocks(n, tile):
            for c in _blocks(n, tile):
                at = [{"r": r, "c": c, "": ...}[place] for place in places]
                with torch.enable_grad():
                    inputs = [
                        None if t is None else t[which].detach().requires_grad_(need)
                        for t, which, need in zip(given, at, wanted)
                    ]
                    block, other = Features(*inputs[:2]), Features(*inputs[2:4])
                    logits = logits_of(block, other, logit_scale=inputs[4], logit_bias=_or_zero(inputs[5]))
                found = logits.detach()
                positive = _positive_mask(groups, r, c, found)
                if statistic == "softplus":
                    sign = -1.0 if positive is None else torch.where(positive, 1.0, -1.0)
                    grad = -sign * torch.sigmoid(-sign * found) * grad_rows[r, None]
                else:
                    grad = _softmax_gradient(found, rows[r], columns[c], grad_rows[r], grad_columns[c])
                    if positive is not None and statistic == "log_sum_exp_foreign":
                        grad = grad.masked_fill(positive, 0)
                if positive is not None:
                    grad += positive * share[r, None]
                leaves = [t for t, need in zip(inputs, wanted) if need]
                parts = iter(torch.autograd.grad(logits, leaves, grad, allow_unused=True))
                for total, which in zip(grads, at):
                    if total is not None and (part := next(parts)) is not None:
                        total[which] += part
        return (*grads, None, None, None, None)


def _or_zero(bias: Tensor | None) -> Tensor | float:
    return 0.0 if bias is None else bias


def _blocks(n: int, tile: int) -> Iterator[slice]:
    return (slice(start, min(start + tile, n)) for start in range(0, n, tile))


def _positive_mask(groups: Tensor | None, r: slice, c: slice, like: Tensor) -> Tensor | None:
    """(n, m) bool of a tile, or None where it has no positives."""
    if groups is None:
        return torch.eye(len(like), dtype=torch.bool, device=like.device) if r == c else None
    return groups[r, None] == groups[c]


def _count_positives(groups: Tensor | None, n: int, like: Tensor) -> Tensor:
    if groups is None:
        return like.new_ones(n)
    _, inverse, counts = groups.unique(return_inverse=True, return_counts=True)
    return counts[inverse].to(like.dtype)


def _log_sum_exp_both(logits: Tensor) -> tuple[Tensor, Tensor]:
    """Over rows and over columns; where the tile's range allows it, from the same exponentials."""
    largest = logits.amax()
    if not float(largest - logits.amin()) <= RANGE:  # also where all is -inf
        return logits.logsumexp(1), logits.logsumexp(0)
    exponentials = (logits - largest).exp_()
    return exponentials.sum(1).log_() + largest, exponentials.sum(0).log_() + largest


def _softmax_gradient(logits: Tensor, rows: Tensor, columns: Tensor, by_row: Tensor, by_column: Tensor) -> Tensor:
    """by_row_i exp(s_ij - rows_i) + by_column_j exp(s_ij - columns_j)."""
    largest = logits.amax()
    if float(largest - torch.minimum(rows.min(), columns.min())) > RANGE or float(largest - logits.amin()) > RANGE:
        by_rows = by_row[:, None] * (logits - rows[:, None]).exp_()
        return by_rows + by_column * (logits - columns).exp_()
    exponentials = (logits - largest).exp_()
    factors = (by_row * (largest - rows).exp())[:, None] + by_column * (largest - columns).exp()
    return exponentials * factors
