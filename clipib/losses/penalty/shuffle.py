"""The control: a penalty on pairs that do not belong together.

It has the pull of the penalty it wraps, on the same embeddings at the same strength, but no pair tells it what the
other side supports. What a penalty does that its shuffled twin does not is more than mere regularisation.
"""

from __future__ import annotations

from torch import Tensor

from clipib.losses.penalty.distance import DistancePenalty
from clipib.losses.penalty.logdet import LogdetPenalty
from clipib.losses.penalty.mine import MinePenalty
from clipib.losses.terms import LossTerms, Paired
from clipib.scoring.features import Features


def mismatch(paired: Paired) -> Paired:
    """The same batch with every text moved on by one place, with all that belongs to the text.

    Texts of one class or equal texts that stand side by side stay matches: a batch in random order has few.

    Raises:
        ValueError: for a batch of 1, which cannot be mismatched.
    """
    if len(paired.text) < 2:
        raise ValueError(f"expected at least 2 pairs to mismatch, got {len(paired.text)}")
    points = paired.text_points
    return paired._replace(
        text=paired.text.roll(1, 0),
        text_hidden=None if paired.text_hidden is None else paired.text_hidden.roll(1, 0),
        text_points=None if points is None else Features(*(x.roll(1, 0) for x in points)),
        groups=None,  # they spoke of the matched pairs
    )


class ShuffleDistancePenalty(DistancePenalty):
    """`distance` between mismatched pairs."""

    def __call__(self, paired: Paired, *, logit_scale: Tensor, training: bool = True) -> LossTerms:
        return super().__call__(mismatch(paired), logit_scale=logit_scale, training=training)


class ShuffleLogdetPenalty(LogdetPenalty):
    """`logdet` of mismatched pairs; W, b and C follow them as well."""

    def __call__(self, paired: Paired, *, logit_scale: Tensor, training: bool = True) -> LossTerms:
        return super().__call__(mismatch(paired), logit_scale=logit_scale, training=training)


class ShuffleMinePenalty(MinePenalty):
    """`mine` on mismatched pairs: each embedding stays with its own hidden feature and meets a foreign one."""

    def __call__(self, paired: Paired, *, logit_scale: Tensor, training: bool = True) -> LossTerms:
        return super().__call__(mismatch(paired), logit_scale=logit_scale, training=training)
