"""How far a checkpoint's score is from the pointwise mutual information of images and texts."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch

from clipib.data.digitworld.truth import shared_information, true_pmi
from clipib.embeddings.encode import embed_texts
from clipib.embeddings.store import Store
from clipib.information.table import ScoreTable
from clipib.models import DEFAULT_PREPROCESS
from clipib.progress import SILENT, Progress
from clipib.tasks.classifier import build_classifier
from clipib.tasks.measured import Report
from clipib.tasks.pairs import Free, free_constants, score_table, split_images
from clipib.tasks.probe_blind import probe_blind, probe_chain, probe_pools, probe_prior
from clipib.tasks.probe_figures import probe_figures
from clipib.tasks.probe_truth import probe_truth
from clipib.tasks.probing import Encoded, ProbeOutcome, probe_checkpoints
from clipib.tasks.results import settings_of
from clipib.tasks.scores import scorer_against

TRUTH_LIMIT = 3_000  # images whose scores are compared with the true PMI, a matrix of all pairs
CHAINED = 200  # pairs of texts of one image that are joined
MAIN = ("pmi_rmse_nats", "pmi_ratio_calibration_nats")


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

    def work(encoded: Encoded) -> tuple[Report, str]:
        report, free = probe_features(encoded, seed=seed, plots=plots)
        return report, free.words

    return probe_checkpoints(
        "pmi-probe",
        models,
        datasets,
        work,
        main=MAIN,
        planning={
            "pretrained": pretrained,
            "store": Store(cache_dir),
            "name": name,
            "data_root": data_root,
            "columns": columns,
            "device": device,
            "precision": precision,
            "preprocess": preprocess,
            "limit": limit,
            "verify_cache": verify_cache,
            "dry_run": dry_run,
        },
        out=Path(out),
        batch_size=batch_size,
        workers=workers,
        max_bad=max_bad,
        allow_overlap=allow_overlap,
        fresh=fresh,
        seed=seed,
        settings=settings,
        progress=progress,
    )


def probe_features(encoded: Encoded, *, seed: int, plots: bool) -> tuple[Report, Free]:
    """All tests that the data allow, of a checkpoint's stored features."""
    model, dataset = encoded.model, encoded.dataset
    table = score_table(model, encoded.images, encoded.texts, dataset.image_of_caption)
    free = free_constants(model)
    known = dataset.world is not None and len(dataset) <= TRUTH_LIMIT
    truth = true_pmi(dataset.world.scenes, list(dataset.captions)) if known else None
    report = probe_scores(table, free, truth=truth, seed=seed, plots=plots)
    if dataset.world is not None:
        report.add("pmi_true_mi_nats", shared_information(dataset.world.objects), by="sum")
    elif len(dataset.captions) >= 2 * len(dataset):
        probe_chain(report, *_joined_scores(encoded, table, seed))
    if dataset.labels is not None and dataset.labels.ndim == 1 and len(dataset.classnames) > 1:
        classifier, _ = build_classifier(model, dataset, store=encoded.store)
        probe_prior(report, scorer_against(model, classifier)(encoded.images), dataset.labels, seed=seed)
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


def _joined_scores(encoded: Encoded, table: ScoreTable, seed: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """(N, J) scores with a first and a second caption of J images, and with both as one text."""
    dataset = encoded.dataset
    several = np.flatnonzero(np.bincount(dataset.image_of_caption) > 1)
    chosen = np.random.default_rng([seed, 84]).permutation(several)[:CHAINED]
    pairs = np.stack([np.flatnonzero(dataset.image_of_caption == i)[:2] for i in chosen])
    both = [f"{dataset.captions[a].rstrip('. ')}. {dataset.captions[b]}" for a, b in pairs]
    joined = embed_texts(encoded.model, both, store=encoded.store).array
    together = score_table(encoded.model, encoded.images, joined, np.zeros(len(both), dtype=np.int64))
    everything = torch.arange(len(dataset))
    first, second = (table.score(everything, torch.from_numpy(side)) for side in pairs.T)
    return first.double(), second.double(), together.score(everything, torch.arange(len(both))).double()
