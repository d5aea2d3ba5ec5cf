"""The checkpoints that a report sets side by side, whichever runs their rows come from."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

from clipib.errors import UserError
from clipib.metrics.paired import Difference
from clipib.progress import SILENT, Progress
from clipib.tasks.adjusted import adjust_over_datasets, family_of, verdict_of
from clipib.tasks.paired import comparable, match, pair
from clipib.tasks.results import PROBE_PARAMS, RUN_PARAMS, Row, run_params_of
from clipib.tasks.runs import Run
from clipib.tasks.sound_samples import trouble_of

NAME = ("model", "pretrained", "checkpoint_sha256")
CONDITIONS = ("protocol", "precision", "similarity", "limit", "seed")
MARKS = ("overlap", "group", "over", "stage")  # params that tell of a result, not of what was asked
OF_LINE = ("probe", "shots")  # params of a run that tell its lines apart, not its columns
WITHIN = (*PROBE_PARAMS, "train")  # params of a run that do not make another column
LETTERS = "ABCDEFGHIJKLMNOPQRSTUVWXYZ"


class Key(NamedTuple):
    """What a number is of: the rows of several checkpoints with one key stand in one line."""

    command: str
    dataset: str
    split: str
    metric: str
    params: str


class Contender(NamedTuple):
    """One checkpoint, evaluated in one way.

    letter: what tables call it. label: what tells it from the others. cells: its row for each key. runs: the run of
    each key. older: rows that a newer one of the same key hides.
    """

    letter: str
    label: str
    cells: dict[Key, Row]
    runs: dict[Key, Run]
    older: int


class Delta(NamedTuple):
    """How far a number is from the baseline's.

    value: contender - baseline, None where they are not comparable. difference: with its interval, None where that is
    not known; `why` says why.
    p: of no difference, adjusted over the data sets of the metric; None without an interval.
    verdict: "better" or "worse" where p is at most 0.05, "no difference shown" where it is not, or "".
    """

    value: float | None
    difference: Difference | None
    why: str
    p: float | None = None
    verdict: str = ""


def contenders_of(runs: Sequence[Run]) -> list[Contender]:
    """The checkpoints of several runs, in their order.

    Rows of one checkpoint in several runs are one contender, unless two runs tell of the same number. Of a probe the
    means over draws are told and what all images taught, not the single draws.

    Raises:
        UserError: when a run has nothing but draws.
    """
    grouped: dict[tuple, list[tuple[Run, Row]]] = {}
    for run in runs:
        rows = [row for row in run.rows if "probe_seed" not in params_of(row.params)]
        if not rows:
            raise UserError(
                f"'{run.path}' has single draws of a probe only: it is not finished, or was cut off.",
                hint="Run it again, it goes on where it stopped.",
            )
        for row in rows:
            grouped.setdefault(_identity(row), []).append((run, row))
    split: list[tuple[Row, list[tuple[Run, Row]]]] = []
    for members in grouped.values():
        places: dict[Key, set[str]] = {}
        for run, row in members:
            places.setdefault(key_of(row), set()).add(str(run.path))
        if any(len(found) > 1 for found in places.values()):
            paths = dict.fromkeys(str(run.path) for run, _ in members)
            split += [[m for m in members if str(m[0].path) == path] for path in paths]
        else:
            split.append(members)
    labels = _labels(split)
    return [_contender(_letter(i), label, members) for i, (label, members) in enumerate(zip(labels, split))]


def key_of(row: Row) -> Key:
    """What a row's number is of, whoever it belongs to."""
    hidden = {*RUN_PARAMS, *MARKS} - {*OF_LINE}
    own = [p for p in row.params.split(";") if p.partition("=")[0] not in hidden]
    return Key(row.command, row.dataset, row.split, row.metric, ";".join(own))


def params_of(text: str) -> dict[str, str]:
    """Params by name; one without a value has an empty one."""
    parts = (part.partition("=") for part in text.split(";") if part)
    return {name: value for name, _, value in parts}


