"""The table of losses: contrast(similarity(images, texts)) + weight * penalty; a row names the three parts."""

from __future__ import annotations

from typing import NamedTuple


class LossRow(NamedTuple):
    """One `--loss`: names into the tables of parts, the weight, and when to use it.

    status: "reproduction" of published formulas, or re-implemented "from a description" of a paper without code.
    """

    contrast: str
    similarity: str
    penalty: str
    penalty_weight: float
    status: str
    about: str


LOSSES = {
    "clip": LossRow("softmax", "cosine", "none", 0.0, "reproduction", "the standard; start here"),
    "siglip": LossRow("sigmoid", "cosine", "none", 0.0, "reproduction", "small batches; scores are log odds"),
    "cibr": LossRow(
        "softmax", "cosine", "distance", 0.03, "from a description", "to shed what the other side does not support"
    ),
    "kme": LossRow("softmax", "kme", "none", 0.0, "from a description", "scenes of several things: sets of points"),
    "wpse": LossRow("softmax", "wpse", "none", 0.0, "reproduction", "sets of points with signed weights"),
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
    "shuffle": "clipib.losses.penalty.shuffle:ShuffleDistancePenalty",
    "shuffle-logdet": "clipib.losses.penalty.shuffle:ShuffleLogdetPenalty",
    "shuffle-mine": "clipib.losses.penalty.shuffle:ShuffleMinePenalty",
}

POSITIVES = ("identity", "same-caption", "same-image", "same-class")
