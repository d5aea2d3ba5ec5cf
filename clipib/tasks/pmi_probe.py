"""How far a checkpoint's score is from the pointwise mutual information of images and texts."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import torch

from clipib.data.dataset import Dataset
from clipib.data.digitworld.truth import shared_information, true_pmi
from clipib.embeddings.encode import embed_images, embed_texts
from clipib.embeddings.store import Store
from clipib.files import write_aside
from clipib.information.table import ScoreTable
from clipib.models import DEFAULT_PREPROCESS
from clipib.progress import SILENT, Progress
from clipib.tasks.measured import Finding, Report
from clipib.tasks.pairs import Free, check_pairs, free_constants, score_table, split_images
from clipib.tasks.prepare import RunContext, check_overlap, plan_evaluation, say_encoded
from clipib.tasks.probe_blind import probe_blind, probe_chain, probe_pools, probe_prior
from clipib.tasks.probe_figures import probe_figures
from clipib.tasks.probe_truth import probe_truth
from clipib.tasks.results import ResultsFolder, Row, join_params, settings_of, slug
from clipib.tasks.scores import scorer_against
from clipib.tasks.zeroshot import build_classifier

if TYPE_CHECKING:
    from clipib.models.model import Model

PROTOCOL = "one-text-an-image"
TRUTH_LIMIT = 3_000  # images whose scores are compared with the true PMI, a matrix of all pairs
CHAINED = 200  # pairs of texts of one image that are joined
MAIN = ("pmi_rmse_nats", "pmi_ratio_calibration_nats")


class Probed(NamedTuple):
    """What one checkpoint's score is worth on one data set, in words."""

    model: str
    dataset: str
    free: str
    findings: list[Finding]


class ProbeOutcome(NamedTuple):
    """Rows as in results.csv, and what they say."""

    rows: list[Row]
    out: Path
    probed: list[Probed]


def pmi_probe(
    models: str | list[str] = "ViT-B-32",
    datasets: str | list[str] = "digitworld",
    *,
    pretrained: str | None = None,
    out: str | Path = "runs/pmi-probe",
    plots: bool = True,
    name: str = "",
    data_root: str | Path | None = None,
    columns: dict[str, str] | None = None,
    device: str = "auto",
    precision: str = "fp32",
    preprocess: str = DEFAULT_PREPROCESS,
    batch_size: int = 64,
    workers: int = 2,
    limit: int | None = None,
    seed: int = 0,
    max_bad: int = 0,
    allow_overlap: bool = False,
    cache_dir: str | Path | None = None,
    verify_cache: bool = False,
    fresh: bool = False,
    dry_run: bool = False,
    settings: dict[str, Any] | None = None,
    progress: Progress = SILENT,
) -> ProbeOutcome:
    """Compare the scores of checkpoints with PMI: with the true one on digitworld, by their own consistency elsewhere.

    Images are split in half with all their texts: constants, scales and offsets are fitted on one half and judged on
    the other. Numbers are computed anew at every call, from stored features.

    Args:
        models: one or more checkpoints. plots: whether figures are drawn. The others as for `clipib.tasks.retrieve`.

    Returns:
        Rows with intervals by the jackknife over images, and findings: a test, a verdict, a sentence.

    Raises:
        UserError: for everything that the user can mend.
    """
    settings = settings or settings_of(locals())
    out, store = Path(out), Store(cache_dir)
    models = [models] if isinstance(models, str) else list(models)
    plans = [
        plan_evaluation(
            "pmi-probe",
            model,
            datasets,
            pretrained=pretrained,
            need="caption",
            out=out,
            store=store,
            name=name,
            data_root=data_root,
            columns=columns,
            device=device,
            precision=precision,
            preprocess=preprocess,
            limit=limit,
            seed=seed,
            verify_cache=verify_cache,
            dry_run=dry_run,
            progress=progress,
        )
        for model in dict.fromkeys(models)
    ]
    if dry_run:
        return ProbeOutcome([], out, [])
    rows: list[Row] = []
    probed: list[Probed] = []
    encoded = np.zeros(2, dtype=int)
    with ResultsFolder(out, command="pmi-probe", settings=settings, fresh=fresh) as folder:
        opened = [(plan.checkpoint.open(), plan.datasets) for plan in plans]
        overlaps = {
            (model.fingerprint, d.name, d.split): check_overlap(model, d, allow=allow_overlap, progress=progress)
            for model, planned in opened
            for d in planned
        }
        folder.begin()
        for model, planned in opened:
            run = RunContext("pmi-probe", model, PROTOCOL, seed)
            for dataset in planned:
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
                progress.say(f"{dataset.name}: probing {model.name} ({model.pretrained})")
                report, free = probe_features(
                    model, images.dataset, images.array, texts.array, store=store, seed=seed, plots=plots
                )
                overlap = overlaps[model.fingerprint, dataset.name, dataset.split]
                found = rows_of(run, dataset, report, overlap, len(images.bad))
                folder.add(found)
                rows += found
                probed.append(Probed(f"{model.name} ({model.pretrained})", dataset.name, free.words, report.findings))
                stem = f"{slug(dataset.name)}-{model.fingerprint[:8]}"
                save_report(out, stem, probed[-1], report)
    say_encoded(*encoded.tolist(), progress)
    return ProbeOutcome(rows, out, probed)


