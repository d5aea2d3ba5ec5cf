"""`clipib retrieve`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from clipib.cli import options as o
from clipib.cli.exits import IN_PART
from clipib.cli.gated import planned_gates, print_judged
from clipib.cli.output import make_progress, say_failures

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
    model: o.Models = ["ViT-B-32"],  # noqa: B006
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
    from clipib.tasks.protocol import choose_protocol

    rules = choose_protocol(protocol, precision, "caption")
    gates = planned_gates(
        ctx,
        "retrieve",
        datasets,
        name=name,
        models=o.split_commas(model),
        recall_k=o.whole_numbers("--recall-k", recall_k),
        conditions={"limit": limit, "protocol": rules.name, "precision": rules.precision},
        out=out,
    )
    from clipib.tasks.retrieve import retrieve as run

    numbers = {"recall_k": o.whole_numbers("--recall-k", recall_k), "batch_size": o.batch_size_of(batch_size)}
    outcome = run(**o.task_options(ctx) | numbers, progress=progress)
    failed = [(failure.place, failure.error.message) for failure in outcome.failures]
    code = IN_PART * bool(failed)
    if dry_run:
        progress.say("dry run: nothing was encoded or written")
    else:
        code = print_judged(gates, outcome.rows, out, format_, failed=failed, seed=seed, progress=progress)
        progress.say(f"results in {out / 'results.csv'}")
    say_failures(outcome, progress)
    if code:
        raise typer.Exit(code)
