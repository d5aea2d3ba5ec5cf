"""The literal reading: a difference of two Donsker-Varadhan estimates."""

from __future__ import annotations

import copy
import math
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from clipib.errors import UserError
from clipib.losses.penalty.channel import check_sigma, no_autocast, noise_variance, paired_embeddings
from clipib.losses.terms import LossTerms, Paired
from clipib.scoring.features import at_least_float32

HIDDEN = 256
CRITIC_STEPS = 3
LEARNING_RATE = 5e-4
MOMENTUM = 0.99


class _Term(NamedTuple):
    """DV(z; h) of one critic: whose embedding, whose hidden feature, and its sign in the penalty."""

    z: str
    hidden: str
    sign: int


TERMS = {
    "mine_image_image": _Term("image", "image", 1),
    "mine_image_text": _Term("image", "text", -1),
    "mine_text_text": _Term("text", "text", 1),
    "mine_text_image": _Term("text", "image", -1),
}


class MinePenalty:
    """What one embedding keeps of its own input minus what it keeps of the other's, both estimated by critics.

        R = 1/2 [ DV(z_image; h_image) - DV(z_image; h_text) + DV(z_text; h_text) - DV(z_text; h_image) ]
        DV(z; h) = mean T(z_i, h_i) - log mean exp T(z_i, h_j),   j = i + a random shift
        penalty = max(R, 0)

    By the chain rule I(Z; X | X') = I(Z; X) - I(Z; X') where Z depends on X alone. z stands here for the embedding
    with fresh N(0, sigma^2 I) added, h for the detached feature before the projection, which stands in for the input.

    **What it is worth.** z without the noise is a function of its own h, so the first and third estimate saturate long
    before the information that the channel lets through. On Gaussian channels of 1, 2, 4 and 20 nats (widths 16, 16,
    16, 64; 128 pairs a batch, 500 calls) they came to 0.9, 1.8, 3.2 and 2 to 5 nats on fresh pairs, and to 0.9, 1.9,
    3.5 and 6 to 8 on the batches that they had just climbed on. At fixed critics and with many fresh pairs a DV is a
    lower bound; a difference of two is no bound either way. The number therefore has no unit in its name.
    Below 0 the penalty is cut off and has no gradient.

    Use it to see what the descriptions of CIBR give when they are taken at their word; `logdet` bounds the same
    information.

    Four critics, each Linear(D + H, 256), ReLU, Linear(256, 256), ReLU, Linear(256, 1), with an Adam of their own
    (3 steps of 5e-4 a call) climb first; the denominator of their gradient is a moving average (0.99), which lessens
    the bias of a mini-batch. They are then held fixed, and the gradient goes to z. They are built at the first batch,
    from `seed`, and see z and h less the mean of that batch, divided by one standard deviation over all coordinates.
    Noise and shifts come from torch's global generator.

    Args:
        sigma: standard deviation of the noise in each coordinate; None is sigma^2 = 1 / logit_scale, detached.
            See `clipib.losses.penalty.channel` for what it means on unit-norm embeddings of width D.
        seed: of the critics' first weights.

    Raises:
        UserError: for a sigma that is not above 0.

    Reference:
        A re-implementation from a description of CIBR (Ji et al., 2025, 2503.24182, abstract: mutual information
        terms; a secondary summary names MINE); sizes and rates are ours. MINE: Belghazi et al., 2018, 1801.04062.
    """

    term_names = ("loss_penalty", *TERMS)
    needs_hidden = True

    def __init__(self, sigma: float | None = None, seed: int = 0) -> None:
        self.sigma, self.seed = check_sigma(sigma), seed
        self.critics: nn.ModuleDict | None = None
        self.optimizer: torch.optim.Optimizer | None = None
        self.log_denominators: dict[str, Tensor] = {}
        self._waiting: dict[str, Any] | None = None  # a state that was loaded before the first batch

    def __call__(self, paired: Paired, *, logit_scale: Tensor, training: bool = True) -> LossTerms:
        """The penalty, a float32 scalar, and the four estimates; with `training` the critics climb first.

        `terms` names the critics before the penalty, so that the training loop blames a NaN on the critic it is in.

        Raises:
            UserError: where there are no features before the projection.
            ValueError: for a batch of 1, which has no marginals, or embeddings that differ in shape.
        """
        z, hidden = _both_sides(paired)
        sigma = noise_variance(self.sigma, logit_scale).sqrt()
        with no_autocast(z["image"]):
            if self.critics is None:
                self._build(z, hidden, sigma)
            if training:
                still = {k: v.detach() for k, v in z.items()}
                for _ in range(CRITIC_STEPS):
                    self._climb({k: _noised(v, sigma) for k, v in still.items()}, hidden)
            noised = {k: _noised(v, sigma) for k, v in z.items()}
            joint, marginal = self._scores(noised, hidden)
        estimates = {name: joint[name].mean() - _log_mean_exp(marginal[name]) for name in TERMS}
        difference = sum(term.sign * estimates[name] for name, term in TERMS.items()) / 2
        total = difference.clamp_min(0)
        terms = {name: value.detach() for name, value in estimates.items()}
        return LossTerms(total, terms | {"loss_penalty": total.detach()})

    def state_dict(self) -> dict[str, Any]:
        """Critics, their optimiser and denominators; nothing before the first batch."""
        if self.critics is None:
            return self._waiting or {}
        state = {"critics": self.critics.state_dict(), "optimizer": self.optimizer.state_dict()}
        return copy.deepcopy(state) | {"log_denominators": dict(self.log_denominators)}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Taken over at the next batch, whose shapes and device the critics need."""
        self.critics, self._waiting = None, state or None

    def _build(self, z: dict[str, Tensor], hidden: dict[str, Tensor], sigma: Tensor) -> None:
        # A resumed run builds at another step: nothing of the global generators may be drawn or seeded here.
        with torch.random.fork_rng(devices=[]):
            torch.default_generator.manual_seed(self.seed)
            critics = {name: _Critic(z[t.z].detach(), hidden[t.hidden], sigma) for name, t in TERMS.items()}
        self.critics = nn.ModuleDict(critics).to(z["image"]).requires_grad_(False)
        self.optimizer = torch.optim.Adam(self.critics.parameters(), lr=LEARNING_RATE)
        self.log_denominators = {}
        if self._waiting:
            self.critics.load_state_dict(self._waiting["critics"])
            self.optimizer.load_state_dict(copy.deepcopy(self._waiting["optimizer"]))  # Adam works in place
            kept = self._waiting["log_denominators"]
            self.log_denominators = {name: value.to(z["image"]) for name, value in kept.items()}
            self._waiting = None

    def _scores(self, z: dict[str, Tensor], hidden: dict[str, Tensor]) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        """Every critic on the pairs and on mismatched pairs, (B,) each; all share one shift, which leaves no pair."""
        shift = int(torch.randint(1, len(z["image"]), ()))
        joint = {name: self.critics[name](z[t.z], hidden[t.hidden]) for name, t in TERMS.items()}
        marginal = {name: self.critics[name](z[t.z], hidden[t.hidden].roll(shift, 0)) for name, t in TERMS.items()}
        return joint, marginal

    def _climb(self, z: dict[str, Tensor], hidden: dict[str, Tensor]) -> None:
        """One step of every critic up its DV, d log Z taken as dZ / (moving average of Z)."""
        self.critics.requires_grad_(True)
        with torch.enable_grad():
            joint, marginal = self._scores(z, hidden)
            descent = 0
            for name in TERMS:
                self._remember(name, _log_mean_exp(marginal[name].detach()))
                ratio = (marginal[name] - self.log_denominators[name]).exp()  # its mean is at most 1 / (1 - MOMENTUM)
                descent = descent + ratio.mean() - joint[name].mean()
            self.optimizer.zero_grad(set_to_none=True)
            descent.backward()
        self.optimizer.step()
        self.critics.requires_grad_(False)

    def _remember(self, name: str, log_mean: Tensor) -> None:
        """The moving average of the denominator, in logarithms; the first batch starts it."""
        if name not in self.log_denominators:
            self.log_denominators[name] = log_mean
            return
        kept = self.log_denominators[name] + math.log(MOMENTUM)
        self.log_denominators[name] = torch.logaddexp(kept, log_mean + math.log(1 - MOMENTUM))


class _Critic(nn.Module):
    """T(z, h): (B, D) and (B, H) -> (B,)."""

    def __init__(self, z: Tensor, h: Tensor, sigma: Tensor) -> None:
        super().__init__()
        both = torch.cat([z, h], 1)
        self.register_buffer("mean", both.mean(0))
        self.register_buffer("factor", torch.cat([_inverse_spread(z, sigma), _inverse_spread(h, 0 * sigma)]))
        layers = [nn.Linear(both.shape[1], HIDDEN), nn.ReLU(), nn.Linear(HIDDEN, HIDDEN), nn.ReLU()]
        self.layers = nn.Sequential(*layers, nn.Linear(HIDDEN, 1))

    def forward(self, z: Tensor, h: Tensor) -> Tensor:
        return self.layers((torch.cat([z, h], 1) - self.mean) * self.factor)[:, 0]


def _inverse_spread(x: Tensor, sigma: Tensor) -> Tensor:
    """(W,): 1 / the standard deviation, noise included, over all coordinates; the same for each."""
    variance = (x - x.mean(0)).square().mean() + sigma.to(x) ** 2
    return variance.sqrt().clamp_min(1e-6).reciprocal().expand(x.shape[1])


def _both_sides(paired: Paired) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """Embeddings and detached hidden features by side, in the precision of the embeddings."""
    image, text = paired_embeddings(paired)
    if paired.image_hidden is None or paired.text_hidden is None:
        what = "The penalty mine needs the features before the projection, which this model does not give."
        raise UserError(what, hint="Take --penalty distance or --penalty logdet.")
    if len(image) < 2:
        raise ValueError(f"expected at least 2 pairs to draw marginals from, got {len(image)}")
    hidden = {"image": paired.image_hidden, "text": paired.text_hidden}
    return {"image": image, "text": text}, {k: at_least_float32(v.detach()).to(image) for k, v in hidden.items()}


def _noised(z: Tensor, sigma: Tensor) -> Tensor:
    return z + sigma.to(z) * torch.randn_like(z)


def _log_mean_exp(scores: Tensor) -> Tensor:
    return scores.logsumexp(0) - math.log(len(scores))
