"""`clipib report`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from clipib.cli import options as o
from clipib.cli.output import make_progress

EXAMPLES = """Examples:

clipib report runs/zeroshot runs/retrieve --out report.html

clipib report runs/new --baseline runs/old --data-root data"""


def register(app: typer.Typer) -> None:
    app.command(epilog=EXAMPLES)(report)


def report(
    runs: Annotated[list[Path], typer.Argument(help="Folders that --out of an evaluation named.", show_default=False)],
    out: Annotated[Path, typer.Option("--out", "-o", help="The page.", rich_help_panel=o.OUTPUT)] = Path("report.html"),
    baseline: Annotated[
        Path | None,
        typer.Option(help="The run that differences are to.", show_default="the first RUN", rich_help_panel=o.OUTPUT),
    ] = None,
    data_root: o.DataRoot = None,
    seed: Annotated[
        int, typer.Option(min=0, help="Of the bootstrap behind some intervals.", rich_help_panel=o.OUTPUT)
    ] = 0,
) -> None:
    """Write one HTML page about runs: metrics, differences, classes, confusion, worst and flipped samples."""
    progress = make_progress()
    from clipib.tasks.report import report as run

    print(run(runs, out=out, baseline=baseline, data_root=data_root, seed=seed, progress=progress).path)
