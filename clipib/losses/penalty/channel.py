"""The Gaussian channel z + N(0, sigma^2 I) through which every penalty looks at an embedding.

An embedding is a deterministic function of a continuous input, so it keeps infinitely much of it: only with noise is
the information finite, and a number of nats means something at a stated sigma alone. On unit-norm embeddings of width
D the signal has energy 1 and the noise D sigma^2. A coordinate has variance of at most 1 / D on average, so that no
embedding gets more than

    D/2 log(1 + 1 / (D sigma^2)) <= 1 / (2 sigma^2) nats

through. sigma left out is sigma^2 = 1 / logit_scale, so that distances are in the unit of the logits:
|u - v|^2 / (2 sigma^2) = logit_scale (1 - cos). At logit_scale = 100 and D = 512 that is sigma = 0.1 per coordinate,
where a coordinate of the embedding has a standard deviation of at most 0.044 on average; at most 45.7 nats pass.
Compare values at equal sigma only.
"""

from __future__ import annotations

import torch
from torch import Tensor

from clipib.errors import UserError
from clipib.losses.terms import Paired
from clipib.scoring.features import at_least_float32


def check_sigma(sigma: float | None) -> float | None:
    """`sigma` itself where it is None or a positive number.

    Raises:
        UserError: for any other number.
    """
    if sigma is not None and not 0 < sigma < float("inf"):
        hint = "Leave it out for sigma^2 = 1 / logit_scale."
        raise UserError(f"The noise sigma {sigma} of the penalty is not a number above 0.", hint=hint)
    return sigma


def noise_variance(sigma: float | None, logit_scale: Tensor) -> Tensor:
    """sigma^2, a scalar without gradient: training must not lower a penalty by lowering the scale."""
    scale = at_least_float32(logit_scale.detach())
    return 1 / scale if sigma is None else torch.full_like(scale, sigma**2)


def paired_embeddings(paired: Paired) -> tuple[Tensor, Tensor]:
    """Both embeddings (B, D) in float32 at least.

    Raises:
        ValueError: when their shapes differ.
    """
    if paired.image.ndim != 2 or paired.image.shape != paired.text.shape:
        shapes = f"{tuple(paired.image.shape)} and {tuple(paired.text.shape)}"
        raise ValueError(f"expected two equal shapes (B, D), got {shapes}")
    return at_least_float32(paired.image), at_least_float32(paired.text)


def no_autocast(x: Tensor) -> torch.autocast:
    """A context in which products are computed in the precision of their factors, also inside an autocast."""
    return torch.autocast(x.device.type, enabled=False)
