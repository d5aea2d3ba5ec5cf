"""`clipib zeroshot`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from clipib.cli import options as o
from clipib.cli import probe as p
from clipib.cli.output import make_progress, print_rows

EXAMPLES = """Examples:

clipib zeroshot --model runs/a/best --datasets folder:photos/test

clipib zeroshot --model ViT-B-32 --datasets suite:vtab+ --data-root data --format csv"""


def register(app: typer.Typer) -> None:
    app.command(epilog=EXAMPLES)(zeroshot)


def zeroshot(
    ctx: typer.Context,
    datasets: Annotated[
        list[str],
        typer.Option(
            "--datasets",
            "-d",
            help=f"{o.DATA_HELP} Also suite:NAME, all; commas or repeated.",
            rich_help_panel=o.DATA,
        ),
    ] = ["digitworld"],  # noqa: B006
    model: o.Model = "ViT-B-32",
    pretrained: o.Pretrained = None,
    templates: Annotated[
        Path | None, typer.Option(help="File of prompts, one a line, with {c} for the class.", rich_help_panel=o.DATA)
    ] = None,
    prompt_pooling: Annotated[
        str | None,
        typer.Option(
            help="mean of a class's prompts, or union of their points (plain embeddings: log mean exp of the prompts' "
            "logits). Left out mean, with sets of points union.",
            rich_help_panel=o.DATA,
        ),
    ] = None,
    probe: p.Probe = None,
    shots: p.Shots = None,
    seeds: p.Seeds = None,
    train_data: p.TrainData = None,
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
    out: o.OutFolder = Path("runs/zeroshot"),
    fresh: o.Fresh = False,
    cache_dir: o.CacheDir = None,
    verify_cache: o.VerifyCache = False,
    format_: o.Format = "table",
) -> None:
    """Classify labelled images by class prompts: acc1, acc5, mean per-class recall; with --probe by what a few
    labelled images teach.
    """
    progress = make_progress()
    options = p.probe_options(o.task_options(ctx))
    if probe:
        from clipib.tasks.feature_probe import feature_probe as run
    else:
        from clipib.tasks.zeroshot import zeroshot as run

    outcome = run(**options, progress=progress)
    if dry_run:
        progress.say("dry run: nothing was encoded or written")
        return
    (p.print_probe if probe else print_rows)(outcome.rows, format_)
    progress.say(f"results in {out / 'results.csv'}")