def compare_all(
    contenders: Sequence[Contender], *, seed: int = 0, progress: Progress = SILENT
) -> dict[tuple[str, Key], Delta]:
    """The differences of every other contender to the first, by its letter and what the number is of.

    Verdicts go by p values that are adjusted over the data sets of each metric, as `clipib.tasks.compare` does.

    Args:
        seed: of the bootstrap that some intervals come from.
    """
    base, deltas = contenders[0], {}
    wanted = [(other, key) for other in contenders[1:] for key in other.cells if key in base.cells]
    with progress.track("comparing", len(wanted), unit="metrics") as advance:
        for other, key in sorted(wanted, key=lambda pair: pair[1][:3]):  # the samples of one data set are read once
            delta = compare_with(base, other, key, seed=seed)
            if delta is not None:
                deltas[other.letter, key] = delta
            advance()
    places = list(deltas)
    cells = {other.letter: other.cells for other in contenders}
    families = [(letter, *family_of(base.cells[key], cells[letter][key])) for letter, key in places]
    found = [deltas[place].difference for place in places]
    for place, difference, p in zip(
        places, found, adjust_over_datasets([d and d.p for d in found], families), strict=True
    ):
        if p is not None:
            verdict = verdict_of(place[1].metric, difference.value, p)
            deltas[place] = deltas[place]._replace(p=p, verdict=verdict)
    return deltas


def compare_with(baseline: Contender, other: Contender, key: Key, *, seed: int = 0) -> Delta | None:
    """How far a contender's number is from the baseline's; None where there is nothing to compare.

    Args:
        seed: of the bootstrap that some intervals come from.
    """
    a, b = baseline.cells.get(key), other.cells.get(key)
    if a is None or b is None or a.value is None or b.value is None or not comparable(a):
        return None
    try:
        matched = match([a], [b]).pairs
    except UserError as error:
        return Delta(None, None, _reason(error, key))
    if not matched:
        return None
    run_a, run_b = baseline.runs[key], other.runs[key]
    if "seeds" in params_of(a.params):
        return Delta(b.value - a.value, None, "means over draws")
    for contender, run, row in ((baseline, run_a, a), (other, run_b, b)):
        if trouble_of(run, row):
            return Delta(b.value - a.value, None, f"the per-sample file of {contender.letter} cannot be used")
    found = pair(run_a, run_b, a, b, seed=seed)
    if found.difference is None:
        letters = {"A": baseline.letter, "B": other.letter}
        return Delta(b.value - a.value, None, re.sub(r"\b[AB]\b", lambda name: letters[name[0]], found.why))
    lone = found.only_a + found.only_b
    return Delta(
        found.difference.value, found.difference, f"{lone:,} samples are in one of the two only" if lone else ""
    )


def _reason(error: UserError, key: Key) -> str:
    """What differs, in a few words."""
    line = error.message.splitlines()[-1].removeprefix("- ")
    return "not comparable: " + line.removeprefix(f"{key.dataset} ({key.split}): ").removeprefix(f"{key.dataset}: ")


def _identity(row: Row) -> tuple:
    return (*(getattr(row, c) for c in (*NAME, *CONDITIONS)), _column_params(row))


def _seen(row: Row) -> tuple:
    """What tells a row from one that says the same again."""
    return row.data_sha256, row.prompts_sha256, row.value, run_params_of(row)


def _column_params(row: Row) -> str:
    """What a row says of how its whole run was done, less what tells its lines apart."""
    return ";".join(p for p in run_params_of(row) if p.partition("=")[0] not in WITHIN)


def _contender(letter: str, label: str, members: Iterable[tuple[Run, Row]]) -> Contender:
    cells, runs, older = {}, {}, 0
    for run, row in members:
        key = key_of(row)
        older += key in cells and _seen(cells[key]) != _seen(row)  # the best of a training run may be the last too
        cells[key], runs[key] = row, run
    return Contender(letter, label, cells, runs, older)


def _labels(split: Sequence[list[tuple[Run, Row]]]) -> list[str]:
    """A name for each, with just what is needed to tell it from the others."""
    facts = [_facts(members) for members in split]
    used = [f"{f['model']} ({f['pretrained']})" if f["pretrained"] else f["model"] for f in facts]
    for name in facts[0] if facts else ():
        if name in ("model", "pretrained") or len(set(used)) == len(used):
            continue
        doubled = {u for u in used if used.count(u) > 1}
        varying = len({f[name] for f, u in zip(facts, used) if u in doubled}) > 1
        if varying:
            used = [f"{u}, {f[name]}" if u in doubled else u for f, u in zip(facts, used)]
    return used


def _facts(members: Sequence[tuple[Run, Row]]) -> Mapping[str, str]:
    run, row = members[0]
    return {
        "model": row.model,
        "pretrained": row.pretrained,
        "checkpoint": row.checkpoint_sha256[:8],
        "protocol": row.protocol,
        "precision": row.precision,
        "params": _column_params(row) or "default settings",
        "similarity": row.similarity,
        "limit": f"limit {row.limit:,}" if row.limit else "no limit",
        "seed": f"seed {row.seed}",
        "run": str(run.path),
    }


def _letter(i: int) -> str:
    return LETTERS[i] if i < len(LETTERS) else f"{LETTERS[i % len(LETTERS)]}{i // len(LETTERS)}"
