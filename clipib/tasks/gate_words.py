"""The words of gates: thresholds as typed, and whether what they name can be there."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Sequence
from typing import NamedTuple

from clipib.data.catalog import CATALOG, find_entry
from clipib.data.specs import Spec, parse_specs
from clipib.errors import UserError
from clipib.metrics.catalog import HIGHER, LOWER, METRICS, NEITHER, VALIDATION_K, is_retrieval, metric_of
from clipib.registry import unknown_name
from clipib.tasks.results import Row

UNDER, OVER = "fail-under", "fail-over"
# A metric and a number hold neither '=' nor '.metric=' inside, so a data set's name may hold any of . / : = and @.
THRESHOLD = re.compile(
    r"(?P<dataset>.+)\.(?P<metric>[A-Za-z_]\w*(?:@\w+)?)\s*(?:\((?P<params>[^()]*)\)\s*)?=(?P<value>[^=]*)"
)
FORM = "DATASET.METRIC=VALUE, as in cifar10.acc1=0.88"


class Threshold(NamedTuple):
    """A bound on one metric of one data set.

    kind: UNDER fails below the value, OVER above it. params: those of the row, where several bear the metric's name.
    """

    kind: str
    dataset: str
    metric: str
    params: str
    value: float

    @property
    def key(self) -> str:
        """What was typed before the last '='."""
        return f"{self.dataset}.{self.metric}" + (f"({self.params})" if self.params else "")


def parse_thresholds(text: str, kind: str = UNDER) -> list[Threshold]:
    """Read a comma list of thresholds.

    A key is split at the last '.' before the metric, so that a data set's name may hold '.', '/', ':', '=' and '@'. A
    name that holds a comma stands in double quotes. Of several rows of one metric, `acc1(probe=knn;shots=4)` is the one
    with those params.

    Args:
        kind: UNDER or OVER, for messages the name of the option.

    Raises:
        UserError: for a piece of another form, a metric that nothing has or whose better direction is the other, or
            a value that no such metric takes.

    Example:
        >>> [(t.dataset, t.metric, t.value) for t in parse_thresholds("cifar10.acc1=0.88, a/b.c.acc5=1")]
        [('cifar10', 'acc1', 0.88), ('a/b.c', 'acc5', 1.0)]
        >>> parse_thresholds("digitworld:objects=2.image_retrieval_recall@1=0.5")[0][1:]
        ('digitworld:objects=2', 'image_retrieval_recall@1', '', 0.5)
    """
    pieces = [p.strip() for p in re.split(r',(?=(?:[^"]*"[^"]*")*[^"]*$)', text)]
    if not any(pieces):
        raise UserError(f"--{kind} names no metric.", hint=f"Write {FORM}.")
    return [_parse(piece, kind) for piece in pieces if piece]


def _parse(piece: str, kind: str) -> Threshold:
    found = THRESHOLD.fullmatch(piece)
    if not found:
        hint = f"Write {FORM}; a name that holds a comma stands in double quotes."
        raise UserError(f"'{piece}' in --{kind} is no threshold.", hint=hint)
    dataset, metric = found["dataset"].strip().replace('"', ""), found["metric"]
    check_metrics([metric], f"--{kind}")
    better = metric_of(metric).better
    if better == NEITHER:
        raise UserError(f"'{metric}' only describes; it cannot be gated.")
    other = OVER if kind == UNDER else UNDER
    if better != (HIGHER if kind == UNDER else LOWER):
        way = "higher" if better == HIGHER else "lower"
        raise UserError(f"Of '{metric}' {way} is better, so --{kind} would fail what is good.", hint=f"Use --{other}.")
    value = _number(found["value"].strip(), piece, kind)
    if better == HIGHER and not 0 <= value <= 1:
        raise UserError(f"'{piece}' in --{kind}: '{metric}' lies between 0 and 1.", hint="Write 0.88 for 88 %.")
    params = ";".join(sorted(filter(None, (p.strip() for p in (found["params"] or "").split(";")))))
    return Threshold(kind, dataset, metric, params, value)


def _number(text: str, piece: str, kind: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not math.isfinite(value):
        hint = "Write 0.88 for 88 %." if text.endswith("%") else f"Write {FORM}."
        raise UserError(f"'{piece}' in --{kind}: '{text}' is no number.", hint=hint)
    return value


def check_metrics(metrics: Iterable[str], option: str) -> None:
    """Refuse a metric that nothing has.

    Raises:
        UserError: with the nearest names.
    """
    for metric in metrics:
        if metric_of(metric) is None:
            known = [m + "K" if m.endswith("@") else m for m in METRICS]
            error = unknown_name("metric", metric, known)
            message = error.message.replace(f"'{metric}'.", f"'{metric}' in {option}.", 1)
            raise UserError(message, hint="`cifar10.acc1`: the name stands in the column metric of results.csv.")


def check_reachable(
    metric: str, command: str, recall_k: Sequence[int], option: str, *, captions: bool | None = None
) -> None:
    """Refuse a gate whose row the command will not give, before it runs.

    Args:
        recall_k: the cut-offs asked for, () where they are not known.
        captions: whether a training run is validated on captions, else on classes; None where that is not known.
    """
    retrieval = is_retrieval(metric)
    if command == "zeroshot" and retrieval:
        raise UserError(f"zeroshot gives no '{metric}', which {option} names.", hint="clipib retrieve gives it.")
    if command == "retrieve" and not (retrieval or metric.endswith("_acc") or metric.startswith("average_")):
        raise UserError(f"retrieve gives no '{metric}', which {option} names.", hint="clipib zeroshot gives it.")
    if command == "finetune":
        _check_validated(metric, option, captions)
        return
    cut = re.fullmatch(r"\w+_recall@(\d+)", metric)
    if cut and recall_k and int(cut[1]) not in recall_k:
        ks = ",".join(map(str, sorted({*recall_k, int(cut[1])})))
        raise UserError(f"'{metric}' in {option} is not among what will be computed.", hint=f"Add --recall-k {ks}.")


def _check_validated(metric: str, option: str, captions: bool | None) -> None:
    """A training run measures what chooses its best weights, and no more."""
    of_captions = [f"{way}_retrieval_recall@{k}" for way in ("image", "text") for k in VALIDATION_K]
    of_classes = ["acc1", "acc5", "mean_per_class_recall"]
    given = of_captions * (captions is not False) + of_classes * (captions is not True)
    if metric not in given:
        on = "" if captions is None else " on captions" if captions else " on classes"
        command = "retrieve" if is_retrieval(metric) else "zeroshot"
        raise UserError(
            f"finetune{on} gives no '{metric}', which {option} names; it gives {', '.join(given)}.",
            hint=f"Gate the finished checkpoint: clipib {command} --model OUT/best.",
        )


def has_captions(texts: str | list[str]) -> bool | None:
    """Whether data that train are paired with captions, else with classes; None where reading them shows it."""
    known = {"folder": False, "digitworld": True}  # whose label sets have captions too
    found = {
        True if s.kind == "name" and CATALOG[s.argument].task == "retrieval" else known.get(s.kind)
        for s in parse_specs(texts)
    }
    return found.pop() if len(found) == 1 else None


def names_asked(texts: str | list[str], need: str, name: str = "") -> list[str] | None:
    """How the rows of these data will name them; None where that shows only when they are read.

    Args:
        texts: data specifications. need: "label", "caption" or "". name: the name given with `--name`.
    """
    if name:
        return [name]
    names: list[str] = []
    for spec in parse_specs(texts, need):
        if spec.kind not in ("name", "digitworld"):
            return None
        names += world_names(spec, need) if spec.kind == "digitworld" else [spec.argument]
        names += [f"suite:{spec.suite}"] * bool(spec.suite)
    return list(dict.fromkeys(names))


def world_names(spec: Spec, need: str) -> list[str]:
    """How the rows of the built-in world name it; without captions it is its label sets."""
    from clipib.data.digitworld.source import LABEL_VIEWS, world_name

    views = LABEL_VIEWS if need == "label" and not spec.argument else (spec.argument,)
    options = {k: int(v) for k, v in spec.options.items() if k in ("objects", "seed") and v.isdecimal()}
    return [world_name(view, **options) for view in views]


def check_names(thresholds: Iterable[Threshold], names: Iterable[str]) -> None:
    """Refuse a gate on a data set that is not asked for.

    Raises:
        UserError: with the nearest of those asked for.
    """
    names = list(names)
    for threshold in thresholds:
        if not any(names_it(t, n) for t in _spellings(threshold.dataset) for n in names):
            error = unknown_name("data set", threshold.dataset, names)
            message = error.message.replace(f"'{threshold.dataset}'.", f"'{threshold.dataset}' in --{threshold.kind}.")
            raise UserError(message, hint="A gate is on a data set of this call, by the name that its rows bear.")


def _spellings(typed: str) -> tuple[str, ...]:
    """A typed name, and the same without the split that may stand behind a colon."""
    return typed, typed.rpartition(":")[0] or typed


def names_it(typed: str, dataset: str, split: str = "") -> bool:
    """Whether a data set of a row is the one that was typed, by any spelling, perhaps with its split behind a colon."""
    return dataset in (typed, find_entry(typed)) or (bool(split) and typed == f"{dataset}:{split}")


def with_params(threshold: Threshold, rows: Sequence[Row]) -> list[Row]:
    """Those of the rows that bear the params of a threshold."""
    return [r for r in rows if set(filter(None, threshold.params.split(";"))) <= set(r.params.split(";"))]
