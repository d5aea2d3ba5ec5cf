"""Fine-tune a checkpoint on paired images and texts."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

from clipib import __version__
from clipib.data.fetch import data_home
from clipib.data.load import load_datasets, one_spec
from clipib.data.manifest import Manifest
from clipib.errors import UserError, try_all
from clipib.files import default_cache_dir
from clipib.losses import LOSSES, POSITIVES
from clipib.losses.composed import Loss, make_loss
from clipib.models import DEFAULT_PREPROCESS, PREPROCESS, RANDOM_WEIGHTS
from clipib.models.checkpoint import load_seen, recover, remove_checkpoint, save_checkpoint
from clipib.models.load import load_model, pick_device
from clipib.models.model import Model
from clipib.models.sources import RECORD_FILE, Source, find_model, read_json
from clipib.progress import SILENT, Progress, counted
from clipib.registry import check_name
from clipib.tasks.heads import HEAD_LR, check_points, head_for
from clipib.tasks.parts import Parts, all_seen, keep_readable, prompts_of, split_parts
from clipib.tasks.prepare import Outcome, RunContext, check_disk, check_first_image, describe_model, say_verified
from clipib.tasks.results import ResultsFolder, Row, join_params, settings_of
from clipib.tasks.validation import StageSamples, selection_value, validate, with_intervals
from clipib.training.batches import steps_per_epoch
from clipib.training.locking import LOCKS, lock_towers
from clipib.training.log import LOG_FILE
from clipib.training.loop import Progressed, fit
from clipib.training.state import STATE_FILE

DEFAULT_EPOCHS = 5
FEW_TO_VALIDATE = 10
PRETRAINED_LR, RANDOM_LR = 1e-5, 5e-4
STAGES = ("start", "best", "last")
CHECKPOINT_BYTES_PER_PARAMETER = 4 * 6  # best, last and the training state: weights, two moments, one spare


def finetune(
    model: str = "ViT-B-32",
    train: str = "flickr30k",
    *,
    pretrained: str | None = None,
    val: str | None = None,
    loss: str = "clip",
    contrast: str | None = None,
    similarity: str | None = None,
    penalty: str | None = None,
    penalty_weight: float | None = None,
    penalty_sigma: float | None = None,
    positives: str = "identity",
    points: int | None = None,
    point_pooling: str | None = None,
    lock: str = "none",
    out: str | Path = "runs/finetune",
    epochs: int | None = None,
    steps: int | None = None,
    batch_size: int = 64,
    lr: float | None = None,
    head_lr: float | None = None,
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
    preprocess: str = DEFAULT_PREPROCESS,
    workers: int = 2,
    limit: int | None = None,
    seed: int = 0,
    max_bad: int = 0,
    allow_overlap: bool = False,
    cache_dir: str | Path | None = None,
    verify_cache: bool = False,
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
        loss: a row of `clipib.losses.LOSSES`. contrast, similarity, penalty, penalty_weight: override that row's.
        penalty_sigma: of the noise through which information is measured; left out, sigma^2 = 1 / logit_scale.
        positives: what else than its own text is right for an image: "same-caption" (equal texts), "same-image"
            (equal files), "same-class". All but "identity" move the optimum of the scores away from PMI.
        points: of a side for `kme` and `wpse`, 8 when left out. point_pooling: "attention" or "topk".
        lock: "image", "text" or "both": train only what comes after the trunk of a tower.
        epochs: passes over the training images, 5 when left out; or `steps`.
        batch_size: pairs a step; cut to the number of training images.
        lr: peak rate; left out, 1e-5 for pretrained weights and 5e-4 for random ones.
        head_lr: peak rate of the point head; left out, 1e-3 or `lr`, whichever is larger.
        warmup: steps of linear warm-up; left out, a tenth of all, at most 500.
        eval_every: steps between validations; left out, one epoch. save_every: between saved states besides those.
        precision: "fp32", "amp", or "auto": amp on a GPU, else fp32.
        preprocess: of the validation images; training images are cropped at random by open_clip's transform.
        limit: use only this many training images, a seeded sample.
        max_bad: unreadable images to put up with; all are decoded once before training.
        cache_dir: where the hashes of image files are remembered. verify_cache: hash all of them again.
        resume: go on with the unfinished run in `out`, from its last saved step, to the same weights.

    Returns:
        Rows of validation metrics with `stage=start`, `best` and `last` in `params`.

    Raises:
        UserError: for everything that the user can mend.
    """
    settings = settings or settings_of(locals())
    out = Path(out)
    composed = make_loss(
        check_name("loss", loss, LOSSES),
        contrast=contrast,
        similarity=similarity,
        penalty=penalty,
        penalty_weight=penalty_weight,
        penalty_sigma=penalty_sigma,
        seed=seed,
    )
    check_name("positives", positives, POSITIVES)
    check_points(composed, points, point_pooling)
    check_name("lock", lock, LOCKS)
    _check_numbers(lr=lr, head_lr=head_lr, weight_decay=weight_decay, clip_norm=clip_norm)
    if epochs is not None and steps is not None:
        raise UserError(f"Both --epochs {epochs} and --steps {steps} are given.", hint="Give one of them.")
    check_name("precision", precision, ("auto", "fp32", "amp"))
    check_name("preprocess", preprocess, PREPROCESS)
    pick_device(device)
    place = {"data_root": data_home(data_root, cache_dir), "columns": columns, "dry_run": dry_run, "progress": progress}
    source, datasets, chosen = try_all(
        (
            lambda: find_model(model, pretrained),
            lambda: load_datasets(one_spec(train), role="train", name=name, **place),
            lambda: load_datasets(one_spec(val), role="val", **place) if val else [],
        )
    )
    if not datasets or len(chosen) < bool(val):  # a dry run of data that are not here yet
        return Outcome([], out)
    dataset, chosen = datasets[0], next(iter(chosen), None)
    _check_place(out, source)
    seen_before = load_seen(source.folder) if source.folder else None
    for given in filter(None, (dataset, chosen)):
        if given.captions is None and given.labels is None:
            raise UserError(f"'{given.name}' has neither captions nor classes.", hint="Use class folders or a table.")
        if given.captions is None and given.labels.ndim == 2:
            raise UserError(f"The images of '{given.name}' have several classes each; finetune takes one, or captions.")
    if positives == "same-class" and (dataset.labels is None or dataset.labels.ndim != 1):
        raise UserError(
            f"'{dataset.name}' has no classes, so no pairs of the same class.", hint="Try --positives same-caption."
        )
    manifest = Manifest(cache_dir or default_cache_dir(), verify=verify_cache)
    if not dry_run:
        dataset, chosen = (d and d.changed(manifest=manifest) for d in (dataset, chosen))
    if limit:
        dataset = dataset.sample(limit, seed=seed)
    if dry_run:
        check_first_image(dataset)
    else:
        dataset, chosen = (d and keep_readable(d, max_bad, workers, progress) for d in (dataset, chosen))
    if len(dataset) < 3:
        raise UserError(f"'{dataset.name}' has {counted(len(dataset), 'image')}; training and validation need three.")
    parts = split_parts(dataset, chosen, seen_before, seed=seed, allow=allow_overlap)
    if not dry_run:
        say_verified(manifest, progress)
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
    head_lr = head_lr or max(lr, HEAD_LR)
    progress.say(
        f"finetune: {describe_model(source)}, loss {loss}; {counted(len(parts.train), 'training image')} of "
        f"{dataset.name}, {len(parts.val):,} to validate; {counted(steps, 'step')} of {batch_size} pairs, "
        f"peak rate {lr:g}"
    )
    for note in (*dataset.notes, *(parts.val.notes if chosen is not None else ())):
        progress.say(note)
    if len(parts.val) < FEW_TO_VALIDATE:
        few = counted(len(parts.val), "image")
        progress.warn(f"{few} to validate: which step is best is left to chance (--val names more)")
    check_disk(out, 1_000_000, "the training record")
    if dry_run:
        return Outcome([], out)
    with ResultsFolder(out, command="finetune", settings=settings, fresh=fresh) as folder:
        progress.say(f"loading {source.name}")
        trained = load_model(source, device=device, preprocess=preprocess, seed=seed)
        trained.precision = ("amp" if trained.device.type == "cuda" else "fp32") if precision == "auto" else precision
        # A copy: rows of the start are those of the model as it was, before it got a head.
        run = RunContext("finetune", replace(trained), "strict", seed)
        trained.head = head_for(trained, composed, points=points, pooling=point_pooling, seed=seed, progress=progress)
        lock_towers(trained, lock)
        identity = {
            "base": trained.fingerprint,
            "train": parts.train.sha256,
            "train_prompts": prompts_of(parts.train),
            "val": parts.val.sha256,
            "val_prompts": prompts_of(parts.val),
            "loss": loss,
            "contrast": composed.contrast_name,
            "similarity": composed.similarity_name,
            "penalty": composed.penalty_name,
            "penalty_weight": composed.penalty_weight,
            "penalty_sigma": composed.penalty_sigma,
            "positives": positives,
            "head": trained.head and trained.head.config,
            "lock": lock,
            "steps": steps,
            "batch_size": batch_size,
            "lr": lr,
            "head_lr": head_lr,
            "weight_decay": weight_decay,
            "warmup": warmup,
            "clip_norm": clip_norm,
            "eval_every": eval_every,
            "seed": seed,
            "precision": trained.precision,
            "preprocess": preprocess,
        }
        for stage in ("best", "last"):
            recover(out / stage)
        if not fresh and _is_finished(out, identity, folder.rows(), resume=resume):
            progress.say("this run is finished; its rows are kept (--fresh starts over)")
            return Outcome([r for r in folder.rows() if r.command == "finetune"], out)
        n_parameters = sum(p.numel() for p in trained.networks.parameters())
        check_disk(out, CHECKPOINT_BYTES_PER_PARAMETER * n_parameters, "the checkpoints")
        if fresh:
            _clear(out)
        samples = StageSamples(out, resuming=resume and (out / STATE_FILE).exists())
        folder.begin()
        seen = all_seen(parts, seen_before)
        base = {"model": source.name, "pretrained": source.pretrained, "sha256": trained.fingerprint}

        def save(current: Model, stage: str, step: int) -> str:
            record = {**_record(composed, parts, identity), "stage": stage, "step": step, "base": base}
            samples.keep(stage)
            return save_checkpoint(current, out / stage, record, seen=seen)

        done = fit(
            trained,
            parts.train,
            composed,
            out=out,
            steps=steps,
            batch_size=batch_size,
            lr=lr,
            head_lr=head_lr,
            weight_decay=weight_decay,
            warmup=warmup,
            clip_norm=clip_norm,
            eval_every=eval_every,
            save_every=save_every,
            seed=seed,
            workers=workers,
            evaluate=lambda current: samples.see(validate(current, parts.val, batch_size, workers)),
            select=selection_value,
            save_checkpoint=save,
            identity=identity,
            positives=positives,
            resume=resume,
            progress=progress,
        )
        rows = []
        for stage in STAGES:
            found = _rows(run, parts, done, composed, source.pretrained, out, stage)
            behind = samples.of(stage)
            rows += found if behind is None else with_intervals(found, behind)
            folder.add(rows[-len(found) :], behind)
        (out / STATE_FILE).unlink(missing_ok=True)
        samples.clear()
    if selection_value(done.metrics["best"]) < selection_value(done.metrics["start"]):
        progress.warn("no checkpoint of this run is better on the validation images than the start")
    progress.say(f"best at step {done.best_step:,}, last at step {done.step:,}; metrics in {out / LOG_FILE}")
    return Outcome(rows, out)


