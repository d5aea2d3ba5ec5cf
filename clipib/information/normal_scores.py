"""Each coordinate made standard normal by its ranks."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from clipib.information.checks import checked_features


class NormalScores(NamedTuple):
    """A rising map of every coordinate onto normal quantiles, fitted by `fit_normal_scores`."""

    ordered: Tensor  # (d, n) float64, the fitted values of each coordinate in rising order

    def __call__(self, x: Tensor) -> Tensor:
        """The scores of any rows of the same width, (m, d) float64.

        A value beyond all fitted ones gets the score of rank 1/2 or n + 1/2, so that none is infinite.

        Raises:
            ValueError: for another width than the fitted one, or values that are not finite.
        """
        x = checked_features(x, least=1)
        d, n = self.ordered.shape
        if x.shape[1] != d:
            raise ValueError(f"expected x of shape (m, {d}) as fitted, got {tuple(x.shape)}")
        columns = x.T.contiguous()
        below = torch.searchsorted(self.ordered, columns)
        up_to = torch.searchsorted(self.ordered, columns, right=True)
        return torch.special.ndtri((below + up_to + 1).double() / (2 * (n + 1))).T


def fit_normal_scores(x: Tensor) -> NormalScores:
    """Fits the map of each coordinate to normal quantiles, to be applied to any rows.

        score = Phi^-1( (#{fitted < v} + #{fitted <= v} + 1) / (2 (n + 1)) )

    On the fitted values this is Phi^-1(rank / (n + 1)), van der Waerden's score, and ties share their mean rank. A
    rising map per coordinate keeps the mutual information between two sets of continuous features; it makes the
    margins normal but not their joint law, so a Gaussian estimate fits better afterwards and is still only a model.

    Args:
        x: (n, d).

    Raises:
        ValueError: for fewer than two rows, or values that are not finite.

    Reference:
        Van der Waerden, 1952, Order tests for the two-sample problem and their power.

    Example:
        >>> scores = fit_normal_scores(torch.tensor([[1.0], [10.0], [100.0]]))
        >>> [round(value, 4) for value in scores(torch.tensor([[1.0], [10.0], [50.0], [1e9]]))[:, 0].tolist()]
        [-0.6745, 0.0, 0.3186, 1.1503]
    """
    return NormalScores(checked_features(x).T.contiguous().sort(1).values)


def normal_scores(x: Tensor) -> Tensor:
    """The normal scores of `x` among its own rows, (n, d) float64; see `fit_normal_scores`."""
    return fit_normal_scores(x)(x)
