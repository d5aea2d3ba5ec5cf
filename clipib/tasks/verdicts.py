"""What became of gates: each one judged on the rows of a run."""

from __future__ import annotations

import csv
import io
from collections.abc import Collection, Sequence
from pathlib import Path

from clipib.errors import UserError
from clipib.files import write_aside
from clipib.progress import SILENT, Progress
from clipib.registry import nearest
from clipib.tasks.against import Held, judge_against
from clipib.tasks.asked import names_of, read_asked
from clipib.tasks.baselines import gateable, own_params, plain
from clipib.tasks.gate_words import UNDER, Threshold, check_names, names_it, with_params
from clipib.tasks.gates import COMPLETE, Gates
from clipib.tasks.judged import FAILED, NO_ROW, PASSED, Verdict, finite, make_verdict, place_of
from clipib.tasks.results import GATES_FILE, SAMPLES, Row
from clipib.tasks.runs import CheckpointName, Run, checkpoints_of


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

    What the run was asked for, and what of that failed, is read from its `results.json`: of a data set that is in the
    baseline and was asked for, a missing row is not passed over.

    Args:
        rows: those that were asked for. out: the folder of the run, whose samples are compared.
        seed: of the bootstrap.
        partial: some of what was asked for could not be computed; a missing row then is no failure of the checkpoint.

    Returns:
        A verdict for each gate and checkpoint.

    Raises:
        UserError: when a threshold is on a data set or metric that the run does not have, rows differ from the baseline
            in protocol, data, class names, templates, precision or limit, a gate fits several rows, or it is unclear
            which checkpoint of the baseline is meant.
    """
    rows, about = gateable(rows), read_asked(out)
    here, named = {r.dataset for r in rows}, set(gates.names or ())
    gone = {n for group in about.failed for n in (here.intersection(group) or group)}
    asked = here | named | gone | names_of(about.datasets, here)
    if partial:
        gone |= asked - here
    if rows:
        _check_known(gates.thresholds, rows, asked)
    run = Run(Path(out), rows, about.settings, "", Path(out) / SAMPLES)
    held, once = Held(gates, run, asked, gone, seed), _Once(progress)
    verdicts = []
    for checkpoint in checkpoints_of(rows) or [CheckpointName("", "", "")]:
        own = [r for r in rows if CheckpointName(r.model, r.pretrained, r.checkpoint_sha256) == checkpoint]
        verdicts += [_judge_threshold(t, own, checkpoint, gone) for t in gates.thresholds]
        if gates.baseline is not None and own:
            verdicts += judge_against(held, own, checkpoint, once)
    if gates.baseline is not None and not rows:
        kinds = [*gates.drops, *[(COMPLETE, None)] * gates.complete]
        verdicts += [make_verdict(checkpoint, k, m, NO_ROW, "this run has no row") for k, m in kinds]
    return verdicts


class _Once(Progress):
    """Says what several checkpoints have in common a single time."""

    def __init__(self, progress: Progress) -> None:
        self._progress, self._said = progress, set()

    def warn(self, text: str) -> None:
        if text not in self._said:
            self._progress.warn(text)
        self._said.add(text)


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


def _check_known(thresholds: Sequence[Threshold], rows: Sequence[Row], asked: Collection[str]) -> None:
    """Refuse a threshold on what the run neither has nor was asked for.

    Raises:
        UserError: with the nearest of what there is.
    """
    check_names(thresholds, asked)
    for threshold in thresholds:
        of_set = [r for r in rows if names_it(threshold.dataset, r.dataset, r.split)]
        found = [r for r in of_set if r.metric == threshold.metric]
        if found and not with_params(threshold, found):
            there = "\n".join(f"- {';'.join(own_params(r)) or 'none'}" for r in found[:10])
            raise UserError(f"'{threshold.key}' in --{threshold.kind} fits no row; the params there are:\n{there}")
        if of_set and not found:
            metrics = list(dict.fromkeys(r.metric for r in of_set))
            near = nearest(threshold.metric, metrics, most=1)
            hint = f"The nearest is {threshold.dataset}.{near[0]}." if near else ""
            message = f"'{threshold.key}' in --{threshold.kind}: the rows of '{of_set[0].dataset}' have no such metric"
            raise UserError(f"{message}, but {', '.join(metrics)}.", hint=hint)


def _judge_threshold(
    threshold: Threshold, rows: Sequence[Row], checkpoint: CheckpointName, gone: Collection[str]
) -> Verdict:
    row = _row_of(threshold, rows)
    if row is None:
        failed = any(names_it(threshold.dataset, name) for name in gone)
        words = "could not be computed" if failed else "this run has no such row"
        named = {"dataset": threshold.dataset, "metric": threshold.metric, "params": threshold.params}
        return make_verdict(checkpoint, threshold.kind, threshold.value, NO_ROW, words, **named)
    if (value := finite(row.value)) is None:
        words = "this run's row holds no number"
        return make_verdict(checkpoint, threshold.kind, threshold.value, NO_ROW, words, **place_of(row))
    beyond = value < threshold.value if threshold.kind == UNDER else value > threshold.value
    side = "below" if threshold.kind == UNDER else "above"
    words = f"{side} {threshold.value:g}" if beyond else f"not {side} {threshold.value:g}"
    verdict = FAILED if beyond else PASSED
    return make_verdict(checkpoint, threshold.kind, threshold.value, verdict, words, value=value, **place_of(row))


def _row_of(threshold: Threshold, rows: Sequence[Row]) -> Row | None:
    """The row that a threshold names: of several of one metric the plain one, unless params are given."""
    found = [r for r in rows if r.metric == threshold.metric and names_it(threshold.dataset, r.dataset, r.split)]
    found = plain(with_params(threshold, found))
    if len(found) > 1:
        shown = "\n".join(f"- {r.dataset} ({_apart(r)})" for r in found[:10])
        bare = f"{threshold.dataset}.{threshold.metric}"
        params = ";".join(own_params(min(found, key=lambda r: "probe_seed=" in r.params)))  # a mean before a draw
        with_split = f"{threshold.dataset}:{found[0].split}.{threshold.metric}=..."
        hint = f"Write {bare}({params})=..." if params else f"Write {with_split}"
        if len({tuple(own_params(r)) for r in found}) == 1 and len({r.split for r in found}) == 1:
            hint = "Judge runs of other settings apart: name an --out of its own for each."
        raise UserError(f"{len(found)} rows are called {threshold.key}:\n{shown}", hint=hint)
    return found[0] if found else None


def _apart(row: Row) -> str:
    words = [f"split {row.split}", *own_params(row), f"protocol {row.protocol}", f"precision {row.precision}"]
    return ", ".join([*words, f"seed {row.seed}"] + [f"limit {row.limit}"] * bool(row.limit))
