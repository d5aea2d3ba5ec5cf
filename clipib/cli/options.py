"""Option types that commands share, `--config`, and what a run records of its options."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Annotated, Any

import typer

from clipib.errors import UserError
from clipib.registry import check_name, nearest

FORMATS = ("table", "csv", "json", "md", "junit")
NOT_RECORDED = ("config", "dry_run", "fresh", "resume", "format_", "offline", "verify_cache")

DATA_HELP = "A name, folder:PATH, csv:PATH, wds:PATH, hf:ORG/NAME, digitworld."
RUNNING, DATA, OUTPUT, GATES = "Running", "Data", "Output", "Gates"
GATE_OPTIONS = ("fail_under", "fail_over", "baseline", "baseline_checkpoint", "max_drop", "significant", "non_inferior")
GATE_OPTIONS += ("alpha", "require_complete", "gate_metrics")


def split_commas(values: list[str]) -> list[str]:
    """`["1,5", "10"]` -> `["1", "5", "10"]`."""
    return [part.strip() for value in values for part in value.split(",") if part.strip()]


def whole_numbers(flag: str, text: str) -> tuple[int, ...]:
    """`"1, 5,10"` -> `(1, 5, 10)`.

    Raises:
        UserError: when a part is no whole number from 1.
    """
    parts = split_commas([text])
    if not parts or not all(p.isdecimal() and int(p) > 0 for p in parts):
        raise UserError(f"{flag} '{text}' is no list of whole numbers from 1.", hint=f"Write {flag} 1,5,10.")
    return tuple(int(p) for p in parts)


def batch_size_of(text: str) -> int | None:
    """`"auto"` -> None, else a number of images.

    Raises:
        UserError: when it is neither.
    """
    return None if text.strip().lower() == "auto" else whole_numbers("--batch-size", text)[0]


def recorded(ctx: typer.Context) -> dict[str, Any]:
    """The options of a run, as `results.json` keeps them and `--config` reads them back."""
    return {k: v for k, v in ctx.params.items() if k not in NOT_RECORDED}


def task_options(ctx: typer.Context, *, beside: tuple[str, ...] = ()) -> dict[str, Any]:
    """The options of a command as the arguments of its task, which bear the same names.

    Args:
        beside: options that the command sees to itself.
    """
    options = {k: v for k, v in ctx.params.items() if k not in ("config", "format_", "offline", *GATE_OPTIONS, *beside)}
    columns = {k: options.pop(k) for k in ("image_column", "caption_column", "label_column", "separator")}
    return {**options, "columns": columns, "settings": recorded(ctx)}


def _offline(value: bool) -> bool:
    """Before anything is imported: the hub's own switches."""
    if value:
        for variable in ("CLIPIB_OFFLINE", "HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE", "HF_DATASETS_OFFLINE"):
            os.environ[variable] = "1"
    return value


