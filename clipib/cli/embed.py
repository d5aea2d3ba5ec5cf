"""`clipib embed`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from clipib.cli import options as o
from clipib.cli.output import make_progress, print_records

EXAMPLES = """Examples:

clipib embed --model runs/a/best --data folder:photos --index hnsw --out runs/embed

clipib embed --model ViT-B-32 --data csv:coco/captions.csv --shard 2/4"""


def register(app: typer.Typer) -> None:
    app.command(epilog=EXAMPLES)(embed)


def embed(
    ctx: typer.Context,
    data: Annotated[str, typer.Option("--data", "-d", help=o.DATA_HELP, rich_help_panel=o.DATA)] = "digitworld",
    model: o.Model = "ViT-B-32",
    pretrained: o.Pretrained = None,
    index: Annotated[
        str | None,
        typer.Option(help="Also write a FAISS index: flat (exact), ivf, hnsw.", rich_help_panel=o.OUTPUT),
    ] = None,
    shard: Annotated[
        str | None,
        typer.Option(
            help="2/4: only the second of four parts; run without it at last, to join them.", rich_help_panel=o.RUNNING
        ),
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
    config: o.Config = None,
    out: o.OutFolder = Path("runs/embed"),
    fresh: o.Fresh = False,
    cache_dir: o.CacheDir = None,
    verify_cache: o.VerifyCache = False,
    format_: o.RecordsFormat = "table",
) -> None:
    """Encode images and texts into the store, and export them as npy and parquet."""
    progress = make_progress()
    from clipib.tasks.embed import embed as run

    exported = run(**o.task_options(ctx), progress=progress)
    if dry_run:
        progress.say("dry run: nothing was encoded or written")
        return
    records = [
        {"what": e.what, "n": e.n, "encoded": e.n_encoded, "features": str(e.features), "table": str(e.table)}
        for e in exported
    ]
    print_records(records, format_)
