"""What a penalty looks at, and what it and a whole loss give back."""

from __future__ import annotations

from typing import NamedTuple

from torch import Tensor

from clipib.scoring.features import Features


class Paired(NamedTuple):
    """A batch of B pairs as the towers see it.

    image, text: (B, D) unit norm, the pooled embeddings; row i of one belongs to row i of the other.
    image_hidden, text_hidden: (B, H_image) and (B, H_text), the features before the projection.
    image_points, text_points: weighted points, where the checkpoint has a point head.
    groups: (B,) int64, equal numbers are positives of each other; None: each row has one positive, its own.
    """

    image: Tensor
    text: Tensor
    image_hidden: Tensor | None = None
    text_hidden: Tensor | None = None
    image_points: Features | None = None
    text_points: Features | None = None
    groups: Tensor | None = None


class LossTerms(NamedTuple):
    """total: the scalar to minimise. terms: its parts by name, detached."""

    total: Tensor
    terms: dict[str, Tensor]
