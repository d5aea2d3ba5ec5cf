"""`clipib ib-analyze`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from clipib.cli import options as o
from clipib.cli.output import make_progress, print_probed, print_rows

EXAMPLES = """Examples:

clipib ib-analyze --model runs/demo/clip/best,runs/demo/cibr/best --data digitworld

clipib ib-analyze --model runs/a/best --data csv:coco/captions.csv --attributes camera,text:annotator"""


def register(app: typer.Typer) -> None:
    app.command("ib-analyze", epilog=EXAMPLES)(ib_analyze)


def ib_analyze(
    ctx: typer.Context,
    models: o.Models = ["ViT-B-32"],  # noqa: B006
    datasets: o.PairData = ["digitworld"],  # noqa: B006
    pretrained: o.Pretrained = None,
    attributes: Annotated[
        str,
        typer.Option(
            help="Columns to probe (tint,text:frame,unmentioned:color), made, none; left out: digitworld's own, else "
            "made.",
            rich_help_panel=o.DATA,
        ),
    ] = "",
    critics: Annotated[
        bool, typer.Option("--critics/--no-critics", help="Train a critic network.", rich_help_panel=o.RUNNING)
    ] = True,
    plots: o.Plots = True,
    name: o.Name = "",
    data_root: o.DataRoot = None,
    image_column: o.ImageColumn = "",
    caption_column: o.CaptionColumn = "",
    label_column: o.LabelColumn = "",
    separator: o.Separator = "",
    max_bad: o.MaxBad = 0,
    allow_overlap: o.AllowOverlap = False,
    device: o.Device = "auto",
    precision: o.Precision = "fp32",
    preprocess: o.Preprocess = "open_clip",
    batch_size: o.BatchSize = 64,
    workers: o.Workers = 2,
    limit: o.Limit = None,
    seed: o.Seed = 0,
    offline: o.Offline = False,
    dry_run: o.DryRun = False,
    config: o.Config = None,
    out: o.OutFolder = Path("runs/ib-analyze"),
    fresh: o.Fresh = False,
    cache_dir: o.CacheDir = None,
    verify_cache: o.VerifyCache = False,
    format_: o.Format = "table",
) -> None:
    """Measure what embeddings of images and texts share, what each keeps for itself, and their geometry."""
    progress = make_progress()
    from clipib.tasks.ib_analyze import ib_analyze as run

    lists = {"models": o.split_commas(models), "attributes": o.split_commas([attributes])}
    outcome = run(**o.task_options(ctx) | lists, progress=progress)
    if dry_run:
        progress.say("dry run: nothing was encoded or written")
        return
    print_rows(outcome.rows, format_)
    print_probed(outcome.probed, format_)
    progress.say(f"results in {out / 'results.csv'}" + f", pictures in {out / 'plots'}" * plots)
