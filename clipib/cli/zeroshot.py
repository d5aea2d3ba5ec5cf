"""`clipib zeroshot`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from clipib.cli import options as o
from clipib.cli.gated import planned_gates, print_judged
from clipib.cli.output import make_progress

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
    out: o.OutFolder = Path("runs/zeroshot"),
    fresh: o.Fresh = False,
    cache_dir: o.CacheDir = None,
    verify_cache: o.VerifyCache = False,
    format_: o.Format = "table",
) -> None:
    """Classify labelled images by class prompts: acc1, acc5, mean per-class recall."""
    progress = make_progress()
    gates = planned_gates(
        ctx,
        "zeroshot",
        datasets,
        name=name,
        models=[model],
        conditions={"limit": limit, "precision": precision},
        out=out,
    )
    from clipib.tasks.zeroshot import zeroshot as run

    outcome = run(**o.task_options(ctx), progress=progress)
    if dry_run:
        progress.say("dry run: nothing was encoded or written")
        return
    code = print_judged(gates, outcome.rows, out, format_, seed=seed, progress=progress)
    progress.say(f"results in {out / 'results.csv'}")
    if code:
        raise typer.Exit(code)
