"""The control: no penalty."""

from __future__ import annotations

from torch import Tensor


def no_penalty(image_features: Tensor, text_features: Tensor, *, logit_scale: Tensor) -> Tensor:
    """Zero, for losses that are a contrast alone."""
    return image_features.new_zeros(())
