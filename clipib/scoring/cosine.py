"""Cosine similarity with CLIP's scale and, for sigmoid losses, bias."""

from __future__ import annotations

from torch import Tensor

from clipib.scoring.features import Features, at_least_float32, sum_in_fixed_order
from clipib.scoring.similarity import Similarity, as_they_are

EPS = 2.0**-24  # half a unit in the last place of float32, relative


def cosine_logits(
    image_features: Features, text_features: Features, *, logit_scale: Tensor | float, logit_bias: Tensor | float = 0.0
) -> Tensor:
    """logit_scale * <u, v> + logit_bias for every image and every text.

    Args:
        image_features: n images of one point each, (n, 1, D).
        text_features: m texts of one point each, (m, 1, D).
        logit_scale: the multiplier itself, already exponentiated.
        logit_bias: added to every logit; 0 for softmax losses.

    Returns:
        (n, m) float32 logits, also under autocast and for features of lower precision; float64 stays float64.

    Raises:
        ValueError: when an item has more than one point.

    Reference:
        Radford et al., 2021, Learning transferable visual models from natural language supervision, 2103.00020, sec. 2.
    """
    u, v = _single_points(image_features), _single_points(text_features)
    logits = (logit_scale * u) @ v.T  # the scale on (n, D) numbers instead of (n, m)
    return logits if isinstance(logit_bias, float) and logit_bias == 0 else logits + logit_bias


def cosine_pair_scores(image_features: Features, text_features: Features, *, logit_scale: Tensor | float) -> Tensor:
    """(P,) float64 inner products of matching rows times the scale."""
    u, v = _single_points(image_features), _single_points(text_features)
    return float(logit_scale) * sum_in_fixed_order(u.double() * v.double())


def cosine_rounding(image_features: Features, text_features: Features, *, logit_scale: Tensor | float) -> float:
    """(D + 2) 2^-24 logit_scale |u| |v| for the largest norms: D products and sums, each rounded once."""
    u, v = _single_points(image_features), _single_points(text_features)
    largest = float(u.norm(dim=-1).max()) * float(v.norm(dim=-1).max()) if len(u) and len(v) else 0.0
    return (u.shape[1] + 2) * EPS * float(logit_scale) * max(largest, 1.0)


def _single_points(features: Features) -> Tensor:
    if features.points.shape[1] != 1:
        raise ValueError(f"cosine compares single points, got {features.points.shape[1]} points per item")
    return at_least_float32(features.points[:, 0])


COSINE = Similarity(as_they_are, cosine_logits, cosine_pair_scores, cosine_rounding)
