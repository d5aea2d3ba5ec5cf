"""Whether the per-sample lines of a row can be read as what they should be; a file may have been written by others."""

from __future__ import annotations

from typing import TYPE_CHECKING

from clipib.errors import UserError
from clipib.tasks.results import Row
from clipib.tasks.runs import Run, samples_of

if TYPE_CHECKING:
    import pandas as pd

TEXTS = ("sample_id", "direction", "caption")
INDICES = ("target", "predicted", "target_rank", "rank")
FLAGS = ("correct",)
NUMBERS = ("confidence",)
MEASURES = (
    "nll",
    "average_precision",
    "text_acc",
    "image_acc",
    "group_acc",
)  # of some lines only, so they may be empty


def trouble_of(run: Run, row: Row) -> str:
    """Why the samples of a row tell nothing, in words; "" where they do, or where there are none."""
    try:
        frame = samples_of(run, row)
    except UserError as error:
        return error.message
    trouble = None if frame is None else _trouble(frame)
    return f"the per-sample file of '{row.dataset}' in '{run.path}' {trouble}" if trouble else ""


def _trouble(frame: pd.DataFrame) -> str:
    """What is wrong with the first column that is."""
    from pandas.api import types

    if "sample_id" not in frame.columns:
        return "has no column sample_id"
    kinds = (
        (TEXTS, types.is_string_dtype, "texts"),
        (INDICES, types.is_integer_dtype, "whole numbers"),
        (FLAGS, types.is_bool_dtype, "true and false"),
        (NUMBERS, types.is_numeric_dtype, "numbers"),
        (MEASURES, types.is_numeric_dtype, "numbers"),
    )
    for names, fits, words in kinds:
        for name in (n for n in names if n in frame.columns):
            column = frame[name]
            if names is MEASURES and column.isna().all():
                continue
            if not fits(column.dtype):
                return f"has no {words} in column {name}"
            if names is not MEASURES and column.isna().any():
                return f"has gaps in column {name}"
            if names is INDICES and (column < 0).any():
                return f"has numbers below 0 in column {name}"
    return ""