def _check_numbers(*, lr: float | None, head_lr: float | None, weight_decay: float, clip_norm: float) -> None:
    for rate, hint in ((lr, "Try --lr 1e-5."), (head_lr, "Try --head-lr 1e-3.")):
        if rate is not None and not 0 < rate < float("inf"):
            raise UserError(f"The learning rate {rate} is no positive number.", hint=hint)
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


def _record(loss: Loss, parts: Parts, identity: dict[str, Any]) -> dict[str, Any]:
    """What a checkpoint folder tells of its training."""
    return {
        "loss": loss.name,
        "contrast": loss.contrast_name,
        "similarity": loss.similarity_name,
        "penalty": loss.penalty_name,
        "training": identity,
        "data": {
            stage: {"name": d.name, "split": d.split, "images": len(d), "sha256": d.sha256}
            for stage, d in (("train", parts.train), ("val", parts.val))
        },
    }


def _rows(
    run: RunContext, parts: Parts, done: Progressed, loss: Loss, pretrained: str, out: Path, stage: str
) -> list[Row]:
    """One row per validation metric of a stage."""
    rows = []
    main = "acc1" if parts.val.captions is None else "image_retrieval_recall@1"
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
                similarity=run.model.similarity if stage == "start" else loss.similarity_name,
                split="val",
                prompts_sha256=prompts_of(parts.val),
            )
        )
    return rows


def _is_finished(out: Path, identity: dict[str, Any], rows: list[Row], *, resume: bool) -> bool:
    """Whether `out` holds this very run, finished.

    Raises:
        UserError: when it holds an unfinished run or another finished one, and nothing says what to do with it.
    """
    records = [out / stage / RECORD_FILE for stage in ("best", "last")]
    written = all(path.is_file() for path in records) and not (out / STATE_FILE).exists()
    record = read_json(records[-1], "training record") if written else {}
    hashes = {r.checkpoint_sha256 for r in rows if r.command == "finetune" and "stage=last" in r.params.split(";")}
    if record.get("checkpoint_sha256") not in hashes:
        if (out / LOG_FILE).exists() and not resume:
            hint = "Add --resume to go on from its last saved step, or --fresh to start over."
            raise UserError(f"'{out}' holds an unfinished run.", hint=hint)
        return False
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
    for file in (STATE_FILE, LOG_FILE):
        (out / file).unlink(missing_ok=True)
