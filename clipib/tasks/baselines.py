"""What a gate compares with: an earlier run, its table alone, or published numbers."""

from __future__ import annotations

import csv
from collections.abc import Iterable, Sequence
from functools import cache
from pathlib import Path
from typing import NamedTuple

from clipib.data.catalog import CATALOG
from clipib.data.prompts import prompts_sha256
from clipib.errors import UserError
from clipib.metrics.catalog import metric_of
from clipib.registry import unknown_name
from clipib.tasks.paired import MARKS
from clipib.tasks.results import PROBE_PARAMS, RUN_PARAMS, Row
from clipib.tasks.runs import STAGE, CheckpointName, Run, checkpoints_of, read_run, rows_of_checkpoint

REFERENCES_FILE = Path(__file__).with_name("reference_rows.csv")
FLAG = "--baseline-checkpoint"


class Baseline(NamedTuple):
    """The rows to compare with.

    name: as typed. checkpoint: which of several, as typed. published: no run, but numbers from elsewhere, of which
    neither hashes nor samples are known.
    """

    name: str
    run: Run
    checkpoint: str | None
    published: bool


def read_baseline(text: str, *, checkpoint: str | None = None) -> Baseline:
    """Read `RUN`, `RUN/results.csv` or `ref:NAME`.

    Args:
        checkpoint: a part of the name or of the hash of the one that counts, where it has several.

    Raises:
        UserError: for what cannot be found, or holds no such checkpoint.
    """
    if text.startswith("ref:"):
        run = Run(Path(text), published_rows(text.removeprefix("ref:")), {}, "", Path())
        baseline = Baseline(text, run, checkpoint, True)
    else:
        run = read_run(Path(text).expanduser())
        baseline = Baseline(text, run._replace(rows=gateable(run.rows)), checkpoint, False)
    if checkpoint is not None:
        _picked(baseline)
    return baseline


@cache
def _references() -> dict[str, list[Row]]:
    found: dict[str, list[Row]] = {}
    blank = dict.fromkeys(("command", "checkpoint_sha256", "loss", "similarity", "params", "precision", "device"), "")
    blank |= dict.fromkeys(("ci_low", "ci_high", "n", "n_ties", "limit"))
    blank |= {"n_bad": 0, "seed": 0, "data_sha256": "", "prompts_sha256": "", "clipib_version": ""}
    with REFERENCES_FILE.open(encoding="utf-8", newline="") as file:
        for line in csv.DictReader(file):
            name, _source = line.pop("reference"), line.pop("source")
            main = line["metric"] == CATALOG[line["dataset"]].main_metric
            found.setdefault(name, []).append(Row(**{**blank, **line, "value": float(line["value"]), "is_main": main}))
    return found


def published_rows(name: str) -> list[Row]:
    """The numbers of a published table, see `reference_rows.csv`; hashes and precision are empty, being unknown.

    Raises:
        UserError: for an unknown name.
    """
    known = _references()
    if name not in known:
        error = unknown_name("reference", f"ref:{name}", [f"ref:{k}" for k in known])
        raise UserError(error.message, hint="Or name a run folder, or a results.csv.")
    return list(known[name])


def gateable(rows: Iterable[Row]) -> list[Row]:
    """The rows that a gate may be on: metrics with a better direction, of a training run those of its best weights."""
    kept = []
    for row in rows:
        params = row.params.split(";")
        other_stage = any(p.startswith("stage=") and p != STAGE for p in params)
        if (metric := metric_of(row.metric)) and metric.better and not other_stage and "scores=true_pmi" not in params:
            kept.append(row)
    return kept


def own_params(row: Row) -> list[str]:
    """Those of a row's params that tell it from others of its metric, checkpoint and data set."""
    beside = {*RUN_PARAMS, *MARKS, "stage", "of", "over"} - set(PROBE_PARAMS)
    return [p for p in row.params.split(";") if p and p.partition("=")[0] not in beside]


def plain(rows: Sequence[Row]) -> list[Row]:
    """Of rows that share checkpoint, data set, split and metric those with the fewest params of their own.

    Of two temperatures neither is plain, though what one was fitted on is a param more.
    """

    def scope(row: Row) -> tuple:
        temperature = [p for p in own_params(row) if p.startswith("temperature=")]
        return row.command, row.checkpoint_sha256, row.dataset, row.split, row.metric, *temperature

    fewest: dict[tuple, int] = {}
    for row in rows:
        fewest[scope(row)] = min(len(own_params(row)), fewest.get(scope(row), 99))
    return [r for r in rows if len(own_params(r)) == fewest[scope(r)]]


def baseline_rows(baseline: Baseline, checkpoint: CheckpointName) -> list[Row]:
    """The rows of the baseline that stand against a checkpoint: of the only one there is, or of its namesake.

    Raises:
        UserError: when there are several and none or more than one bears the checkpoint's name or hash.
    """
    if baseline.checkpoint is not None:
        return _picked(baseline)
    found = checkpoints_of(baseline.run.rows)
    names = [c for c in found if _name(c) == _name(checkpoint)]
    meant = found if len(found) == 1 else names
    if len(meant) != 1:
        meant = [c for c in meant or found if c.sha256 and c.sha256 == checkpoint.sha256]
    if len(meant) == 1:
        return _rows_of(baseline, meant[0])
    shown = "\n".join(f"- {c}" for c in found)
    example = _spelling(found[0]) if baseline.published else found[-1].sha256[:8]
    raise UserError(
        f"'{baseline.name}' has {len(found)} checkpoints, and which of them {checkpoint} is to be compared with is not "
        f"clear:\n{shown}",
        hint=f"Pick one by a part of its name or the beginning of its hash: {FLAG} {example}.",
    )


