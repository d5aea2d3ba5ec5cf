"""Zero-shot classification of labelled images by class prompts."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from clipib.data.dataset import Dataset
from clipib.data.prompts import class_prompts, prompts_sha256, read_templates
from clipib.embeddings.encode import embed_images, embed_texts
from clipib.embeddings.store import Store
from clipib.errors import UserError
from clipib.metrics.classification import (
    Predictions,
    accuracy_at_k,
    join_predictions,
    macro_f1,
    mean_per_class_recall,
    predict,
    worst_group_accuracy,
)
from clipib.metrics.multilabel import mean_average_precision
from clipib.metrics.statistics import wilson_interval
from clipib.models import DEFAULT_PREPROCESS
from clipib.progress import SILENT, Progress
from clipib.registry import check_name
from clipib.tasks.prepare import Outcome, RunContext, check_overlap, plan_evaluation, say_encoded
from clipib.tasks.results import ResultsFolder, Row, join_params, settings_of
from clipib.tasks.scores import as_number, scorer_against
from clipib.tasks.suites import average_rows

if TYPE_CHECKING:
    from clipib.models.model import Model

PROTOCOL = "strict"
PROMPT_POOLINGS = ("mean", "union")
BLOCK = 4096  # images classified at once


def zeroshot(
    model: str = "ViT-B-32",
    datasets: str | list[str] = "digitworld",
    *,
    pretrained: str | None = None,
    out: str | Path = "runs/zeroshot",
    templates: str | Path | None = None,
    prompt_pooling: str | None = None,
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
) -> Outcome:
    """Classify labelled images by their score against class prompts, which is the checkpoint's own.

    With cosine a class is the mean of its unit prompt features, normalised again; with sets of points it is the union
    of its prompts' points. Logits are float32, a tie goes to the lowest class index.

    Args:
        model, pretrained: see `clipib.models.load.load_model`.
        datasets: data specifications, see `clipib.data.specs`.
        templates: a file of prompt templates that replaces the data set's own.
        prompt_pooling: "mean" or "union", see `build_classifier`.
        preprocess: "open_clip", "hf" or "fast", see `clipib.models.preprocess`.
        limit: evaluate a seeded class-balanced sample of this many images; the rows are marked.
        max_bad: unreadable images to put up with.
        cache_dir: where the embedding store lies, and the hashes of image files are remembered.
        verify_cache: hash all image files again, and say for how many another hash was remembered.
        dry_run: check everything, encode and write nothing.
        settings: what `results.json` records; left out, the arguments of this call.

    Returns:
        Rows `acc1`, `acc5` (from 5 classes up) and `mean_per_class_recall` per data set, in [0, 1];
        `mean_average_precision` where an image may belong to several classes; `macro_f1` and `worst_group_acc1` where
        the data set's protocol asks for them. `is_main` marks the metric that speaks for the data set.

    Raises:
        UserError: for everything that the user can mend.
    """
    settings = settings or settings_of(locals())
    out, store = Path(out), Store(cache_dir)
    if prompt_pooling is not None:
        check_name("prompt pooling", prompt_pooling, PROMPT_POOLINGS)
    own_templates = read_templates(templates) if templates else None
    checkpoint, planned, specs = plan_evaluation(
        "zeroshot",
        model,
        datasets,
        pretrained=pretrained,
        need="label",
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
    planned = [_with_templates(d, own_templates) for d in planned]
    if dry_run:
        return Outcome([], out)
    rows: list[Row] = []
    images_encoded = texts_encoded = 0
    with ResultsFolder(out, command="zeroshot", settings=settings, fresh=fresh) as folder:
        loaded_model = checkpoint.open()
        overlaps = [check_overlap(loaded_model, d, allow=allow_overlap, progress=progress) for d in planned]
        folder.begin()
        run = RunContext("zeroshot", loaded_model, PROTOCOL, seed, _pooling_params(loaded_model, prompt_pooling))
        for dataset, overlap in zip(planned, overlaps, strict=True):
            prompts = prompts_sha256(dataset.classnames, dataset.templates)
            if kept := folder.kept(run.row(dataset, prompts_sha256=prompts), _asked(dataset), max_bad=max_bad):
                progress.say(f"{dataset.name}: kept from an earlier run")
                rows += kept
                continue
            images = embed_images(
                loaded_model,
                dataset,
                store=store,
                batch_size=batch_size,
                workers=workers,
                max_bad=max_bad,
                progress=progress,
            )
            images_encoded += images.n_encoded
            classifier, n_texts = build_classifier(
                loaded_model, dataset, store=store, pooling=prompt_pooling, progress=progress
            )
            texts_encoded += n_texts
            read = images.dataset
            predictions = classify(images.array, classifier, loaded_model, read.labels)
            found = _rows(run, dataset, read, predictions, prompts, len(images.bad), overlap)
            folder.add(found, _samples(read, predictions))
            rows += found
        if averages := average_rows(run, specs, rows, progress):
            folder.add(averages)
            rows += averages
    say_encoded(images_encoded, texts_encoded, progress)
    return Outcome(rows, out, images_encoded, texts_encoded)


def build_classifier(
    model: Model, dataset: Dataset, *, store: Store | None, pooling: str | None = None, progress: Progress = SILENT
) -> tuple[np.ndarray, int]:
    """What each class is scored by, and how many texts had to be encoded.

    Args:
        pooling: "mean": the mean of the unit prompt features of a class, normalised again; of sets of points
            that of their first points, of their second points and so on, with the mean weights. "union": the points of
            all prompts, with their weights divided by the number of prompts. Left out, mean for plain embeddings, else
            union.

    Returns:
        (K, D) unit norm, or (K, points, D + 1), see `clipib.scoring.features.pack`.
    """
    prompts = class_prompts(dataset.classnames, dataset.templates)
    texts = embed_texts(model, prompts, store=store, progress=progress)
    n_classes, n_prompts = len(dataset.classnames), len(dataset.templates)
    rows = texts.array.reshape(n_classes, n_prompts, *texts.array.shape[1:])
    plain = texts.array.ndim == 2
    if (pooling or default_pooling(model)) == "union":
        if plain:  # points of weight 1
            rows = np.concatenate([rows, np.ones((*rows.shape[:2], 1), dtype=np.float32)], axis=2)
        united = rows.reshape(n_classes, -1, rows.shape[-1]).copy()
        united[..., -1] /= n_prompts
        return united, texts.n_encoded
    mean = rows.astype(np.float64).mean(axis=1)
    points = mean if plain else mean[..., :-1]
    points /= np.linalg.norm(points, axis=-1, keepdims=True)
    return mean.astype(np.float32), texts.n_encoded


def default_pooling(model: Model) -> str:
    return "union" if model.has_points else "mean"


def _pooling_params(model: Model, pooling: str | None) -> dict[str, str]:
    """What the rows say of it: nothing where a plain embedding is averaged, as everywhere."""
    pooling = pooling or default_pooling(model)
    return {"prompt_pooling": pooling} if model.has_points or pooling != "mean" else {}


class Scores(NamedTuple):
    """scores: (N, K) float32 logits, where an image may belong to several classes."""

    scores: np.ndarray


def classify(features: np.ndarray, classifier: np.ndarray, model: Model, labels: np.ndarray) -> Predictions | Scores:
    """Predictions for N image features by a classifier of K classes, block by block.

    Logits are computed in float64 and rounded to float32, so that equal classes get equal logits whatever the block.
    Several points a class are compared by the checkpoint's similarity, of a plain checkpoint by `kme`: the logarithm
    of the mean of exp over its prompts' logits.

    Args:
        labels: (N,) classes, or (N, K) zeros and ones; for the latter the logits themselves are given back.
    """
    logits_of, parts = _logits_by(classifier, model), []
    for start in range(0, len(features), BLOCK):
        logits = logits_of(features[start : start + BLOCK])
        parts.append(logits if labels.ndim == 2 else predict(logits, labels[start : start + BLOCK]))
    return Scores(np.concatenate(parts)) if labels.ndim == 2 else join_predictions(parts)


def _logits_by(classifier: np.ndarray, model: Model) -> Callable[[np.ndarray], np.ndarray]:
    """Rows of images -> (n, K) float32 logits. Plain features against plain classes need no torch."""
    if classifier.ndim == 3:
        return scorer_against(model, classifier, similarity=None if model.has_points else "kme")
    scale, bias = as_number(model.logit_scale), as_number(model.logit_bias)
    weights = classifier.astype(np.float64).T
    return lambda block: (scale * (block.astype(np.float64) @ weights) + bias).astype(np.float32)


def _with_templates(dataset: Dataset, templates: tuple[str, ...] | None) -> Dataset:
    if len(dataset.classnames) < 2:
        raise UserError(f"'{dataset.name}' has {len(dataset.classnames)} class; classification needs two.")
    return dataset.changed(templates=templates) if templates else dataset


def _rows(
    run: RunContext,
    dataset: Dataset,
    read: Dataset,
    predictions: Predictions | Scores,
    prompts: str,
    n_bad: int,
    overlap: dict[str, str],
) -> list[Row]:
    """The metrics of one data set; on digitworld also those of the images that are not grey, beside the ceiling."""

    def row(metric: str, value: float, n: int, params: dict[str, str], *, interval=None, ties=None, main=False) -> Row:
        low, high = interval or (None, None)
        return run.row(
            dataset,
            metric=metric,
            value=value,
            ci_low=low,
            ci_high=high,
            n=n,
            n_ties=ties,
            n_bad=n_bad,
            is_main=main,
            params=join_params({**params, **overlap}),
            prompts_sha256=prompts,
        )

    def accuracy(k: int, chosen: np.ndarray, params: dict[str, str], main: bool = False) -> Row:
        value, n = accuracy_at_k(predictions.target_rank[chosen], k), int(chosen.sum())
        ties = int(predictions.tied[chosen].sum())
        return row(f"acc{k}", value, n, params, interval=wilson_interval(value, n), ties=ties, main=main)

    if isinstance(predictions, Scores):
        value = mean_average_precision(predictions.scores, read.labels)
        return [row("mean_average_precision", value, len(read), {}, main=True)]
    everything = np.ones(len(read), dtype=bool)
    main = dataset.main_metric or "acc1"
    rows = [accuracy(1, everything, {}, main=main == "acc1")]
    if len(dataset.classnames) >= 5:
        rows.append(accuracy(5, everything, {}))
    ties = int(predictions.tied.sum())
    mean = mean_per_class_recall(predictions.predicted, read.labels)
    rows.append(row("mean_per_class_recall", mean, len(read), {}, ties=ties, main=main == "mean_per_class_recall"))
    if main == "macro_f1":
        rows.append(row("macro_f1", macro_f1(predictions.predicted, read.labels), len(read), {}, ties=ties, main=True))
    if read.groups is not None and (read.groups >= 0).any():
        for k in (1, 5) if len(dataset.classnames) >= 5 else (1,):
            worst = worst_group_accuracy(predictions.target_rank, read.groups, k)
            metric, group = f"worst_group_acc{k}", {"group": str(worst.group)}
            rows.append(row(metric, worst.accuracy, worst.n, group, main=main == metric))
    if read.world is not None:
        from clipib.tasks.known_truth import bayes_ceiling, is_grey

        rows.append(row("acc1_bayes", bayes_ceiling(read), len(read), {}))
        coloured = ~is_grey(read)
        if coloured.any():
            rows.append(accuracy(1, coloured, {"images": "ungreyed"}))
            rows.append(row("acc1_bayes", 1.0, int(coloured.sum()), {"images": "ungreyed"}))
    return rows


def _asked(dataset: Dataset) -> list[str]:
    """The metrics that `_rows` gives for a data set."""
    if dataset.labels.ndim == 2:
        return ["mean_average_precision"]
    ks = (1, 5) if len(dataset.classnames) >= 5 else (1,)
    asked = [f"acc{k}" for k in ks] + ["mean_per_class_recall"]
    asked += ["macro_f1"] * (dataset.main_metric == "macro_f1") + ["acc1_bayes"] * (dataset.world is not None)
    return asked + [f"worst_group_acc{k}" for k in ks] * (
        dataset.groups is not None and bool((dataset.groups >= 0).any())
    )


def _samples(read: Dataset, predictions: Predictions | Scores) -> dict[str, Any]:
    """What paired tests need of every image."""
    if isinstance(predictions, Scores):
        own = [np.flatnonzero(row).tolist() for row in read.labels]
        return {"sample_id": read.images.ids, "targets": own, "scores": [row.tolist() for row in predictions.scores]}
    return {
        "sample_id": read.images.ids,
        "target": read.labels,
        "target_name": [read.classnames[i] for i in read.labels],
        "predicted": predictions.predicted,
        "predicted_name": [read.classnames[i] for i in predictions.predicted],
        "target_rank": predictions.target_rank,
        "correct": predictions.target_rank == 0,
        "tied": predictions.tied,
        "confidence": predictions.confidence,
        "top5": [row.tolist() for row in predictions.top5],
    }
