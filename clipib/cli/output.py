"""What people and pipelines see: tables, machine formats, progress. It formats; what is kept is up to the tasks."""

from __future__ import annotations

import csv
import io
import json
import os
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from clipib.cli.junit import junit
from clipib.cli.probe import by_shots, probe_of
from clipib.errors import UserError
from clipib.progress import Progress, counted
from clipib.tasks.results import Row, to_csv

if TYPE_CHECKING:
    from clipib.tasks.prepare import Outcome

USUAL = ("temperature=own",)  # params that a table does not show
QUIET_SECONDS = 20.0  # between plain lines of one job
MANY = 6  # more data sets than this share one table of their main metrics


def make_progress() -> Progress:
    """Live bars in a terminal; plain lines elsewhere and under CI=true."""
    live = sys.stderr.isatty() and os.environ.get("CI", "").lower() not in ("1", "true")
    return LiveProgress() if live else PlainProgress()


class PlainProgress(Progress):
    """One line per step on stderr."""

    def say(self, text: str) -> None:
        print(text, file=sys.stderr, flush=True)

    def warn(self, text: str) -> None:
        self.say(f"warning: {text}")

    @contextmanager
    def track(self, what: str, total: int, *, unit: str = "images") -> Iterator[Any]:
        start = time.monotonic()
        last, done, first = start - QUIET_SECONDS + 3.0, 0, None

        def advance(n: int = 1, /, note: str = "") -> None:
            nonlocal last, done, first
            done += n
            now = time.monotonic()
            first = first if first is not None else (now, done)
            if now - last >= QUIET_SECONDS and 0 < done < total:
                last = now
                self.say(
                    f"{what}: {done:,} of {total:,} {unit}{_left(first, now, done, total)}{', ' * bool(note)}{note}"
                )

        yield advance
        _say_done(self, what, done, total, unit, time.monotonic() - start)


class LiveProgress(Progress):
    """A Rich bar on stderr while a job runs, lines above it."""

    def __init__(self) -> None:
        from rich.console import Console

        self.console = Console(stderr=True, highlight=False)

    def say(self, text: str) -> None:
        self.console.print(text, markup=False, style="dim", soft_wrap=True)

    def warn(self, text: str) -> None:
        self.console.print(f"warning: {text}", markup=False, style="yellow", soft_wrap=True)

    @contextmanager
    def track(self, what: str, total: int, *, unit: str = "images") -> Iterator[Any]:
        from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeRemainingColumn
        from rich.progress import Progress as Bars

        columns = (
            TextColumn("{task.description}"),
            BarColumn(bar_width=None),
            MofNCompleteColumn(),
            TextColumn(unit),
            TimeRemainingColumn(),
            TextColumn("{task.fields[note]}"),
        )
        with Bars(*columns, console=self.console, transient=True) as bars:
            task = bars.add_task(what, total=total, note="")
            start = time.monotonic()

            def advance(n: int = 1, /, note: str | None = None) -> None:
                bars.update(task, advance=n, **({"note": note} if note else {}))

            yield advance
            done = bars.tasks[0].completed
        _say_done(self, what, int(done), total, unit, time.monotonic() - start)


def say_failures(outcome: Outcome, progress: Progress) -> None:
    """Name at the end, where it is seen, what could not be done under `--keep-going`."""
    if outcome.failures:
        progress.warn(f"{counted(len(outcome.failures), 'evaluation')} could not be done:")
    for failure in outcome.failures:
        progress.warn(f"- {failure}" + (f" {failure.error.hint}" if failure.error.hint else ""))


def print_rows(rows: Sequence[Row], format_: str) -> None:
    """The rows of one call on stdout; machine formats never pass through Rich."""
    if format_ == "csv":
        sys.stdout.write(to_csv(rows))
    elif format_ == "json":
        print(json.dumps([asdict(r) for r in rows], indent=2))
    elif format_ == "junit":
        sys.stdout.write(junit(rows))
    else:
        many = len({(r.model, r.pretrained, r.dataset) for r in rows}) > MANY
        for title, records in main_metrics(rows) if many else _by_data_set(rows):
            _print_records(records, format_, title=title)


def print_records(records: Sequence[dict[str, Any]], format_: str, *, title: str = "") -> None:
    """A plain table on stdout: of files, models, hits."""
    if format_ == "json":
        print(json.dumps(list(records), indent=2, default=str))
    elif format_ == "csv":
        out = io.StringIO()
        writer = csv.DictWriter(out, list(records[0]) if records else [], lineterminator="\n")
        writer.writeheader()
        writer.writerows(records)
        sys.stdout.write(out.getvalue())
    elif format_ == "junit":
        raise UserError("This command has no junit output.", hint="Use --format table, csv, json or md.")
    else:
        _print_records(records, format_, title=title)


def print_probed(probed: Sequence[Any], format_: str) -> None:
    """What the numbers say, under their table; machine formats leave it to the report beside the results."""
    if format_ not in ("table", "md"):
        return
    for found in probed:
        records = [{"test": f.test, "verdict": f.verdict, "what it says": f.words} for f in found.findings]
        _print_records(records, format_, title=f"{found.dataset}, {found.model}: {found.about}")


