"""What every sample adds to a metric, read from the lines of a per-sample file."""

from __future__ import annotations

import math
import re
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from clipib.metrics.multilabel import mean_average_precision, mean_average_precision_by_order
from clipib.tasks.protocol import STRICT
from clipib.tasks.results import RUN_PARAMS, Row
from clipib.tasks.sample_columns import labelled

if TYPE_CHECKING:
    import pandas as pd

CONTRAST_METRICS = ("text_acc", "image_acc", "group_acc")
TOLERANCE = 1e-6  # between a row's value and that of its samples; rows are written in full


class Outcomes(NamedTuple):
    """What every sample adds to a metric.

    ids: (N,) distinct texts.
    values: (N,) bool for hits and misses, else float64; the metric is their mean, or the mean over strata of the means.
        (N, C) scores of C classes where there are labels; the metric is the mean average precision.
    strata: (N,) whole numbers, or None.
    clusters: (N,) texts, samples of one are not independent of each other; None where each is by itself.
    lines: (N,) the lines of the per-sample table that they stand in.
    labels: (N, C) bool, the classes that an image shows, or None.
    """

    ids: np.ndarray
    values: np.ndarray
    strata: np.ndarray | None
    clusters: np.ndarray | None
    lines: np.ndarray
    labels: np.ndarray | None = None


def outcomes(row: Row, frame: pd.DataFrame) -> Outcomes | None:
    """The per-sample values that a metric is the mean or the mean average precision of; None for another statistic.

    Args:
        frame: the lines of the row, see `clipib.tasks.runs.samples_of`.
    """
    lines = np.arange(len(frame))
    for part in filter(None, row.params.split(";")):
        name, _, value = part.partition("=")
        if name in frame.columns:
            lines = lines[(frame[name].iloc[lines].astype("string") == value).fillna(False).to_numpy(dtype=bool)]
        elif name not in (*RUN_PARAMS, "overlap", "temperature", "stage"):
            return None  # a part of the samples, and nothing says which
    if row.metric == "mean_average_precision":
        return _labelled_outcomes(row, frame, lines)
    way = row.metric.partition("_retrieval_")[0] if "_retrieval_" in row.metric else ""
    if way and "direction" in frame.columns:
        direction = {"image": "text_to_image", "text": "image_to_text"}.get(way)
        lines = lines[(frame["direction"].iloc[lines] == direction).to_numpy(dtype=bool, na_value=False)]
    values = _values(row.metric, frame.iloc[lines])
    if values is None:
        return None
    known = ~np.isnan(values.astype(float))
    lines, values = lines[known], values[known]
    if not len(values):
        return None
    part = frame.iloc[lines]
    strata = part["target"].to_numpy(dtype=np.int64) if row.metric == "mean_per_class_recall" else None
    of_captions = way == "image" or row.metric in CONTRAST_METRICS
    clusters = part["sample_id"].to_numpy(dtype=object) if of_captions else None
    if clusters is not None and len(set(clusters)) == len(clusters):
        clusters = None
    return Outcomes(_ids(part, captions=of_captions), values, strata, clusters, lines)


def _labelled_outcomes(row: Row, frame: pd.DataFrame, lines: np.ndarray) -> Outcomes | None:
    """Scores and labels of images that may show several classes."""
    part = frame.iloc[lines]
    found = labelled(part) if len(part) and {"scores", "targets"} <= set(part.columns) else None
    if found is None:
        return None
    return Outcomes(_ids(part, captions=False), found.scores, None, None, lines, found.labels)


def gives(found: Outcomes, row: Row) -> bool:
    """Whether the samples have the value of the row; never where that is no number."""
    low = high = _value(found)
    if found.labels is not None and row.protocol != STRICT:  # equal scores stand as a sort left them
        low, high = mean_average_precision_by_order(found.values, found.labels)
    return low - TOLERANCE <= row.value <= high + TOLERANCE and math.isfinite(row.value)


def _value(found: Outcomes) -> float:
    """The metric of the samples."""
    if found.labels is not None:
        return mean_average_precision(found.values, found.labels)
    values = found.values.astype(np.float64)
    if found.strata is None:
        return float(values.mean())
    _, stratum, counts = np.unique(found.strata, return_inverse=True, return_counts=True)
    return float((np.bincount(stratum, weights=values) / counts).mean())


def _values(metric: str, frame: pd.DataFrame) -> np.ndarray | None:
    """(N,) what each line adds; a column that bears the metric's name holds just that."""
    cut = re.fullmatch(r"(?:acc|.*_retrieval_recall@)(\d+)", metric)
    if metric in frame.columns:
        column = frame[metric]
        if str(column.dtype) == "boolean" and not column.isna().any():
            return column.to_numpy(dtype=bool)
        return column.to_numpy(dtype=float, na_value=np.nan)
    if metric == "mean_per_class_recall" and {"predicted", "target"} <= set(frame.columns):
        return (frame["predicted"] == frame["target"]).to_numpy(dtype=bool, na_value=False)
    rank = "target_rank" if metric.startswith("acc") else "rank"
    if cut and rank in frame.columns:
        return (frame[rank] < int(cut[1])).to_numpy(dtype=bool, na_value=False)
    if metric.endswith("_retrieval_mean_rank") and "rank" in frame.columns:
        return frame["rank"].to_numpy(dtype=float, na_value=np.nan) + 1
    if metric == "text_retrieval_map@r" and "average_precision" in frame.columns:
        return frame["average_precision"].to_numpy(dtype=float, na_value=np.nan)
    return None


def _ids(frame: pd.DataFrame, *, captions: bool) -> np.ndarray:
    """(N,) distinct texts: the sample's id, its caption where lines are captions, and how often both stood before."""
    names = frame["sample_id"].astype("string")
    if captions and "caption" in frame.columns:
        names = names + "\n" + frame["caption"].astype("string").fillna("")
    before = names.groupby(names).cumcount().astype("string")
    return (names + "\n" + before).to_numpy(dtype=object)
