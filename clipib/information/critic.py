"""A separable critic trained to score true pairs above pairs that were put together by chance."""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from clipib.information.checks import CONSTANT, centred_features, check_same_items, checked_features
from clipib.information.critic_network import SeparableNetwork

MIN_FIT_PAIRS = 2000  # with fewer, such a network learns the pairs by heart and a Gaussian critic says more
MIN_CALIBRATION_PAIRS = 100  # InfoNCE of N pairs cannot exceed log N, and choosing needs room below that
RATE = 1e-3
BATCH_SIZE = 1024
CUT = 5.0  # standard deviations
BLOCK = 1024  # rows of calibration scores held at once
PATIENCE = 5  # epochs without a better calibration value


class Pairs(NamedTuple):
    """x (n, dx) and y (n, dy), row i paired with row i."""

    x: Tensor
    y: Tensor


class Standardiser(NamedTuple):
    """x -> (x - mean) / scale, taken in float64, cut at +-5 and returned in float32.

    Not LayerNorm, which takes mean and scale from every row instead: of one coordinate nothing is left, of two a sign.
    The cut keeps a single outlier, on which the linear path would put a huge score, from spoiling a held-out mean.
    """

    mean: Tensor  # (d,) float64
    scale: Tensor  # (d,) float64

    def __call__(self, x: Tensor) -> Tensor:
        x = checked_features(x, least=1)
        if x.shape[1] != len(self.mean):
            raise ValueError(f"expected features of shape (n, {len(self.mean)}) as fitted, got {tuple(x.shape)}")
        return ((x - self.mean) / self.scale).clamp(-CUT, CUT).float()


def fit_standardiser(x: Tensor) -> Standardiser:
    """Mean and standard deviation of every column; one that does not vary keeps its scale."""
    scale = x.std(0)
    return Standardiser(x.mean(0), torch.where(scale > CONSTANT * x.abs().max(), scale, 1.0))


class SeparableCritic(NamedTuple):
    """s(x, y) = <f(x), g(y)> / temperature + a(x) + b(y) + c, as `fit_separable_critic` trained it.

    Status: a critic, no estimate. On pairs that took part neither in the fit nor in the calibration, every lower bound
    (InfoNCE, DV, NWJ) of its scores holds as it does for any function; it may be negative. On the pairs that were
    fitted it means nothing.
    """

    network: SeparableNetwork
    x_side: Standardiser
    y_side: Standardiser
    calibration_infonce_nats: float  # the best of all epochs and seeds, so a little too high
    seed: int  # the one that was chosen
    epoch: int  # the one that was chosen; 0 is s = 0

    def __call__(self, x: Tensor, y: Tensor) -> Tensor:
        """Scores of every x with every y.

        Args:
            x, y: (N, dx) and (M, dy), of the widths that were fitted; a block of rows of x gives a block of rows.

        Returns:
            (N, M) float32, nats; the objective says up to which constant.

        Raises:
            ValueError: for another width, or values that are not finite.
        """
        u, v = self.embed_x(x), self.embed_y(y)
        with full_precision(u):
            return u @ v.T

    def embed_x(self, x: Tensor) -> Tensor:
        """(N, out + 2) float32, to be multiplied with `embed_y`."""
        x = self.x_side(x)
        with torch.no_grad(), full_precision(x):
            return self.network.embed_x(x)

    def embed_y(self, y: Tensor) -> Tensor:
        """(M, out + 2) float32, to be multiplied with `embed_x`."""
        y = self.y_side(y)
        with torch.no_grad(), full_precision(y):
            return self.network.embed_y(y)


