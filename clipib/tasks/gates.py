"""Gates: bounds on numbers, and on how much worse than a baseline they may be. Here they are read and checked.

A gate passes, fails, or could not be judged; only a failed one speaks against the checkpoint. That a drop is not
proved says nothing of there being none: it is `--non-inferior` that asks for proof that no larger drop hides.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from clipib.errors import UserError
from clipib.tasks.asked import NEEDS
from clipib.tasks.baselines import Baseline, check_published, check_whole, read_baseline
from clipib.tasks.gate_words import (
    OVER,
    UNDER,
    Threshold,
    check_metrics,
    check_names,
    check_reachable,
    has_captions,
    names_asked,
    parse_thresholds,
)
from clipib.tasks.results import Row

MAX_DROP, SIGNIFICANT, NON_INFERIOR, COMPLETE = "max-drop", "max-drop significant", "non-inferior", "complete"
DEFAULT_ALPHA = 0.05
HINTS = {"seed": "It draws the validation images: give the same --seed, or the same --val to both."}


class Gates(NamedTuple):
    """What a run is held to.

    thresholds: bounds on single metrics.
    drops: pairs of a kind and a margin; each is a gate on every main metric, and on `metrics` beside them.
        MAX_DROP fails where the value is worse by more, SIGNIFICANT where that is proved, NON_INFERIOR where it is
        not ruled out.
    alpha: one-sided level of the latter two. complete: every row of the baseline must be there.
    names: the data sets asked for, None where they are not known before they are read.
    command: what the gates are on; "" for a run that is there already.
    """

    thresholds: tuple[Threshold, ...]
    baseline: Baseline | None
    drops: tuple[tuple[str, float], ...]
    metrics: tuple[str, ...]
    alpha: float
    complete: bool
    names: tuple[str, ...] | None
    command: str = ""


def plan_gates(
    command: str = "",
    datasets: str | Sequence[str] = (),
    *,
    name: str = "",
    models: Sequence[str] = (),
    recall_k: Sequence[int] = (),
    conditions: dict[str, Any] | None = None,
    out: str | Path | None = None,
    fail_under: Sequence[str] = (),
    fail_over: Sequence[str] = (),
    baseline: str | None = None,
    baseline_checkpoint: str | None = None,
    max_drop: float | None = None,
    significant: bool = False,
    non_inferior: float | None = None,
    alpha: float = DEFAULT_ALPHA,
    require_complete: bool = False,
    gate_metrics: Sequence[str] = (),
) -> Gates | None:
    """Read the words of gates and refuse, before anything is computed, what cannot be judged afterwards.

    Args:
        command: "zeroshot", "retrieve" or "finetune"; "" for a run that is there already.
        datasets, name, models, recall_k, out: what that command is asked for.
        conditions: columns of its rows that are known before, such as limit and precision.
        fail_under, fail_over: comma lists, see `parse_thresholds`.
        baseline: a run folder, a `results.csv`, `ref:open_clip` or `ref:clip_benchmark`; read now, so that the run
            may not change it. baseline_checkpoint: which of its checkpoints.
        max_drop: by how much worse a metric may be; with `significant` only a proved larger drop fails.
        non_inferior: a margin; only where a larger drop is ruled out the gate passes.
        alpha: one-sided level of both.
        require_complete: a row that the baseline has and the run has not fails.
        gate_metrics: what to compare with the baseline beside the main metrics.

    Returns:
        The gates, or None where none is asked for.

    Raises:
        UserError: for words that make no gate, and for whatever is not there.
    """
    thresholds = [t for text in fail_under for t in parse_thresholds(text, UNDER)]
    thresholds += [t for text in fail_over for t in parse_thresholds(text, OVER)]
    drops = _drops(max_drop, significant, non_inferior)
    _check_options(baseline, drops, alpha, significant, max_drop, require_complete, gate_metrics, baseline_checkpoint)
    if not thresholds and baseline is None:
        return None
    check_metrics(gate_metrics, "--gate-metrics")
    captions = has_captions(datasets) if command == "finetune" and datasets else None
    for metric, option in [(t.metric, f"--{t.kind}") for t in thresholds] + [
        (m, "--gate-metrics") for m in gate_metrics
    ]:
        check_reachable(metric, command, recall_k, option, captions=captions)
    names = (
        names_asked(list(datasets) if not isinstance(datasets, str) else datasets, NEEDS.get(command, ""), name)
        if datasets
        else None
    )
    if names is not None:
        check_names(thresholds, names)
    read = read_baseline(baseline, checkpoint=baseline_checkpoint) if baseline is not None else None
    if read is not None and read.published:
        check_published(read, names, models)
    if read is not None:
        _check_baseline(read, command, drops, out, names, conditions or {})
    return Gates(
        tuple(thresholds),
        read,
        drops,
        tuple(gate_metrics),
        alpha,
        require_complete,
        None if names is None else tuple(names),
        command,
    )


def _drops(max_drop: float | None, significant: bool, non_inferior: float | None) -> tuple[tuple[str, float], ...]:
    found = []
    for option, kind, margin in (
        ("--max-drop", SIGNIFICANT if significant else MAX_DROP, max_drop),
        ("--non-inferior", NON_INFERIOR, non_inferior),
    ):
        if margin is not None and not 0 <= margin < float("inf"):
            raise UserError(
                f"{option} {margin} is no margin: it says by how much worse a metric may be.",
                hint=f"Write {option} 0.003.",
            )
        found += [(kind, margin)] if margin is not None else []
    if non_inferior == 0:
        raise UserError(
            "--non-inferior 0 asks to rule out every drop, which no sample can.", hint="Write --non-inferior 0.003."
        )
    return tuple(found)


def _check_options(
    baseline: str | None,
    drops: tuple[tuple[str, float], ...],
    alpha: float,
    significant: bool,
    max_drop: float | None,
    require_complete: bool,
    gate_metrics: Sequence[str],
    checkpoint: str | None,
) -> None:
    """Options that mean nothing without another one."""
    if not 0 < alpha < 0.5:
        raise UserError(
            f"--alpha {alpha} is no one-sided level: it lies between 0 and 0.5.", hint="Write --alpha 0.05."
        )
    if significant and max_drop is None:
        raise UserError(
            "--significant says how --max-drop is judged, which is not given.", hint="Add --max-drop 0.003."
        )
    given = [f"--{kind.partition(' ')[0]}" for kind, _ in drops] + ["--require-complete"] * require_complete
    given += ["--gate-metrics"] * bool(gate_metrics) + ["--baseline-checkpoint"] * (checkpoint is not None)
    if given and baseline is None:
        hint = "Add --baseline RUN, results.csv, ref:open_clip or ref:clip_benchmark."
        raise UserError(f"{given[0]} compares with a baseline, and none is given.", hint=hint)
    if baseline is not None and not drops and not require_complete:
        hint = "Add --max-drop 0.003 --significant, or --non-inferior 0.003, or --require-complete."
        raise UserError("--baseline by itself is no gate.", hint=hint)


def _check_baseline(
    baseline: Baseline,
    command: str,
    drops: tuple[tuple[str, float], ...],
    out: str | Path | None,
    names: Sequence[str] | None,
    conditions: dict[str, Any],
) -> None:
    """What of a baseline makes a gate impossible, whatever the run will give."""
    tests = [kind for kind, _ in drops if kind != MAX_DROP]
    option = "--significant" if SIGNIFICANT in tests else "--non-inferior"
    if tests and (baseline.published or not baseline.run.samples.is_dir()):
        hint = "Use --max-drop by itself, or a run folder as baseline."
        raise UserError(f"{option} needs per-sample files, and '{baseline.name}' has none.", hint=hint)
    if baseline.published:
        check_whole(conditions.get("limit"), baseline.name)
        _check_conditions(baseline, baseline.run.rows, names, {k: v for k, v in conditions.items() if k == "protocol"})
        return
    if out is not None and Path(out).resolve() == baseline.run.samples.parent.resolve():
        hint = "Name another folder, or with --baseline-checkpoint another checkpoint of this one."
        hint = "Name another --out." if command else hint
        raise UserError(f"'{out}' is the baseline itself: it would be compared with itself.", hint=hint)
    rows = [r for r in baseline.run.rows if r.command == command or not command]
    if not rows:
        found = ", ".join(sorted({r.command for r in baseline.run.rows})) or "none that a gate may be on"
        raise UserError(f"'{baseline.name}' has no rows of {command or 'any command'}, only of {found}.")
    _check_conditions(baseline, rows, names, conditions)


def _check_conditions(
    baseline: Baseline, rows: Sequence[Row], names: Sequence[str] | None, conditions: dict[str, Any]
) -> None:
    """What is known beforehand of the rows that the run will give, beside those of the baseline."""
    here = [r for r in rows if names is None or r.dataset in names]
    for column, value in conditions.items():
        if here and all(getattr(r, column) != value for r in here):
            theirs = _or_none(getattr(here[0], column))
            message = f"The {column} of '{baseline.name}' is {theirs}, and here it is {_or_none(value)}."
            raise UserError(message, hint=HINTS.get(column, f"Compare what was evaluated with the same --{column}."))


def _or_none(value: Any) -> str:
    return "none" if value in (None, "") else str(value)
