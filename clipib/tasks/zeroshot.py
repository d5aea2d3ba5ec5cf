"""Zero-shot classification of labelled images by class prompts."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from clipib.data.dataset import Dataset
from clipib.data.wording import Wording, reword
from clipib.embeddings.batches import embed_image_batches, embed_text_batches
from clipib.embeddings.encode import embed_images
from clipib.embeddings.store import Store
from clipib.errors import UserError
from clipib.metrics.bootstrap import bootstrap_mean, bootstrap_statistic
from clipib.metrics.calibration import expected_calibration_error
from clipib.metrics.classification import (
    Predictions,
    accuracy_at_k,
    macro_f1,
    mean_per_class_recall,
    worst_group_accuracy,
)
from clipib.metrics.multilabel import mean_average_precision
from clipib.metrics.statistics import wilson_interval
from clipib.models import DEFAULT_PREPROCESS
from clipib.progress import SILENT, Progress
from clipib.registry import check_name
from clipib.tasks.classifier import PROMPT_POOLINGS, Scores, build_classifier, classify, default_pooling
from clipib.tasks.evaluation import Evaluated, Job, Kind, encoder_of_several, evaluate
from clipib.tasks.prepare import Outcome, RunContext, plan_evaluation
from clipib.tasks.protocol import AUTO, CLIP_BENCHMARK, STRICT, Protocol, choose_protocol
from clipib.tasks.results import Row, join_params, settings_of
from clipib.tasks.samples import image_samples
from clipib.tasks.temperature import OWN, Temperatures, plan_temperatures

if TYPE_CHECKING:
    from clipib.models.model import Model

FEW_DRAWS = 200  # of a statistic that sorts all scores at every draw


def zeroshot(
    model: str | list[str] = "ViT-B-32",
    datasets: str | list[str] = "digitworld",
    *,
    pretrained: str | None = None,
    out: str | Path = "runs/zeroshot",
    protocol: str = STRICT,
    classnames: str | Path | None = None,
    templates: str | Path | None = None,
    language: str = "en",
    prompt_pooling: str | None = None,
    temperature: str | float = OWN,
    fit_data: str | list[str] | None = None,
    name: str = "",
    data_root: str | Path | None = None,
    columns: dict[str, str] | None = None,
    device: str = "auto",
    precision: str = AUTO,
    preprocess: str = DEFAULT_PREPROCESS,
    batch_size: int | None = 64,
    workers: int = 2,
    limit: int | None = None,
    seed: int = 0,
    max_bad: int = 0,
    allow_overlap: bool = False,
    keep_going: bool = False,
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
        model, pretrained: one or several checkpoints, see `clipib.tasks.checkpoint.named_checkpoints`.
        datasets: data specifications, see `clipib.data.specs`.
        protocol: whose rules are followed, see `clipib.tasks.protocol`.
        classnames, templates, language: what replaces the data set's own words, see `clipib.data.wording`.
        prompt_pooling: "mean" or "union", see `build_classifier`.
        temperature: of the probabilities behind nll and ece: "own" is the checkpoint's scale, "fit" chooses it on
            `fit_data`, a number is the temperature itself, 0.01 for a scale of 100.
        precision: "auto" is float32, or what the protocol asks for.
        preprocess: "open_clip", "hf" or "fast", see `clipib.models.preprocess`.
        batch_size: images at once; None lets the memory decide.
        limit: evaluate a seeded class-balanced sample of this many images; the rows are marked.
        max_bad: unreadable images to put up with.
        keep_going: go on with what can be evaluated; the rest is told in `failures`.
        cache_dir: where the embedding store lies, and the hashes of image files are remembered.
        verify_cache: hash all image files again, and say for how many another hash was remembered.
        dry_run: check everything, encode and write nothing.
        settings: what `results.json` records; left out, the arguments of this call.

    Returns:
        Rows `acc1`, `acc5` (from 5 classes up), `mean_per_class_recall`, `nll` and `ece` per data set;
        `mean_average_precision` where an image may belong to several classes; `macro_f1` and `worst_group_acc1` where
        the data set's protocol asks for them. `is_main` marks the metric that speaks for the data set. Proportions
        have Wilson intervals, means bootstrap intervals, ece none: it is biased by more than it varies.

    Raises:
        UserError: for everything that the user can mend.
    """
    settings = settings or settings_of(locals())
    out, store = Path(out), Store(cache_dir)
    if prompt_pooling is not None:
        check_name("prompt pooling", prompt_pooling, PROMPT_POOLINGS)
    rules = choose_protocol(protocol, precision, "label")
    if not rules.is_strict and (temperature != OWN or fit_data):
        raise UserError(
            f"--temperature is of nll and ece, which --protocol {protocol} does not give.", hint="Leave it out."
        )
    wording = Wording(classnames, templates, language).check()
    reading = {"data_root": data_root, "columns": columns, "progress": progress}
    planned = plan_evaluation(
        "zeroshot",
        model,
        datasets,
        pretrained=pretrained,
        need="label",
        out=out,
        store=store,
        name=name,
        device=device,
        precision=rules.precision,
        preprocess=preprocess,
        limit=limit,
        seed=seed,
        verify_cache=verify_cache,
        dry_run=dry_run,
        keep_going=keep_going,
        **reading,
    )
    planned = planned.change_datasets(lambda d: _worded(d, wording, rules), keep_going=keep_going)
    temperatures = plan_temperatures(temperature, fit_data, planned.datasets, store=store, **reading)
    if dry_run:
        return Outcome([], out, failures=tuple(planned.failures))
    size = rules.batch_size(batch_size)
    encoding = {"store": store, "batch_size": size, "workers": workers, "progress": progress}

    def work(job: Job) -> Evaluated:
        if not rules.is_strict:
            return _as_clip_benchmark(job, rules, **encoding)
        loaded, dataset = job.run.model, job.dataset
        images = embed_images(loaded, dataset, max_bad=max_bad, **encoding)
        classifier, n_texts = build_classifier(loaded, dataset, store=store, pooling=prompt_pooling, progress=progress)
        divided = temperatures.of(loaded, dataset, classifier, encoding)
        predictions = classify(images.array, classifier, loaded, images.dataset.labels, temperature=divided)
        rows = _rows(job, images.dataset, predictions, len(images.bad), temperatures.params(dataset))
        return Evaluated(rows, _samples(images.dataset, predictions), images.n_encoded, n_texts)

    kind = Kind(
        work,
        like=lambda run, dataset: run.row(dataset, prompts_sha256=dataset.prompts_sha256),
        asked=lambda dataset: _asked(dataset, rules, temperatures),
        context=lambda loaded: RunContext(
            "zeroshot", loaded, protocol, seed, rules.row_params(size) | _pooling_params(loaded, prompt_pooling)
        ),
        together=encoder_of_several(rules, encoding),
    )
    shared = {"max_bad": max_bad, "allow_overlap": allow_overlap, "fresh": fresh, "keep_going": keep_going}
    return evaluate("zeroshot", planned, kind, out=out, settings=settings, progress=progress, **shared)


