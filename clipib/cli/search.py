"""`clipib search`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from clipib.cli import options as o
from clipib.cli.output import make_progress, print_records

EXAMPLES = """Examples:

clipib search "a red car" --model runs/a/best --data folder:photos

clipib search "the red seven" --model runs/demo/after/best --data digitworld --save sheet.png"""


def register(app: typer.Typer) -> None:
    app.command(epilog=EXAMPLES)(search)


def search(
    ctx: typer.Context,
    query: Annotated[str, typer.Argument(help="What to look for, in words.")],
    data: Annotated[
        str, typer.Option("--data", "-d", help="folder:PATH, csv:PATH, digitworld, a name.", rich_help_panel=o.DATA)
    ] = "digitworld",
    model: o.Model = "ViT-B-32",
    pretrained: o.Pretrained = None,
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
    format_: o.Format = "table",
) -> None:
    """Find the images nearest to a text, exactly, with a FAISS index."""
    progress = make_progress()
    from clipib.tasks.search import search as run

    hits = run(**o.task_options(ctx), progress=progress)
    if dry_run:
        progress.say("dry run: nothing was encoded")
        return
    records = [{"rank": h.rank, "cosine": f"{h.cosine:.4f}", "image": h.sample_id, "text": h.text} for h in hits]
    print_records(records, format_, title=query)