def probe_features(
    model: Model, dataset: Dataset, images: np.ndarray, texts: np.ndarray, *, store: Store, seed: int, plots: bool
) -> tuple[Report, Free]:
    """All tests that the data allow, of stored features of the images and of the captions of a data set."""
    table, free = score_table(model, images, texts, dataset.image_of_caption), free_constants(model)
    known = dataset.world is not None and len(dataset) <= TRUTH_LIMIT
    truth = true_pmi(dataset.world.scenes, list(dataset.captions)) if known else None
    report = probe_scores(table, free, truth=truth, seed=seed, plots=plots)
    if dataset.world is not None:
        report.add("pmi_true_mi_nats", shared_information(dataset.world.objects), by="sum")
    elif len(dataset.captions) >= 2 * len(dataset):
        probe_chain(report, *_joined_scores(model, dataset, table, texts, images, store, seed))
    if dataset.labels is not None and dataset.labels.ndim == 1 and len(dataset.classnames) > 1:
        classifier, _ = build_classifier(model, dataset, store=store)
        probe_prior(report, scorer_against(model, classifier)(images), dataset.labels, seed=seed)
    return report, free


def probe_scores(
    table: ScoreTable, free: Free, *, truth: np.ndarray | None = None, seed: int = 0, plots: bool = False
) -> Report:
    """The tests of a table of scores alone, whatever made them.

    Args:
        truth: (N, N) true PMI of every image with the text of every image, where it is known.
    """
    report = Report()
    n = len(table.images)
    parts = tuple(split_images(n, (0.5, 0.5), seed))
    if truth is not None:
        probe_truth(report, table, truth, parts, free)
    probe_blind(report, table, parts, free, seed=seed)
    if n < len(table.texts):
        probe_pools(report, table.take(parts[1]))
    if plots:
        report.figures = probe_figures(report, table, parts, truth, seed=seed)
    return report


def _joined_scores(
    model: Model,
    dataset: Dataset,
    table: ScoreTable,
    texts: np.ndarray,
    images: np.ndarray,
    store: Store,
    seed: int,
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """(N, J) scores with a first and a second caption of J images, and with both as one text."""
    order = np.random.default_rng([seed, 84]).permutation(len(dataset))[:CHAINED]
    own = [np.flatnonzero(dataset.image_of_caption == i)[:2] for i in order]
    pairs = np.stack([p for p in own if len(p) == 2])
    both = [f"{dataset.captions[a].rstrip('. ')}. {dataset.captions[b]}" for a, b in pairs]
    joined = embed_texts(model, both, store=store).array
    together = score_table(model, images, joined, np.zeros(len(both), dtype=np.int64))
    everything = torch.arange(len(dataset))
    first, second = (table.score(everything, torch.from_numpy(side)) for side in pairs.T)
    return first.double(), second.double(), together.score(everything, torch.arange(len(both))).double()


def rows_of(run: RunContext, dataset: Dataset, report: Report, overlap: dict[str, str], n_bad: int) -> list[Row]:
    """The measures of a report as rows of results.csv."""
    main = next((name for name in MAIN if any(m.metric == name for m in report.measures)), "")
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
            is_main=m.metric == main and m.params.get("distribution", "Q") == "Q",
        )
        for m in report.measures
    ]


def save_report(out: Path, stem: str, probed: Probed, report: Report) -> None:
    """What was found in words, and the figures, beside the results."""
    lines = [f"# {probed.model} on {probed.dataset}", "", probed.free, ""]
    lines += ["| test | verdict | what it says |", "| --- | --- | --- |"]
    lines += [f"| {f.test} | {f.verdict} | {f.words} |" for f in probed.findings]
    write_aside(out / f"{stem}.md", lambda file: file.write(("\n".join(lines) + "\n").encode()))
    if report.figures:
        from clipib.tasks.figures import save_figure

        for name, figure in report.figures.items():
            save_figure(figure, out / "plots", f"{stem}-{name}")
