"""A verdict: one gate, and what became of it."""

from __future__ import annotations

import math
from typing import Any, NamedTuple

from clipib.tasks.results import Row
from clipib.tasks.runs import CheckpointName

PASSED, FAILED, NO_ROW, NO_TEST = "passed", "failed", "no row", "no test"
ON_COMMON = "on the samples that both have"  # a passed gate says so too


class Verdict(NamedTuple):
    """One gate and what became of it.

    gate: UNDER, OVER, MAX_DROP, SIGNIFICANT, NON_INFERIOR or COMPLETE.
    difference: value - baseline; low, high: its interval at level 1 - 2 alpha, whose ends are one-sided bounds.
    margin: the threshold, or by how much worse the value may be.
    verdict: PASSED, FAILED, NO_ROW where a row or its value is missing, NO_TEST where the samples allow none.
    """

    model: str
    pretrained: str
    checkpoint_sha256: str
    dataset: str
    split: str
    metric: str
    params: str
    gate: str
    baseline: float | None
    value: float | None
    difference: float | None
    low: float | None
    high: float | None
    alpha: float | None
    margin: float | None
    verdict: str
    words: str


def make_verdict(
    checkpoint: CheckpointName, gate: str, margin: float | None, verdict: str, words: str, **found: Any
) -> Verdict:
    """A verdict with what was found; the rest of its columns is empty."""
    blank = dict.fromkeys(Verdict._fields) | dict.fromkeys(("dataset", "split", "metric", "params"), "")
    named = {"model": checkpoint.model, "pretrained": checkpoint.pretrained, "checkpoint_sha256": checkpoint.sha256}
    own = {"gate": gate, "margin": margin, "verdict": verdict, "words": words}
    return Verdict(**{**blank, **named, **own, **found})


def place_of(row: Row) -> dict[str, str]:
    """The columns that a verdict shares with the row that it is on."""
    return {"dataset": row.dataset, "split": row.split, "metric": row.metric, "params": row.params}


def finite(value: float | None) -> float | None:
    """The number, or None for one that is missing or is none: nothing can be judged by it."""
    return value if value is not None and math.isfinite(value) else None
