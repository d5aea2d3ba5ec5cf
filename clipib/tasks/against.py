"""A run held against its baseline, row by row; a row that should be there and is not never passes."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Sequence
from typing import NamedTuple

from clipib.errors import UserError
from clipib.metrics.catalog import LOWER, is_retrieval, metric_of
from clipib.progress import Progress, counted
from clipib.tasks.baselines import baseline_rows, gateable, match_published, own_params, plain
from clipib.tasks.gates import COMPLETE, MAX_DROP, SIGNIFICANT, Gates
from clipib.tasks.judged import (
    FAILED,
    NO_ROW,
    NO_TEST,
    ON_COMMON,
    PASSED,
    Verdict,
    finite,
    make_verdict,
    place_of,
)
from clipib.tasks.paired import Matched, match, pair
from clipib.tasks.results import Row
from clipib.tasks.runs import CheckpointName, Run

ROUNDING = 1e-9  # 0.9 - 0.897 is not a drop beyond 0.003


class Held(NamedTuple):
    """What all checkpoints of a run are held to, and what is known of the run.

    asked: the names of the data sets that it was asked for or has rows of; gone: of those that it could not evaluate.
    """

    gates: Gates
    run: Run
    asked: set[str]
    gone: set[str]
    seed: int


class Sides(NamedTuple):
    """Rows that are judged: pairs of the baseline's and ours, and those that stand alone.

    unasked: rows of the baseline that are of data sets which the run was never asked for.
    theirs: all rows of the baseline for this checkpoint.
    """

    pairs: list[tuple[Row, Row]]
    only_theirs: list[Row]
    only_ours: list[Row]
    unasked: list[Row]
    theirs: list[Row]


def judge_against(held: Held, rows: Sequence[Row], checkpoint: CheckpointName, progress: Progress) -> list[Verdict]:
    """Every gate against the baseline, for one checkpoint.

    Args:
        rows: those of the checkpoint.

    Raises:
        UserError: when rows cannot be compared, saying what differs.
    """
    gates = held.gates
    sides = _published_sides(held, rows, checkpoint, progress) if gates.baseline.published else None
    sides = sides or _sides(held, rows, checkpoint)
    verdicts = []
    for kind, margin in gates.drops:
        own = [_judge_drop(held, kind, margin, a, b, checkpoint) for a, b in sides.pairs]
        for row in sides.only_ours:
            found = {"value": finite(row.value), **place_of(row)}
            own.append(make_verdict(checkpoint, kind, margin, NO_ROW, "the baseline has no such row", **found))
        for row in sides.only_theirs:
            words = "could not be computed" if row.dataset in held.gone else "this run has no such row"
            found = {"baseline": finite(row.value), **place_of(row)}
            own.append(make_verdict(checkpoint, kind, margin, NO_ROW, words, **found))
        nothing = "no main metric is there to be compared; name others with --gate-metrics"
        verdicts += own or [make_verdict(checkpoint, kind, margin, NO_ROW, nothing)]
    if gates.complete:
        verdicts += _judge_complete(held, sides.theirs, rows, checkpoint)
    elif sides.unasked:
        names = ", ".join(dict.fromkeys(r.dataset for r in sides.unasked))
        progress.warn(f"not judged, since this run has no rows of it: {names}; --require-complete fails for that")
    return verdicts


def _sides(held: Held, rows: Sequence[Row], checkpoint: CheckpointName) -> Sides:
    gates, baseline = held.gates, held.gates.baseline
    commands = {r.command for r in rows}
    theirs = [r for r in baseline_rows(baseline, checkpoint) if r.command in commands]
    ours, base = _gated(rows, gates.metrics), _gated(theirs, gates.metrics)
    found = Matched([], [], [])
    if gates.drops:
        found = _matched([r for r in base if r.dataset in held.asked], ours, held, commands)
    unasked = [r for r in base if r.dataset not in held.asked]
    return Sides(found.pairs, found.only_a, found.only_b, unasked, theirs)


def _published_sides(held: Held, rows: Sequence[Row], checkpoint: CheckpointName, progress: Progress) -> Sides:
    """Of published numbers only those of data sets that were asked for count; nobody asks for the whole table."""
    gates, baseline = held.gates, held.gates.baseline
    retrieval = {r.command for r in rows} == {"retrieve"}
    theirs = gateable(baseline_rows(baseline, checkpoint))
    theirs = [r for r in theirs if is_retrieval(r.metric) == retrieval]
    ours, here = _gated(rows, gates.metrics), {r.dataset for r in rows}
    asked = [r for r in theirs if r.dataset in held.asked]
    if not gates.drops:
        return Sides([], [], [], [], asked)
    pairs = match_published(ours, theirs, baseline.name)
    published = {id(row) for _, row in pairs}
    alone = dict.fromkeys(f"{r.dataset}.{r.metric}" for r in ours if id(r) not in published)
    if alone:
        progress.warn(f"not gated, since '{baseline.name}' has no number for them: {', '.join(alone)}")
    absent: dict[str, list[Row]] = {}
    for row in asked:
        if row.dataset not in here:
            absent.setdefault(row.dataset, []).append(row)
    return Sides(pairs, [r for own in absent.values() for r in _gated(own, gates.metrics) or own[:1]], [], [], asked)


def _matched(base: Sequence[Row], ours: Sequence[Row], held: Held, commands: Collection[str]) -> Matched:
    try:
        settings = {"settings_a": held.gates.baseline.run.settings, "settings_b": held.run.settings}
        return match(base, ours, **settings)
    except UserError as error:
        raise UserError(error.message, hint=_how_alike(error.hint, base, ours, held, commands)) from error


def _how_alike(hint: str, base: Sequence[Row], ours: Sequence[Row], held: Held, commands: Collection[str]) -> str:
    """What helps against a refusal: `gate` and `finetune` have no --datasets to leave data out with."""
    if "finetune" in commands:
        seeds = {r.seed for r in base if r.command == "finetune"}, {r.seed for r in ours if r.command == "finetune"}
        if seeds[0] != seeds[1]:
            theirs, own = (", ".join(map(str, sorted(found))) for found in seeds)
            drawn = f"Without --val the validation images are drawn by --seed, which is {theirs} there and {own} here."
            return f"{drawn}\nTrain with the same --seed, or name the same --val in both."
        return "Train both with the same --val, or with the same --train, --limit and --seed."
    return hint if held.gates.command else "Evaluate both in the same way."


def _gated(rows: Iterable[Row], metrics: Collection[str]) -> list[Row]:
    """The main metrics of every data set, and those named; a suite's average only where it is named."""
    rows = list(rows)
    named = [r for r in rows if r.metric in metrics]
    main = [r for r in rows if r.is_main and r.metric != "average_main_metric"]
    keep = {id(r) for r in (*plain(named), *main)}
    return [r for r in rows if id(r) in keep]


