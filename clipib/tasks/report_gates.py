"""The gates of a report, as they were judged: the verdict first, and why."""

from __future__ import annotations

import csv
import math
from collections.abc import Iterable, Mapping, Sequence

from clipib.tasks.markup import Html, breakable, join, table, tag
from clipib.tasks.report_page import metric_name, name_of, number, signed
from clipib.tasks.results import GATES_FILE
from clipib.tasks.runs import Run

HEADER = ("verdict", "what", "gate", "baseline", "value", "difference")
Record = Mapping[str, str | None]  # a line of gates.csv


def gates_section(runs: Iterable[Run]) -> list[Html]:
    """The gates that lie in the runs' folders."""
    found = []
    for run in runs:
        try:
            with (run.samples.parent / GATES_FILE).open(encoding="utf-8", newline="") as file:
                records = list(csv.DictReader(file))
        except (OSError, csv.Error, UnicodeDecodeError):
            continue
        if records:
            found.append(_table(run, records))
    return [tag("h2", "Gates", id="gates"), *found] if found else []


def _table(run: Run, records: Sequence[Record]) -> Html:
    """One line a gate; what no gate has is no column, and one checkpoint is named above the table."""
    checkpoints = list(dict.fromkeys(_checkpoint(r) for r in records))
    lone = len(checkpoints) == 1
    named = f", {checkpoints[0]}" if lone and checkpoints[0] else ""
    lines = [_line(record, with_checkpoint=not lone) for record in records]
    shown = [i for i in range(len(HEADER)) if i < 3 or any(line[i] for line in lines)]
    header, lines = [HEADER[i] for i in shown], [[line[i] for i in shown] for line in lines]
    return tag("div", table(header, lines, left=3, caption=f"Gates of {run.path}{named}"), class_="gates")


def _line(record: Record, *, with_checkpoint: bool) -> list[Html | str]:
    verdict = record.get("verdict") or ""
    mark, kind = ("✓", "better") if verdict == "passed" else ("✗", "worse")
    dataset = name_of(record.get("dataset") or "", record.get("split") or "")
    metric = metric_name(record.get("metric") or "", record.get("params") or "")
    margin = _number(record, "margin")
    return [
        join([tag("span", f"{mark} {verdict}", class_=kind), _small(record.get("words"))]),
        join([breakable(dataset), _small(metric), _small(_checkpoint(record) if with_checkpoint else "")]),
        f"{record.get('gate') or ''}" + (f" {margin:g}" if margin is not None else ""),
        number(_number(record, "baseline")),
        number(_number(record, "value")),
        _difference(record),
    ]


def _difference(record: Record) -> Html | str:
    value, low, high = (_number(record, column) for column in ("difference", "low", "high"))
    if value is None:
        return ""
    return join([signed(value), _small(f"{signed(low)} to {signed(high)}" if None not in (low, high) else "")])


def _checkpoint(record: Record) -> str:
    model, pretrained = record.get("model") or "", record.get("pretrained") or ""
    return f"{model} ({pretrained})" if model and pretrained else model or pretrained


def _small(text: str | None) -> Html | None:
    return tag("small", breakable(text)) if text else None


def _number(record: Record, column: str) -> float | None:
    """A cell as a number; None where it is empty or no finite one."""
    try:
        value = float(record.get(column) or "")
    except ValueError:
        return None
    return value if math.isfinite(value) else None
