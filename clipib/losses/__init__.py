"""The table of losses: contrast(similarity(images, texts)) + weight * penalty; a row names the three parts."""

from __future__ import annotations

from typing import NamedTuple


class LossRow(NamedTuple):
    """One `--loss`: names into the three tables below, and one line on when to use it."""

    contrast: str
    similarity: str
    penalty: str
    penalty_weight: float
    about: str


LOSSES = {
    "clip": LossRow(
        "softmax", "cosine", "none", 0.0, "The contrastive loss of CLIP. Reproduction (Radford et al., 2021)."
    ),
    "cibr": LossRow(
        "softmax",
        "cosine",
        "distance",
        0.1,
        "Penalises what one embedding keeps that the other does not support. Re-implementation from a description.",
    ),
}

CONTRASTS = {
    "softmax": "clipib.losses.contrast:softmax_contrast",
}

PENALTIES = {
    "none": "clipib.losses.penalty.none:NoPenalty",
    "distance": "clipib.losses.penalty.distance:DistancePenalty",
    "logdet": "clipib.losses.penalty.logdet:LogdetPenalty",
    "mine": "clipib.losses.penalty.mine:MinePenalty",
    "shuffle": "clipib.losses.penalty.shuffle:ShuffleDistancePenalty",
    "shuffle-logdet": "clipib.losses.penalty.shuffle:ShuffleLogdetPenalty",
    "shuffle-mine": "clipib.losses.penalty.shuffle:ShuffleMinePenalty",
}
