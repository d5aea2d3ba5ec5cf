"""Suites of registry entries: what one will cost before it starts, and its average afterwards."""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING

from clipib.data.catalog import CATALOG, Entry, download_size, suite_sha256
from clipib.data.specs import Spec
from clipib.files import size_text
from clipib.progress import Progress, counted
from clipib.tasks.results import Row, join_params

if TYPE_CHECKING:
    from clipib.tasks.prepare import RunContext


def announce_suites(specs: list[Spec], progress: Progress) -> None:
    """Say of each suite how many data sets it has, its hash, what it downloads at most, and what cannot be run."""
    for suite in dict.fromkeys(s.suite for s in specs if s.suite):
        names = dict.fromkeys(s.argument for s in specs if s.suite == suite)
        run = [CATALOG[n] for n in names if not CATALOG[n].not_runnable]
        n_bytes, unknown = download_size(e.name for e in run)
        size = size_text(n_bytes) if n_bytes else "of unknown size"
        size += f" for {len(run) - unknown} of {len(run)} whose size is known" if n_bytes and unknown else ""
        progress.say(
            f"suite {suite}: {counted(len(names), 'data set')} (hash {suite_sha256(names)[:12]}), "
            f"{counted(_n_images(run), 'image')}; download {size}; what lies here already costs nothing"
        )
        for entry in (CATALOG[n] for n in names if CATALOG[n].not_runnable):
            progress.say(f"{entry.name}: not runnable: {entry.not_runnable}")


def say_duration(specs: list[Spec], seconds_per_image: float | None, progress: Progress) -> None:
    """Say how long encoding all images of the suites may take."""
    names = dict.fromkeys(s.argument for s in specs if s.suite and not CATALOG[s.argument].not_runnable)
    if names and seconds_per_image:
        seconds = _n_images([CATALOG[n] for n in names]) * seconds_per_image
        progress.say(f"encoding all of it would take about {_hours(seconds)} ({1 / seconds_per_image:,.0f} images/s)")


def _n_images(entries: list[Entry]) -> int:
    return sum(e.counts.get(e.split, 0) for e in entries)


def average_rows(run: RunContext, specs: list[Spec], rows: list[Row], progress: Progress) -> list[Row]:
    """The mean of the main metrics of each suite, over those entries that gave one.

    Returns:
        One row per suite, `average_main_metric`; its params say over how many of how many entries.
    """
    averages = []
    for suite in dict.fromkeys(s.suite for s in specs if s.suite):
        members = {(s.argument, s.split or "test") for s in specs if s.suite == suite}
        inside = [r for r in rows if (r.dataset, r.split) in members]
        values: dict[tuple[str, str], list[float]] = {}
        for row in (r for r in inside if r.is_main):
            values.setdefault((row.dataset, row.split), []).append(row.value)
        if not values:
            continue
        means = [sum(v) / len(v) for v in values.values()]  # the two directions of retrieval count as one
        inside = [r for r in inside if (r.dataset, r.split) in values]
        averages.append(
            Row(
                **{
                    **run.blank(),
                    "dataset": f"suite:{suite}",
                    "split": "",
                    "metric": "average_main_metric",
                    "params": run.params(join_params({"of": len(members), "over": len(means), **_overlap(inside)})),
                    "value": sum(means) / len(means),
                    "n": len(means),
                    "n_bad": sum(r.n_bad for r in inside if r.is_main),
                    "is_main": True,
                    "data_sha256": _joined({(r.dataset, r.split, r.data_sha256) for r in inside}),
                    "prompts_sha256": _joined(
                        {(r.dataset, r.split, r.prompts_sha256) for r in inside if r.prompts_sha256}
                    ),
                    "limit": next((r.limit for r in inside if r.limit), None),
                }
            )
        )
        progress.say(f"suite {suite}: average of the main metrics over {len(means)} of {len(members)} data sets")
    return averages


def _overlap(rows: list[Row]) -> dict[str, str]:
    """The worst mark of the members: one that was trained on, else one that chose the checkpoint."""
    marks = [mark for mark in ("train", "val") if any(f"overlap={mark}" in r.params.split(";") for r in rows)]
    return {"overlap": marks[0]} if marks else {}


def _joined(hashes: set[tuple[str, ...]]) -> str:
    return hashlib.sha256(repr(sorted(hashes)).encode()).hexdigest() if hashes else ""


def _hours(seconds: float) -> str:
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5_400 else f"{seconds / 3_600:.1f} h"
