"""The loop that zeroshot and retrieve share: every checkpoint on every data set, each result kept as it is found."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from clipib.data.dataset import Dataset
from clipib.embeddings.batches import encode_batches_together
from clipib.embeddings.encode import encode_together
from clipib.errors import UserError
from clipib.progress import Progress
from clipib.tasks.checkpoint import Checkpoint
from clipib.tasks.prepare import (
    Failure,
    Outcome,
    Planned,
    RunContext,
    attempt,
    check_overlap,
    describe_model,
    nothing_done,
    say_encoded,
)
from clipib.tasks.protocol import Protocol
from clipib.tasks.results import ResultsFolder, Row
from clipib.tasks.suites import average_rows

if TYPE_CHECKING:
    from clipib.models.model import Model

TOGETHER = 4  # checkpoints in memory at once, for which each image is decoded once


class Job(NamedTuple):
    """One checkpoint on one data set. overlap: what the rows say of images that it was trained on."""

    run: RunContext
    dataset: Dataset
    overlap: dict[str, str]


class Evaluated(NamedTuple):
    """What a job gives: rows, the per-sample table, and how much was encoded for it."""

    rows: list[Row]
    samples: dict[str, Any]
    images_encoded: int
    texts_encoded: int


class Kind(NamedTuple):
    """What tells the two commands apart.

    work: does one job. like: a row as that of a job, without its metric. asked: the metrics of a data set, each with
    the params that tell its row from others of that name, `nll;temperature=own`.
    context: what the rows of one checkpoint share.
    together: fills the store for several checkpoints of equal preprocessing, and says how many features were new.
    """

    work: Callable[[Job], Evaluated]
    like: Callable[[RunContext, Dataset], Row]
    asked: Callable[[Dataset], list[str]]
    context: Callable[[Model], RunContext]
    together: Callable[[list[Model], Dataset], int]


def encoder_of_several(rules: Protocol, encoding: dict[str, Any]) -> Callable[[list[Model], Dataset], int]:
    """`Kind.together` under a protocol; `encoding` holds store, batch_size, workers and progress."""
    if rules.is_strict:
        return partial(encode_together, **encoding)
    return partial(encode_batches_together, amp=rules.image_amp, **encoding)


def evaluate(
    command: str,
    planned: Planned,
    kind: Kind,
    *,
    out: Path,
    max_bad: int,
    allow_overlap: bool,
    fresh: bool,
    keep_going: bool,
    settings: dict[str, Any],
    progress: Progress,
) -> Outcome:
    """Do all jobs of a plan; rows that an earlier run left are kept.

    Checkpoints with equal preprocessing are taken a few at a time, and each image is decoded once for them.

    Raises:
        UserError: for the first job that cannot be done; under `keep_going` only where none could.
    """
    failures = list(planned.failures)
    with ResultsFolder(out, command=command, settings=settings, fresh=fresh) as folder:
        folder.failures = failures  # as they come; the last word of `results.json` tells of them
        overlaps = find_overlaps(planned, failures, allow=allow_overlap, keep_going=keep_going, progress=progress)
        found: dict[tuple[int, int], list[Row]] = {}
        averages: dict[int, list[Row]] = {}
        encoded = [0, 0]
        for group in _groups(planned.checkpoints, failures, keep_going, progress):
            folder.begin()
            runs = [kind.context(model) for _, model in group]
            for d, dataset in enumerate(planned.datasets):
                jobs = {c: Job(run, dataset, overlaps[c, d]) for (c, _), run in zip(group, runs) if (c, d) in overlaps}
                for c, job in list(jobs.items()):
                    if kept := folder.kept(kind.like(job.run, dataset), kind.asked(dataset), max_bad=max_bad):
                        progress.say(f"{_place(job, len(planned.checkpoints))}: kept from an earlier run")
                        found[c, d] = kept
                        del jobs[c]
                if len(jobs) > 1:
                    with contextlib.suppress(UserError):  # the job that it stops will say so
                        encoded[0] += kind.together([job.run.model for job in jobs.values()], dataset)
                for c, job in jobs.items():
                    place = {"model": _name(job.run.model), "dataset": dataset.name}
                    done = attempt(partial(kind.work, job), failures, keep_going, **place)
                    if done is None:
                        progress.warn(str(failures[-1]))
                        continue
                    folder.add(done.rows, done.samples)
                    found[c, d] = done.rows
                    encoded = [encoded[0] + done.images_encoded, encoded[1] + done.texts_encoded]
            for (c, _), run in zip(group, runs):
                own = [row for (of, _), rows in sorted(found.items()) if of == c for row in rows]
                averages[c] = average_rows(run, planned.specs, own, progress)
                folder.add(averages[c])
                planned.checkpoints[c].close()
    if not found:
        raise nothing_done(failures)
    say_encoded(*encoded, progress)
    rows = [row for c in averages for d in range(len(planned.datasets)) for row in found.get((c, d), [])]
    return Outcome([*rows, *(row for own in averages.values() for row in own)], out, *encoded, tuple(failures))


def find_overlaps(
    planned: Planned, failures: list[Failure], *, allow: bool, keep_going: bool, progress: Progress
) -> dict[tuple[int, int], dict[str, str]]:
    """(checkpoint, data set) -> what its rows say of training images, for all that may be evaluated.

    Raises:
        UserError: for the first that may not be, without `keep_going`.
    """
    found = {}
    for c, checkpoint in enumerate(planned.checkpoints):
        source = checkpoint.source()
        for d, dataset in enumerate(planned.datasets):
            check = partial(check_overlap, source, dataset, allow=allow, progress=progress)
            overlap = attempt(check, failures, keep_going, model=describe_model(source), dataset=dataset.name)
            if overlap is not None:
                found[c, d] = overlap
    return found


def _groups(
    checkpoints: list[Checkpoint], failures: list[Failure], keep_going: bool, progress: Progress
) -> Iterator[list[tuple[int, Model]]]:
    """Opened checkpoints with their places: neighbours of equal preprocessing, TOGETHER at most."""
    group: list[tuple[int, Model]] = []
    names: dict[str, str] = {}
    for c, checkpoint in enumerate(checkpoints):
        model = attempt(checkpoint.open, failures, keep_going, model=describe_model(checkpoint.source()))
        if model is None:
            continue
        if first := names.get(model.fingerprint):
            progress.say(f"{_name(model)}: the same weights as {first}, whose rows stand for both")
            continue
        names[model.fingerprint] = _name(model)
        if group and (len(group) == TOGETHER or group[0][1].transform_key != model.transform_key):
            yield group
            group = []
        group.append((c, model))
    if group:
        yield group


def _name(model: Model) -> str:
    return f"{model.name} ({model.pretrained})"


def _place(job: Job, n_checkpoints: int) -> str:
    return job.dataset.name if n_checkpoints == 1 else f"{job.dataset.name}, {_name(job.run.model)}"
