"""What the two probing commands do around their own work: plan, encode, measure, write rows, words and pictures."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from clipib.data.dataset import Dataset
from clipib.embeddings.encode import embed_images, embed_texts
from clipib.embeddings.store import Store
from clipib.files import write_aside
from clipib.progress import Progress
from clipib.tasks.measured import Finding, Report
from clipib.tasks.pairs import check_pairs
from clipib.tasks.prepare import RunContext, check_overlap, plan_evaluation, say_encoded
from clipib.tasks.results import ResultsFolder, Row, join_params, slug

if TYPE_CHECKING:
    from clipib.models.model import Model

PROTOCOL = "one-text-an-image"


class Encoded(NamedTuple):
    """A data set as one checkpoint sees it: what could be read of it, and the stored features of its two sides."""

    model: Model
    dataset: Dataset
    images: np.ndarray
    texts: np.ndarray
    store: Store


class Probed(NamedTuple):
    """What was found of one checkpoint on one data set, in words; about: the sentence above them."""

    model: str
    dataset: str
    about: str
    findings: list[Finding]


class ProbeOutcome(NamedTuple):
    """Rows as in results.csv, and what they say."""

    rows: list[Row]
    out: Path
    probed: list[Probed]


def probe_checkpoints(
    command: str,
    models: str | list[str],
    datasets: str | list[str],
    work: Callable[[Encoded], tuple[Report, str]],
    *,
    main: tuple[str, ...],
    planning: dict[str, Any],
    out: Path,
    batch_size: int,
    workers: int,
    max_bad: int,
    allow_overlap: bool,
    fresh: bool,
    seed: int,
    settings: dict[str, Any],
    progress: Progress,
    finish: Callable[[dict[str, list[tuple[Model, Report]]]], dict[str, Any]] | None = None,
) -> ProbeOutcome:
    """Every checkpoint on every data set; all are planned before the first is encoded.

    Args:
        work: measures one checkpoint on one data set, and gives a sentence on it.
        main: of these metrics the first that was measured is the main one.
        planning: further options of `plan_evaluation`.
        finish: data set -> (model, report) of all checkpoints -> figures by file name.

    Raises:
        UserError: for everything that the user can mend.
    """
    plan = plan_evaluation(command, models, datasets, need="caption", out=out, seed=seed, progress=progress, **planning)
    if planning["dry_run"]:
        return ProbeOutcome([], out, [])
    store: Store = planning["store"]
    rows: list[Row] = []
    probed: list[Probed] = []
    reports: dict[str, list[tuple[Model, Report]]] = {}
    encoded = np.zeros(2, dtype=int)
    with ResultsFolder(out, command=command, settings=settings, fresh=fresh) as folder:
        pairs = [(model, d) for model in [c.open() for c in plan.checkpoints] for d in plan.datasets]
        overlaps = [check_overlap(model, dataset, allow=allow_overlap, progress=progress) for model, dataset in pairs]
        folder.begin()
        for (model, dataset), overlap in zip(pairs, overlaps):
            images = embed_images(
                model,
                dataset,
                store=store,
                batch_size=batch_size,
                workers=workers,
                max_bad=max_bad,
                progress=progress,
            )
            texts = embed_texts(model, images.dataset.captions, store=store, progress=progress)
            encoded += images.n_encoded, texts.n_encoded
            check_pairs(images.dataset, images.array, texts.array)
            progress.say(f"{dataset.name}: measuring {model.name} ({model.pretrained})")
            report, about = work(Encoded(model, images.dataset, images.array, texts.array, store))
            run = RunContext(command, model, PROTOCOL, seed)
            found = rows_of(run, dataset, report, overlap, len(images.bad), main)
            folder.add(found)
            rows += found
            probed.append(Probed(f"{model.name} ({model.pretrained})", dataset.name, about, report.findings))
            reports.setdefault(dataset.name, []).append((model, report))
            stem = f"{slug(dataset.name)}-{model.fingerprint[:8]}"
            save_words(out / f"{stem}.md", probed[-1])
            save_figures(out, {f"{stem}-{name}": figure for name, figure in report.figures.items()})
        if finish is not None:
            save_figures(out, finish(reports))
    say_encoded(*encoded.tolist(), progress)
    return ProbeOutcome(rows, out, probed)


def rows_of(
    run: RunContext, dataset: Dataset, report: Report, overlap: dict[str, str], n_bad: int, main: tuple[str, ...]
) -> list[Row]:
    """The measures of a report as rows of results.csv; of the main metric the first one is the main row."""
    measured = [m.metric for m in report.measures]
    place = next((measured.index(name) for name in main if name in measured), -1)
    return [
        run.row(
            dataset,
            metric=m.metric,
            value=m.value,
            ci_low=m.low,
            ci_high=m.high,
            n=m.n,
            n_bad=n_bad,
            params=join_params({**overlap, **m.params}),
            is_main=i == place,
        )
        for i, m in enumerate(report.measures)
    ]


def save_words(path: Path, probed: Probed) -> None:
    """What was found, beside the results, for people."""
    lines = [f"# {probed.model} on {probed.dataset}", "", probed.about, ""]
    lines += ["| test | verdict | what it says |", "| --- | --- | --- |"]
    lines += [f"| {f.test} | {f.verdict} | {f.words} |" for f in probed.findings]
    write_aside(path, lambda file: file.write(("\n".join(lines) + "\n").encode()))


def save_figures(out: Path, figures: dict[str, Any]) -> None:
    if figures:
        from clipib.tasks.figures import save_figure

        for name, figure in figures.items():
            save_figure(figure, out / "plots", name)
