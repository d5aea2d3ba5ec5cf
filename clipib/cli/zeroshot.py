"""`clipib zeroshot`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from clipib.cli import options as o
from clipib.cli.output import end_in_part, make_progress, print_rows

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
    model: o.Models = ["ViT-B-32"],  # noqa: B006
    pretrained: o.Pretrained = None,
    classnames: Annotated[
        Path | None, typer.Option(help="File of class names, one a line.", rich_help_panel=o.DATA)
    ] = None,
    templates: Annotated[
        str | None,
        typer.Option(
            help="openai80, simple7, single, a file of prompts with {c} for the class, or a JSON file of class to "
            "prompts.",
            rich_help_panel=o.DATA,
        ),
    ] = None,
    language: Annotated[
        str, typer.Option(help="Of ImageNet's class names: en, ar, cn, it, jp.", rich_help_panel=o.DATA)
    ] = "en",
    prompt_pooling: Annotated[
        str | None,
        typer.Option(
            help="mean of a class's prompts, or union of their points (plain embeddings: log mean exp of the prompts' "
            "logits). Left out mean, with sets of points union.",
            rich_help_panel=o.DATA,
        ),
    ] = None,
    temperature: Annotated[
        str,
        typer.Option(help="Behind nll and ece: own (the checkpoint's), fit, or a number.", rich_help_panel=o.DATA),
    ] = "own",
    fit_data: Annotated[
        list[str] | None,
        typer.Option(help="Labelled images that --temperature fit is chosen on.", rich_help_panel=o.DATA),
    ] = None,
    name: o.Name = "",
    data_root: o.DataRoot = None,
    image_column: o.ImageColumn = "",
    caption_column: o.CaptionColumn = "",
    label_column: o.LabelColumn = "",
    separator: o.Separator = "",
    max_bad: o.MaxBad = 0,
    allow_overlap: o.AllowOverlap = False,
    keep_going: o.KeepGoing = False,
    device: o.Device = "auto",
    protocol: o.Protocol = "strict",
    precision: o.EvaluationPrecision = "auto",
    preprocess: o.Preprocess = "open_clip",
    batch_size: o.AutoBatchSize = "64",
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
    """Classify labelled images by class prompts: accuracies, recall per class, calibration."""
    progress = make_progress()
    from clipib.tasks.zeroshot import zeroshot as run

    outcome = run(**o.task_options(ctx) | {"batch_size": o.batch_size_of(batch_size)}, progress=progress)
    if dry_run:
        progress.say("dry run: nothing was encoded or written")
    else:
        print_rows(outcome.rows, format_)
        progress.say(f"results in {out / 'results.csv'}")
    end_in_part(outcome, progress)
