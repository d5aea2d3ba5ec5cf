"""Fine-tune a checkpoint on paired images and texts."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch

from clipib.data.dataset import Dataset
from clipib.data.load import load_dataset
from clipib.embeddings.encode import embed_images, embed_texts, named, too_many_bad
from clipib.errors import UserError
from clipib.losses import LOSSES
from clipib.losses.composed import Loss, make_loss
from clipib.metrics.classification import accuracy_at_k, mean_per_class_recall, predict
from clipib.metrics.retrieval import recall_at_k
from clipib.models.checkpoint import Seen, load_seen, recover, save_checkpoint, short_keys
from clipib.models.load import load_model
from clipib.models.model import Model
from clipib.models.sources import check_weights, read_json, resolve_model
from clipib.progress import SILENT, Progress
from clipib.registry import check_name
from clipib.scoring.tiles import retrieval_ranks
from clipib.tasks.prepare import Outcome, RunContext, check_disk, check_first_image, describe_model
from clipib.tasks.results import JSON_FILE, ResultsFolder, Row, join_params
from clipib.tasks.zeroshot import build_classifier, class_logits
from clipib.training.batches import steps_per_epoch
from clipib.training.loop import Progressed, fit
from clipib.training.state import STATE_FILE

HELD_OUT = 0.1  # share of the training images that choose the checkpoint, without --val
PRETRAINED_LR, RANDOM_LR = 1e-5, 5e-4
STAGES = ("start", "best", "last")
RECALL_K = (1, 5, 10)
CHECKPOINT_BYTES_PER_PARAMETER = 4 * 6  # best, last and the training state: weights, two moments, one spare


class Parts(NamedTuple):
    """Training and validation images; overlap says what the validation images were used for before."""

    train: Dataset
    val: Dataset
    overlap: dict[str, str]


def finetune(
    model: str = "ViT-B-32",
    train: str = "flickr30k",
    *,
    pretrained: str | None = None,
    val: str | None = None,
    loss: str = "clip",
    penalty_weight: float | None = None,
    out: str | Path = "runs/finetune",
    epochs: int = 5,
    steps: int | None = None,
    batch_size: int = 64,
    lr: float | None = None,
    weight_decay: float = 0.1,
    warmup: int | None = None,
    clip_norm: float = 1.0,
    eval_every: int | None = None,
    save_every: int | None = None,
    name: str = "",
    data_root: str | Path | None = None,
    columns: dict[str, str] | None = None,
    device: str = "auto",
    precision: str = "auto",
    workers: int = 2,
    limit: int | None = None,
    seed: int = 0,
    max_bad: int = 0,
    allow_overlap: bool = False,
    fresh: bool = False,
    resume: bool = False,
    dry_run: bool = False,
    settings: dict[str, Any] | None = None,
    progress: Progress = SILENT,
) -> Outcome:
    """Fine-tune, choosing the best checkpoint on validation data that is never a test set.

    Writes `best/` and `last/` (checkpoint folders that open_clip opens too), `metrics.csv` and `results.csv`. Images
    with captions train on those, class folders on their class prompts. Without `val`, a tenth of the training
    images is held out by the seed.

    Args:
        train: a data specification; its split is train unless one is written.
        val: a data specification; its split is val unless one is written.
        loss: a row of `clipib.losses.LOSSES`. penalty_weight: overrides that row's.
        epochs: passes over the training images; `steps`, where given, goes before.
        batch_size: pairs a step; cut to the number of training images.
        lr: peak rate; left out, 1e-5 for pretrained weights and 5e-4 for random ones.
        warmup: steps of linear warm-up; left out, a tenth of all, at most 500.
        eval_every: steps between validations; left out, one epoch. save_every: between saved states besides those.
        precision: "fp32", "amp", or "auto": amp on a GPU, else fp32.
        limit: use only this many training images, a seeded sample.
        max_bad: unreadable images to put up with; all are decoded once before training.
        resume: go on with the unfinished run in `out`, from its last saved step, to the same weights.

    Returns:
        Rows of validation metrics with `stage=start`, `best` and `last` in `params`.

    Raises:
        UserError: for everything that the user can mend.
    """
    composed = make_loss(check_name("loss", loss, LOSSES), penalty_weight=penalty_weight)
    check_name("precision", precision, ("auto", "fp32", "amp"))
    source = resolve_model(model, pretrained)
    check_weights(source)
    seen_before = load_seen(source.folder) if source.folder else None
    dataset = load_dataset(train, role="train", data_root=data_root, name=name, columns=columns)
    chosen = load_dataset(val, role="val", data_root=data_root, columns=columns) if val else None
    if dataset.captions is None and dataset.labels is None:
        raise UserError(f"'{dataset.name}' has neither captions nor classes to train on.")
    if limit:
        dataset = dataset.sample(limit, seed=seed)
    dataset, chosen = (d and _readable(d, max_bad, workers, progress) for d in (dataset, chosen))
    if chosen is None:
        parts = _hold_out(dataset, seed, seen_before, progress)
    else:
        parts = _checked_parts(dataset, chosen, seen_before, allow_overlap)
    if len(parts.train) < 2:
        raise UserError(f"'{parts.train.name}' has {len(parts.train)} training images; contrast needs two.")
    if batch_size > len(parts.train):
        progress.warn(f"batch size {batch_size} is cut to the {len(parts.train)} training images")
        batch_size = len(parts.train)
    if batch_size < 2:
        raise UserError(f"Batch size {batch_size} is too small: a contrast needs two pairs.", hint="Try 64.")
    per_epoch = steps_per_epoch(parts.train, batch_size)
    steps = steps or epochs * per_epoch
    warmup = min(500, max(1, steps // 10)) if warmup is None else warmup
    random = source.pretrained == "random weights"
    lr = lr or (RANDOM_LR if random else PRETRAINED_LR)
    progress.say(
        f"finetune: {describe_model(source)}, loss {loss}; {len(parts.train):,} training and {len(parts.val):,} "
        f"validation images of {parts.train.name}; {steps:,} steps of {batch_size} pairs, peak rate {lr:g}"
    )
    for note in (*parts.train.notes, *(parts.val.notes if val else ())):
        progress.say(note)
    check_disk(Path(out), 1_000_000, "the training record")
    if dry_run:
        check_first_image(parts.train)
        check_first_image(parts.val)
        return Outcome([], Path(out))
    out = Path(out)
    settings = settings or {"model": model, "pretrained": pretrained, "train": train, "loss": loss, "seed": seed}
    finished = _check_folder(out, settings, fresh=fresh, resume=resume)
    if fresh:
        _clear(out)
    with ResultsFolder(out, command="finetune", settings=settings, fresh=fresh) as folder:
        for stage in ("best", "last"):
            recover(out / stage)
        progress.say(f"loading {source.name}")
        trained = load_model(source, device=device, seed=seed)
        trained.precision = ("amp" if trained.device.type == "cuda" else "fp32") if precision == "auto" else precision
        run = RunContext("finetune", trained, "strict", seed, limit)
        if finished:
            progress.say("this run is finished; its rows are kept (--fresh starts over)")
            return Outcome(folder.rows(), out)
        n_parameters = sum(p.numel() for p in trained.module.parameters())
        check_disk(out, CHECKPOINT_BYTES_PER_PARAMETER * n_parameters, "the checkpoints")
        base = trained.fingerprint
        seen = _seen(parts, seen_before)
        identity = {
            "base": base,
            "train": parts.train.sha256,
            "val": parts.val.sha256,
            "loss": loss,
            "penalty_weight": composed.penalty_weight,
            "steps": steps,
            "batch_size": batch_size,
            "lr": lr,
            "weight_decay": weight_decay,
            "warmup": warmup,
            "clip_norm": clip_norm,
            "eval_every": eval_every or per_epoch,
            "seed": seed,
            "precision": trained.precision,
        }

        def save(current: Model, stage: str, step: int) -> str:
            record = {
                **_record(composed, parts, identity),
                "stage": stage,
                "step": step,
                "base": {"model": source.name, "pretrained": source.pretrained, "sha256": base},
            }
            return save_checkpoint(current, out / stage, record, seen=seen)

        done = fit(
            trained,
            parts.train,
            composed,
            out=out,
            steps=steps,
            batch_size=batch_size,
            lr=lr,
            weight_decay=weight_decay,
            warmup=warmup,
            clip_norm=clip_norm,
            eval_every=eval_every or per_epoch,
            save_every=save_every or steps,
            seed=seed,
            workers=workers,
            evaluate=lambda current: _evaluate(current, parts.val, batch_size, workers),
            select=_selected,
            save_checkpoint=save,
            identity=identity,
            resume=resume,
            progress=progress,
        )
        rows = _rows(run, parts, done, composed, source.pretrained, out)
        folder.add(rows)
        (out / STATE_FILE).unlink(missing_ok=True)
    if _selected(done.metrics["best"]) < _selected(done.metrics["start"]):
        progress.warn("no checkpoint of this run is better on the validation images than the start")
    progress.say(f"best at step {done.best_step:,}, last at step {done.step:,}; metrics in {out / 'metrics.csv'}")
    return Outcome(rows, out)


def _readable(dataset: Dataset, max_bad: int, workers: int, progress: Progress) -> Dataset:
    """The images that can be decoded, found before training starts and not in the middle of it.

    Raises:
        UserError: when more than `max_bad` cannot.
    """
    if dataset.world is not None:
        return dataset
    with progress.track(f"checking {dataset.name}", len(dataset)) as advance:
        bad = []
        for i, fails in dataset.unreadable(range(len(dataset)), workers=workers):
            bad += [i] * fails
            advance()
    if len(bad) > max_bad:
        raise too_many_bad(dataset, [dataset.images.ids[i] for i in bad], max_bad)
    if not bad:
        return dataset
    progress.warn(f"{dataset.name}: left out are {named([dataset.images.ids[i] for i in bad])}")
    return dataset.take(np.setdiff1d(np.arange(len(dataset)), bad))


def _checked_parts(dataset: Dataset, val: Dataset, seen: Seen | None, allow_overlap: bool) -> Parts:
    """Refuse validation images that are trained on, here or in what the checkpoint comes from."""
    shared = set(dataset.keys) & set(val.keys)
    if shared:
        example = val.images.ids[next(i for i, key in enumerate(val.keys) if key in shared)]
        raise UserError(
            f"{len(shared):,} images are in both the training and the validation data, for example '{example}'.",
            hint="Remove them from one, or leave --val out: a tenth of the training images is then held out.",
        )
    overlap = _overlap(val, seen)
    if overlap and not allow_overlap:
        raise UserError(
            f"The checkpoint was trained on images of '{val.name}', which are to choose the best one here.",
            hint="Validate on other images, or add --allow-overlap to mark the rows with overlap=train.",
        )
    return Parts(dataset, val, overlap)


def _hold_out(dataset: Dataset, seed: int, seen: Seen | None, progress: Progress) -> Parts:
    """A seeded, class-balanced tenth for validation, where possible of images new to the checkpoint."""
    wanted = max(1, round(HELD_OUT * len(dataset)))
    unseen = np.arange(len(dataset))
    if seen is not None:
        unseen = np.flatnonzero(~np.isin(_each_short_key(dataset), seen.train))
    pool = dataset.take(unseen) if len(unseen) >= wanted else dataset
    val = pool.sample(wanted, seed=seed)
    held = set(val.keys)
    train_part = dataset.take(np.array([i for i, key in enumerate(dataset.keys) if key not in held], dtype=np.int64))
    overlap = _overlap(val, seen)
    if overlap:
        progress.warn("the held-out images are among those that the checkpoint was trained on; rows say overlap=train")
    return Parts(train_part, val, overlap)


def _each_short_key(dataset: Dataset) -> np.ndarray:
    return np.frombuffer(b"".join(key[:8] for key in dataset.keys), dtype="<u8")


def _overlap(val: Dataset, seen: Seen | None) -> dict[str, str]:
    in_train = seen is not None and bool(np.isin(_each_short_key(val), seen.train).any())
    return {"overlap": "train"} if in_train else {}


def _seen(parts: Parts, before: Seen | None) -> Seen:
    """All images that the weights have met: in this run and in those that led to its start."""
    train_keys, val_keys = short_keys(parts.train.keys), short_keys(parts.val.keys)
    if before is None:
        return Seen(train_keys, val_keys)
    return Seen(np.union1d(before.train, train_keys), np.union1d(before.val, val_keys))


def _evaluate(model: Model, val: Dataset, batch_size: int, workers: int) -> dict[str, float]:
    """Validation metrics, through the same functions as zeroshot and retrieve, past the store."""
    images = embed_images(model, val, store=None, batch_size=batch_size, workers=workers)
    if val.captions is not None:
        texts = embed_texts(model, val.captions, store=None)
        ranks = retrieval_ranks(images.features, texts.features, torch.from_numpy(val.image_of_caption))
        ways = {"image": ranks.text_to_image.numpy(), "text": ranks.image_to_text.numpy()}
        return {f"{way}_retrieval_recall@{k}": recall_at_k(found, k) for way, found in ways.items() for k in RECALL_K}
    classifier, _ = build_classifier(model, val, store=None)
    predictions = predict(class_logits(images.features, classifier, model), val.labels)
    accuracies = {f"acc{k}": accuracy_at_k(predictions.target_rank, k) for k in (1, 5) if k <= len(val.classnames)}
    return {**accuracies, "mean_per_class_recall": mean_per_class_recall(predictions.predicted, val.labels)}


def _selected(metrics: dict[str, float]) -> float:
    """What chooses the best checkpoint: accuracy, or the mean of the six recalls."""
    if "acc1" in metrics:
        return metrics["acc1"]
    return float(np.mean(list(metrics.values())))


def _record(loss: Loss, parts: Parts, identity: dict[str, Any]) -> dict[str, Any]:
    """What a checkpoint folder tells of its training."""
    return {
        "loss": loss.name,
        "similarity": loss.similarity,
        "penalty": loss.penalty,
        "training": identity,
        "data": {
            stage: {"name": d.name, "split": d.split, "images": len(d), "sha256": d.sha256}
            for stage, d in (("train", parts.train), ("val", parts.val))
        },
    }


def _rows(run: RunContext, parts: Parts, done: Progressed, loss: Loss, pretrained: str, out: Path) -> list[Row]:
    """One row per validation metric and stage."""
    rows = []
    main = "acc1" if parts.val.captions is None else "image_retrieval_recall@1"
    for stage in STAGES:
        for metric, value in done.metrics[stage].items():
            rows.append(
                run.row(
                    parts.val,
                    metric=metric,
                    value=value,
                    n=len(parts.val.captions) if metric.startswith("image_") else len(parts.val),
                    params=join_params({"stage": stage, **parts.overlap}),
                    is_main=metric == main,
                    pretrained=pretrained if stage == "start" else str(out / stage),
                    checkpoint_sha256=done.hashes[stage],
                    loss=run.model.loss if stage == "start" else loss.name,
                    split="val",
                )
            )
    return rows


def _check_folder(out: Path, settings: dict[str, Any], *, fresh: bool, resume: bool) -> bool:
    """Whether `out` holds this run, finished.

    Raises:
        UserError: when it holds an unfinished run or another finished one, and nothing says what to do with it.
    """
    if fresh or not (out / JSON_FILE).is_file():
        return False
    earlier = read_json(out / JSON_FILE, "results file")
    if earlier.get("status") != "complete" or (out / STATE_FILE).exists():
        if resume:
            return False
        hint = "Add --resume to go on from its last saved step, or --fresh to start over."
        raise UserError(f"'{out}' holds an unfinished run.", hint=hint)
    if _comparable(earlier.get("settings", {})) != _comparable(settings):
        hint = "Name another --out, or add --fresh to replace it."
        raise UserError(f"'{out}' holds a finished run with other settings.", hint=hint)
    return True


def _comparable(settings: dict[str, Any]) -> dict[str, Any]:
    """Settings without those that do not change the result."""
    beside = ("resume", "fresh", "out", "workers", "device", "format", "offline", "dry_run")
    return {k: v for k, v in settings.items() if k not in beside and v not in (None, [], "", False)}


def _clear(out: Path) -> None:
    for stage in ("best", "last"):
        shutil.rmtree(out / stage, ignore_errors=True)
    for file in (STATE_FILE, "metrics.csv"):
        (out / file).unlink(missing_ok=True)
