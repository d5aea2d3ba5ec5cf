"""The options of `zeroshot --probe`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Any

import typer

from clipib.cli.options import split_commas
from clipib.errors import UserError
from clipib.tasks.results import Row

PANEL = "Probe"
OWN = ("shots", "seeds", "train_data")

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


def probe_options(options: dict[str, Any]) -> dict[str, Any]:
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
    for key in ("templates", "prompt_pooling"):
        if options.pop(key) is not None:
            raise UserError(f"A probe uses no prompts, so --{key.replace('_', '-')} changes nothing.")
    if "shots" in given:
        given["shots"] = tuple(split_commas([given["shots"]]))
    return {**options, **given}


def worth_showing(rows: Sequence[Row], format_: str) -> list[Row]:
    """What is for people: of a few-shot probe the means over its draws; machine formats get every row."""
    if format_ not in ("table", "md"):
        return list(rows)
    return [r for r in rows if "probe_seed=" not in r.params and not r.metric.startswith("probe_")]
