"""The conditional-information bound with q fixed at the other modality's embedding."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from clipib.information.conditional import trace_bound
from clipib.losses.penalty.channel import check_sigma, noise_variance, paired_embeddings
from clipib.losses.terms import LossTerms, Paired


class DistancePenalty:
    """E |z_image - z_text|^2 / (2 sigma^2) over the pairs.

    Through the Gaussian channel z + N(0, sigma^2 I) this is E KL( N(z_image, sigma^2 I) || N(z_text, sigma^2 I) ), an
    upper bound of the information I(Z_image; X_image | X_text) that the image's embedding keeps beyond the text, and,
    being symmetric, of its mirror image.

    What it does, said plainly: with sigma^2 = 1 / logit_scale = 1 / s it equals s (1 - cos) on unit vectors, so that
    with a weight it adds -weight * s * cos of the positive pairs to the -s * cos that the contrast already has: an
    alignment bonus, -(s + weight * s) cos. It forces the two clouds of embeddings together whether the offset between
    them carries information or not; `logdet` does not.

    Use it as the cheap default and as the reading of CIBR that needs no estimator.

    Args:
        sigma: standard deviation of the noise in each coordinate; None is sigma^2 = 1 / logit_scale, detached.
            See `clipib.losses.penalty.channel` for what it means on unit-norm embeddings of width D.
        seed: not used; nothing here is drawn.

    Raises:
        UserError: for a sigma that is not above 0.

    Reference:
        A re-implementation from a description of CIBR (Ji et al., 2025, 2503.24182, abstract); the bound is derived
        there and in Almudevar et al., 2025, whose regulariser 1 - cos it is.

    Example:
        >>> import torch
        >>> paired = Paired(torch.eye(3), torch.eye(3).roll(1, 0))
        >>> float(DistancePenalty()(paired, logit_scale=torch.tensor(10.0)).total)
        10.0
    """

    term_names = ("loss_penalty_nats",)

    def __init__(self, sigma: float | None = None, seed: int = 0) -> None:
        self.sigma = check_sigma(sigma)

    def __call__(self, paired: Paired, *, logit_scale: Tensor, training: bool = True) -> LossTerms:
        """The bound in nats, a float32 scalar; `logit_scale` is the multiplier, already exponentiated.

        Raises:
            ValueError: when the embeddings differ in shape.
        """
        image, text = paired_embeddings(paired)
        total = trace_bound(image, text, noise_variance(self.sigma, logit_scale))
        return LossTerms(total, {"loss_penalty_nats": total.detach()})

    def state_dict(self) -> dict[str, Any]:
        return {}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Nothing is remembered."""