def main_metrics(rows: Sequence[Row]) -> Iterator[tuple[str, list[dict[str, Any]]]]:
    """Of many data sets one table per checkpoint, with the main metric of each."""
    groups: dict[tuple[str, str], list[dict[str, Any]]] = {}
    for row in rows:
        if row.is_main:
            interval = f"{row.ci_low:.4f} to {row.ci_high:.4f}" if row.ci_low is not None else ""
            record = {"data set": row.dataset, "main metric": row.metric, "value": _number(row.value)}
            record |= {"95 % interval": interval, "n": f"{row.n:,}" if row.n is not None else ""}
            groups.setdefault((row.model, row.pretrained), []).append(record)
    for (model, pretrained), records in groups.items():
        yield f"{model} ({pretrained}): main metrics; all stand in results.csv", records


def _by_data_set(rows: Sequence[Row]) -> Iterator[tuple[str, list[dict[str, Any]]]]:
    """One table per checkpoint and data set, one metric per line."""
    groups: dict[tuple, list[Row]] = {}
    for row in rows:
        pretrained = "" if row.command == "finetune" else row.pretrained
        groups.setdefault((row.model, pretrained, row.dataset, row.split, probe_of(row)), []).append(row)
    for (model, pretrained, dataset, split, probe), group in groups.items():
        title = (
            f"{dataset}{f' ({split})' * (not dataset.endswith(split))}, {model}{f' ({pretrained})' * bool(pretrained)}"
        )
        if group[0].limit:
            title += f", PARTIAL: a sample of {group[0].limit:,}"
        if probe and (shots := by_shots(group)):
            yield f"{title}: {probe} probe, tested on {group[0].n:,} images", shots
            continue
        staged = any("stage=" in r.params for r in group)
        yield title, _by_stage(group) if staged else _by_metric(group)


def _by_metric(group: Sequence[Row]) -> list[dict[str, Any]]:
    """Value and interval of each metric, the ceiling beside what it bounds."""
    ceilings = {_bounded(r): r.value for r in group if _bounded(r)}
    ties = any(r.n_ties for r in group)
    records = []
    for row in group:
        if _bounded(row):
            continue
        params = ";".join(p for p in row.params.split(";") if p not in USUAL)
        record = {"metric": row.metric + (f" ({params})" if params else ""), "value": _number(row.value)}
        record["95 % interval"] = f"{row.ci_low:.4f} to {row.ci_high:.4f}" if row.ci_low is not None else ""
        if ceilings:
            record["ceiling"] = _number(ceilings.get((row.metric, row.params)))
        record["n"] = f"{row.n:,}" if row.n is not None else ""
        records.append({**record, "ties": f"{row.n_ties:,}" if row.n_ties else ""} if ties else record)
    return records


def _by_stage(group: Sequence[Row]) -> list[dict[str, Any]]:
    """The stages of a training run side by side."""
    records: dict[tuple[str, str], dict[str, Any]] = {}
    for row in group:
        params = dict(p.split("=", 1) for p in row.params.split(";"))
        stage = params.pop("stage")
        rest = ";".join(f"{k}={v}" for k, v in params.items())
        name = row.metric + (f" ({rest})" if rest else "")
        records.setdefault((row.metric, rest), {"metric": name})[stage] = _number(row.value)
    return list(records.values())


def _bounded(row: Row) -> tuple[str, str] | None:
    """The metric and params that a row is the ceiling of, or None where it is no ceiling."""
    if row.metric.endswith("_bayes"):
        return row.metric[: -len("_bayes")], row.params
    if "scores=true_pmi" in row.params:
        rest = [p for p in row.params.split(";") if p not in ("scores=true_pmi", "ties=expected")]
        return row.metric, ";".join(rest)
    return None


def _print_records(records: Sequence[dict[str, Any]], format_: str, *, title: str) -> None:
    names = list(records[0]) if records else []
    if format_ == "md":
        if title:
            print(f"**{title}**\n")
        print("| " + " | ".join(names) + " |\n|" + " --- |" * len(names))
        for record in records:
            cells = (str(record[n]).replace("|", "\\|").replace("\n", "<br>") for n in names)
            print("| " + " | ".join(cells) + " |")
        print()
        return
    from rich import box
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    console = Console(highlight=False)
    if title:
        console.print(Text(title, style="bold"), soft_wrap=True)
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    for name in names:
        right = all(_is_number(r[name]) for r in records)
        table.add_column(name, justify="right" if right else "left", overflow="fold")
    for record in records:
        table.add_row(*(Text("" if record[n] is None else str(record[n])) for n in names))
    console.print(table)


def _is_number(cell: Any) -> bool:
    text = "" if cell is None else str(cell)
    return not text.strip("0123456789.,-")


def _number(value: float | None) -> str:
    return "" if value is None else f"{value:.4f}"


def _say_done(progress: Progress, what: str, done: int, total: int, unit: str, seconds: float) -> None:
    """What a job came to; nothing of one that had nothing to do."""
    if total:
        progress.say(f"{what}: {done:,} {unit.removesuffix('s') if done == 1 else unit} in {_duration(seconds)}")


def _left(first: tuple[float, int], now: float, done: int, total: int) -> str:
    """The time left, from the pace since the first units were done."""
    if done <= first[1] or now <= first[0]:
        return ""
    return f", about {_duration((now - first[0]) / (done - first[1]) * (total - done))} left"


def _duration(seconds: float) -> str:
    if seconds < 90:
        return f"{seconds:.1f} s" if seconds < 10 else f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5_400 else f"{seconds / 3600:.1f} h"
