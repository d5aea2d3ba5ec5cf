"""The conditional-information bound with q a linear Gaussian that follows the training."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from clipib.information.conditional import RIDGE, LinearGaussian, fit_linear_gaussian, linear_gaussian_bound
from clipib.losses.penalty.channel import check_sigma, no_autocast, noise_variance, paired_embeddings
from clipib.losses.terms import LossTerms, Paired

MOMENTUM = 0.99  # a memory of 100 steps, as good as 199 batches of equal weight


class LogdetPenalty:
    """The smallest bound that a linear Gaussian guess of one embedding from the other can give.

        R(z | z') = 1/2 [ log det C - D log sigma^2 + tr C^-1 (Sigma_res + sigma^2 I) - D ]
        Sigma_res = mean of r r^T over the batch, not centred;  r = z - W z' - b
        penalty   = 1/2 [ R(z_image | z_text) + R(z_text | z_image) ]

    **It is a bound.** For any q, I(Z_image; X_image | X_text) <= E KL( N(z_image, sigma^2 I) || q(. | x_text) ), since
    the best q, the true conditional, makes them equal. With q = N(W z' + b, C) the divergence of two Gaussians is the
    expression above with r r^T in the place of Sigma_res; it is linear in r r^T, so the batch mean has the right
    expectation whatever W, b and C are, as long as they do not depend on the batch. Here they come from a moving
    average over past steps, and the batch enters the average only after it was judged.

    **At its optimum.** The derivative by C vanishes at C = Sigma_res + sigma^2 I. There the trace is D and

        R = 1/2 log det(I + Sigma_res / sigma^2) <= 1/2 tr Sigma_res / sigma^2 <= E |z - z'|^2 / (2 sigma^2)

    The first step is log(1 + x) <= x on each eigenvalue; the second holds because least squares makes tr Sigma_res
    smallest over all W and b, and W = I, b = 0 is `distance`. Where embeddings are jointly Gaussian with a residual
    that is independent of the other side, the first expression is the information itself.

    **Why not the batch's own covariance.** A q that was fitted on the batch it judges is too good on it: the mean
    of a minimum is at most the minimum of the mean. With no more pairs than dimensions W passes through all of them,
    Sigma_res is 0 and so is the value, whatever the embeddings keep.

    Use it to take away what the other side does not support without forcing the two clouds together: where z is a
    rotated or shifted z', W and b learn it and the gradient is 0, while `distance` pulls.

    The averages start at the prior in which both embeddings are equal and spread evenly over the sphere: W = I, b = 0,
    C = sigma^2 I. The first value therefore is `distance`, and data replace the prior with a memory of 100 steps. W is
    fitted with a small ridge towards I. Gradient flows through r, to z and to z'; not through W, b, C and sigma.

    Args:
        sigma: standard deviation of the noise in each coordinate; None is sigma^2 = 1 / logit_scale, detached.
            See `clipib.losses.penalty.channel` for what it means on unit-norm embeddings of width D.
        seed: not used; nothing here is drawn.

    Raises:
        UserError: for a sigma that is not above 0.

    Reference:
        A re-implementation from a description of CIBR (Ji et al., 2025, 2503.24182, abstract); the form is derived
        here. Divergence of two Gaussians: Cover and Thomas, Elements of Information Theory, 2006, ch. 8 and 9.

    Example:
        >>> penalty = LogdetPenalty()
        >>> paired = Paired(torch.eye(3), torch.eye(3).roll(1, 0))
        >>> [round(float(penalty(paired, logit_scale=torch.tensor(10.0)).total), 2) for _ in range(3)]
        [10.0, 8.92, 8.05]
    """

    term_names = ("loss_penalty_nats",)

    def __init__(self, sigma: float | None = None, seed: int = 0) -> None:
        self.sigma = check_sigma(sigma)
        self.mean: Tensor | None = None  # (2 D,) of the joined vectors (z_image, z_text)
        self.second: Tensor | None = None  # (2 D, 2 D), not centred

    def __call__(self, paired: Paired, *, logit_scale: Tensor, training: bool = True) -> LossTerms:
        """The bound in nats, a float32 scalar; with `training` the batch then enters the moving average.

        Raises:
            ValueError: when the embeddings differ in shape.
        """
        image, text = paired_embeddings(paired)
        variance = noise_variance(self.sigma, logit_scale)
        with no_autocast(image):
            self._begin(image)
            from_text, from_image = fit_both(self.mean, self.second, variance)
            total = (linear_gaussian_bound(image, text, from_text, variance) / 2) + (
                linear_gaussian_bound(text, image, from_image, variance) / 2
            )
            if training:
                self._remember(torch.cat([image, text], 1).detach())
        return LossTerms(total, {"loss_penalty_nats": total.detach()})

    def state_dict(self) -> dict[str, Any]:
        """The moving averages; None before the first batch."""
        return {"mean": self.mean, "second": self.second}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.mean, self.second = state["mean"], state["second"]

    def _begin(self, z: Tensor) -> None:
        """The prior where there is no average yet; the averages on the device of the embeddings."""
        device = torch.device("cpu") if z.device.type == "mps" else z.device  # which has no float64
        if self.mean is None:
            width = z.shape[1]
            self.mean = torch.zeros(2 * width, dtype=torch.float64)
            self.second = torch.eye(width, dtype=torch.float64).repeat(2, 2) / width
        self.mean, self.second = self.mean.to(device), self.second.to(device)

    def _remember(self, joined: Tensor) -> None:
        """Out of place: a state that was handed out does not change."""
        joined = joined.to(self.mean.device, torch.float64)  # (B, 2 D)
        share = 1 - MOMENTUM
        self.mean = MOMENTUM * self.mean + share * joined.mean(0)
        self.second = torch.addmm(self.second, joined.T, joined, beta=MOMENTUM, alpha=share / len(joined))


def fit_both(mean: Tensor, second: Tensor, variance: Tensor) -> tuple[LinearGaussian, LinearGaussian]:
    """q(image | text) and q(text | image) of the moments of the joined vectors (image, text).

    Args:
        mean: (2 D,) float64. second: (2 D, 2 D) float64, E x x^T.
        variance: sigma^2.
    """
    width = len(mean) // 2
    covariance = second - torch.outer(mean, mean)
    swapped = torch.cat([torch.arange(width, 2 * width), torch.arange(width)]).to(mean.device)
    return (
        fit_linear_gaussian(mean, covariance, variance, ridge=RIDGE),
        fit_linear_gaussian(mean[swapped], covariance[swapped][:, swapped], variance, ridge=RIDGE),
    )
