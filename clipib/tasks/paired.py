"""Two runs side by side: which rows belong together, and how far apart they are, sample by sample."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from clipib.errors import UserError
from clipib.metrics.catalog import metric_of
from clipib.metrics.multilabel import mean_average_precision_of_rows
from clipib.metrics.paired import Difference, paired_means, paired_proportions, paired_statistic
from clipib.progress import counted
from clipib.tasks.outcomes import Outcomes, gives, outcomes
from clipib.tasks.results import RUN_PARAMS, Row, run_params_of
from clipib.tasks.runs import Run, samples_file, samples_of
from clipib.tasks.sample_columns import odd_column

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
MARKS = ("overlap", "group", "stage")  # params that tell of a result, not of what was asked
DRAWS = 800  # of a mean average precision, for which each takes some milliseconds


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
    if not gives(found, row):
        return None, f"the per-sample file of {name} gives another value"
    return (found, frame), ""


def comparable(row: Row) -> bool:
    """Whether a row tells how good the checkpoint is: not a ceiling, nor bounds, which go with what they bound."""
    params = dict(part.partition("=")[::2] for part in row.params.split(";"))
    metric = metric_of(row.metric)
    return metric is not None and bool(metric.better) and params.get("scores") != "true_pmi" and "ties" not in params


def _take(found: Outcomes, place: np.ndarray) -> Outcomes:
    return Outcomes(*(None if column is None else column[place] for column in found))


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
