"""What became of gates: each one judged on the rows of a run."""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Collection, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from clipib.errors import UserError
from clipib.files import write_aside
from clipib.metrics.catalog import LOWER, metric_of
from clipib.progress import SILENT, Progress, counted
from clipib.registry import nearest
from clipib.tasks.baselines import baseline_rows, gateable, match_published, own_params, plain
from clipib.tasks.gate_words import UNDER, Threshold, names_it
from clipib.tasks.gates import COMPLETE, MAX_DROP, SIGNIFICANT, Gates
from clipib.tasks.paired import match, pair
from clipib.tasks.results import GATES_FILE, SAMPLES, Row
from clipib.tasks.runs import CheckpointName, Run, checkpoints_of

PASSED, FAILED, NO_ROW, NO_TEST = "passed", "failed", "no row", "no test"
ROUNDING = 1e-9  # 0.9 - 0.897 is not a drop beyond 0.003


class Verdict(NamedTuple):
    """One gate and what became of it.

    gate: UNDER, OVER, MAX_DROP, SIGNIFICANT, NON_INFERIOR or COMPLETE.
    difference: value - baseline; low, high: its interval at level 1 - 2 alpha, whose ends are one-sided bounds.
    margin: the threshold, or by how much worse the value may be.
    verdict: PASSED, FAILED, NO_ROW where a row is missing, NO_TEST where the samples allow none.
    """

    model: str
    pretrained: str
    checkpoint_sha256: str
    dataset: str
    split: str
    metric: str
    params: str
    gate: str
    baseline: float | None
    value: float | None
    difference: float | None
    low: float | None
    high: float | None
    alpha: float | None
    margin: float | None
    verdict: str
    words: str


def judge(
    gates: Gates,
    rows: Sequence[Row],
    out: str | Path,
    *,
    seed: int = 0,
    partial: bool = False,
    progress: Progress = SILENT,
) -> list[Verdict]:
    """Hold the rows of a run to its gates.

    Args:
        rows: those that were asked for. out: the folder of the run, whose samples are compared.
        seed: of the bootstrap.
        partial: some of what was asked for could not be computed; a missing row then is no failure of the checkpoint.

    Returns:
        A verdict for each gate and checkpoint.

    Raises:
        UserError: when rows differ from the baseline in protocol, data, class names, templates, precision or limit, a
            gate fits several rows, or it is unclear which checkpoint of the baseline is meant.
    """
    rows = gateable(rows)
    run = Run(Path(out), rows, {}, "", Path(out) / SAMPLES)
    verdicts = []
    for checkpoint in checkpoints_of(rows) or [CheckpointName("", "", "")]:
        own = [r for r in rows if CheckpointName(r.model, r.pretrained, r.checkpoint_sha256) == checkpoint]
        verdicts += [_judge_threshold(t, own, checkpoint) for t in gates.thresholds]
        if gates.baseline is not None and own:
            verdicts += _judge_against(gates, own, checkpoint, run, seed, partial, progress)
    if gates.baseline is not None and not rows:
        verdicts += [_verdict(checkpoint, k, m, NO_ROW, "this run has no row") for k, m in gates.drops]
    return verdicts


def save_verdicts(verdicts: Sequence[Verdict], out: str | Path) -> None:
    """Write `gates.csv`."""
    write_aside(Path(out) / GATES_FILE, lambda file: file.write(to_csv(verdicts).encode()))


def exit_code(verdicts: Collection[Verdict], partial: bool = False) -> int:
    """1 exactly when a gate failed; where one could not be judged 3 for a partial run, else 2; 0 when all passed.

    Example:
        >>> exit_code([]), exit_code([], partial=True)
        (0, 3)
    """
    found = {v.verdict for v in verdicts}
    if FAILED in found:
        return 1
    return 3 if partial else 2 if found - {PASSED} else 0