def _as_clip_benchmark(job: Job, rules: Protocol, *, batch_size: int, **encoding: Any) -> Evaluated:
    """The job by the operations of CLIP_benchmark."""
    from clipib.tasks import clip_benchmark as theirs

    model, dataset = job.run.model, job.dataset
    prompts = dataset.prompts
    images = embed_image_batches(model, dataset, amp=rules.image_amp, batch_size=batch_size, **encoding)
    del encoding["workers"]
    texts = embed_text_batches(model, prompts, amp=rules.text_amp, **encoding)
    classifier = theirs.mean_prompts(texts.array, [len(own) for own in prompts], model.device.type, amp=rules.text_amp)
    logits = theirs.class_logits(images.array, classifier, batch_size=batch_size, amp=rules.image_amp)
    if dataset.labels.ndim == 2:
        predictions = Scores(logits.numpy(), theirs.average_precision_by_sort(logits, dataset.labels))
    else:
        predictions = theirs.predict_by_topk(logits, dataset.labels)
    rows = _rows(job, dataset, predictions, 0, {}, main="acc1" if rules.name == CLIP_BENCHMARK else "")
    return Evaluated(rows, _samples(dataset, predictions), images.n_encoded, texts.n_encoded)


def _pooling_params(model: Model, pooling: str | None) -> dict[str, str]:
    """What the rows say of it: nothing where a plain embedding is averaged, as everywhere."""
    pooling = pooling or default_pooling(model)
    return {"prompt_pooling": pooling} if model.has_points or pooling != "mean" else {}


def _worded(dataset: Dataset, wording: Wording, rules: Protocol) -> Dataset:
    """The data set in the words that were asked for.

    Raises:
        UserError: when it has a single class; under `strict` when its own words differ from the registry's.
    """
    if len(dataset.classnames) < 2:
        raise UserError(f"'{dataset.name}' has {len(dataset.classnames)} class; classification needs two.")
    dataset = reword(dataset, wording)
    if rules.is_strict and dataset.differences:
        raise UserError(
            f"'{dataset.name}': " + "; ".join(dataset.differences.values()) + ".",
            hint="Take the data's words with --protocol clip_benchmark, or your own with --classnames and --templates.",
        )
    return dataset


