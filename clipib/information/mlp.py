"""A classifier with one hidden layer that starts from given log probabilities and stops before it overfits."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

WIDTH = 256
RATE = 1e-3
BATCH = 256
EPOCHS = 100
PATIENCE = 8  # epochs without a better calibration code


class Based(NamedTuple):
    """features (n, d), base (n, K) log probabilities to start from, labels (n,) int64; floats are float32."""

    features: Tensor
    base: Tensor
    labels: Tensor


class Mlp(NamedTuple):
    """log p(k | x) = base_k + (relu(x hidden + hidden_bias) out + out_bias)_k, normalised."""

    hidden: Tensor
    hidden_bias: Tensor
    out: Tensor
    out_bias: Tensor

    def log_probabilities(self, features: Tensor, base: Tensor) -> Tensor:
        """(n, K)."""
        activity = torch.relu(features @ self.hidden + self.hidden_bias)
        return torch.log_softmax(base + activity @ self.out + self.out_bias, 1)


def fit_mlp(fit: Based, calibrate: Based, *, seed: int) -> Mlp:
    """The weights after the epoch that gives the calibration rows the shortest code, epoch 0 among them.

    `out` starts at 0, so that epoch 0 is the base: where the features say nothing the fit can say so. Adam, rate 1e-3,
    batches of 256, at most 100 epochs, stopped after 8 without a better code.

    Args:
        fit, calibrate: two sets of rows; the second only chooses the epoch.
        seed: of the first weights and of the order of the batches.
    """
    generator = torch.Generator().manual_seed(seed)
    width, classes = fit.features.shape[1], fit.base.shape[1]
    hidden = torch.randn(width, WIDTH, generator=generator) * (2 / width) ** 0.5
    model = Mlp(hidden, torch.zeros(WIDTH), torch.zeros(WIDTH, classes), torch.zeros(classes))
    for weight in model:
        weight.requires_grad_()
    optimizer = torch.optim.Adam(list(model), lr=RATE)
    best, lowest, since = _copy(model), _code(model, calibrate), 0
    for _ in range(EPOCHS):
        for rows in torch.randperm(len(fit.labels), generator=generator).split(BATCH):
            log_p = model.log_probabilities(fit.features[rows], fit.base[rows])
            optimizer.zero_grad()
            torch.nn.functional.nll_loss(log_p, fit.labels[rows]).backward()
            optimizer.step()
        code = _code(model, calibrate)
        since = 0 if code < lowest else since + 1
        if since == 0:
            best, lowest = _copy(model), code
        if since == PATIENCE:
            break
    return best


def _copy(model: Mlp) -> Mlp:
    return Mlp(*(weight.detach().clone() for weight in model))


@torch.no_grad()
def _code(model: Mlp, rows: Based) -> float:
    return float(torch.nn.functional.nll_loss(model.log_probabilities(rows.features, rows.base), rows.labels))