def to_csv(verdicts: Sequence[Verdict]) -> str:
    """Verdicts as CSV text with a header; unknown is an empty cell."""
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(Verdict._fields)
    writer.writerows([["" if v is None else repr(v) if isinstance(v, float) else v for v in row] for row in verdicts])
    return out.getvalue()


def _verdict(
    checkpoint: CheckpointName, gate: str, margin: float | None, verdict: str, words: str, **found: Any
) -> Verdict:
    blank = dict.fromkeys(Verdict._fields) | dict.fromkeys(("dataset", "split", "metric", "params"), "")
    named = {"model": checkpoint.model, "pretrained": checkpoint.pretrained, "checkpoint_sha256": checkpoint.sha256}
    own = {"gate": gate, "margin": margin, "verdict": verdict, "words": words}
    return Verdict(**{**blank, **named, **own, **found})


def _place(row: Row) -> dict[str, str]:
    return {"dataset": row.dataset, "split": row.split, "metric": row.metric, "params": row.params}


def _judge_threshold(threshold: Threshold, rows: Sequence[Row], checkpoint: CheckpointName) -> Verdict:
    row = _row_of(threshold, rows)
    if row is None or row.value is None:
        near = nearest(threshold.key, dict.fromkeys(f"{r.dataset}.{r.metric}" for r in rows), most=1)
        words = "no such row" + (f"; the nearest is {near[0]}" if near else "")
        named = {"dataset": threshold.dataset, "metric": threshold.metric, "params": threshold.params}
        return _verdict(checkpoint, threshold.kind, threshold.value, NO_ROW, words, **named)
    beyond = row.value < threshold.value if threshold.kind == UNDER else row.value > threshold.value
    side = "below" if threshold.kind == UNDER else "above"
    words = f"{side} {threshold.value:g}" if beyond else f"not {side} {threshold.value:g}"
    verdict = FAILED if beyond else PASSED
    return _verdict(checkpoint, threshold.kind, threshold.value, verdict, words, value=row.value, **_place(row))


def _row_of(threshold: Threshold, rows: Sequence[Row]) -> Row | None:
    """The row that a threshold names: of several of one metric the plain one, unless params are given."""
    found = [r for r in rows if r.metric == threshold.metric and names_it(threshold.dataset, r.dataset, r.split)]
    if threshold.params:
        found = [r for r in found if set(threshold.params.split(";")) <= set(r.params.split(";"))]
    found = plain(found)
    if len(found) > 1:
        shown = "\n".join(f"- {r.dataset} ({_apart(r)})" for r in found[:10])
        params = ";".join(own_params(found[0]))
        with_split = f"{threshold.dataset}:{found[0].split}.{threshold.metric}=..."
        hint = f"Write {threshold.key}({params})=..." if params else f"Write {with_split}"
        if not params and len({r.split for r in found}) == 1:
            hint = "Judge runs of other settings apart: name an --out of its own for each."
        raise UserError(f"{len(found)} rows are called {threshold.key}:\n{shown}", hint=hint)
    return found[0] if found else None


def _apart(row: Row) -> str:
    words = [f"split {row.split}", *own_params(row), f"protocol {row.protocol}", f"precision {row.precision}"]
    return ", ".join([*words, f"seed {row.seed}"] + [f"limit {row.limit}"] * bool(row.limit))


