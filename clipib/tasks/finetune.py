"""Fine-tune a checkpoint on paired images and texts."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch

from clipib import __version__
from clipib.data.dataset import Dataset
from clipib.data.load import load_dataset
from clipib.data.prompts import prompts_sha256
from clipib.embeddings.encode import embed_images, embed_texts, named, too_many_bad
from clipib.errors import UserError
from clipib.losses import LOSSES
from clipib.losses.composed import Loss, make_loss
from clipib.metrics.classification import accuracy_at_k, mean_per_class_recall
from clipib.metrics.retrieval import recall_at_k
from clipib.models.checkpoint import Seen, load_seen, recover, remove_checkpoint, save_checkpoint, short_keys
from clipib.models.load import load_model, pick_device
from clipib.models.model import RANDOM_WEIGHTS, Model
from clipib.models.sources import RECORD_FILE, Source, check_weights, read_json, resolve_model
from clipib.progress import SILENT, Progress, counted
from clipib.registry import check_name
from clipib.scoring.tiles import retrieval_ranks
from clipib.tasks.prepare import Outcome, RunContext, check_disk, check_first_image, describe_model, find_overlap
from clipib.tasks.results import ResultsFolder, Row, join_params, settings_of
from clipib.tasks.zeroshot import build_classifier, classify
from clipib.training.batches import steps_per_epoch
from clipib.training.loop import Progressed, fit
from clipib.training.state import STATE_FILE

DEFAULT_EPOCHS = 5
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
    epochs: int | None = None,
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
        epochs: passes over the training images, 5 when left out; or `steps`.
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
    settings = settings or settings_of(locals())
    out = Path(out)
    composed = make_loss(check_name("loss", loss, LOSSES), penalty_weight=penalty_weight)
    _check_numbers(lr=lr, weight_decay=weight_decay, clip_norm=clip_norm)
    if epochs is not None and steps is not None:
        raise UserError(f"Both --epochs {epochs} and --steps {steps} are given.", hint="Give one of them.")
    check_name("precision", precision, ("auto", "fp32", "amp"))
    pick_device(device)
    source = resolve_model(model, pretrained)
    check_weights(source)
    _check_place(out, source)
    seen_before = load_seen(source.folder) if source.folder else None
    dataset = load_dataset(train, role="train", data_root=data_root, name=name, columns=columns)
    chosen = load_dataset(val, role="val", data_root=data_root, columns=columns) if val else None
    for given in filter(None, (dataset, chosen)):
        if given.captions is None and given.labels is None:
            raise UserError(f"'{given.name}' has neither captions nor classes.", hint="Use class folders or a table.")
    if limit:
        dataset = dataset.sample(limit, seed=seed)
    if dry_run:
        check_first_image(dataset)
    else:
        dataset, chosen = (d and _readable(d, max_bad, workers, progress) for d in (dataset, chosen))
    if len(dataset) < 3:
        raise UserError(f"'{dataset.name}' has {counted(len(dataset), 'image')}; training and validation need three.")
    parts = _split_parts(dataset, chosen, seen_before, seed=seed, allow=allow_overlap)
    if batch_size > len(parts.train):
        progress.warn(f"batch size {batch_size} is cut to the {len(parts.train)} training images")
        batch_size = len(parts.train)
    per_epoch = steps_per_epoch(parts.train, batch_size)
    steps = steps or (epochs or DEFAULT_EPOCHS) * per_epoch
    warmup = min(500, max(1, steps // 10)) if warmup is None else warmup
    eval_every = eval_every or per_epoch
    save_every = save_every or min(per_epoch, max(50, steps // 20))
    if lr is None:
        lr = RANDOM_LR if source.pretrained == RANDOM_WEIGHTS else PRETRAINED_LR
    progress.say(
        f"finetune: {describe_model(source)}, loss {loss}; {counted(len(parts.train), 'training image')} of "
        f"{dataset.name}, {len(parts.val):,} to validate; {counted(steps, 'step')} of {batch_size} pairs, "
        f"peak rate {lr:g}"
    )
    for note in (*dataset.notes, *(parts.val.notes if chosen is not None else ())):
        progress.say(note)
    check_disk(out, 1_000_000, "the training record")
    if dry_run:
        return Outcome([], out)
    with ResultsFolder(out, command="finetune", settings=settings, fresh=fresh) as folder:
        progress.say(f"loading {source.name}")
        trained = load_model(source, device=device, seed=seed)
        trained.precision = ("amp" if trained.device.type == "cuda" else "fp32") if precision == "auto" else precision
        identity = {
            "base": trained.fingerprint,
            "train": parts.train.sha256,
            "train_prompts": _prompts_of(parts.train),
            "val": parts.val.sha256,
            "val_prompts": _prompts_of(parts.val),
            "loss": loss,
            "similarity": composed.similarity,
            "penalty": composed.penalty,
            "penalty_weight": composed.penalty_weight,
            "steps": steps,
            "batch_size": batch_size,
            "lr": lr,
            "weight_decay": weight_decay,
            "warmup": warmup,
            "clip_norm": clip_norm,
            "eval_every": eval_every,
            "seed": seed,
            "precision": trained.precision,
        }
        for stage in ("best", "last"):
            recover(out / stage)
        if not fresh and _is_finished(out, identity, resume=resume):
            progress.say("this run is finished; its rows are kept (--fresh starts over)")
            return Outcome([r for r in folder.rows() if r.command == "finetune"], out)
        n_parameters = sum(p.numel() for p in trained.module.parameters())
        check_disk(out, CHECKPOINT_BYTES_PER_PARAMETER * n_parameters, "the checkpoints")
        if fresh:
            _clear(out)
        folder.begin()
        run = RunContext("finetune", trained, "strict", seed)
        seen = _seen(parts, seen_before)
        base = {"model": source.name, "pretrained": source.pretrained, "sha256": trained.fingerprint}

        def save(current: Model, stage: str, step: int) -> str:
            record = {**_record(composed, parts, identity), "stage": stage, "step": step, "base": base}
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
            eval_every=eval_every,
            save_every=save_every,
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


def _check_numbers(*, lr: float | None, weight_decay: float, clip_norm: float) -> None:
    if lr is not None and not 0 < lr < float("inf"):
        raise UserError(f"The learning rate {lr} is no positive number.", hint="Try --lr 1e-5.")
    for flag, value in (("--weight-decay", weight_decay), ("--clip-norm", clip_norm)):
        if not 0 <= value < float("inf"):
            raise UserError(f"{flag} {value} is no number of at least 0.")


def _check_place(out: Path, source: Source) -> None:
    """The run must not lie in the checkpoint that it starts from, nor replace it."""
    if not str(out).strip(". ") and str(out) != "..":
        raise UserError("--out names no folder of its own.", hint="Try --out runs/a.")
    if source.folder is None:
        return
    start, place = source.folder.resolve(), out.resolve()
    if place == start or start in place.parents or place in start.parents:
        raise UserError(
            f"--out '{out}' and the checkpoint '{source.pretrained}', where training starts, lie in each other.",
            hint="Name another --out.",
        )


def _readable(dataset: Dataset, max_bad: int, workers: int, progress: Progress) -> Dataset:
    """The images that can be decoded, found before training starts and not in the middle of it.

    Raises:
        UserError: when more than `max_bad` cannot.
    """
    if dataset.world is not None:
        return dataset
    with progress.track(f"checking {dataset.name}", len(dataset)) as advance:
        bad = {}
        for i, reason in dataset.unreadable(range(len(dataset)), workers=workers):
            if reason:
                bad[i] = reason
            advance()
    if not bad:
        return dataset
    by_id = {dataset.images.ids[i]: reason for i, reason in bad.items()}
    if len(bad) > max_bad:
        raise too_many_bad(dataset, by_id, max_bad)
    progress.warn(f"{dataset.name}: {counted(len(bad), 'image')} left out, unreadable: {named(by_id)}")
    return dataset.take(np.setdiff1d(np.arange(len(dataset)), list(bad)))


def _split_parts(dataset: Dataset, val: Dataset | None, seen: Seen | None, *, seed: int, allow: bool) -> Parts:
    """Training and validation images, apart; where no validation is named, a seeded tenth is held out.

    Raises:
        UserError: when validation images are trained on, here or in what the checkpoint comes from, and `allow` is not
            set.
    """
    if val is None:
        train, val = _hold_out(dataset, seed, seen)
        shared = set()
    else:
        train, shared = dataset, set(dataset.keys) & set(val.keys)
    if shared and not allow:
        example = val.images.ids[next(i for i, key in enumerate(val.keys) if key in shared)]
        raise UserError(
            f"{counted(len(shared), 'image')} of the validation data stand in the training data, as '{example}'.",
            hint="Remove them from one, or leave --val out: a tenth of the training images is then held out. "
            "--allow-overlap marks the rows instead.",
        )
    in_train, in_val = find_overlap(seen, val.keys)
    if in_train and not allow:
        raise UserError(
            f"The checkpoint was trained on {counted(in_train, 'image')} of '{val.name}' that are to choose the best.",
            hint="Name other images with --val, or add --allow-overlap to mark the rows with overlap=train.",
        )
    overlap = "train" if shared or in_train else "val" if in_val else ""
    return Parts(train, val, {"overlap": overlap} if overlap else {})


def _hold_out(dataset: Dataset, seed: int, seen: Seen | None) -> tuple[Dataset, Dataset]:
    """Training part and a seeded, class-balanced tenth, where possible of images new to the checkpoint."""
    wanted = max(1, round(HELD_OUT * len(dataset)))
    unseen = np.arange(len(dataset))
    if seen is not None:
        short = np.frombuffer(b"".join(key[:8] for key in dataset.keys), dtype="<u8")
        unseen = np.flatnonzero(~np.isin(short, seen.train))
    pool = dataset.take(unseen) if len(unseen) >= wanted else dataset
    val = pool.sample(wanted, seed=seed)
    held = set(val.keys)
    kept = np.array([i for i, key in enumerate(dataset.keys) if key not in held], dtype=np.int64)
    if len(kept) < 2:
        raise UserError(f"'{dataset.name}' has too few different images: {len(kept)} are left to train on.")
    return dataset.take(kept), replace(val, limit=dataset.limit)


def _prompts_of(dataset: Dataset) -> str:
    """Hash of the class prompts, where images are trained on or validated by them."""
    return prompts_sha256(dataset.classnames, dataset.templates) if dataset.captions is None else ""


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
    predictions = classify(images.features, classifier, model, val.labels)
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
                    prompts_sha256=_prompts_of(parts.val),
                )
            )
    return rows


def _is_finished(out: Path, identity: dict[str, Any], *, resume: bool) -> bool:
    """Whether `out` holds this very run, finished.

    Raises:
        UserError: when it holds an unfinished run or another finished one, and nothing says what to do with it.
    """
    if (out / STATE_FILE).exists():
        if resume:
            return False
        hint = "Add --resume to go on from its last saved step, or --fresh to start over."
        raise UserError(f"'{out}' holds an unfinished run.", hint=hint)
    if not (out / "last" / RECORD_FILE).is_file():
        return False
    record = read_json(out / "last" / RECORD_FILE, "training record")
    before, now = record.get("training", {}), json.loads(json.dumps(identity))
    different = [key for key in now if before.get(key) != now[key]]
    if record.get("clipib_version") != __version__:
        different.insert(0, "clipib_version")
    if different:
        hint = "Name another --out, or add --fresh to replace it."
        raise UserError(f"'{out}' holds a finished run that differs in {', '.join(different)}.", hint=hint)
    return True


def _clear(out: Path) -> None:
    for stage in ("best", "last"):
        remove_checkpoint(out / stage)
    for file in (STATE_FILE, "metrics.csv"):
        (out / file).unlink(missing_ok=True)
