"""What a loss is given and what it gives back."""

from __future__ import annotations

from typing import NamedTuple

from torch import Tensor

from clipib.scoring.features import Features


class Paired(NamedTuple):
    """A batch of B pairs as the towers see it.

    image, text: (B, D) unit norm, the pooled embeddings.
    image_hidden, text_hidden: (B, H) pooled features before the projection, where a penalty asks for them.
    image_points, text_points: what a checkpoint with a point head is scored by.
    groups: (B,) int64, equal numbers are positives of each other; None: each pair alone.
    """

    image: Tensor
    text: Tensor
    image_hidden: Tensor | None = None
    text_hidden: Tensor | None = None
    image_points: Features | None = None
    text_points: Features | None = None
    groups: Tensor | None = None


class LossTerms(NamedTuple):
    """total: the scalar to minimise. terms: its parts by name, detached, in nats where they are information."""

    total: Tensor
    terms: dict[str, Tensor]
