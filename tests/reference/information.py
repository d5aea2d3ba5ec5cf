"""Worlds in which information is known: discrete tables and Gaussians."""

import math

import torch

from clipib.information.table import Tally


def random_counts(rows=5, columns=6, seed=0):
    """(rows, columns) whole numbers of a joint table without zeros."""
    return torch.randint(1, 9, (rows, columns), generator=torch.Generator().manual_seed(seed))


def pmi_of(counts):
    p = counts.double() / counts.sum()
    return p.log() - p.sum(1, keepdim=True).log() - p.sum(0).log()


def information_of(counts):
    return float((counts.double() / counts.sum() * pmi_of(counts)).sum())


def population_tally(counts, scores):
    """Every true pair as often as the table says, every other pair as often as the product of its margins."""
    where = counts.nonzero()
    own = where.repeat_interleave(counts[counts > 0], 0)  # (T, 2) in the order of nonzero
    weights = (counts.sum(1, keepdim=True) * counts.sum(0)).double()
    weighted = scores + weights.log()
    return Tally(
        positives=scores[own[:, 0], own[:, 1]],
        image_of_text=own[:, 0],
        rows=weighted.logsumexp(1),
        columns=weighted.logsumexp(0),
        squared_rows=(2 * scores + weights.log()).logsumexp(1),
        squared_columns=(2 * scores + weights.log()).logsumexp(0),
        row_sums=(weights * scores).sum(1),
        column_sums=(weights * scores).sum(0),
        row_counts=weights.sum(1),
        column_counts=weights.sum(0),
    )


def gaussian_pairs(n, d, rho, seed=0):
    """x, y (n, d) float64, each coordinate pair with correlation rho."""
    g = torch.Generator().manual_seed(seed)
    x, e = (torch.randn(n, d, generator=g, dtype=torch.float64) for _ in range(2))
    return x, rho * x + math.sqrt(1 - rho**2) * e


def gaussian_pmi(x, y, rho):
    """(N, M) the exact PMI of every x with every y."""
    d, keep = x.shape[1], 1 - rho**2
    quadratic = rho**2 * (x.square().sum(1)[:, None] + y.square().sum(1)) - 2 * rho * (x @ y.T)
    return -d / 2 * math.log(keep) - quadratic / (2 * keep)


def gaussian_information(d, rho):
    return -d / 2 * math.log(1 - rho**2)
