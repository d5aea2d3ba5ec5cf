"""What commands with gates share: the plan before the run, and the verdicts after it, in every format."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from clipib.cli.junit import junit
from clipib.cli.options import GATE_OPTIONS, split_commas
from clipib.cli.output import main_metrics, print_records, print_rows
from clipib.errors import UserError
from clipib.progress import SILENT, Progress, counted
from clipib.tasks.results import GATES_FILE, Row

if TYPE_CHECKING:
    from clipib.tasks.gates import Gates
    from clipib.tasks.verdicts import Verdict

SHOWN_WORDS = {"passed": "passed", "failed": "FAILED", "no row": "NO ROW", "no test": "NO TEST"}
KINDS = {"max-drop significant": ("max-drop", "(if proved)")}


def planned_gates(ctx: typer.Context, command: str, datasets: str | Sequence[str] = (), **asked: Any) -> Gates | None:
    """The gates that the options of a call ask for, checked before it runs; None where there are none.

    Args:
        asked: what else the run is asked for, see `clipib.tasks.gates.plan_gates`.
    """
    given = {k: ctx.params[k] for k in GATE_OPTIONS}
    asked_for = [v for k, v in given.items() if k != "alpha" and v is not None and v is not False and v != []]
    if not asked_for:
        return None
    from clipib.tasks.gates import plan_gates

    given["gate_metrics"] = split_commas(given["gate_metrics"])
    return plan_gates(command, datasets, **asked, **given)


def print_judged(
    gates: Gates | None,
    rows: Sequence[Row],
    out: Path,
    format_: str,
    *,
    failed: Sequence[tuple[str, str]] = (),
    seed: int = 0,
    progress: Progress = SILENT,
) -> int:
    """Print the rows of a run, its verdicts after them, keep these in `OUT/gates.csv`, and give back the exit code.

    Args:
        failed: what could not be computed, and why.
    """
    (out / GATES_FILE).unlink(missing_ok=True)  # it would be taken for that of this call
    if gates is None:
        print_plain(rows, format_, failed)
        return 3 if failed else 0
    from clipib.tasks.verdicts import exit_code, judge, save_verdicts

    try:
        verdicts = judge(gates, rows, out, seed=seed, partial=bool(failed), progress=progress)
    except UserError as error:
        print_plain(rows, format_, [*failed, ("gates", error.message)])
        raise
    save_verdicts(verdicts, out)
    print_verdicts(rows, verdicts, format_, failed=failed)
    return exit_code(verdicts, bool(failed))


def print_plain(rows: Sequence[Row], format_: str, failed: Sequence[tuple[str, str]]) -> None:
    """The rows of a run without verdicts; in JUnit also what went wrong."""
    if format_ == "junit":
        sys.stdout.write(junit(rows, failed=failed))
    else:
        print_rows(rows, format_)


def print_verdicts(
    rows: Sequence[Row],
    verdicts: Sequence[Verdict],
    format_: str,
    *,
    failed: Sequence[tuple[str, str]] = (),
) -> None:
    """Rows and verdicts on stdout; as CSV the rows alone, the verdicts stand in `gates.csv`."""
    if format_ == "json":
        print(json.dumps({"rows": [asdict(r) for r in rows], "gates": [v._asdict() for v in verdicts]}, indent=2))
    elif format_ == "junit":
        sys.stdout.write(junit(rows, verdicts, failed=failed))
    elif format_ == "md":
        _print_summary(rows, verdicts, failed)
    else:
        print_rows(rows, format_)
        if format_ == "table":
            print_gates(verdicts)


def print_gates(verdicts: Sequence[Verdict]) -> None:
    """The gates for people, and in words those that did not pass, or passed on a part of the samples."""
    _print_tables(verdicts, "table")
    several = len({v.checkpoint_sha256 for v in verdicts}) > 1
    for verdict in verdicts:
        if _needs_words(verdict):
            of = f" of {verdict.model} ({verdict.pretrained})" if several else ""
            print(f"{SHOWN_WORDS[verdict.verdict]}  {key_of(verdict)}{of}: {verdict.words}")


def _needs_words(verdict: Verdict) -> bool:
    from clipib.tasks.judged import ON_COMMON

    return verdict.verdict != "passed" or ON_COMMON in verdict.words


def _print_tables(verdicts: Sequence[Verdict], format_: str) -> None:
    """A table of gates for each checkpoint."""
    groups: dict[tuple[str, str, str], list[Verdict]] = {}
    for verdict in verdicts:
        groups.setdefault((verdict.model, verdict.pretrained, verdict.checkpoint_sha256), []).append(verdict)
    for (model, pretrained, _), group in groups.items():
        title = f"gates of {model}{f' ({pretrained})' * bool(pretrained)}" if model else "gates"
        alphas = {v.alpha for v in group if v.alpha is not None}
        title += f"; {100 * (1 - 2 * alphas.pop()):g} % intervals" if alphas else ""
        print_records([_record(v, narrow=format_ == "table") for v in group], format_, title=title)


def key_of(verdict: Verdict) -> str:
    """The gate's own spelling of its row."""
    return ".".join(filter(None, (verdict.dataset, _metric_of(verdict)))) or verdict.gate


def _metric_of(verdict: Verdict) -> str:
    params = verdict.params.replace("stage=best", "").strip(";")  # the only stage that is gated
    return verdict.metric + (f"({params})" if params else "")


def _record(verdict: Verdict, *, narrow: bool) -> dict[str, Any]:
    """One gate; in a terminal, which has 80 columns, the margin stands beside the gate's kind."""
    kind, how = KINDS.get(verdict.gate, (verdict.gate, ""))
    margin = "" if verdict.margin is None else f"{verdict.margin:g}"
    told = " ".join(filter(None, (kind, margin if narrow else "", how)))
    interval = f"{verdict.low:+.4f} to {verdict.high:+.4f}" if verdict.low is not None else ""
    return {
        "gate": "\n".join(filter(None, (verdict.dataset, _metric_of(verdict), told))),
        "baseline": _number(verdict.baseline),
        "value": _number(verdict.value),
        "difference": "" if verdict.difference is None else f"{verdict.difference:+.4f}\n{interval}".strip(),
        **({} if narrow else {"margin": margin}),
        "verdict": SHOWN_WORDS[verdict.verdict],
    }


def _number(value: float | None) -> str:
    return "" if value is None else f"{value:.4f}"


def _print_summary(rows: Sequence[Row], verdicts: Sequence[Verdict], failed: Sequence[tuple[str, str]]) -> None:
    """Markdown for the summary of a pipeline's job: what became of it first, what it was held to, what it measured."""
    counts = {w: sum(v.verdict == w for v in verdicts) for w in SHOWN_WORDS}
    rest = [f"{n} {word}" for word, n in counts.items() if n and word != "passed"]
    told = ", ".join([f"{counts['passed']} of {counted(len(verdicts), 'gate')} passed", *rest])
    print(f"### clipib: {told}\n")
    for verdict in verdicts:
        if _needs_words(verdict):
            print(f"- **{SHOWN_WORDS[verdict.verdict]}** `{key_of(verdict)}`: {verdict.words}")
    for name, why in failed:
        print(f"- **NOT DONE** `{name}`: {why}")
    if failed or any(map(_needs_words, verdicts)):
        print()
    _print_tables(verdicts, "md")
    for title, records in main_metrics(rows):
        print_records(records, "md", title=title)
