"""`clipib pmi-probe`."""

from __future__ import annotations

from pathlib import Path

import typer

from clipib.cli import options as o
from clipib.cli.output import make_progress, print_probed, print_rows

EXAMPLES = """Examples:

clipib pmi-probe --model runs/demo/clip/best --data digitworld:objects=2+split=test

clipib pmi-probe --model runs/a/best,runs/b/best --data csv:coco/captions.csv --no-plots"""


def register(app: typer.Typer) -> None:
    app.command("pmi-probe", epilog=EXAMPLES)(pmi_probe)


def pmi_probe(
    ctx: typer.Context,
    models: o.Models = ["ViT-B-32"],  # noqa: B006
    datasets: o.PairData = ["digitworld"],  # noqa: B006
    pretrained: o.Pretrained = None,
    plots: o.Plots = True,
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
    out: o.OutFolder = Path("runs/pmi-probe"),
    fresh: o.Fresh = False,
    cache_dir: o.CacheDir = None,
    verify_cache: o.VerifyCache = False,
    format_: o.Format = "table",
) -> None:
    """Test whether a score is the pointwise mutual information (PMI) that its loss aims at."""
    progress = make_progress()
    from clipib.tasks.pmi_probe import pmi_probe as run

    outcome = run(**o.task_options(ctx) | {"models": o.split_commas(models)}, progress=progress)
    if dry_run:
        progress.say("dry run: nothing was encoded or written")
        return
    print_rows(outcome.rows, format_)
    print_probed(outcome.probed, format_)
    progress.say(f"results in {out / 'results.csv'}" + f", pictures in {out / 'plots'}" * plots)
