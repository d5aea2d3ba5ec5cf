"""`clipib retrieve`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from clipib.cli import options as o
from clipib.cli.output import make_progress, print_rows

EXAMPLES = """Examples:

clipib retrieve --model runs/a/best --split csv:coco/captions.csv

clipib retrieve --model ViT-B-32 --split flickr30k:val --data-root data --recall-k 1,5,10,50"""


def register(app: typer.Typer) -> None:
    app.command(epilog=EXAMPLES)(retrieve)


def retrieve(
    ctx: typer.Context,
    datasets: Annotated[
        list[str],
        typer.Option(
            "--split",
            "--datasets",
            "-d",
            help="csv:PATH, digitworld, names; commas or repeated.",
            rich_help_panel=o.DATA,
        ),
    ] = ["digitworld"],  # noqa: B006
    model: o.Model = "ViT-B-32",
    pretrained: o.Pretrained = None,
    recall_k: Annotated[str, typer.Option(help="Cut-offs, separated by commas.", rich_help_panel=o.OUTPUT)] = "1,5,10",
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
    out: o.OutFolder = Path("runs/retrieve"),
    fresh: o.Fresh = False,
    cache_dir: o.CacheDir = None,
    verify_cache: o.VerifyCache = False,
    format_: o.Format = "table",
) -> None:
    """Rank images for captions and captions for images: recall at k both ways.

    A table with negative_caption beside caption gives text_acc by kind, as SugarCrepe; one with image_0, image_1,
    caption_0, caption_1 also image_acc and group_acc, as Winoground. csv: reads SugarCrepe's JSON files too, or a
    folder of them.
    """
    progress = make_progress()
    from clipib.tasks.retrieve import retrieve as run

    outcome = run(**o.task_options(ctx) | {"recall_k": o.whole_numbers("--recall-k", recall_k)}, progress=progress)
    if dry_run:
        progress.say("dry run: nothing was encoded or written")
        return
    print_rows(outcome.rows, format_)
    progress.say(f"results in {out / 'results.csv'}")
