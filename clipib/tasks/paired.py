"""Two runs side by side: which rows belong together, and how far apart they are, sample by sample."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from clipib.errors import UserError
from clipib.metrics.catalog import metric_of
from clipib.metrics.multilabel import (
    mean_average_precision,
    mean_average_precision_by_order,
    mean_average_precision_of_rows,
)
from clipib.metrics.paired import Difference, paired_means, paired_proportions, paired_statistic
from clipib.progress import counted
from clipib.tasks.protocol import STRICT
from clipib.tasks.results import RUN_PARAMS, Row, run_params_of
from clipib.tasks.runs import Run, samples_file, samples_of
from clipib.tasks.sample_columns import labelled, odd_column

if TYPE_CHECKING:
    import pandas as pd

# What two rows must have in common, and how a message names it.
CONDITIONS = {
    "protocol": "protocol",
    "precision": "precision",
    "limit": "limit",
    "data_sha256": "data",
    "prompts_sha256": "class names or templates",
    "params": "settings",
}
CONTRAST_METRICS = ("text_acc", "image_acc", "group_acc")
MARKS = ("overlap", "group", "stage")  # params that tell of a result, not of what was asked
TOLERANCE = 1e-6  # between a row's value and the mean of its samples; rows are written in full
DRAWS = 800  # of a mean average precision; of 5,000 images and 20 classes some three seconds


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


class Paired(NamedTuple):
    """The difference of two rows on the samples that both have.

    difference: b - a; None where it has no interval, and then `why` says why. Its `gained` and `lost` are hits of B
        only and of A only, None for a metric that is not of hits and misses.
    n: samples that both have. only_a, only_b: those of one alone, which the difference leaves out.
    """

    difference: Difference | None
    n: int = 0
    only_a: int = 0
    only_b: int = 0
    why: str = ""


class Matched(NamedTuple):
    """pairs: rows that belong together; only_a, only_b: those without a partner."""

    pairs: list[tuple[Row, Row]]
    only_a: list[Row]
    only_b: list[Row]


def match(
    rows_a: Iterable[Row],
    rows_b: Iterable[Row],
    *,
    settings_a: Mapping[str, Any] | None = None,
    settings_b: Mapping[str, Any] | None = None,
) -> Matched:
    """Find the rows of the same command, data set, split, metric and params; each side is of one checkpoint.

    Args:
        settings_a, settings_b: what the runs were asked for, to tell what differs in class names or templates.

    Raises:
        UserError: when rows that belong together differ in protocol, precision, limit, data, class names or templates,
            preprocessing or pooling; it names data set, what differs, and both values.
    """
    a, b = _by_key(rows_a), _by_key(rows_b)
    pairs, refusals = [], []
    for key in (k for k in a if k in b):
        shared = [conditions for conditions in a[key] if conditions in b[key]]
        pairs += [(a[key][conditions], b[key][conditions]) for conditions in shared]
        if not shared:
            refusals.append(_refusal(a[key], b[key], settings_a or {}, settings_b or {}))
    if refusals:
        shown = list(dict.fromkeys(refusals))
        more = [f"- and {len(shown) - 10} more"] if len(shown) > 10 else []
        raise UserError(
            "These rows cannot be compared:\n" + "\n".join([f"- {r}" for r in shown[:10]] + more),
            hint="Evaluate both in the same way, or leave out what differs with --datasets.",
        )
    lone = [[r for key in one if key not in other for r in one[key].values()] for one, other in ((a, b), (b, a))]
    return Matched(pairs, *lone)


def pair(run_a: Run, run_b: Run, row_a: Row, row_b: Row, *, alpha: float = 0.05, seed: int = 0) -> Paired:
    """The difference b - a of two matched rows, from the samples that both runs have.

    Hits and misses go to mid-p McNemar and its interval; means, strata (classes), clusters (the captions of one
    image) and mean average precision to a paired bootstrap. Where a protocol takes equal scores in whatever order a
    sort left them, both sides take them together here, and the difference is not quite that of the two rows.

    Args:
        alpha: the interval has level 1 - alpha, two-sided.
        seed: of the bootstrap.
    """
    joined, why = join_samples(run_a, run_b, row_a, row_b)
    if joined is None:
        return Paired(None, why=why)
    a, b = joined.a, joined.b
    if a.labels is not None:
        difference = _difference_of_map(a, b, alpha=alpha, seed=seed)
    elif a.strata is None and a.clusters is None and a.values.dtype == bool:
        difference = paired_proportions(a.values, b.values, alpha=alpha)
    else:
        difference = paired_means(a.values, b.values, strata=a.strata, clusters=a.clusters, alpha=alpha, seed=seed)
    if a.values.dtype != bool:  # numbers that happen to be 0 and 1 are no hits
        difference = difference._replace(gained=None, lost=None)
    return Paired(difference, len(a.ids), joined.only_a, joined.only_b)


def _difference_of_map(a: Outcomes, b: Outcomes, *, alpha: float, seed: int) -> Difference:
    of_a, of_b = (mean_average_precision_of_rows(side.values, side.labels) for side in (a, b))
    return paired_statistic(lambda rows: of_b(rows) - of_a(rows), len(a.ids), alpha=alpha, draws=DRAWS, seed=seed)


class Joined(NamedTuple):
    """a, b: outcomes of the same samples in the same order; frame_a, frame_b: the lines they stand in."""

    a: Outcomes
    b: Outcomes
    frame_a: pd.DataFrame
    frame_b: pd.DataFrame
    only_a: int
    only_b: int


def join_samples(run_a: Run, run_b: Run, row_a: Row, row_b: Row) -> tuple[Joined | None, str]:
    """The samples that two matched rows have in common, or None and the reason why there are none."""
    if metric_of(row_a.metric) is None:
        return None, "only describes"
    sides = []
    for name, run, row in (("A", run_a, row_a), ("B", run_b, row_b)):
        side, why = _side(run, row, name)
        if side is None:
            return None, why
        sides.append(side)
    (a, frame_a), (b, frame_b) = sides
    common, place_a, place_b = np.intersect1d(a.ids, b.ids, assume_unique=True, return_indices=True)
    if not len(common):
        return None, "no sample in common"
    if a.labels is not None and a.labels.shape[1] != b.labels.shape[1]:
        return None, f"the per-sample files have scores of {a.labels.shape[1]:,} and {b.labels.shape[1]:,} classes"
    a_common, b_common = _take(a, place_a), _take(b, place_b)
    frames = frame_a.iloc[a_common.lines], frame_b.iloc[b_common.lines]
    return Joined(a_common, b_common, *frames, len(a.ids) - len(common), len(b.ids) - len(common)), ""


def _side(run: Run, row: Row, name: str) -> tuple[tuple[Outcomes, pd.DataFrame] | None, str]:
    """The samples of one run, or None and why they are not those of the row, or cannot be read as such."""
    if row.value is None:
        return None, f"{name} has no value"
    frame = samples_of(run, row)
    if frame is None:
        nothing = f"the per-sample file of {name} has no line of this row"
        return None, nothing if samples_file(run, row).exists() else f"{name} has no per-sample file"
    if odd := odd_column(frame, row.metric):
        return None, f"the per-sample file of {name} {odd}"
    found = outcomes(row, frame)
    if found is None:
        return None, "no mean over per-sample lines"
    if row.n is not None and len(found.ids) != row.n:
        return None, f"the per-sample file of {name} has {counted(len(found.ids), 'sample')}, not {row.n:,}"
    if not _gives(found, row):
        return None, f"the per-sample file of {name} gives another value"
    return (found, frame), ""


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


def comparable(row: Row) -> bool:
    """Whether a row tells how good the checkpoint is: not a ceiling, nor bounds, which go with what they bound."""
    params = dict(part.partition("=")[::2] for part in row.params.split(";"))
    metric = metric_of(row.metric)
    return metric is not None and bool(metric.better) and params.get("scores") != "true_pmi" and "ties" not in params


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


def _take(found: Outcomes, place: np.ndarray) -> Outcomes:
    return Outcomes(*(None if column is None else column[place] for column in found))


def _gives(found: Outcomes, row: Row) -> bool:
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


def _by_key(rows: Iterable[Row]) -> dict[tuple, dict[tuple, Row]]:
    """Rows by what they measure, then by the conditions they were measured under; of equal ones the last."""
    found: dict[tuple, dict[tuple, Row]] = {}
    for row in rows:
        own = [p for p in row.params.split(";") if p.partition("=")[0] not in (*RUN_PARAMS, *MARKS)]
        key = (row.command, row.dataset, row.split, row.metric, ";".join(own))
        found.setdefault(key, {})[tuple(_conditions(row).values())] = row
    return found


def _conditions(row: Row) -> dict[str, Any]:
    return {c: ";".join(run_params_of(row)) if c == "params" else getattr(row, c) for c in CONDITIONS}


def _refusal(
    a: dict[tuple, Row], b: dict[tuple, Row], settings_a: Mapping[str, Any], settings_b: Mapping[str, Any]
) -> str:
    """What differs between the two rows that are most alike, in words."""
    differing = []
    for x in a.values():
        for y in b.values():
            ours, theirs = _conditions(x), _conditions(y)
            differ = [c for c in CONDITIONS if ours[c] != theirs[c]]
            if "limit" in differ and "data_sha256" in differ:
                differ.remove("data_sha256")  # another sample has another hash
            differing.append((differ, x, ours, theirs))
    differ, row, ours, theirs = min(differing, key=lambda found: len(found[0]))
    words = [f"{CONDITIONS[c]} {_shown(ours[c])} and {_shown(theirs[c])}" for c in differ]
    if "prompts_sha256" in differ:
        for name in ("classnames", "templates", "language"):
            if (one := settings_a.get(name)) != (other := settings_b.get(name)):
                words.append(f"--{name} {_shown(one)} and {_shown(other)}")
    split = f" ({row.split})" * bool(row.split)
    return f"{row.dataset}{split}: {', '.join(words)}"


def _shown(value: Any) -> str:
    """A hash by its beginning; nothing is "none"."""
    text = "none" if value in (None, "") else str(value)
    return text[:12] if re.fullmatch(r"[0-9a-f]{64}", text) else text
