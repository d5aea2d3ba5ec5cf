"""`clipib gate`."""

from __future__ import annotations

import contextlib
import sys
from pathlib import Path
from typing import Annotated

import typer

from clipib.cli import options as o
from clipib.cli.gated import planned_gates, print_gates, print_plain, print_verdicts
from clipib.cli.output import make_progress
from clipib.errors import UserError

EXAMPLES = """Examples:

clipib gate runs/b --fail-under "cifar10.acc1=0.88, flickr30k.image_retrieval_recall@1=0.58"

clipib gate runs/b --baseline runs/main --max-drop 0.003 --significant --format md"""


def register(app: typer.Typer) -> None:
    app.command(epilog=EXAMPLES)(gate)


def gate(
    ctx: typer.Context,
    run: Annotated[Path, typer.Argument(help="Folder that --out of an evaluation has written.")],
    checkpoint: Annotated[
        str | None, typer.Option(help="Which checkpoint of RUN: part of its name or hash.", rich_help_panel=o.GATES)
    ] = None,
    fail_under: o.FailUnder = [],  # noqa: B006
    fail_over: o.FailOver = [],  # noqa: B006
    baseline: o.BaselineRun = None,
    baseline_checkpoint: o.BaselineCheckpoint = None,
    max_drop: o.MaxDrop = None,
    significant: o.Significant = False,
    non_inferior: o.NonInferior = None,
    alpha: o.Alpha = 0.05,
    require_complete: o.RequireComplete = False,
    gate_metrics: o.GateMetrics = [],  # noqa: B006
    seed: Annotated[int, typer.Option(min=0, help="Of the bootstrap.", rich_help_panel=o.GATES)] = 0,
    format_: o.Format = "table",
) -> None:
    """Hold a finished run to thresholds and to a baseline: exit 1 exactly when a gate fails."""
    progress = make_progress()
    from clipib.tasks.asked import read_asked
    from clipib.tasks.results import CSV_FILE
    from clipib.tasks.runs import read_run, rows_of_checkpoint
    from clipib.tasks.verdicts import exit_code, judge, save_verdicts, to_csv

    found = read_run(run)
    # Of one folder two checkpoints may be compared, but not one with itself.
    gates = planned_gates(ctx, "", out=run if baseline_checkpoint is None else None)
    if gates is None:
        hint = 'Add --fail-under "DATASET.METRIC=VALUE", or --baseline RUN --max-drop 0.003 --significant.'
        raise UserError("No gate is given.", hint=hint)
    if found.status == "running":
        progress.warn(f"'{run}' is not finished, or was cut off")
    folder = found.samples.parent
    partial = read_asked(folder).partial
    if partial:
        progress.warn(f"'{run}' is partial: some of what it was asked for could not be evaluated")
    rows = rows_of_checkpoint(found, checkpoint, flag="--checkpoint") if checkpoint else found.rows
    try:
        verdicts = judge(gates, rows, folder, seed=seed, progress=progress)
    except UserError as error:
        if format_ == "junit":  # readers of reports see the trouble too
            print_plain(rows, format_, [("gates", error.message)])
        raise
    if run.is_dir() or run.name == CSV_FILE:
        with contextlib.suppress(OSError):  # a run may lie where nobody writes
            save_verdicts(verdicts, folder)
    if format_ == "csv":
        sys.stdout.write(to_csv(verdicts))
    elif format_ == "table":
        print_gates(verdicts)
    else:
        print_verdicts(rows, verdicts, format_)
    if code := exit_code(verdicts, partial):
        raise typer.Exit(code)
