"""`clipib finetune`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from clipib.cli import options as o
from clipib.cli.gated import planned_gates, print_judged
from clipib.cli.output import make_progress

LOSS, TRAINING = "Loss", "Training"
EXAMPLES = """Examples:

clipib finetune --loss cibr --model ViT-B-32 --train csv:coco/captions.csv --out runs/a

clipib finetune --model tiny --pretrained none --train digitworld --steps 600 --lr 1e-3 --out runs/tiny"""


def register(app: typer.Typer) -> None:
    app.command(epilog=EXAMPLES)(finetune)


def finetune(
    ctx: typer.Context,
    train: Annotated[
        str,
        typer.Option("--train", help=f"Training data: {o.DATA_HELP}", rich_help_panel=o.DATA),
    ] = "flickr30k",
    val: Annotated[
        str | None,
        typer.Option(
            "--val", help="Data that choose the best checkpoint; else a tenth of --train.", rich_help_panel=o.DATA
        ),
    ] = None,
    model: o.Model = "ViT-B-32",
    pretrained: o.Pretrained = None,
    loss: Annotated[
        str, typer.Option(help="clip, siglip, cibr, kme or wpse; see `clipib list losses`.", rich_help_panel=LOSS)
    ] = "clip",
    contrast: Annotated[
        str | None, typer.Option(help="softmax, sigmoid or decoupled, in place of the loss's.", rich_help_panel=LOSS)
    ] = None,
    similarity: Annotated[
        str | None, typer.Option(help="cosine, kme or wpse, in place of the loss's.", rich_help_panel=LOSS)
    ] = None,
    penalty: Annotated[
        str | None,
        typer.Option(
            help="none, distance, logdet or mine; shuffle, shuffle-logdet or shuffle-mine are controls.",
            rich_help_panel=LOSS,
        ),
    ] = None,
    penalty_weight: Annotated[
        float | None, typer.Option(help="Weight of the penalty beside the contrast.", rich_help_panel=LOSS)
    ] = None,
    penalty_sigma: Annotated[
        float | None,
        typer.Option(help="Noise a coordinate in the penalty; left out 1 / sqrt(logit scale).", rich_help_panel=LOSS),
    ] = None,
    positives: Annotated[
        str,
        typer.Option(
            help="identity; or same-caption, same-image, same-class: also right, but no longer PMI.",
            rich_help_panel=LOSS,
        ),
    ] = "identity",
    points: Annotated[
        int | None,
        typer.Option(min=1, help="Points a side for kme and wpse; left out 8.", rich_help_panel=LOSS),
    ] = None,
    point_pooling: Annotated[
        str | None, typer.Option(help="attention (learned queries) or topk tokens.", rich_help_panel=LOSS)
    ] = None,
    lock: Annotated[
        str,
        typer.Option(
            help="none, image, text or both: train only what follows a tower's trunk.", rich_help_panel=TRAINING
        ),
    ] = "none",
    epochs: Annotated[
        int | None, typer.Option(min=1, help="Passes over the training images; left out 5.", rich_help_panel=TRAINING)
    ] = None,
    steps: Annotated[
        int | None, typer.Option(min=1, help="Optimiser steps, in place of --epochs.", rich_help_panel=TRAINING)
    ] = None,
    lr: Annotated[
        float | None, typer.Option(help="Peak rate; left out 1e-5, random weights 5e-4.", rich_help_panel=TRAINING)
    ] = None,
    head_lr: Annotated[
        float | None,
        typer.Option(help="Peak rate of the point head; left out 1e-3, or --lr if larger.", rich_help_panel=TRAINING),
    ] = None,
    weight_decay: Annotated[float, typer.Option(min=0, help="On matrices only.", rich_help_panel=TRAINING)] = 0.1,
    warmup: Annotated[
        int | None,
        typer.Option(min=0, help="Steps of warm-up; left out a tenth, at most 500.", rich_help_panel=TRAINING),
    ] = None,
    clip_norm: Annotated[
        float, typer.Option(min=0, help="Largest gradient norm; 0 for none.", rich_help_panel=TRAINING)
    ] = 1.0,
    eval_every: Annotated[
        int | None, typer.Option(min=1, help="Steps between validations; left out one epoch.", rich_help_panel=TRAINING)
    ] = None,
    save_every: Annotated[
        int | None,
        typer.Option(min=1, help="Steps between saved states, besides validations.", rich_help_panel=TRAINING),
    ] = None,
    resume: Annotated[
        bool, typer.Option("--resume", help="Go on with the unfinished run in --out.", rich_help_panel=TRAINING)
    ] = False,
    name: o.Name = "",
    data_root: o.DataRoot = None,
    image_column: o.ImageColumn = "",
    caption_column: o.CaptionColumn = "",
    label_column: o.LabelColumn = "",
    separator: o.Separator = "",
    max_bad: o.MaxBad = 0,
    allow_overlap: o.AllowOverlap = False,
    device: o.Device = "auto",
    precision: Annotated[
        str, typer.Option(help="fp32, amp, or auto: amp on a GPU.", rich_help_panel=o.RUNNING)
    ] = "auto",
    preprocess: o.Preprocess = "open_clip",
    batch_size: Annotated[int, typer.Option(min=2, help="Pairs a step.", rich_help_panel=o.RUNNING)] = 64,
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
    out: o.OutFolder = Path("runs/finetune"),
    fresh: o.Fresh = False,
    cache_dir: o.CacheDir = None,
    verify_cache: o.VerifyCache = False,
    format_: o.Format = "table",
) -> None:
    """Fine-tune a checkpoint on images with captions or classes; writes best/ and last/."""
    progress = make_progress()
    drawn = {} if val else {"seed": seed}  # draws the validation images
    gates = planned_gates(ctx, "finetune", val or train, name="" if val else name, conditions=drawn, out=out)
    from clipib.tasks.finetune import finetune as run

    outcome = run(**o.task_options(ctx), progress=progress)
    if dry_run:
        progress.say("dry run: nothing was trained or written")
        return
    code = print_judged(gates, outcome.rows, out, format_, seed=seed, progress=progress)
    progress.say(f"checkpoints in {out / 'best'} and {out / 'last'}, results in {out / 'results.csv'}")
    progress.say(f"next: clipib zeroshot --model {out / 'best'} --datasets folder:PATH")
    if code:
        raise typer.Exit(code)
