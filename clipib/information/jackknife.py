"""Intervals for numbers that are made of all pairs of N images and their texts.

The entries of a score table depend on each other, since every image meets every text. Leaving out one image at a time,
with its texts, sees that. Drawing images with replacement does not: doubled images become false negatives and zero
distances.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from clipib.information.bounds import dv, info_nce, nwj
from clipib.information.table import ScoreTable, Tally, as_table

Z_95 = 1.959963984540054


class Estimate(NamedTuple):
    """A number with its standard error and 95 % interval."""

    value: float
    standard_error: float

    @property
    def low(self) -> float:
        return self.value - Z_95 * self.standard_error

    @property
    def high(self) -> float:
        return self.value + Z_95 * self.standard_error


def jackknife(value: float, without: Tensor) -> Estimate:
    """The standard error of a statistic from its values with one of N units left out.

        se^2 = (N - 1) / N sum_i (theta_-i - mean theta_-i)^2

    Args:
        value: the statistic on all units. without: (N,) the statistic without unit i.

    Returns:
        An interval that is meant for smooth statistics; for a mean it is the usual one.

    Raises:
        ValueError: for fewer than two units.

    Reference:
        Efron and Stein, 1981, The jackknife estimate of variance.

    Example:
        >>> x = torch.tensor([1.0, 2.0, 4.0, 9.0])
        >>> found = jackknife(float(x.mean()), (x.sum() - x) / 3)
        >>> abs(found.standard_error - float(x.std() / 2)) < 1e-6
        True
    """
    n = len(without)
    if n < 2:
        raise ValueError(f"expected at least two values, got {n}")
    spread = without.double().var(correction=0)
    return Estimate(value, math.sqrt((n - 1) * float(spread)))


def average(estimates: list[Estimate], without: list[Tensor]) -> Estimate:
    """The mean of one statistic over replicates of the same images, and its interval."""
    return jackknife(sum(e.value for e in estimates) / len(estimates), torch.stack(without).mean(0))


def jackknife_groups(
    statistic: Callable[[ScoreTable], float], scores: Tensor | ScoreTable, *, groups: int = 20, seed: int = 0
) -> Estimate:
    """Of any statistic of a table: one of `groups` random groups of images left out at a time."""
    table = as_table(scores)
    order = torch.randperm(len(table.images), generator=torch.Generator().manual_seed(seed))
    kept = _without_groups(order, groups)
    return jackknife(statistic(table), torch.tensor([statistic(table.take(k)) for k in kept], dtype=torch.float64))


def jackknife_rows(
    statistic: Callable[..., float], *sides: Tensor, groups: int = 10, most: int = 2_000, seed: int = 0
) -> Estimate:
    """Of a statistic of paired rows: one random group of rows left out at a time.

    Args:
        statistic: takes the sides. sides: (n, ...) each.
        most: rows that the standard error is found on; beyond, it is taken to fall as 1 / sqrt(n).
    """
    n = len(sides[0])
    order = torch.randperm(n, generator=torch.Generator().manual_seed(seed))[:most]
    kept = _without_groups(order, groups)
    without = torch.tensor([statistic(*(x[k] for x in sides)) for k in kept], dtype=torch.float64)
    error = jackknife(0.0, without).standard_error * math.sqrt(len(order) / n)
    return Estimate(statistic(*sides), error)


def means_without(values: Tensor, image_of_text: Tensor, n: int) -> Tensor:
    """(N,) the mean over texts without those of image i, of values (M,)."""
    sums, counts = (torch.zeros(n, dtype=torch.float64).index_add(0, image_of_text, v) for v in _with_ones(values))
    return (values.double().sum() - sums) / (len(values) - counts)


def log_means_without(t: Tally) -> Tensor:
    """(N,) log of the mean of e^s over the negatives that stay without image i and its texts."""
    n = len(t.rows)
    largest = torch.maximum(t.rows.amax(), t.columns.amax())
    rows, columns = (t.rows - largest).exp(), (t.columns - largest).exp()
    gone = rows.index_add(0, t.image_of_text, columns)
    counts = t.row_counts.index_add(0, t.image_of_text, t.column_counts)
    left = (rows.sum() - gone).clamp_min(torch.finfo(torch.float64).tiny)
    if n < 3:
        raise ValueError(f"expected at least three images, got {n}")
    return left.log() + largest - (t.row_counts.sum() - counts).log()


def dv_without(t: Tally) -> Tensor:
    """(N,) `dv` without image i."""
    return means_without(t.positives, t.image_of_text, len(t.rows)) - log_means_without(t)


def nwj_without(t: Tally) -> Tensor:
    """(N,) `nwj` without image i."""
    return means_without(t.positives, t.image_of_text, len(t.rows)) - (log_means_without(t) - 1).exp()


def info_nce_without(scores: Tensor | ScoreTable, t: Tally) -> Tensor:
    """(N,) `info_nce` (both directions) without image i; one more pass over a table with one text per image.

    Raises:
        ValueError: for a table with several texts of one image.
    """
    table = as_table(scores)
    n, m = table.shape
    if n != m or not bool((t.image_of_text == torch.arange(n)).all()):
        raise ValueError(f"expected one text per image in order, got {n} images and {m} texts")
    log_rows = torch.logaddexp(t.positives, t.rows)  # denominators, the own pair included
    log_columns = torch.logaddexp(t.positives, t.columns)
    lost = torch.zeros(n, dtype=torch.float64)  # what the other pairs' denominators lose with image i
    for r, s, own in table.blocks():
        lost += _log_left(s - log_rows[r, None], own).sum(0)  # text i leaves the row of image k
        lost[r] += _log_left(s - log_columns, own).sum(1)  # image i leaves the column of text k
    others = log_rows + log_columns
    log_denominators = (others.sum() - others + lost) / 2
    return means_without(t.positives, t.image_of_text, n) - log_denominators / (n - 1) + math.log(n - 1)


def jackknife_bounds(scores: Tensor | ScoreTable, t: Tally) -> dict[str, tuple[Estimate, Tensor]]:
    """`info_nce`, `dv` and `nwj` of one table with intervals, each with its (N,) values without one image."""
    found = {"info_nce": (info_nce(t), info_nce_without(scores, t))}
    found |= {"dv": (dv(t), dv_without(t)), "nwj": (nwj(t), nwj_without(t))}
    return {name: (jackknife(value, without), without) for name, (value, without) in found.items()}


def _without_groups(order: Tensor, groups: int) -> list[Tensor]:
    """What stays, sorted, when one of the consecutive groups of an order is left out."""
    parts = order.chunk(min(groups, len(order)))
    return [torch.cat([p for j, p in enumerate(parts) if j != i]).sort().values for i in range(len(parts))]


def _log_left(log_shares: Tensor, own: Tensor) -> Tensor:
    """log(1 - share) of every negative, 0 for the own pair."""
    return torch.log1p(-log_shares.exp().clamp_max(1 - 1e-12)).masked_fill(own, 0)


def _with_ones(values: Tensor) -> tuple[Tensor, Tensor]:
    return values.double(), torch.ones_like(values, dtype=torch.float64)
