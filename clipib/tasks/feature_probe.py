"""What a few labelled images, or all, teach about frozen features: the linear probe and the nearest neighbours."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from clipib.data.dataset import Dataset
from clipib.data.fetch import data_home
from clipib.data.specs import parse_specs
from clipib.embeddings.encode import ImageFeatures, embed_images
from clipib.embeddings.store import Store
from clipib.errors import UserError
from clipib.metrics.bootstrap import bootstrap_mean
from clipib.metrics.classification import Predictions, mean_per_class_recall, predict
from clipib.metrics.few_shot import assign_folds, draw_shots, t_interval
from clipib.metrics.statistics import wilson_interval
from clipib.models import DEFAULT_PREPROCESS
from clipib.progress import SILENT, Progress
from clipib.registry import check_name, resolve
from clipib.tasks.evaluation import find_overlaps
from clipib.tasks.prepare import (
    Outcome,
    RunContext,
    attempt,
    check_first_image,
    describe_model,
    nothing_done,
    plan_evaluation,
    say_encoded,
)
from clipib.tasks.results import ResultsFolder, Row, join_params, settings_of
from clipib.tasks.samples import image_samples
from clipib.tasks.suites import average_rows
from clipib.tasks.train_part import TrainParts, without_test_images

if TYPE_CHECKING:
    from clipib.models.model import Model

PROBES = {"linear": "clipib.metrics.logistic_probe:linear_probe", "knn": "clipib.metrics.knn:knn_probe"}
CHOSEN = {"linear": "probe_c", "knn": "probe_k"}  # the metric that tells what validation chose
SHOTS = ("1", "2", "4", "8", "16", "all")
METRICS = ("acc1", "mean_per_class_recall")
PROTOCOL = "strict"


def feature_probe(
    model: str | list[str] = "ViT-B-32",
    datasets: str | list[str] = "digitworld",
    *,
    probe: str = "linear",
    shots: tuple[str, ...] = SHOTS,
    seeds: int = 3,
    train_data: str = "",
    pretrained: str | None = None,
    out: str | Path = "runs/zeroshot",
    name: str = "",
    data_root: str | Path | None = None,
    columns: dict[str, str] | None = None,
    device: str = "auto",
    precision: str = "fp32",
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
    """Classify images by what was learnt from the features of labelled ones; no text takes part.

    The train part of each data set is learnt from, the test part is only tested on: C of the logistic regression and
    the number of neighbours are chosen on held-out folds of the training images. Features are the stored ones, of unit
    norm and after the projection; sets of points go by their weighted mean. Training images that are tested on too are
    left out.

    Args:
        probe: "linear", see `clipib.metrics.logistic_probe`, or "knn", see `clipib.metrics.knn`.
        shots: training images per class, as texts, or "all".
        seeds: draws of each few-shot training set; all images are learnt from once.
        train_data: data to learn from; left out, the train part of the same data.
        limit: test on a sample; learning is not limited.
        The others as for `clipib.tasks.zeroshot`.

    Returns:
        Rows `acc1` and `mean_per_class_recall` for each draw (`probe_seed`, `shots` and a hash of the training data in
        the params), with `probe_c` or `probe_k`, what validation chose; n of that is the number of training images. For
        few shots also the means over the draws (`seeds`), with Student's interval of the mean: it tells how much the
        draws differ on this test set, not how much another test set would. `acc1` of all images is the main metric.

    Raises:
        UserError: for everything that the user can mend.
    """
    settings = settings or settings_of(locals())
    out, store = Path(out), Store(cache_dir)
    check_name("probe", probe, PROBES)
    shots = _checked(shots, seeds)
    options = {"name": name, "columns": columns, "dry_run": dry_run, "progress": progress}
    parts = TrainParts(
        parse_specs(datasets, "label"), train_data, data_root=data_home(data_root, store.cache_dir), **options
    )
    planned = plan_evaluation(
        "zeroshot",
        model,
        datasets,
        pretrained=pretrained,
        need="label",
        out=out,
        store=store,
        data_root=data_root,
        device=device,
        precision=precision,
        preprocess=preprocess,
        limit=limit,
        seed=seed,
        verify_cache=verify_cache,
        keep_going=keep_going,
        alongside=parts.load,
        **options,
    )
    failures = list(planned.failures)
    for test in planned.datasets:
        if train := parts.of(test):
            progress.say(f"{train.name}: learning from {len(train):,} images of {len(train.classnames)} classes")
            if dry_run:
                check_first_image(train)
    if dry_run:
        return Outcome([], out, failures=tuple(failures))
    encoding = {"store": store, "batch_size": batch_size, "workers": workers, "max_bad": max_bad, "progress": progress}
    rows: list[Row] = []
    n_encoded = 0
    with ResultsFolder(out, command="zeroshot", settings=settings, fresh=fresh) as folder:
        folder.failures = failures  # as they come; the last word of `results.json` tells of them
        trains = [
            attempt(partial(without_test_images, parts.of(d), d, progress), failures, keep_going, dataset=d.name)
            for d in planned.datasets
        ]
        overlaps = find_overlaps(planned, failures, allow=allow_overlap, keep_going=keep_going, progress=progress)
        for c, checkpoint in enumerate(planned.checkpoints):
            named = describe_model(checkpoint.source())
            model = attempt(checkpoint.open, failures, keep_going, model=named)
            if model is None:
                continue
            folder.begin()  # what cannot be opened left the folder as it was
            run, own = RunContext("zeroshot", model, PROTOCOL, seed), []
            for d, (test, train) in enumerate(zip(planned.datasets, trains, strict=True)):
                if train is None or (c, d) not in overlaps:
                    continue
                plan = planned_fits(train.labels, shots, seeds, seed)
                work = _Work(run, test, train, probe, plan, overlaps[c, d], folder)
                done = attempt(partial(_probe, work, encoding), failures, keep_going, model=named, dataset=test.name)
                if done is None:
                    progress.warn(str(failures[-1]))
                    continue
                n_encoded += done.n_encoded
                means = _mean_rows(run, _own(probe, {"seeds": seeds}, train), test, shots, plan, done.rows)
                folder.add(means)
                own += [row for found in done.rows for row in found] + means
            averages = average_rows(replace(run, own_params={"probe": probe}), planned.specs, own, progress)
            folder.add(averages)
            rows += own + averages
            checkpoint.close()
    if not rows:
        raise nothing_done(failures)
    say_encoded(n_encoded, 0, progress)
    return Outcome(rows, out, n_encoded, failures=tuple(failures))


class _Work(NamedTuple):
    """The fits of one checkpoint on one data set, and the folder that each is added to as it is done."""

    run: RunContext
    test: Dataset
    train: Dataset
    probe: str
    plan: list[PlannedFit]
    overlap: dict[str, str]
    folder: ResultsFolder


class _Probed(NamedTuple):
    """The rows of every fit, and how many images were encoded for them."""

    rows: list[list[Row]]
    n_encoded: int


def _probe(work: _Work, encoding: dict[str, Any]) -> _Probed:
    """Do the fits; rows that an earlier run left are kept."""
    run, test, train, probe, plan, overlap, folder = work
    progress = encoding["progress"]
    runs = [replace(run, own_params=_own(probe, f.params, train)) for f in plan]
    done = [folder.kept(r.row(test), [*METRICS, CHOSEN[probe]], max_bad=encoding["max_bad"]) for r in runs]
    missing = [i for i, found in enumerate(done) if not found]
    if not missing:
        progress.say(f"{test.name}: kept from an earlier run")
        return _Probed(done, 0)
    _say_classes(test, train, plan, progress)
    features = _features(run.model, test, train, [plan[i] for i in missing], **encoding)
    with progress.track(f"fitting {test.name}", len(missing), unit="probes") as advance:
        for i in missing:
            learnt = _learn(probe, plan[i], features)
            done[i] = _fit_rows(runs[i], probe, test, features, learnt, overlap)
            folder.add(done[i], image_samples(features.test.dataset, learnt.predictions))
            advance(1, note=f"shots {plan[i].params['shots']}")
    return _Probed(done, features.test.n_encoded + features.train.n_encoded)


class PlannedFit(NamedTuple):
    """One training set: `shots` and `probe_seed` as the rows name them, the images (n,), and the seed of its folds."""

    params: dict[str, object]
    images: np.ndarray
    seed: int


def planned_fits(labels: np.ndarray, shots: tuple[str, ...], seeds: int, seed: int) -> list[PlannedFit]:
    """The training sets: for each number of shots as many draws as `seeds`, with `seed` and those after it."""
    fits = []
    for k in shots:
        if k == "all":
            fits.append(PlannedFit({"shots": k}, np.arange(len(labels)), seed))
        else:
            for s in range(seed, seed + seeds):
                fits.append(PlannedFit({"shots": k, "probe_seed": s}, draw_shots(labels, int(k), seed=s), s))
    return fits


class _Features(NamedTuple):
    """Both parts as encoded. place: (N,) row of each train image in `train`, -1 for one that is not there."""

    test: ImageFeatures
    train: ImageFeatures
    place: np.ndarray


def _features(
    model: Model, test: Dataset, train: Dataset, fits: list[PlannedFit], *, progress: Progress, **encoding: Any
) -> _Features:
    """Of the train part only what a fit learns from is encoded."""
    needed = np.unique(np.concatenate([fit.images for fit in fits]))
    tested = embed_images(model, test, progress=progress, **encoding)
    learnt = embed_images(model, train.take(needed), progress=progress, **encoding)
    place = np.full(len(train), -1)
    place[needed[learnt.kept]] = np.arange(len(learnt.kept))
    return _Features(tested, learnt, place)


class _Learnt(NamedTuple):
    """Predictions for the test images; the C or k that was chosen, and from how many images was learnt."""

    predictions: Predictions
    chosen: float
    n_train: int


def _learn(probe: str, fit: PlannedFit, features: _Features) -> _Learnt:
    from clipib.tasks.neighbours import centres

    test, train, place = features
    learnt = place[fit.images]
    learnt = learnt[learnt >= 0]
    labels = train.dataset.labels[learnt]
    n_classes = len(test.dataset.classnames)
    if len(np.unique(labels)) < 2:
        raise UserError(f"The images to learn '{test.dataset.name}' from are all of one class.")
    scores, chosen = resolve("probe", PROBES, probe)(
        centres(train.array[learnt]),
        labels,
        centres(test.array),
        n_classes=n_classes,
        folds=assign_folds(labels, seed=fit.seed),
    )
    return _Learnt(predict(scores, test.dataset.labels), float(chosen), len(learnt))


def _fit_rows(
    run: RunContext, probe: str, test: Dataset, features: _Features, learnt: _Learnt, overlap: dict[str, str]
) -> list[Row]:
    """The metrics of one fit. Their intervals are of this training set: they tell of other test sets, not of draws."""
    predictions, targets = learnt.predictions, features.test.dataset.labels
    n, hits = len(targets), float((predictions.target_rank == 0).mean())
    low, high = wilson_interval(hits, n)
    main = run.own_params["shots"] == "all"
    recall = mean_per_class_recall(predictions.predicted, targets)
    least, most = bootstrap_mean(predictions.predicted == targets, strata=targets)
    common = {"n": n, "n_bad": len(features.test.bad), "params": join_params(overlap)}
    tied = {**common, "n_ties": int(predictions.tied.sum())}
    return [
        run.row(test, metric="acc1", value=hits, ci_low=low, ci_high=high, is_main=main, **tied),
        run.row(test, metric="mean_per_class_recall", value=recall, ci_low=least, ci_high=most, **tied),
        run.row(test, metric=CHOSEN[probe], value=learnt.chosen, **{**common, "n": learnt.n_train}),
    ]


def _mean_rows(
    run: RunContext,
    own: dict[str, str],
    test: Dataset,
    shots: tuple[str, ...],
    plan: list[PlannedFit],
    done: list[list[Row]],
) -> list[Row]:
    """Means over the draws of each number of shots."""
    means = []
    for k in (k for k in shots if k != "all"):
        drawn = [rows for fit, rows in zip(plan, done, strict=True) if fit.params["shots"] == k]
        for metric in METRICS:
            rows = [row for found in drawn for row in found if row.metric == metric]
            values = [row.value for row in rows]
            low, high = t_interval(values) or (None, None)
            overlap = [p for p in rows[0].params.split(";") if p.startswith("overlap=")]
            params = ";".join(sorted([*overlap, *(f"{key}={v}" for key, v in {**own, "shots": k}.items())]))
            mean = {"value": float(np.mean(values)), "ci_low": low, "ci_high": high, "params": params}
            means.append(run.row(test, metric=metric, n=rows[0].n, n_bad=rows[0].n_bad, **mean))
    return means


def _own(probe: str, params: dict[str, object], train: Dataset) -> dict[str, str]:
    """What the rows say of the probe, beside the metric; the training images by the hash of all that could be drawn."""
    return {"probe": probe, **{key: str(v) for key, v in params.items()}, "train": train.sha256[:8]}


def _checked(shots: tuple[str, ...], seeds: int) -> tuple[str, ...]:
    if seeds < 1:
        raise UserError(f"{seeds} draws of a training set are none.", hint="Write --seeds 3.")
    texts = [str(k).strip().lower() for k in shots]
    if bad := [k for k in texts if k != "all" and not (k.isdecimal() and int(k) > 0)]:
        raise UserError(f"'{bad[0]}' is no number of shots.", hint="Write --shots 1,2,4,8,16,all.")
    if not texts:
        raise UserError("No number of shots is named.", hint="Write --shots 1,2,4,8,16,all.")
    return tuple(dict.fromkeys(k if k == "all" else str(int(k)) for k in texts))


def _say_classes(test: Dataset, train: Dataset, plan: list[PlannedFit], progress: Progress) -> None:
    """Warn of classes that cannot be learnt, and say which have too few images for so many shots."""
    counts = np.bincount(train.labels, minlength=len(test.classnames))
    unknown = np.setdiff1d(test.labels, train.labels)
    if len(unknown):
        n = int(np.isin(test.labels, unknown).sum())
        names = ", ".join(f"'{test.classnames[k]}'" for k in unknown[:5])
        progress.warn(f"{test.name}: no train image of {names}; {n:,} test images cannot be hit")
    most = max((int(fit.params["shots"]) for fit in plan if fit.params["shots"] != "all"), default=0)
    if n_few := int((counts[counts > 0] < most).sum()):
        few = f"{n_few:,} of {len(counts):,} classes have fewer than {most} train images"
        progress.say(f"{test.name}: {few}; of these all are learnt from")
