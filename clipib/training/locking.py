"""Locked towers: everything before the last projection stays as it is."""

from __future__ import annotations

import re

from torch import nn

from clipib.errors import UserError
from clipib.models.model import Model

LOCKS = {"none": (), "image": ("image",), "text": ("text",), "both": ("image", "text")}
PROJECTIONS = re.compile(
    r"visual\.(proj$|head\.|attnpool\.c_proj\.)|(text\.)?text_projection|text\.proj\."
    r"|hf\.(visual|text)_projection\.|hf\.text_model\.head\."
)
IMAGE = ("visual.", "hf.vision_model.", "hf.visual_projection.")
SHARED = ("logit_scale", "logit_bias", "hf.logit_scale", "hf.logit_bias")


def lock_towers(model: Model, lock: str) -> None:
    """Take the gradient from the trunks of the named towers; projections, scale, bias and point head keep theirs.

    Raises:
        UserError: when nothing but the scale would be left to train.
    """
    model.locked = LOCKS[lock]
    for name, parameter in model.module.named_parameters():
        if name not in SHARED and side_of(name) in model.locked and not PROJECTIONS.match(name):
            parameter.requires_grad_(False)
    left = [n for n, p in model.module.named_parameters() if p.requires_grad and n not in SHARED]
    if not left and not model.has_points:
        raise UserError(
            f"With --lock {lock} nothing of {model.name} is left to train: its towers end without a projection.",
            hint="Lock one tower, or train a point head with --loss kme.",
        )


def side_of(name: str) -> str:
    """ "image" or "text": the tower that a parameter or a part of the module belongs to."""
    return "image" if f"{name}.".startswith(IMAGE) else "text"


def set_training(model: Model) -> None:
    """Training mode, but for locked towers: no dropout there, and statistics of batch norms do not move."""
    model.networks.train()
    for name, part in model.module.named_modules():
        if name and side_of(name) in model.locked and not isinstance(part, nn.ParameterList):
            part.training = False