def fit_separable_critic(
    fit: Pairs,
    calibrate: Pairs,
    *,
    objective: str = "infonce",
    seeds: tuple[int, ...] = (0, 1, 2),
    epochs: int = 50,
    width: int = 512,
    out: int = 128,
) -> SeparableCritic:
    """Trains a separable critic and keeps the epoch and the seed that are best on the calibration pairs.

        objective "infonce": mean over rows and columns of  log sum_j e^{s_ij} - s_ii
        objective "js":      mean_i log(1 + e^{-s_ii}) + mean_{i != j} log(1 + e^{s_ij})

    Both sides are standardised by the pairs to fit, and cut at 5 standard deviations. AdamW at 1e-3, batches of
    min(1024, n / 4). After every epoch the InfoNCE of the calibration pairs is taken, whatever the objective, and a
    training stops when it has not risen for five epochs. It starts at s = 0, which takes part in the choice: where
    nothing can be learned, that is what returns.

    The optimum of "infonce" is PMI plus one number, that of "js" is PMI itself. The optimum of NWJ is PMI + 1, so
    give it s + 1 of a critic from "js".

    Bias: what held-out bounds of it say is low where the information is high or spread over many dimensions: 10,000
    pairs of 5.0 nats (20 dimensions, one side cubed) gave an InfoNCE of 3.3. Say "at least". DV can lie
    far below InfoNCE, since a few high scores of wrong pairs set its mean.

    Args:
        fit: pairs for the gradient, at least 2000.
        calibrate: pairs that choose, at least 100, of the same widths; split by image, so that none is in both.
        objective: "infonce" or "js".
        seeds: one training for each; of the first weights and of the order of the batches.
        epochs: at most.
        width: of the two hidden layers. out: of f and g.

    Returns:
        The critic, on the device of `fit.x` (the CPU where that has no float64). Equal arguments on one device give
        equal weights; the global generator is left alone.

    Raises:
        ValueError: for too few pairs, different lengths or widths, features that do not vary or are not finite, no
            seed, or an unknown objective.

    Reference:
        van den Oord, Li and Vinyals, 2018, 1807.03748 (InfoNCE); Hjelm et al., 2019, 1808.06670 (JS);
        Poole et al., 2019, 1905.06922 (separable critics).

    Example:
        >>> pairs = torch.randn(2200, 2, generator=torch.Generator().manual_seed(0))
        >>> x, y = pairs[:, :1], pairs.abs() @ torch.tensor([[0.8], [0.6]])  # no correlation
        >>> critic = fit_separable_critic(Pairs(x[:2000], y[:2000]), Pairs(x[2000:], y[2000:]), seeds=(0,), width=16)
        >>> critic(x[:3], y[:5]).shape
        torch.Size([3, 5])
    """
    if objective not in OBJECTIVES:
        raise ValueError(f"expected an objective of {', '.join(OBJECTIVES)}, got {objective}")
    if not seeds:
        raise ValueError("expected at least one seed, got none")
    fit = checked_pairs(fit, "to fit", MIN_FIT_PAIRS)
    calibrate = checked_pairs(calibrate, "to calibrate", MIN_CALIBRATION_PAIRS)
    with torch.inference_mode(False), torch.enable_grad(), full_precision(fit.x):
        sides = [fit_standardiser(side) for side in fit]
        fit, calibrate = (Pairs(*(side(values) for side, values in zip(sides, pairs))) for pairs in (fit, calibrate))
        trained = []
        for seed in seeds:
            network = SeparableNetwork(fit.x.shape[1], fit.y.shape[1], width=width, out=out, seed=seed).to(fit.x.device)
            trained.append(SeparableCritic(network, *sides, *train(network, fit, calibrate, objective, epochs, seed)))
    return max(trained, key=lambda critic: critic.calibration_infonce_nats)  # the first among equals


class Chosen(NamedTuple):
    calibration_infonce_nats: float
    seed: int
    epoch: int


def train(network: SeparableNetwork, fit: Pairs, calibrate: Pairs, objective: str, epochs: int, seed: int) -> Chosen:
    """Train on standardised pairs, in place, and end with the weights of the best epoch."""
    optimizer = torch.optim.AdamW(network.parameters(), lr=RATE)
    generator = torch.Generator().manual_seed(seed)
    size = min(BATCH_SIZE, len(fit.x) // 4)
    best, epoch, weights = Chosen(infonce(network, calibrate), seed, 0), 0, copied(network)
    while epoch < epochs and epoch - best.epoch < PATIENCE:
        epoch += 1
        order = torch.randperm(len(fit.x), generator=generator).to(fit.x.device)
        for batch in order.split(size)[: len(order) // size]:  # without a last, smaller batch
            loss = OBJECTIVES[objective](network(fit.x[batch], fit.y[batch]))
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        value = infonce(network, calibrate)
        if value > best.calibration_infonce_nats:
            best, weights = Chosen(value, seed, epoch), copied(network)
    network.load_state_dict(weights)
    return best


def infonce_loss(scores: Tensor) -> Tensor:
    """Mean over rows and columns of log sum_j e^{s_ij} - s_ii; scores (B, B), true pairs on the diagonal."""
    own = torch.arange(len(scores), device=scores.device)
    return (F.cross_entropy(scores, own) + F.cross_entropy(scores.T, own)) / 2


def js_loss(scores: Tensor) -> Tensor:
    """mean_i log(1 + e^{-s_ii}) + mean_{i != j} log(1 + e^{s_ij}); scores (B, B), true pairs on the diagonal."""
    own, n = scores.diagonal(), len(scores)
    others = F.softplus(scores).sum() - F.softplus(own).sum()
    return F.softplus(-own).mean() + others / (n * (n - 1))


OBJECTIVES = {"infonce": infonce_loss, "js": js_loss}


@torch.no_grad()
def infonce(network: SeparableNetwork, pairs: Pairs) -> float:
    """Mean of row and column InfoNCE over all pairs at once, in nats, without an N x N matrix."""
    u, v = network.embed_x(pairs.x), network.embed_y(pairs.y)
    rows, columns = [], u.new_full((len(u),), -math.inf)
    for block in u.split(BLOCK):
        scores = block @ v.T
        rows.append(scores.logsumexp(1))
        columns = torch.logaddexp(columns, scores.logsumexp(0))
    gains = (u * v).sum(1) - (torch.cat(rows) + columns) / 2
    return float(gains.double().mean()) + math.log(len(u))


def checked_pairs(pairs: Pairs, use: str, least: int) -> Pairs:
    """Pairs in float64; a message says what they were for."""
    for name, side in zip("xy", pairs):
        centred_features(side, f"{name} {use}", least=least)
    check_same_items(*pairs)
    return Pairs(*(checked_features(side) for side in pairs))


def copied(network: SeparableNetwork) -> dict[str, Tensor]:
    return {name: weight.clone() for name, weight in network.state_dict().items()}


def full_precision(x: Tensor) -> torch.autocast:
    """A context in which float32 products stay float32, also inside an autocast."""
    return torch.autocast(x.device.type, enabled=False)
