"""`clipib search`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from clipib.cli import options as o
from clipib.cli.output import make_progress, print_records

EXAMPLES = """Examples:

clipib search "a red car" --model runs/a/best --data folder:photos --save sheet.png

clipib search "a red car" --embedded runs/embed"""


def register(app: typer.Typer) -> None:
    app.command(epilog=EXAMPLES)(search)


def search(
    ctx: typer.Context,
    query: Annotated[str, typer.Argument(help="What to look for, in words.")],
    data: Annotated[
        str | None,
        typer.Option(
            "--data",
            "-d",
            help=o.DATA_HELP,
            show_default="digitworld",
            rich_help_panel=o.DATA,
        ),
    ] = None,
    embedded: Annotated[
        Path | None,
        typer.Option(help="A folder written by embed, in place of --data: no image is read.", rich_help_panel=o.DATA),
    ] = None,
    model: Annotated[
        str | None,
        typer.Option(
            "--model",
            "-m",
            help="open_clip name (also NAME/TAG), checkpoint folder, or tiny.",
            show_default="ViT-B-32, or that of --embedded",
            rich_help_panel="Model",
        ),
    ] = None,
    pretrained: o.Pretrained = None,
    index: Annotated[
        str | None,
        typer.Option(
            help="flat (exact), ivf or hnsw (fast, their recall is told).",
            show_default="that of --embedded, or flat",
            rich_help_panel=o.RUNNING,
        ),
    ] = None,
    top: Annotated[int, typer.Option(min=1, help="How many images.", rich_help_panel=o.OUTPUT)] = 10,
    save: Annotated[
        Path | None, typer.Option(help="Write a contact sheet, .png or .jpg.", rich_help_panel=o.OUTPUT)
    ] = None,
    name: o.Name = "",
    data_root: o.DataRoot = None,
    image_column: o.ImageColumn = "",
    caption_column: o.CaptionColumn = "",
    label_column: o.LabelColumn = "",
    separator: o.Separator = "",
    max_bad: o.MaxBad = 0,
    device: o.Device = "auto",
    precision: o.Precision = "fp32",
    preprocess: o.Preprocess = "open_clip",
    batch_size: o.BatchSize = 64,
    workers: o.Workers = 2,
    limit: o.Limit = None,
    seed: o.Seed = 0,
    offline: o.Offline = False,
    dry_run: o.DryRun = False,
    cache_dir: o.CacheDir = None,
    verify_cache: o.VerifyCache = False,
    format_: o.RecordsFormat = "table",
) -> None:
    """Find the images nearest to a text, exactly or with an approximate FAISS index."""
    progress = make_progress()
    from clipib.tasks.search import search as run

    hits = run(**o.task_options(ctx), progress=progress)
    if dry_run:
        progress.say("dry run: nothing was encoded")
        return
    records = [{"rank": h.rank, h.similarity: f"{h.score:.4f}", "image": h.sample_id, "text": h.text} for h in hits]
    print_records(records, format_, title=query)