def _picked(baseline: Baseline) -> list[Row]:
    if not baseline.published:
        return rows_of_checkpoint(baseline.run, baseline.checkpoint, flag=FLAG)
    found = checkpoints_of(baseline.run.rows)
    meant = [c for c in found if baseline.checkpoint.lower() in _spelling(c).lower()]
    if len(meant) == 1:
        return _rows_of(baseline, meant[0])
    shown = ", ".join(map(_spelling, found))
    raise UserError(f"{FLAG} '{baseline.checkpoint}' fits {len(meant)} of '{baseline.name}'.", hint=f"It has {shown}.")


def _rows_of(baseline: Baseline, checkpoint: CheckpointName) -> list[Row]:
    return [r for r in baseline.run.rows if CheckpointName(r.model, r.pretrained, r.checkpoint_sha256) == checkpoint]


def _name(checkpoint: CheckpointName) -> tuple[str, str]:
    return checkpoint.model.removesuffix("-quickgelu"), checkpoint.pretrained


def _spelling(checkpoint: CheckpointName) -> str:
    return f"{checkpoint.model}/{checkpoint.pretrained}"


def check_published(baseline: Baseline, names: Sequence[str] | None, models: Sequence[str]) -> None:
    """Refuse, before a run, to compare it with published numbers that there are not.

    Args:
        names: the data sets asked for, None where that is not known. models: the checkpoints asked for, as typed.

    Raises:
        UserError: when the table has none of the data sets, or not the model.
    """
    rows, found = baseline.run.rows, checkpoints_of(baseline.run.rows)
    if names is not None and not {r.dataset for r in rows} & set(names):
        raise UserError(f"'{baseline.name}' has no number for {', '.join(names[:4])}.", hint=_near(rows, set(names)))
    known = {spelling for c in found for spelling in (c.model, _spelling(c))}
    for model in models if baseline.checkpoint is None else ():
        if model.replace("-quickgelu", "") not in known:
            hint = f"Say which one it is to be compared with: {FLAG} {_spelling(found[0])}."
            raise UserError(
                f"'{model}' is not in '{baseline.name}', which has {', '.join(map(_spelling, found))}.", hint=hint
            )


def match_published(ours: Sequence[Row], published: Sequence[Row], name: str) -> list[tuple[Row, Row]]:
    """Pairs of a published row and ours.

    Raises:
        UserError: when none of ours has a published number, or protocols, class names or templates differ.
    """
    numbers = {(r.dataset, r.split, r.metric): r for r in published}
    pairs = [(numbers[key], row) for row in ours if (key := (row.dataset, row.split, row.metric)) in numbers]
    if not pairs:
        raise _nothing_published(ours, published, name)
    differ = [(theirs, row) for theirs, row in pairs if theirs.protocol != row.protocol]
    if differ:
        shown = "\n".join(f"- {r.dataset}: protocol {t.protocol} and {r.protocol}" for t, r in differ[:10])
        hint = f"Evaluate with --protocol {differ[0][0].protocol}."
        raise UserError(f"These rows cannot be compared with '{name}':\n{shown}", hint=hint)
    for _, row in pairs:
        check_whole(row.limit, name, f"{row.dataset}: ")
    if others := [row.dataset for _, row in pairs if not _has_registry_words(row)]:
        raise UserError(
            f"'{name}' is of the registry's class names and templates; those of {', '.join(others[:10])} differ.",
            hint="Leave out --classnames, --templates and --language, or fetch the data again.",
        )
    return pairs


def check_whole(limit: int | None, name: str, of: str = "") -> None:
    """Refuse to compare a sample with published numbers."""
    if limit:
        raise UserError(f"{of}a sample of {limit:,} cannot be compared with '{name}'.", hint="Leave out --limit.")


def _has_registry_words(row: Row) -> bool:
    """Whether a row's class names and templates are the registry's, as far as that has some."""
    entry = CATALOG.get(row.dataset)
    if entry is None or not row.prompts_sha256 or not entry.classnames or not entry.templates:
        return True
    return row.prompts_sha256 == prompts_sha256(entry.classnames, entry.templates)


def _nothing_published(ours: Sequence[Row], published: Sequence[Row], name: str) -> UserError:
    """Say what there would be instead: other metrics of these data sets, or the same sets by another protocol."""
    sets = {r.dataset for r in ours}
    message = f"'{name}' has no number for {', '.join(sorted({f'{r.dataset}.{r.metric}' for r in ours})[:4])}."
    if metrics := sorted({r.metric for r in published if r.dataset in sets and metric_of(r.metric)}):
        return UserError(message, hint=f"It has others: --gate-metrics {','.join(metrics)}.")
    return UserError(message, hint=_near(published, sets))


def _near(published: Sequence[Row], sets: set[str]) -> str:
    """The same data sets by another protocol, or some of those that there are."""
    bare = {d.removeprefix("datacomp/") for d in sets}
    close = sorted({r.dataset for r in published if r.dataset.removeprefix("datacomp/") in bare})
    if close:
        return f"It has {', '.join(close[:4])}: its data sets are other files."
    return f"It has {', '.join(sorted({r.dataset for r in published})[:6])}, ..."