def _judge_drop(held: Held, kind: str, margin: float, base: Row, row: Row, checkpoint: CheckpointName) -> Verdict:
    """One metric against its baseline, by value or by the paired interval."""
    gates = held.gates
    found = {"baseline": finite(base.value), "value": finite(row.value), **place_of(row)}
    for side, value in (("the baseline's", found["baseline"]), ("this run's", found["value"])):
        if value is None:
            return make_verdict(checkpoint, kind, margin, NO_ROW, f"{side} row holds no number", **found)
    sign = -1.0 if metric_of(row.metric).better == LOWER else 1.0
    difference = row.value - base.value
    found["difference"] = difference
    interval, why, apart = None, "no per-sample file", 0
    if not gates.baseline.published:
        paired = pair(gates.baseline.run, held.run, base, row, alpha=2 * gates.alpha, seed=held.seed)
        interval, apart = paired.difference, paired.only_a + paired.only_b
        why = re.sub(r"\bA\b", "the baseline", re.sub(r"\bB\b", "this run", paired.why))
    if interval is not None and (finite(interval.low) is None or finite(interval.high) is None):
        interval, why = None, "the samples give it no ends"
    if interval is not None:
        found |= {"low": interval.low, "high": interval.high, "alpha": gates.alpha}
    same = bool(row.checkpoint_sha256) and row.checkpoint_sha256 == base.checkpoint_sha256 and difference == 0
    if kind == MAX_DROP:
        verdict, words = _by_value(sign * difference, margin)
    elif same:
        verdict, words = PASSED, "the same weights gave the same number"
    elif interval is None:
        verdict, words = NO_TEST, f"no paired interval: {why}"
    else:
        low, high = sorted((sign * interval.low, sign * interval.high))
        verdict, words = _by_interval(kind, low, high, margin)
        words += f" {ON_COMMON} ({apart:,} are in one only)" if apart else ""
    return make_verdict(checkpoint, kind, margin, verdict, words, **found)


def _by_value(gain: float, margin: float) -> tuple[str, str]:
    if -gain > margin + ROUNDING:
        return FAILED, f"worse by {-gain:.4f}, more than {margin:g}"
    return (
        PASSED,
        f"worse by {-gain:.4f}, within {margin:g}" if gain < 0 else f"better by {gain:.4f}" if gain else "equal",
    )


def _by_interval(kind: str, low: float, high: float, margin: float) -> tuple[str, str]:
    """What an interval of the gain proves: a drop beyond the margin, or that there is none."""
    if kind == SIGNIFICANT:
        proved = high < -margin - ROUNDING
        return (FAILED, f"drop proved beyond {margin:g}") if proved else (PASSED, f"drop not proved beyond {margin:g}")
    ruled_out = low > -margin
    words = f"drop beyond {margin:g} {'ruled out' if ruled_out else 'not ruled out'}"
    return (PASSED if ruled_out else FAILED), words


def _judge_complete(
    held: Held, theirs: Sequence[Row], rows: Sequence[Row], checkpoint: CheckpointName
) -> list[Verdict]:
    """Whether every row of the baseline is in the run too."""

    def key(row: Row) -> tuple:
        return row.dataset, row.split, row.metric, tuple(own_params(row))

    if not theirs:
        words = "the baseline has no row that could be in this run"
        return [make_verdict(checkpoint, COMPLETE, None, NO_ROW, words)]
    here = {key(r) for r in rows}
    missing = [r for r in theirs if key(r) not in here]
    if not missing:
        of = " of these data sets" * held.gates.baseline.published
        words = f"all of the baseline's {counted(len(theirs), 'row')}{of} are in this run"
        return [make_verdict(checkpoint, COMPLETE, None, PASSED, words)]
    verdicts = []
    for row in missing:
        verdict, words = FAILED, "in the baseline, not in this run"
        if row.dataset not in held.asked:
            words = "in the baseline, not asked for in this run"
        if row.dataset in held.gone:
            verdict, words = NO_ROW, "could not be computed"
        found = {"baseline": finite(row.value), **place_of(row)}
        verdicts.append(make_verdict(checkpoint, COMPLETE, None, verdict, words, **found))
    return verdicts
