"""One self-contained HTML page about finished runs: checkpoints by data sets, classes, confusion, samples, settings."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from clipib.errors import UserError
from clipib.files import size_text, write_aside
from clipib.progress import SILENT, Progress, counted
from clipib.tasks.contenders import Contender, Key, compare_all, contenders_of, params_of
from clipib.tasks.markup import Html, tag
from clipib.tasks.pictures import Pictures
from clipib.tasks.report_details import dataset_section
from clipib.tasks.report_gates import gates_section
from clipib.tasks.report_page import (
    Deltas,
    anchor,
    contender_list,
    headline,
    metric_table,
    name_of,
    page,
    settings_section,
)
from clipib.tasks.runs import Run, read_run


class Report(NamedTuple):
    """Where the page lies, and what it tells of."""

    path: Path
    checkpoints: int
    datasets: int
    n_bytes: int


def report(
    runs: str | Path | Sequence[str | Path],
    *,
    out: str | Path = "report.html",
    baseline: str | Path | None = None,
    data_root: str | Path | None = None,
    seed: int = 0,
    progress: Progress = SILENT,
) -> Report:
    """Write a page that sets the checkpoints of one or several runs side by side.

    Differences are to the first checkpoint of the baseline, joined sample by sample where both runs keep their samples.

    Args:
        runs: folders that `--out` of an evaluation named.
        out: the page, one file that needs no other.
        baseline: a run; left out, the first of `runs`.
        data_root: folder of local copies by name, for the pictures; left out, that of each run. Nothing is fetched.
        seed: of the bootstrap behind some intervals.

    Raises:
        UserError: when a run is missing or has no rows, or the page cannot be written.
    """
    paths = [runs] if isinstance(runs, str | Path) else list(runs)
    if not paths and not baseline:
        raise UserError("No run is named.", hint="Name folders that --out has written: clipib report runs/zeroshot.")
    named = [*([baseline] if baseline else []), *paths]
    distinct: dict[Path, str | Path] = {}
    for path in named:
        distinct.setdefault(Path(path).resolve(), path)
    found = [read_run(path) for path in distinct.values()]
    out = Path(out)
    if out.is_dir():
        raise UserError(f"'{out}' is a folder.", hint=f"Name a file: --out {out / 'report.html'}.")
    for run in found:
        if run.status == "running":
            progress.warn(f"'{run.path}' is not finished, or was cut off: the page tells of what stands in its rows")
    contenders = contenders_of(found)
    deltas = compare_all(contenders, seed=seed, progress=progress)
    text = _page(found, contenders, deltas, Pictures(data_root), progress)
    out.parent.mkdir(parents=True, exist_ok=True)
    write_aside(out, lambda file: file.write(text.encode()))
    datasets = {(key.dataset, key.split) for c in contenders for key in c.cells}
    n_bytes = len(text.encode())
    progress.say(f"report of {counted(len(contenders), 'checkpoint')} in {out} ({size_text(n_bytes)})")
    return Report(out, len(contenders), len(datasets), n_bytes)


def _page(
    runs: Sequence[Run], contenders: Sequence[Contender], deltas: Deltas, pictures: Pictures, progress: Progress
) -> str:
    keys = sorted(dict.fromkeys(key for c in contenders for key in c.cells), key=_shots)
    by_dataset: dict[tuple[str, str], list[Key]] = {}
    for key in keys:
        by_dataset.setdefault((key.dataset, key.split), []).append(key)
    main = [key for group in by_dataset.values() for key in _main(group, contenders)]
    sections = []
    with progress.track("describing", len(by_dataset), unit="data sets") as advance:
        for group in by_dataset.values():
            sections.append(dataset_section(group, contenders, deltas, pictures))
            advance()
    title = f"{counted(len(contenders), 'checkpoint')} on {counted(len(by_dataset), 'data set')}"
    words = [headline(_main(group, contenders), contenders, deltas) for group in by_dataset.values()]
    links = [(f"#{anchor(group[0])}", name_of(*name)) for name, group in by_dataset.items()]
    gates = gates_section(runs)
    links += [("#gates", "Gates")] if gates else []
    return page(
        title,
        tag("h1", title),
        contender_list(contenders),
        _remarks(runs, contenders),
        tag("div", words, class_="lead"),
        tag("nav", [tag("a", text, href=href) for href, text in [*links, ("#settings", "Settings and hashes")]]),
        gates,
        tag("h2", "Main metrics"),
        metric_table(main, contenders, deltas, by_dataset=True, caption=_caption(contenders)),
        sections,
        settings_section(runs, contenders),
    )


def _main(keys: Sequence[Key], contenders: Sequence[Contender]) -> list[Key]:
    """The metrics that speak for a data set; the first where none is marked, of probes that of most shots."""
    marked = [k for k in keys if any(k in c.cells and c.cells[k].is_main for c in contenders)]
    return marked or [max(keys, key=_shots)]


def _shots(key: Key) -> tuple[str, float]:
    """The place of a probe's line among others: after those that are of none, few shots first."""
    params = params_of(key.params)
    shots = params.get("shots", "") if "probe" in params else "0"
    return params.get("probe", ""), float(shots) if shots.isdecimal() else math.inf


def _caption(contenders: Sequence[Contender]) -> str:
    drawn = any("seeds" in params_of(row.params) for c in contenders for row in c.cells.values())
    draws = " Of few shots: mean and interval over draws of the training images, not over test images." * drawn
    if len(contenders) == 1:
        return f"Value and 95 % interval.{draws}"
    return (
        f"Value, 95 % interval, and below it the difference to {contenders[0].letter} with its paired 95 % interval; "
        "▲ or ▼ where p is at most 0.05, adjusted over the data sets of each metric (Benjamini and Hochberg). Each "
        f"interval is for its own number, not for all of them at once.{draws}"
    )


def _remarks(runs: Sequence[Run], contenders: Sequence[Contender]) -> list[Html]:
    """What a reader must know before the numbers."""
    remarks = [f"{run.path} is not finished, or was cut off." for run in runs if run.status == "running"]
    for c in contenders:
        if any(row.limit for row in c.cells.values()):
            remarks.append(f"{c.letter} has numbers of samples of data sets; they are marked as partial.")
        if c.older:
            remarks.append(f"{c.letter}: {counted(c.older, 'older row')} with other data or prompts not shown.")
    return [tag("p", remark, class_="warn") for remark in remarks]
