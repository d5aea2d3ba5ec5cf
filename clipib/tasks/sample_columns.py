"""Whether the lines of a per-sample file hold what their columns are for; the file may come from anywhere."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import numpy as np

if TYPE_CHECKING:
    import pandas as pd

TEXT, WHOLE, NUMBER = "text", "whole numbers from 0", "numbers"
KINDS = {
    "sample_id": TEXT,
    "caption": TEXT,
    "direction": TEXT,
    "target": WHOLE,
    "predicted": WHOLE,
    "target_rank": WHOLE,
    "rank": WHOLE,
    "confidence": NUMBER,
    "average_precision": NUMBER,
}
WITHOUT_GAPS = ("sample_id", "direction", "target", "predicted", "target_rank", "rank")


class Labelled(NamedTuple):
    """scores, labels: (N, C) of every image and class; labels are bool."""

    scores: np.ndarray
    labels: np.ndarray


def odd_column(frame: pd.DataFrame, metric: str) -> str:
    """What keeps the lines of a row from being joined, in words; "" where nothing does.

    Args:
        metric: of the row; a column that bears its name must hold numbers.
    """
    if "sample_id" not in frame.columns:
        return "has no column 'sample_id'"
    for column, kind in (KINDS | {metric: NUMBER}).items():
        if column not in frame.columns:
            continue
        if not _is(kind, frame[column]):
            return f"does not hold {kind} in '{column}'"
        if column in WITHOUT_GAPS and frame[column].isna().any():
            return f"lacks '{column}' of some samples"
    several = metric == "mean_average_precision" and {"scores", "targets"} <= set(frame.columns)
    return "does not hold scores and classes of every image" if several and labelled(frame) is None else ""


def labelled(frame: pd.DataFrame) -> Labelled | None:
    """Scores and labels of images that may show several classes; None where the lists are no such thing.

    Args:
        frame: `scores`, a list of C numbers a line, and `targets`, the indices of the classes that are shown.
    """
    try:
        scores = np.array(frame["scores"].tolist(), dtype=float)
        shown = [np.asarray(own, dtype=float) for own in frame["targets"]]
        lines, classes = np.repeat(np.arange(len(shown)), [len(own) for own in shown]), np.concatenate(shown)
    except (TypeError, ValueError):  # no lists, of several lengths, or not of numbers
        return None
    if scores.ndim != 2 or not np.isfinite(scores).all():
        return None
    if not np.isin(classes, np.arange(scores.shape[1])).all():
        return None
    labels = np.zeros(scores.shape, dtype=bool)
    labels[lines, classes.astype(int)] = True
    return Labelled(scores, labels)


def _is(kind: str, column: pd.Series) -> bool:
    from pandas.api.types import is_bool_dtype, is_numeric_dtype, is_string_dtype

    if kind == TEXT:
        return is_string_dtype(column.dtype) and not isinstance(column.dtype, np.dtype)
    if not is_numeric_dtype(column.dtype) or kind == NUMBER:
        return is_numeric_dtype(column.dtype)
    values = column.dropna().to_numpy(dtype=float)
    return not is_bool_dtype(column.dtype) and bool(((values >= 0) & (values == np.floor(values))).all())
