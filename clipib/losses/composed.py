"""A loss put together from its three parts."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from clipib.errors import UserError
from clipib.losses import CONTRASTS, LOSSES, PENALTIES
from clipib.losses.contrast import Contrast
from clipib.losses.terms import LossTerms, Paired
from clipib.registry import check_name, resolve
from clipib.scoring import POINT_SIMILARITIES, SIMILARITIES
from clipib.scoring.features import as_features, effective_points
from clipib.scoring.similarity import Similarity
from clipib.scoring.tiles import reduce_logits

EFFECTIVE = ("image_effective_points", "text_effective_points")


class Loss:
    """contrast(similarity(images, texts)) + weight * penalty.

    name, contrast_name, similarity_name, penalty_name, penalty_weight: what it is made of.
    term_names: the terms that every call gives, in order.
    """

    def __init__(
        self,
        name: str,
        *,
        contrast: str,
        similarity: str,
        penalty: str,
        penalty_weight: float,
        penalty_sigma: float | None = None,
        seed: int = 0,
    ) -> None:
        self.name, self.contrast_name, self.similarity_name, self.penalty_name = name, contrast, similarity, penalty
        self.penalty_weight, self.penalty_sigma = penalty_weight, penalty_sigma
        self.contrast: Contrast = resolve("contrast", CONTRASTS, contrast)
        self.similarity: Similarity = resolve("similarity", SIMILARITIES, similarity)
        self.penalty = resolve("penalty", PENALTIES, penalty)(sigma=penalty_sigma, seed=seed)
        self.term_names = ("loss_contrast", *self.penalty.term_names, *(EFFECTIVE if self.needs_points else ()))

    @property
    def needs_points(self) -> bool:
        """Whether the checkpoint must have a point head."""
        return self.similarity_name in POINT_SIMILARITIES

    @property
    def needs_bias(self) -> bool:
        return self.contrast.needs_bias

    @property
    def needs_hidden(self) -> bool:
        """Whether the penalty looks at features before the projection."""
        return getattr(self.penalty, "needs_hidden", False)

    def compute(
        self,
        paired: Paired,
        logit_scale: Tensor,
        logit_bias: Tensor | None = None,
        *,
        draw: int = 0,
        training: bool = True,
    ) -> LossTerms:
        """The loss of a batch and its terms.

        Args:
            logit_scale: already exponentiated; 1 / sigma^2 of the kernel for `kme`.
            logit_bias: used by the sigmoid contrast alone.
            draw: numbers the random features of `wpse`; the step in training.
            training: whether a penalty that learns (`logdet`, `mine`) may learn from this batch.
        """
        images, texts = self._points(paired)
        reduced = reduce_logits(
            self.similarity,
            self.similarity.prepare(images, draw),
            self.similarity.prepare(texts, draw),
            logit_scale=logit_scale,
            logit_bias=logit_bias if self.needs_bias else None,
            groups=paired.groups,
            statistic=self.contrast.statistic,
        )
        total = self.contrast.loss(reduced)
        terms = {"loss_contrast": total.detach()}
        if self.penalty.term_names:
            penalty = self.penalty(paired, logit_scale=logit_scale, training=training)
            terms |= penalty.terms
            if self.penalty_weight:
                total = total + self.penalty_weight * penalty.total
        if self.needs_points:
            both = zip(EFFECTIVE, (images, texts), strict=True)
            terms |= {name: effective_points(points, logit_scale).mean().detach() for name, points in both}
        return LossTerms(total, terms)

    def balanced_bias(self, paired: Paired, logit_scale: Tensor, *, draw: int = 0) -> float:
        """The bias at which the sigmoid contrast of this batch is stationary: sum_ij sigmoid(s_ij + b) = positives.

        A trained CLIP has logits far from those that a sigmoid expects; from any fixed bias the first steps would be
        spent on that one number, and break the rest.
        """
        images, texts = (self.similarity.prepare(points, draw) for points in self._points(paired))
        logits = self.similarity.logits(images, texts, logit_scale=logit_scale).detach().double()
        groups = torch.arange(len(logits), device=logits.device) if paired.groups is None else paired.groups
        wanted = (groups[:, None] == groups).sum()
        low, high = -float(logits.max()) - 50, -float(logits.min()) + 50
        for _ in range(60):
            middle = (low + high) / 2
            low, high = (low, middle) if torch.sigmoid(logits + middle).sum() > wanted else (middle, high)
        return (low + high) / 2

    def state_dict(self) -> dict[str, Any]:
        """What the penalty has learned."""
        return self.penalty.state_dict()

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.penalty.load_state_dict(state)

    def _points(self, paired: Paired):
        if not self.needs_points:
            return as_features(paired.image), as_features(paired.text)
        if paired.image_points is None or paired.text_points is None:
            raise ValueError(f"the similarity {self.similarity_name} needs the points of a point head")
        return paired.image_points, paired.text_points


def make_loss(
    name: str,
    *,
    contrast: str | None = None,
    similarity: str | None = None,
    penalty: str | None = None,
    penalty_weight: float | None = None,
    penalty_sigma: float | None = None,
    seed: int = 0,
) -> Loss:
    """Look up a loss by name; any part of its row can be replaced.

    Args:
        penalty_weight: what one nat of the penalty counts beside one of the contrast; finite and not negative. Left
            out, the row's, or that of `cibr` where a penalty was named for a loss without one: the largest that cost
            at most a hundredth of recall in the study of docs/losses.md.
        penalty_sigma: standard deviation of the noise through which information is measured, per coordinate of unit
            vectors; left out, sigma^2 = 1 / logit_scale.
        seed: of penalties that learn.

    Raises:
        UserError: for an unknown name, an impossible weight or sigma.
    """
    row = LOSSES[check_name("loss", name, LOSSES)]
    contrast = check_name("contrast", contrast or row.contrast, CONTRASTS)
    similarity = check_name("similarity", similarity or row.similarity, SIMILARITIES)
    penalty = check_name("penalty", penalty or row.penalty, PENALTIES)
    weight = penalty_weight
    if weight is None:
        weight = row.penalty_weight or (LOSSES["cibr"].penalty_weight if penalty != "none" else 0.0)
    if not 0 <= weight < float("inf"):
        hint = "Try --penalty-weight 0.03."
        raise UserError(f"The penalty weight {weight} is not a number of at least 0.", hint=hint)
    if penalty == "none":
        for what, given in (("a weight", penalty_weight), ("a sigma", penalty_sigma)):
            if given:
                hint = "Take --loss cibr, or name a --penalty."
                raise UserError(f"The loss {name} has no penalty that {what} of {given:g} could act on.", hint=hint)
        weight = 0.0
    return Loss(
        name,
        contrast=contrast,
        similarity=similarity,
        penalty=penalty,
        penalty_weight=weight,
        penalty_sigma=penalty_sigma,
        seed=seed,
    )