def _judge_against(
    gates: Gates,
    rows: Sequence[Row],
    checkpoint: CheckpointName,
    run: Run,
    seed: int,
    partial: bool,
    progress: Progress,
) -> list[Verdict]:
    """Every gate against the baseline, for one checkpoint."""
    baseline = gates.baseline
    theirs = baseline_rows(baseline, checkpoint)
    commands = {r.command for r in rows}
    if baseline.published:
        theirs = [r for r in gateable(theirs) if ("_retrieval_" in r.metric) == (commands == {"retrieve"})]
    else:
        theirs = [r for r in theirs if r.command in commands]
    ours, base = _gated(rows, gates.metrics), _gated(theirs, gates.metrics)
    asked = {r.dataset for r in run.rows} | set(gates.names or ())
    if baseline.published:
        pairs = match_published(ours, theirs, baseline.name) if gates.drops else []
        _say_alone(pairs, ours if gates.drops else (), baseline.name, progress)
        only_ours, only_theirs = [], []
    else:
        settings = {"settings_a": baseline.run.settings, "settings_b": run.settings}
        matched = match([r for r in base if r.dataset in asked], ours, **settings)
        pairs, only_theirs, only_ours = matched.pairs, matched.only_a, matched.only_b
    verdicts = []
    for kind, margin in gates.drops:
        verdicts += [_judge_drop(gates, kind, margin, a, b, checkpoint, run, seed) for a, b in pairs]
        for row in only_ours:
            found = {"value": row.value, **_place(row)}
            verdicts.append(_verdict(checkpoint, kind, margin, NO_ROW, "the baseline has no such row", **found))
        for row in only_theirs:
            found = {"baseline": row.value, **_place(row)}
            verdicts.append(_verdict(checkpoint, kind, margin, NO_ROW, "this run has no such row", **found))
    if gates.complete:
        verdicts += _judge_complete(theirs, rows, checkpoint, partial)
    return verdicts


def _say_alone(pairs: Sequence[tuple[Row, Row]], ours: Sequence[Row], name: str, progress: Progress) -> None:
    """Warn of rows that no published number stands against."""
    published = {id(row) for _, row in pairs}
    alone = dict.fromkeys(f"{r.dataset}.{r.metric}" for r in ours if id(r) not in published)
    if alone:
        progress.warn(f"not gated, since '{name}' has no number for them: {', '.join(alone)}")


def _gated(rows: Sequence[Row], metrics: Collection[str]) -> list[Row]:
    """The main metrics of every data set, and those named; a suite's average only where it is named."""
    named = [r for r in rows if r.metric in metrics]
    main = [r for r in rows if r.is_main and r.metric != "average_main_metric"]
    keep = {id(r) for r in (*plain(named), *main)}
    return [r for r in rows if id(r) in keep]


def _judge_drop(
    gates: Gates, kind: str, margin: float, base: Row, row: Row, checkpoint: CheckpointName, run: Run, seed: int
) -> Verdict:
    """One metric against its baseline, by value or by the paired interval."""
    sign = -1.0 if metric_of(row.metric).better == LOWER else 1.0
    difference = row.value - base.value
    found = {"baseline": base.value, "value": row.value, "difference": difference, **_place(row)}
    interval, why, apart = None, "no per-sample file", 0
    if not gates.baseline.published:
        paired = pair(gates.baseline.run, run, base, row, alpha=2 * gates.alpha, seed=seed)
        interval, apart = paired.difference, paired.only_a + paired.only_b
        why = re.sub(r"\bA\b", "the baseline", re.sub(r"\bB\b", "this run", paired.why))
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
        words += f" on the samples that both have ({apart:,} are in one only)" if apart else ""
    return _verdict(checkpoint, kind, margin, verdict, words, **found)


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
    theirs: Sequence[Row], rows: Sequence[Row], checkpoint: CheckpointName, partial: bool
) -> list[Verdict]:
    """Whether every row of the baseline is in the run too."""

    def key(row: Row) -> tuple:
        return row.dataset, row.split, row.metric, tuple(own_params(row))

    here = {key(r) for r in rows}
    missing = [r for r in theirs if key(r) not in here]
    verdict, words = (NO_ROW, "could not be computed") if partial else (FAILED, "in the baseline, not in this run")
    if not missing:
        words = f"all of the baseline's {counted(len(theirs), 'row')} are in this run"
        return [_verdict(checkpoint, COMPLETE, None, PASSED, words)]
    return [_verdict(checkpoint, COMPLETE, None, verdict, words, baseline=r.value, **_place(r)) for r in missing]
