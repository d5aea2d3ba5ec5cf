"""Whether the per-sample lines of a row can be read as what they should be; a file may have been written by others."""

from __future__ import annotations

from typing import TYPE_CHECKING

from clipib.errors import UserError
from clipib.tasks.results import Row
from clipib.tasks.runs import Run, samples_of
from clipib.tasks.sample_columns import odd_column

if TYPE_CHECKING:
    import pandas as pd


def trouble_of(run: Run, row: Row) -> str:
    """Why the samples of a row tell nothing, in words; "" where they do, or where there are none."""
    try:
        frame = samples_of(run, row)
    except UserError as error:
        return error.message
    trouble = "" if frame is None else odd_column(frame, row.metric) or _unfit(frame)
    return f"the per-sample file of '{row.dataset}' in '{run.path}' {trouble}" if trouble else ""


def _unfit(frame: pd.DataFrame) -> str:
    """What keeps the lines from being chosen and sorted."""
    from pandas.api.types import is_bool_dtype

    if "correct" in frame.columns and not is_bool_dtype(frame["correct"].dtype):
        return "does not hold true and false in 'correct'"
    gaps = [c for c in ("correct", "confidence") if c in frame.columns and frame[c].isna().any()]
    return f"lacks '{gaps[0]}' of some samples" if gaps else ""
