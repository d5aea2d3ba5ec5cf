"""The training loop: it reads from top to bottom."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from clipib.data.dataset import Dataset
from clipib.errors import UserError
from clipib.losses.composed import Loss
from clipib.losses.terms import Paired
from clipib.models.model import Model, amp_dtype
from clipib.progress import SILENT, Progress
from clipib.training.batches import Batch, iterate_batches, positive_groups, steps_per_epoch
from clipib.training.locking import set_training
from clipib.training.log import LOG_FILE, MetricsLog
from clipib.training.optimisation import clamp_logit_scale, learning_rate, make_optimizer
from clipib.training.state import STATE_FILE, check_same_run, load_state, save_state


@dataclass
class Progressed:
    """Where a run stands: it is saved with the weights and given back at the end.

    step: steps done. best_step, best_value: of the best validation so far; None before the first.
    start, best, last: validation metrics by stage. hashes: sha256 of the weights by stage.
    """

    step: int = 0
    best_step: int | None = None
    best_value: float | None = None
    metrics: dict[str, dict[str, float]] = field(default_factory=dict)
    hashes: dict[str, str] = field(default_factory=dict)


def fit(
    model: Model,
    dataset: Dataset,
    loss: Loss,
    *,
    out: Path,
    steps: int,
    batch_size: int,
    lr: float,
    head_lr: float | None = None,
    weight_decay: float,
    warmup: int,
    clip_norm: float,
    eval_every: int,
    save_every: int,
    seed: int,
    workers: int,
    evaluate: Callable[[Model], dict[str, float]],
    select: Callable[[dict[str, float]], float],
    save_checkpoint: Callable[[Model, str, int], str],
    identity: dict[str, Any],
    positives: str = "identity",
    resume: bool = False,
    progress: Progress = SILENT,
) -> Progressed:
    """Minimise a loss over paired images and texts.

    Args:
        lr, head_lr: peak rates of the towers and of the point head.
        positives: which pairs of a batch count as each other's positives, see `positive_groups`.
        out: where `metrics.csv` and, until the end, the training state lie.
        evaluate: validation metrics of the model as it is. select: the number to maximise among them.
        save_checkpoint: writes a stage ("best" or "last") and returns the sha256 of its weights.
        identity: everything that the weights depend on; a resumed run must have the same.

    Raises:
        UserError: when the loss is not finite, naming the term, or a resumed run has other settings.
    """
    networks, state_file = model.networks, out / STATE_FILE
    optimizer = make_optimizer(model.module, model.head, lr=lr, head_lr=head_lr, weight_decay=weight_decay)
    scaler = torch.amp.GradScaler(model.device.type, enabled=_needs_scaler(model))
    done = Progressed()
    restoring = resume and state_file.exists()
    if restoring:
        done = _restore(load_state(state_file), identity, networks, optimizer, scaler, loss)
        progress.say(f"resuming after step {done.step:,} of {steps:,}")
    else:
        if resume:
            progress.say("no state was saved yet: training starts at step 0")
        done.metrics["start"] = evaluate(model)
        done.hashes["start"] = model.fingerprint
    per_epoch = steps_per_epoch(dataset, batch_size)
    columns = ["step", "epoch", "images", "lr", "loss_total", *loss.term_names, "logit_scale"]
    columns += ["grad_norm", "images_per_second", *(f"val_{name}" for name in done.metrics["start"])]
    log = MetricsLog(out / LOG_FILE, columns, after_step=done.step if restoring else None)
    if done.step == 0:
        log.add(step=0, epoch=0, images=0, **_val(done.metrics["start"]))
    log_every = max(1, steps // 500)
    batches = iterate_batches(
        model, dataset, batch_size=batch_size, seed=seed, first_step=done.step, steps=steps, workers=workers
    )
    set_training(model)
    last_logged, last_time = done.step, time.monotonic()
    with progress.track("training", steps, unit="steps") as advance:
        advance(done.step)
        for batch in batches:
            rate = learning_rate(done.step, steps=steps, warmup=warmup, peak=lr)
            for group in optimizer.param_groups:
                group["lr"] = rate * group["times"]
            torch.manual_seed(seed * 1_000_003 + done.step)  # for dropout and penalties that draw noise
            paired = _pair(model, batch, loss, positive_groups(dataset, batch, positives))
            if done.step == 0 and loss.needs_bias and model.head is not None:
                model.head.start_bias(loss.balanced_bias(paired, model.logit_scale, draw=1))
            total, terms = loss.compute(paired, model.logit_scale, model.logit_bias, draw=done.step + 1)
            optimizer.zero_grad(set_to_none=True)
            scaler.scale(total).backward()
            scaler.unscale_(optimizer)
            grad_norm = torch.nn.utils.clip_grad_norm_(networks.parameters(), clip_norm or math.inf)
            scaler.step(optimizer)
            scaler.update()
            clamp_logit_scale(model.module)
            done.step += 1
            evaluating = done.step % eval_every == 0 or done.step == steps
            if evaluating or done.step == 1 or done.step % log_every == 0:
                _check_finite(terms, total, done.step)
                row = {name: float(value) for name, value in terms.items()}
                now = time.monotonic()
                row |= {
                    "step": done.step,
                    "epoch": (done.step - 1) // per_epoch + 1,
                    "images": done.step * batch_size,
                    "lr": rate,
                    "loss_total": float(total.detach()),
                    "logit_scale": float(model.logit_scale.detach()),
                    "grad_norm": float(grad_norm),
                    "images_per_second": round((done.step - last_logged) * batch_size / max(now - last_time, 1e-9), 1),
                }
                last_logged, last_time = done.step, now
                if evaluating:
                    _check_weights(networks, done.step)
                    networks.eval()
                    metrics = evaluate(model)
                    row |= _val(metrics)
                    _keep_best(done, metrics, select(metrics), model, save_checkpoint)
                    if done.step == steps:
                        done.metrics["last"], done.hashes["last"] = metrics, save_checkpoint(model, "last", done.step)
                    set_training(model)
                    last_time = time.monotonic()
                log.add(**row)
                advance(0, note=f"loss {row['loss_total']:.3f}")
            if (evaluating or done.step % save_every == 0) and done.step < steps:
                _check_finite(terms, total, done.step)
                save_state(state_file, _snapshot(done, identity, networks, optimizer, scaler, loss))
            advance(1)
    log.close()
    networks.eval()
    return done


def _pair(model: Model, batch: Batch, loss: Loss, groups: torch.Tensor | None) -> Paired:
    """The batch as the towers see it, with as much as the loss looks at."""
    images = model.embed_images(batch.pixels, hidden=loss.needs_hidden)
    texts = model.embed_texts(model.tokenize(batch.texts), hidden=loss.needs_hidden)
    return Paired(
        image=images.features,
        text=texts.features,
        image_hidden=images.hidden,
        text_hidden=texts.hidden,
        image_points=images.points,
        text_points=texts.points,
        groups=None if groups is None else groups.to(images.features.device),
    )


def _needs_scaler(model: Model) -> bool:
    return model.precision == "amp" and amp_dtype(model.device) == torch.float16


def _keep_best(done: Progressed, metrics: dict[str, float], value: float, model: Model, save_checkpoint) -> None:
    if done.best_value is None or value > done.best_value:
        done.best_step, done.best_value, done.metrics["best"] = done.step, value, metrics
        done.hashes["best"] = save_checkpoint(model, "best", done.step)


def _val(metrics: dict[str, float]) -> dict[str, float]:
    return {f"val_{name}": value for name, value in metrics.items()}


def _check_finite(terms: dict[str, torch.Tensor], total: torch.Tensor, step: int) -> None:
    for name, value in [*terms.items(), ("loss_total", total)]:
        if not torch.isfinite(value):
            hint = "Lower --lr or --penalty-weight, or train with --precision fp32."
            raise UserError(f"The term {name} is {float(value)} at step {step}; training stops.", hint=hint)


def _check_weights(networks: torch.nn.Module, step: int) -> None:
    if not all(torch.isfinite(p).all() for p in networks.parameters()):
        hint = "Lower --lr, or clip gradients with --clip-norm 1."
        raise UserError(f"The weights are not finite after step {step}; training stops.", hint=hint)


def _snapshot(done: Progressed, identity: dict[str, Any], networks, optimizer, scaler, loss: Loss) -> dict[str, Any]:
    return {
        "identity": identity,
        "progressed": vars(done),
        "networks": networks.state_dict(),
        "optimizer": optimizer.state_dict(),
        "scaler": scaler.state_dict(),
        "loss": loss.state_dict(),
    }


def _restore(state: dict[str, Any], identity: dict[str, Any], networks, optimizer, scaler, loss: Loss) -> Progressed:
    check_same_run(state["identity"], identity)
    networks.load_state_dict(state["networks"])
    optimizer.load_state_dict(state["optimizer"])
    scaler.load_state_dict(state["scaler"])
    loss.load_state_dict(state["loss"])
    return Progressed(**state["progressed"])
