"""A loss put together from its three parts."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import NamedTuple

from torch import Tensor

from clipib.errors import UserError
from clipib.losses import CONTRASTS, LOSSES, PENALTIES
from clipib.losses.terms import LossTerms, Paired
from clipib.registry import check_name, resolve
from clipib.scoring import SIMILARITIES
from clipib.scoring.features import as_features


class Loss(NamedTuple):
    """Names of the parts of one loss, the weight, and the function (image_features, text_features, scale, bias)."""

    name: str
    similarity: str
    penalty: str
    penalty_weight: float
    compute: Callable[..., LossTerms]


def make_loss(
    name: str, *, similarity: str | None = None, penalty: str | None = None, penalty_weight: float | None = None
) -> Loss:
    """Look up a loss by name; any part of its row can be replaced.

    Args:
        penalty_weight: a fraction of the bound; finite and not negative.

    Raises:
        UserError: for an unknown name or an impossible weight.
    """
    row = LOSSES[check_name("loss", name, LOSSES)]
    similarity, penalty = similarity or row.similarity, penalty or row.penalty
    weight = row.penalty_weight if penalty_weight is None else penalty_weight
    if not 0 <= weight < float("inf"):
        raise UserError(f"The penalty weight {weight} is not a number of at least 0.", hint="Try --penalty-weight 0.1.")
    if penalty == "none":
        if penalty_weight:
            hint = "Take --loss cibr, or leave --penalty-weight out."
            raise UserError(
                f"The loss {name} has no penalty that a weight of {penalty_weight:g} could act on.", hint=hint
            )
        weight = 0.0
    compute = partial(
        _compute,
        contrast=resolve("contrast", CONTRASTS, row.contrast),
        similarity=resolve("similarity", SIMILARITIES, similarity),
        penalty=resolve("penalty", PENALTIES, penalty)(),
        weight=weight,
    )
    return Loss(name, similarity, penalty, weight, compute)


def _compute(
    image_features: Tensor,
    text_features: Tensor,
    logit_scale: Tensor,
    logit_bias: Tensor | None,
    *,
    contrast: Callable,
    similarity: Callable,
    penalty: Callable,
    weight: float,
) -> LossTerms:
    """contrast(similarity(images, texts)) + weight * penalty of unit features (B, D)."""
    bias = 0.0 if logit_bias is None else logit_bias
    logits = similarity(
        as_features(image_features), as_features(text_features), logit_scale=logit_scale, logit_bias=bias
    )
    contrast_value = contrast(logits)
    if weight == 0:
        return LossTerms(contrast_value, {"loss_contrast": contrast_value.detach()})
    penalty_value, penalty_terms = penalty(Paired(image_features, text_features), logit_scale=logit_scale)
    return LossTerms(
        contrast_value + weight * penalty_value, {"loss_contrast": contrast_value.detach()} | penalty_terms
    )
