"""How many nats it takes to send the labels to someone who has the features: the prequential (online) code."""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import pairwise
from typing import NamedTuple

import torch
from torch import Tensor

from clipib.information.logistic import Rows, cross_entropies, fit_logistic, log_probabilities, standardise, turn

# Voita and Titov, 2020: where the blocks end.
FRACTIONS = (0.001, 0.002, 0.004, 0.008, 0.016, 0.032, 0.0625, 0.125, 0.25, 0.5, 1.0)
STRENGTHS = tuple(10.0**power for power in range(3, -3, -1))  # 1 over the variance of a logit that the ridge expects


class PrequentialCode(NamedTuple):
    """A code length; see `prequential_code`.

    code_nats: L / n, the mean over the orders of the rows.
    compression: n log K / L, of the mean L; above 1 where the code beats the uniform one.
    spread_nats: standard deviation of L / n over the orders; NaN for one order.
    laplace_nats: L / n of the labels alone, one at a time by Laplace's rule: what the features have to beat.
    codes_nats: L / n of each order.
    n: rows.
    """

    code_nats: float
    compression: float
    spread_nats: float
    laplace_nats: float
    codes_nats: tuple[float, ...]
    n: int


def prequential_code(
    features: Tensor, labels: Tensor, *, shuffles: int = 3, seed: int = 0, fractions: Sequence[float] = FRACTIONS
) -> PrequentialCode:
    """The length of the labels' code when a logistic probe is fitted on all blocks before the one it codes.

        L = n_1 log K - sum_t log p_theta(blocks 1..t)(block t+1)

    The probe is `fit_logistic` at several strengths of the ridge at once, and the code is their mixture,
    L = -log mean_j exp(-L_j): within log 6 = 1.8 nats in all of the best strength, and nothing is chosen by looking
    ahead. The sender and the receiver both have the features, so all rows may standardise them.

    Status: L / n is an upper bound of H(A | Z) in expectation for independent rows; it adds the cost of learning the
    probe, so that it falls with n. Lower means easier to extract. `laplace_nats` is shorter than L / n where the
    features say nothing, by what the coarse blocks and the weights cost.

    Args:
        features: (n, d) of any float type; d = 0 codes the labels alone in the same blocks.
        labels: (n,) whole numbers with two or more values.
        shuffles: orders of the rows.
        seed: of the orders.
        fractions: where the blocks end as shares of n, rising to 1; blocks that would be empty are left out.

    Returns:
        `PrequentialCode`, in nats per row.

    Raises:
        ValueError: shapes that differ, NaN or infinite features, one value, features that do not vary, fractions that
            do not rise to 1, no shuffle.

    Reference:
        Voita and Titov, 2020, Information-theoretic probing with minimum description length, 2003.12298.
        Blier and Ollivier, 2018, The description length of deep learning models, 1802.07044.

    Example:
        >>> label = torch.arange(600) % 2
        >>> found = prequential_code(label[:, None] * 2.0, label)
        >>> found.code_nats < 0.1 * found.laplace_nats, found.compression > 10
        (True, True)
    """
    ends = _block_ends(fractions, len(labels))
    if shuffles < 1:
        raise ValueError(f"expected at least one shuffle, got {shuffles}")
    rows, classes = _checked(features, labels)
    generator = torch.Generator().manual_seed(seed)
    codes = []
    for _ in range(shuffles):
        order = torch.randperm(len(labels), generator=generator)
        codes.append(_code(Rows(*(x[order] for x in rows)), ends, classes) / len(labels))
    mean = math.fsum(codes) / shuffles
    spread = float(torch.tensor(codes, dtype=torch.float64).std()) if shuffles > 1 else math.nan
    return PrequentialCode(
        code_nats=mean,
        compression=math.log(classes) / mean,
        spread_nats=spread,
        laplace_nats=laplace_code(rows.labels.bincount()) / len(labels),
        codes_nats=tuple(codes),
        n=len(labels),
    )


def laplace_code(counts: Tensor) -> float:
    """The length of labels that are coded one at a time by (n_k + 1) / (n + K), in nats; no order changes it.

        L = log [ (n + K - 1)! / ((K - 1)! prod_k n_k!) ]

    Args:
        counts: (K,) how often each value occurs.

    Example:
        >>> round(laplace_code(torch.tensor([2, 0])), 6) == round(math.log(2 * 3 / 2), 6)
        True
    """
    counts = counts.double()
    return float(torch.lgamma(counts.sum() + len(counts)) - math.lgamma(len(counts)) - torch.lgamma(counts + 1).sum())


def _code(rows: Rows, ends: list[int], classes: int) -> float:
    """L of the rows in this order."""
    variance = float(rows.features.square().sum()) / len(rows.labels)  # of all features together
    lengths = torch.full((len(STRENGTHS),), ends[0] * math.log(classes), dtype=torch.float64)
    for begin, end in pairwise(ends):
        past, block = (Rows(rows.features[a:b], rows.labels[a:b]) for a, b in ((0, begin), (begin, end)))
        model = None
        for j, strength in enumerate(STRENGTHS):
            model = fit_logistic(*past, classes=classes, strength=strength * variance, start=model)
            lengths[j] += cross_entropies(log_probabilities(model, block.features), block.labels).sum()
    return math.log(len(lengths)) - float(torch.logsumexp(-lengths, 0))


def _block_ends(fractions: Sequence[float], n: int) -> list[int]:
    if not fractions or list(fractions) != sorted(fractions) or fractions[0] <= 0 or fractions[-1] != 1:
        raise ValueError(f"expected fractions above 0 that rise to 1, got {tuple(fractions)}")
    return sorted({max(1, round(fraction * n)) for fraction in fractions})


def _checked(features: Tensor, labels: Tensor) -> tuple[Rows, int]:
    """Standardised features, labels from 0 to K - 1, and K."""
    features, labels = features.detach().cpu(), labels.cpu()
    if features.ndim != 2 or labels.ndim != 1 or len(features) != len(labels):
        raise ValueError(f"expected (n, d) and (n,), got {tuple(features.shape)} and {tuple(labels.shape)}")
    if not bool(torch.isfinite(features).all()):
        raise ValueError("expected finite features, got NaN or infinite values")
    values, codes = labels.unique(return_inverse=True)
    if labels.is_floating_point() or len(values) < 2:
        raise ValueError(f"expected labels with two or more values, got {values}")
    x = turn(*standardise(features))[0] if features.shape[1] else features.double()
    return Rows(x, codes), len(values)
