"""Verdicts of many differences at once: p values adjusted over the data sets of each metric."""

from __future__ import annotations

from collections.abc import Hashable, Sequence

from clipib.metrics.catalog import HIGHER, metric_of
from clipib.metrics.multiple import benjamini_hochberg
from clipib.tasks.results import Row

BETTER, WORSE, NOT_SHOWN = "better", "worse", "no difference shown"


def family_of(a: Row, b: Row) -> tuple[str, ...]:
    """What rows share whose p values are adjusted together: all but the data, to test on and to learn from."""
    both = b.params.split(";")
    params = [p for p in a.params.split(";") if p in both and not p.startswith("train=")]
    return a.command, a.protocol, a.metric, ";".join(params)


def adjust_over_datasets(p: Sequence[float | None], families: Sequence[Hashable]) -> list[float | None]:
    """P values adjusted by Benjamini and Hochberg within each family; None stays None and does not count.

    Example:
        >>> adjust_over_datasets([0.01, 0.04, None, 0.04], ["acc1", "acc1", "acc1", "acc5"])
        [0.02, 0.04, None, 0.04]
    """
    members: dict[Hashable, list[int]] = {}
    for i, family in enumerate(families):
        if p[i] is not None:
            members.setdefault(family, []).append(i)
    adjusted: list[float | None] = [None] * len(p)
    for places in members.values():
        for i, q in zip(places, benjamini_hochberg([p[i] for i in places]), strict=True):
            adjusted[i] = float(q)
    return adjusted


def verdict_of(metric: str, difference: float | None, p: float, *, alpha: float = 0.05) -> str:
    """Whether a difference is shown at all, and if so whether it is for the better.

    Args:
        difference: new - old. p: of no difference, adjusted.

    Example:
        >>> verdict_of("acc1", 0.1, 0.01), verdict_of("nll", 0.1, 0.01), verdict_of("acc1", 0.1, 0.06)
        ('better', 'worse', 'no difference shown')
    """
    if p > alpha or not difference:
        return NOT_SHOWN
    return BETTER if (difference > 0) == (metric_of(metric).better == HIGHER) else WORSE