def _rows(
    job: Job,
    read: Dataset,
    predictions: Predictions | Scores,
    n_bad: int,
    calibration: dict[str, str],
    main: str = "",
) -> list[Row]:
    """The metrics of one data set; on digitworld also those of the images that are not grey, beside the ceiling.

    Args:
        read: the images that could be read.
        calibration: the params of nll and ece; where there are none, neither is reported.
        main: in place of the data set's own main metric.
    """
    dataset, prompts = job.dataset, job.dataset.prompts_sha256

    def row(metric: str, value: float, n: int, params: dict[str, str], *, interval=None, ties=None) -> Row:
        low, high = interval or (None, None)
        return job.run.row(
            dataset,
            metric=metric,
            value=value,
            ci_low=low,
            ci_high=high,
            n=n,
            n_ties=ties,
            n_bad=n_bad,
            is_main=metric == main and not params.keys() - {"group"},
            params=join_params({**params, **job.overlap}),
            prompts_sha256=prompts,
        )

    def accuracy(k: int, chosen: np.ndarray, params: dict[str, str]) -> Row:
        value, n = accuracy_at_k(predictions.target_rank[chosen], k), int(chosen.sum())
        ties = int(predictions.tied[chosen].sum())
        return row(f"acc{k}", value, n, params, interval=wilson_interval(value, n), ties=ties)

    n, ks = len(read), (1, 5) if len(dataset.classnames) >= 5 else (1,)
    if isinstance(predictions, Scores):
        main = "mean_average_precision"
        value = predictions.mean_average_precision
        if value is None:
            value = mean_average_precision(predictions.scores, read.labels)
        interval = bootstrap_statistic(
            lambda chosen: mean_average_precision(predictions.scores[chosen], read.labels[chosen]), n, draws=FEW_DRAWS
        )
        return [row(main, value, n, {}, interval=interval)]
    main = main or dataset.main_metric or "acc1"
    everything, ties, hit = np.ones(n, dtype=bool), int(predictions.tied.sum()), predictions.predicted == read.labels
    rows = [accuracy(k, everything, {}) for k in ks]
    mean = mean_per_class_recall(predictions.predicted, read.labels)
    interval = bootstrap_mean(hit, strata=read.labels)
    rows.append(row("mean_per_class_recall", mean, n, {}, interval=interval, ties=ties))
    if calibration:
        interval = bootstrap_mean(predictions.nll, proportion=False)
        rows.append(row("nll", float(predictions.nll.mean()), n, calibration, interval=interval))
        rows.append(row("ece", expected_calibration_error(predictions.confidence, hit), n, calibration))
    if main == "macro_f1":
        rows.append(row("macro_f1", macro_f1(predictions.predicted, read.labels), n, {}, ties=ties))
    if read.groups is not None and (read.groups >= 0).any():
        for k in ks:
            worst = worst_group_accuracy(predictions.target_rank, read.groups, k)
            rows.append(row(f"worst_group_acc{k}", worst.accuracy, worst.n, {"group": str(worst.group)}))
    if read.world is not None:
        from clipib.tasks.known_truth import bayes_ceiling, is_grey

        rows.append(row("acc1_bayes", bayes_ceiling(read), n, {}))
        coloured = ~is_grey(read)
        if coloured.any():
            rows.append(accuracy(1, coloured, {"images": "ungreyed"}))
            rows.append(row("acc1_bayes", 1.0, int(coloured.sum()), {"images": "ungreyed"}))
    return rows


def _asked(dataset: Dataset, rules: Protocol, temperatures: Temperatures) -> list[str]:
    """The metrics that `_rows` gives for a data set."""
    if dataset.labels.ndim == 2:
        return ["mean_average_precision"]
    ks = (1, 5) if len(dataset.classnames) >= 5 else (1,)
    asked = [f"acc{k}" for k in ks] + ["mean_per_class_recall"]
    if rules.is_strict:
        asked += [f"{metric};{join_params(temperatures.params(dataset))}" for metric in ("nll", "ece")]
    asked += ["macro_f1"] * (dataset.main_metric == "macro_f1") + ["acc1_bayes"] * (dataset.world is not None)
    return asked + [f"worst_group_acc{k}" for k in ks] * (
        dataset.groups is not None and bool((dataset.groups >= 0).any())
    )


def _samples(read: Dataset, predictions: Predictions | Scores) -> dict[str, Any]:
    """What paired tests need of every image."""
    if isinstance(predictions, Scores):
        own = [np.flatnonzero(row).tolist() for row in read.labels]
        return {"sample_id": read.images.ids, "targets": own, "scores": [row.tolist() for row in predictions.scores]}
    samples = {**image_samples(read, predictions), "nll": predictions.nll}
    if read.world is not None:
        from clipib.tasks.known_truth import is_grey

        samples["images"] = np.where(is_grey(read), "grey", "ungreyed")
    return samples
