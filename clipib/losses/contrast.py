"""Contrasts: a matrix of logits whose diagonal holds the pairs becomes a loss."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor


def softmax_contrast(logits: Tensor) -> Tensor:
    """Symmetric InfoNCE: each image picks its text among the batch, and each text its image.

        1/2 [ mean_i (lse_j s_ij - s_ii) + mean_j (lse_i s_ij - s_jj) ]

    Use it as the standard loss of CLIP. At its optimum s is the pointwise mutual information up to one constant.

    Args:
        logits: (B, B), images in rows, texts in columns, pairs on the diagonal.

    Returns:
        The loss in nats, a float32 scalar; log B when the logits say nothing.

    Reference:
        Radford et al., 2021, 2103.00020, fig. 3; van den Oord et al., 2018, 1807.03748.

    Example:
        >>> round(float(softmax_contrast(torch.zeros(4, 4))), 4)
        1.3863
    """
    if logits.ndim != 2 or logits.shape[0] != logits.shape[1]:
        raise ValueError(f"expected logits (B, B), got {tuple(logits.shape)}")
    logits = logits.float()
    target = torch.arange(len(logits), device=logits.device)
    return (F.cross_entropy(logits, target) + F.cross_entropy(logits.T, target)) / 2
