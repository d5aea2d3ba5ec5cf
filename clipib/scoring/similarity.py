"""What every row of `SIMILARITIES` is."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

from torch import Tensor

from clipib.scoring.features import Features


class Similarity(NamedTuple):
    """A way to score images against texts.

    prepare: (features, draw) -> features, once per item before any tile; `draw` numbers a random draw where the
    similarity has one (a new one at every training step, 0 in evaluation).
    logits: (images, texts, *, logit_scale, logit_bias) -> (n, m) float32 tile of prepared blocks.
    pair_scores: (images, texts, *, logit_scale) -> (P,) float64 scores of matching rows, summed in one fixed order, so
    that equal items score equal numbers whatever stands beside them.
    rounding: (images, texts, *, logit_scale) -> a bound of how far a float32 tile is from `pair_scores`.
    """

    prepare: Callable[[Features, int], Features]
    logits: Callable[..., Tensor]
    pair_scores: Callable[..., Tensor]
    rounding: Callable[..., float]


def as_they_are(features: Features, draw: int = 0) -> Features:
    """The preparation of a similarity that needs none."""
    return features
