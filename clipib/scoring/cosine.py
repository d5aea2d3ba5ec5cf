"""Cosine similarity with CLIP's scale and, for sigmoid losses, bias."""

from __future__ import annotations

from torch import Tensor

from clipib.scoring.features import Features


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
        (n, m) float32 logits, also under autocast and for features of lower precision.

    Raises:
        ValueError: when an item has more than one point.

    Reference:
        Radford et al., 2021, Learning transferable visual models from natural language supervision, 2103.00020, sec. 2.
    """
    for features in (image_features, text_features):
        if features.points.shape[1] != 1:
            raise ValueError(f"cosine compares single points, got {features.points.shape[1]} points per item")
    u = image_features.points[:, 0].float()
    v = text_features.points[:, 0].float()
    return logit_scale * (u @ v.T) + logit_bias
