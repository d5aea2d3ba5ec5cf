"""The table of losses: contrast(similarity(images, texts)) + weight * penalty; a row names the three parts."""

from __future__ import annotations

from typing import NamedTuple


class LossRow(NamedTuple):
    """One `--loss`: names into the tables of parts, the weight, its standing, and when to use it."""

    contrast: str
    similarity: str
    penalty: str
    penalty_weight: float
    status: str
    about: str


REPRODUCTION, DESCRIPTION = "reproduction", "re-implementation from a description"

LOSSES = {
    "clip": LossRow("softmax", "cosine", "none", 0.0, REPRODUCTION, "The standard; start here."),
    "siglip": LossRow(
        "sigmoid", "cosine", "none", 0.0, REPRODUCTION, "Small batches, or scores that are to be odds; has a bias."
    ),
    "cibr": LossRow(
        "softmax",
        "cosine",
        "distance",
        0.1,
        DESCRIPTION,
        "To shed what one embedding keeps that the other does not support; --penalty distance, logdet or mine.",
    ),
    "kme": LossRow(
        "softmax", "kme", "none", 0.0, DESCRIPTION, "Scenes of several things; sets of points, log of their kernel sum."
    ),
    "wpse": LossRow(
        "softmax", "wpse", "none", 0.0, REPRODUCTION, "The rival of kme: signed weights, the kernel sum itself."
    ),
}

CONTRASTS = {
    "softmax": "clipib.losses.contrast:SOFTMAX",
    "sigmoid": "clipib.losses.contrast:SIGMOID",
    "decoupled": "clipib.losses.contrast:DECOUPLED",
}

PENALTIES = {
    "none": "clipib.losses.penalty.none:NoPenalty",
    "distance": "clipib.losses.penalty.distance:DistancePenalty",
    "logdet": "clipib.losses.penalty.logdet:LogdetPenalty",
    "mine": "clipib.losses.penalty.mine:MinePenalty",
    "shuffle": "clipib.losses.penalty.shuffle:ShuffledDistance",
    "shuffle-logdet": "clipib.losses.penalty.shuffle:ShuffledLogdet",
    "shuffle-mine": "clipib.losses.penalty.shuffle:ShuffledMine",
}

POSITIVES = ("identity", "same-caption", "same-image", "same-class")
