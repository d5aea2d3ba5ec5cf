"""The conditional-information bound with q fixed at the other modality's embedding."""

from __future__ import annotations

from torch import Tensor


def distance_penalty(image_features: Tensor, text_features: Tensor, *, logit_scale: Tensor) -> Tensor:
    """E |u - v|^2 / (2 sigma^2) of the pairs, with sigma^2 = 1 / logit_scale.

    Through the Gaussian channel z + N(0, sigma^2 I) this is E KL( N(u, sigma^2 I) || N(v, sigma^2 I) ), an upper bound
    of the information I(Z_image; X_image | X_text) that the image's embedding keeps beyond the text, and, being
    symmetric, of its mirror image.

    What it does, said plainly: on unit vectors it equals logit_scale * (1 - cos), so it is an alignment bonus on the
    positive pairs, and it forces the two clouds of embeddings together whether the offset between them carries
    information or not. The scale is detached: otherwise training would lower the penalty by lowering the scale.

    Args:
        image_features: (B, D) unit norm.
        text_features: (B, D) unit norm, row i paired with row i.
        logit_scale: the multiplier, already exponentiated.

    Returns:
        The bound in nats, a float32 scalar.

    Reference:
        A re-implementation from a description of CIBR (Ji et al., 2025, 2503.24182, abstract); the bound is derived
        there and in Almudevar et al., 2025, whose regulariser 1 - cos it is.
    """
    if image_features.shape != text_features.shape:
        raise ValueError(f"expected equal shapes (B, D), got {image_features.shape} and {text_features.shape}")
    squared = (image_features.float() - text_features.float()).square().sum(-1)
    return squared.mean() * logit_scale.detach().float() / 2