def _config(ctx: typer.Context, value: Path | None) -> Path | None:
    """Take the settings of an earlier run as defaults; flags win."""
    if value is None or ctx.resilient_parsing:
        return value
    try:
        content = json.loads(value.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise UserError(f"--config '{value}' cannot be read: {error}.") from error
    settings = content.get("settings", content) if isinstance(content, dict) else None
    if not isinstance(settings, dict):
        raise UserError(f"--config '{value}' holds no settings.", hint="Give the results.json of an earlier run.")
    command = content.get("command", ctx.info_name)
    if command != ctx.info_name:
        hint = f"Type: clipib {command} --config {value}."
        raise UserError(f"'{value}' holds the settings of {command}, not of {ctx.info_name}.", hint=hint)
    parameters = {p.name: p for p in ctx.command.params if p.name != "config"}
    known = set(parameters)
    settings = {key.replace("-", "_"): v for key, v in settings.items()}
    for key in settings:
        if key not in known:
            close = nearest(key, [k for k in known if not k.endswith("_")])
            found = f" Did you mean '{close[0]}'?" if close else ""
            raise UserError(f"--config '{value}' has the unknown key '{key}'.{found}")
        multiple = getattr(parameters[key], "multiple", False)
        if multiple and isinstance(settings[key], str):
            settings[key] = [settings[key]]
        elif isinstance(settings[key], list) and not multiple:
            settings[key] = ",".join(map(str, settings[key]))
    ctx.default_map = {**(ctx.default_map or {}), **settings}
    return value


def _format(value: str) -> str:
    return check_name("format", value, FORMATS)


def _records_format(value: str) -> str:
    if value == "junit":
        raise UserError("This command has no junit output.", hint="Use --format table, csv, json or md.")
    return _format(value)


Model = Annotated[
    str,
    typer.Option(
        "--model",
        "-m",
        help="open_clip name (also NAME/TAG), hf:ORG/NAME, checkpoint folder, photo, tiny.",
        rich_help_panel="Model",
    ),
]
Models = Annotated[
    list[str],
    typer.Option(
        "--model",
        "-m",
        help="open_clip name (also NAME/TAG), hf:ORG/NAME, checkpoint folder, photo, tiny; several by commas, patterns "
        "like 'runs/*/best', a .txt list.",
        rich_help_panel="Model",
    ),
]
PairData = Annotated[
    list[str],
    typer.Option(
        "--data", "--datasets", "-d", help="csv:PATH, digitworld, names; commas or repeated.", rich_help_panel=DATA
    ),
]
Plots = Annotated[bool, typer.Option("--plots/--no-plots", help="Draw figures (PNG, SVG).", rich_help_panel=OUTPUT)]
Pretrained = Annotated[
    str | None,
    typer.Option("--pretrained", help="Tag, weights file, or none for random weights.", rich_help_panel="Model"),
]
Device = Annotated[str, typer.Option(help="auto, cpu, cuda, cuda:1, mps.", rich_help_panel=RUNNING)]
Precision = Annotated[str, typer.Option(help="fp32, amp, bf16, fp16.", rich_help_panel=RUNNING)]
Preprocess = Annotated[
    str,
    typer.Option(
        help="open_clip; hf: the checkpoint's image processor; fast: large JPEGs sooner, within an 8-bit level.",
        rich_help_panel=RUNNING,
    ),
]
BatchSize = Annotated[int, typer.Option(min=1, help="Images at once.", rich_help_panel=RUNNING)]
AutoBatchSize = Annotated[
    str, typer.Option("--batch-size", help="Images at once, or auto: what the memory holds.", rich_help_panel=RUNNING)
]
Protocol = Annotated[
    str,
    typer.Option(help="Whose rules: strict, clip_benchmark or datacomp.", rich_help_panel=RUNNING),
]
EvaluationPrecision = Annotated[
    str,
    typer.Option("--precision", help="auto: the protocol's; fp32, amp, bf16, fp16.", rich_help_panel=RUNNING),
]
KeepGoing = Annotated[
    bool,
    typer.Option("--keep-going", help="Evaluate what can be; exit 3 if not all could.", rich_help_panel=RUNNING),
]
Workers = Annotated[int, typer.Option(min=0, help="Threads or processes that decode images.", rich_help_panel=RUNNING)]
Seed = Annotated[
    int, typer.Option(min=0, max=2**31 - 1, help="Of samples and random weights.", rich_help_panel=RUNNING)
]
Limit = Annotated[
    int | None, typer.Option(min=1, help="Only a sample of N images; rows are marked.", rich_help_panel=RUNNING)
]
Offline = Annotated[
    bool,
    typer.Option(
        "--offline",
        envvar="CLIPIB_OFFLINE",
        callback=_offline,
        is_eager=True,
        help="Touch no network.",
        rich_help_panel=RUNNING,
    ),
]
DryRun = Annotated[
    bool, typer.Option("--dry-run", help="Check everything, encode and write nothing.", rich_help_panel=RUNNING)
]
Config = Annotated[
    Path | None,
    typer.Option(
        "--config", callback=_config, is_eager=True, help="Repeat the run of a results.json.", rich_help_panel=RUNNING
    ),
]
DataRoot = Annotated[
    Path | None, typer.Option(envvar="CLIPIB_DATA", help="Folder of local copies by name.", rich_help_panel=DATA)
]
Name = Annotated[str, typer.Option(help="Name of the data set in the results.", rich_help_panel=DATA)]
MaxBad = Annotated[int, typer.Option(min=0, help="Unreadable images to put up with.", rich_help_panel=DATA)]
AllowOverlap = Annotated[
    bool, typer.Option("--allow-overlap", help="Evaluate on training images; rows are marked.", rich_help_panel=DATA)
]
ImageColumn = Annotated[str, typer.Option(help="Image column of a table.", rich_help_panel=DATA)]
CaptionColumn = Annotated[str, typer.Option(help="Caption column of a table.", rich_help_panel=DATA)]
LabelColumn = Annotated[str, typer.Option(help="Class column of a table.", rich_help_panel=DATA)]
Separator = Annotated[str, typer.Option(help="Separator of a text table.", rich_help_panel=DATA)]
Fresh = Annotated[bool, typer.Option("--fresh", help="Start over, forget earlier results.", rich_help_panel=OUTPUT)]
CacheDir = Annotated[
    Path | None, typer.Option(envvar="CLIPIB_CACHE", help="Where the embedding store lies.", rich_help_panel=OUTPUT)
]
VerifyCache = Annotated[
    bool,
    typer.Option("--verify-cache", help="Hash all image files again, past what is remembered.", rich_help_panel=OUTPUT),
]
Format = Annotated[
    str, typer.Option("--format", callback=_format, help="table, csv, json, md, junit.", rich_help_panel=OUTPUT)
]
RecordsFormat = Annotated[
    str, typer.Option("--format", callback=_records_format, help="table, csv, json, md.", rich_help_panel=OUTPUT)
]

OutFolder = Annotated[Path, typer.Option("--out", "-o", help="Folder for the results.", rich_help_panel=OUTPUT)]

FailUnder = Annotated[
    list[str],
    typer.Option(
        "--fail-under", help="DATASET.METRIC=VALUE: exit 1 below it; commas or repeated.", rich_help_panel=GATES
    ),
]
FailOver = Annotated[
    list[str],
    typer.Option("--fail-over", help="The same above it, where lower is better.", rich_help_panel=GATES),
]
BaselineRun = Annotated[
    str | None,
    typer.Option(
        "--baseline",
        help="Run folder, results.csv, ref:open_clip or ref:clip_benchmark to compare with.",
        rich_help_panel=GATES,
    ),
]
BaselineCheckpoint = Annotated[
    str | None,
    typer.Option(
        "--baseline-checkpoint", help="Which of its checkpoints: part of name or hash.", rich_help_panel=GATES
    ),
]
MaxDrop = Annotated[
    float | None,
    typer.Option("--max-drop", help="Fail where a main metric is worse by more than this.", rich_help_panel=GATES),
]
Significant = Annotated[
    bool,
    typer.Option("--significant", help="With --max-drop: only where that is proved.", rich_help_panel=GATES),
]
NonInferior = Annotated[
    float | None,
    typer.Option("--non-inferior", help="Pass only where a larger drop is ruled out.", rich_help_panel=GATES),
]
Alpha = Annotated[float, typer.Option("--alpha", help="One-sided level of these two.", rich_help_panel=GATES)]
RequireComplete = Annotated[
    bool,
    typer.Option("--require-complete", help="Fail where a row of the baseline is missing.", rich_help_panel=GATES),
]
GateMetrics = Annotated[
    list[str],
    typer.Option(
        "--gate-metrics", help="Compare these beside the main metrics; commas or repeated.", rich_help_panel=GATES
    ),
]
