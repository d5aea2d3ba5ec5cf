"""The network of a separable critic: one tower a side, and every score an inner product."""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor, nn


class SeparableNetwork(nn.Module):
    """s(x, y) = <f(x), g(y)> / temperature + a(x) + b(y) + c, from standardised x (N, dx) and y (M, dy).

    It starts at s = 0: g, a and b are 0 there, and g gets its gradient through f. The biases a and b spare f and g from
    spending coordinates on what depends on one side only, such as the squares in a Gaussian's log density ratio.

    Args:
        dx, dy: widths of the sides.
        width: of the two hidden layers. out: of f and g.
        seed: of the first weights; the global generator stays as it is.
    """

    def __init__(self, dx: int, dy: int, *, width: int, out: int, seed: int) -> None:
        super().__init__()
        with torch.random.fork_rng(devices=[]):
            torch.default_generator.manual_seed(seed)
            self.x_tower, self.y_tower = Tower(dx, width, out), Tower(dy, width, out)
        self.x_tower.set_to_zero(bias_only=True)
        self.y_tower.set_to_zero()
        self.log_temperature = nn.Parameter(torch.tensor(math.log(out) / 2))  # f.g / temperature is about 1 in size
        self.constant = nn.Parameter(torch.tensor(0.0))

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        """Scores (N, M)."""
        return self.embed_x(x) @ self.embed_y(y).T

    def embed_x(self, x: Tensor) -> Tensor:
        """(f / temperature, a + c, 1): (N, out + 2)."""
        f, a = self.x_tower(x)
        return torch.cat([f / self.log_temperature.exp(), a + self.constant, torch.ones_like(a)], 1)

    def embed_y(self, y: Tensor) -> Tensor:
        """(g, 1, b): (M, out + 2)."""
        g, b = self.y_tower(y)
        return torch.cat([g, torch.ones_like(b), b], 1)


class TowerOutput(NamedTuple):
    features: Tensor  # (N, out)
    bias: Tensor  # (N, 1)


class Tower(nn.Module):
    """Two hidden layers of GELU beside a linear map."""

    def __init__(self, inputs: int, width: int, out: int) -> None:
        super().__init__()
        self.hidden = nn.Sequential(nn.Linear(inputs, width), nn.GELU(), nn.Linear(width, width), nn.GELU())
        self.from_hidden = nn.Linear(width, out + 1)
        self.from_input = nn.Linear(inputs, out + 1, bias=False)

    def forward(self, x: Tensor) -> TowerOutput:
        both = self.from_hidden(self.hidden(x)) + self.from_input(x)
        return TowerOutput(both[:, :-1], both[:, -1:])

    def set_to_zero(self, *, bias_only: bool = False) -> None:
        """Output 0, or no bias, whatever the input; the hidden layers stay as they were drawn."""
        with torch.no_grad():
            for weight in (*self.from_hidden.parameters(), *self.from_input.parameters()):
                weight[-1 if bias_only else slice(None)] = 0
