"""Suites of registry entries: what one will cost before it starts, and its average afterwards."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from typing import TYPE_CHECKING

from clipib.data.catalog import CATALOG, suite_sha256
from clipib.data.specs import Spec
from clipib.files import size_text
from clipib.progress import Progress, counted
from clipib.tasks.results import Row, join_params

if TYPE_CHECKING:
    from clipib.tasks.prepare import RunContext


def runnable(specs: Iterable[Spec]) -> list[Spec]:
    """Without the entries of suites whose files cannot be read; one that was named by itself stays."""
    return [s for s in specs if not (s.suite and CATALOG[s.argument].not_runnable)]


def announce_suites(specs: list[Spec], progress: Progress, *, seconds_per_image: float | None = None) -> None:
    """Say of each suite how many data sets it has, its hash, what it downloads at most and how long it may take."""
    for suite in dict.fromkeys(s.suite for s in specs if s.suite):
        entries = [CATALOG[s.argument] for s in specs if s.suite == suite]
        left_out = [e for e in entries if e.not_runnable]
        n_images = sum(e.counts.get(e.split, 0) for e in entries if not e.not_runnable)
        sizes = [e.size_bytes.get(e.split, 0) for e in entries if not e.not_runnable]
        known = [s for s in sizes if s]
        size = f"{size_text(sum(known))}" if known else "not known"
        size += f" for {len(known)} of {len(sizes)} whose size is known" if len(known) < len(sizes) else ""
        time = f"; at most {_hours(n_images * seconds_per_image)} of encoding" if seconds_per_image else ""
        frozen = suite_sha256(e.name for e in entries)[:12]
        progress.say(
            f"suite {suite}: {counted(len(entries), 'data set')} (hash {frozen}), "
            f"{counted(n_images, 'image')}; download {size}{time}; what is stored already costs nothing"
        )
        for entry in left_out:
            progress.say(f"{entry.name}: not runnable: {entry.not_runnable}")


def average_rows(run: RunContext, specs: list[Spec], rows: list[Row], progress: Progress) -> list[Row]:
    """The mean of the main metrics of each suite, over those entries that gave one.

    Returns:
        One row per suite, `average_main_metric`; its params say over how many of how many entries.
    """
    averages = []
    for suite in dict.fromkeys(s.suite for s in specs if s.suite):
        names = [s.argument for s in specs if s.suite == suite]
        values: dict[str, list[float]] = {}
        for row in rows:
            if row.dataset in names and row.is_main:
                values.setdefault(row.dataset, []).append(row.value)
        if not values:
            continue
        means = [sum(v) / len(v) for v in values.values()]  # the two directions of retrieval count as one
        inside = [r for r in rows if r.dataset in values]
        averages.append(
            Row(
                **{
                    **run.blank(),
                    "dataset": f"suite:{suite}",
                    "split": "",
                    "metric": "average_main_metric",
                    "params": run.params(join_params({"of": len(names), "over": len(means)})),
                    "value": sum(means) / len(means),
                    "n": len(means),
                    "is_main": True,
                    "data_sha256": _joined({(r.dataset, r.data_sha256) for r in inside}),
                    "prompts_sha256": _joined({(r.dataset, r.prompts_sha256) for r in inside if r.prompts_sha256}),
                    "limit": inside[0].limit,
                }
            )
        )
        progress.say(f"suite {suite}: average of the main metrics over {len(means)} of {len(names)} data sets")
    return averages


def _joined(hashes: set[tuple[str, str]]) -> str:
    return hashlib.sha256(repr(sorted(hashes)).encode()).hexdigest() if hashes else ""


def _hours(seconds: float) -> str:
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5_400 else f"{seconds / 3_600:.1f} h"
