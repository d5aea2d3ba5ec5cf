"""The options of `zeroshot --probe`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Any

import typer

from clipib.cli.options import split_commas
from clipib.errors import UserError
from clipib.tasks.results import Row

PANEL = "Probe"
CHOSEN = {"linear": "C", "knn": "k"}
OWN = ("shots", "seeds", "train_data")
WITHOUT = {"classnames": None, "templates": None, "language": "en", "prompt_pooling": None, "temperature": "own"}
WITHOUT |= {"fit_data": None, "protocol": "strict"}

Probe = Annotated[
    str | None,
    typer.Option(
        help="linear: logistic regression on image features; knn: nearest neighbours. No prompts take part.",
        rich_help_panel=PANEL,
    ),
]
Shots = Annotated[
    str | None,
    typer.Option(help="Training images per class, or all. Left out, 1,2,4,8,16,all.", rich_help_panel=PANEL),
]
Seeds = Annotated[
    int | None,
    typer.Option(min=1, help="Draws of each few-shot training set. Left out, 3.", rich_help_panel=PANEL),
]
TrainData = Annotated[
    str | None,
    typer.Option(help="Data to learn from. Left out, the train part of --datasets.", rich_help_panel=PANEL),
]


def probe_options(options: dict[str, Any], *, per_class: bool) -> dict[str, Any]:
    """The options of the task: those of a probe only with `--probe`, those of prompts only without.

    Raises:
        UserError: for one that does not go with the others.
    """
    own = {key: options.pop(key) for key in OWN}
    given = {key: value for key, value in own.items() if value is not None}
    if not options["probe"]:
        del options["probe"]
        if given:
            flag = next(iter(given)).replace("_", "-")
            raise UserError(f"--{flag} belongs to --probe.", hint="Add --probe linear or --probe knn.")
        return options
    if per_class:
        raise UserError("--per-class tells of one classifier, and --probe fits many.", hint="Leave one of them out.")
    for key, plain in WITHOUT.items():
        if (value := options.pop(key)) and value != plain:
            raise UserError(f"--{key.replace('_', '-')} does not go with --probe, which uses no prompts.")
    if options["precision"] == "auto":
        options["precision"] = "fp32"
    if "shots" in given:
        given["shots"] = tuple(split_commas([given["shots"]]))
    return {**options, **given}


def probe_of(row: Row) -> str:
    """The kind of probe that a row tells of, "" for any other row."""
    return _params(row).get("probe", "")


def by_shots(group: Sequence[Row]) -> list[dict[str, Any]]:
    """acc1 and mean_per_class_recall of each number of shots, what the interval is over, what validation chose."""
    shots = dict.fromkeys(k for row in group if (k := _params(row).get("shots")))
    records = []
    for k in sorted(shots, key=lambda k: (k == "all", int(k) if k != "all" else 0)):
        own = [row for row in group if _params(row).get("shots") == k]
        shown = {row.metric: row for row in own if "probe_seed" not in _params(row)}
        acc1, recall = shown["acc1"], shown["mean_per_class_recall"]
        seeds = _params(acc1).get("seeds")
        records.append(
            {
                "shots": k,
                "acc1": f"{acc1.value:.4f}",
                "95 % interval": f"{acc1.ci_low:.4f} to {acc1.ci_high:.4f}" if acc1.ci_low is not None else "",
                "over": f"{seeds} draw{'s' * (seeds != '1')}" if seeds else "test images",
                "per class": f"{recall.value:.4f}",
                CHOSEN[probe_of(acc1)]: ", ".join(f"{row.value:g}" for row in own if row.metric.startswith("probe_")),
            }
        )
    return records


def _params(row: Row) -> dict[str, str]:
    return dict(part.split("=", 1) for part in row.params.split(";") if "=" in part)
