"""`clipib zeroshot`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from clipib.cli import options as o
from clipib.cli import probe as p
from clipib.cli.exits import IN_PART
from clipib.cli.gated import planned_gates, print_judged
from clipib.cli.output import make_progress, say_failures
from clipib.cli.per_class import show_per_class

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
    out: o.OutFolder = Path("runs/zeroshot"),
    per_class: Annotated[
        bool,
        typer.Option(
            "--per-class", help="Also a table of the classes and the confusion matrix.", rich_help_panel=o.OUTPUT
        ),
    ] = False,
    fresh: o.Fresh = False,
    cache_dir: o.CacheDir = None,
    verify_cache: o.VerifyCache = False,
    format_: o.Format = "table",
) -> None:
    """Classify labelled images by class prompts: accuracies, recall per class, calibration; with --probe by what
    labelled images teach.
    """
    progress = make_progress()
    from clipib.tasks.protocol import choose_protocol

    rules = choose_protocol(protocol, precision, "label")
    gates = planned_gates(
        ctx,
        "zeroshot",
        datasets,
        name=name,
        models=o.split_commas(model),
        conditions={"limit": limit, "protocol": rules.name, "precision": rules.precision},
        out=out,
    )
    options = o.task_options(ctx, beside=("per_class",)) | {"batch_size": o.batch_size_of(batch_size)}
    options = p.probe_options(options, per_class=per_class)
    if probe:
        from clipib.tasks.feature_probe import feature_probe as run
    else:
        from clipib.tasks.zeroshot import zeroshot as run

    outcome = run(**options, progress=progress)
    failed = [(failure.place, failure.error.message) for failure in outcome.failures]
    code = IN_PART * bool(failed)
    if dry_run:
        progress.say("dry run: nothing was encoded or written")
    else:
        code = print_judged(gates, outcome.rows, out, format_, failed=failed, seed=seed, progress=progress)
        if per_class:
            show_per_class(outcome.rows, out, format_, progress)
        progress.say(f"results in {out / 'results.csv'}")
    say_failures(outcome, progress)
    if code:
        raise typer.Exit(code)
