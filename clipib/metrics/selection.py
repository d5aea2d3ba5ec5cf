"""Choosing the candidates that belong to a query, as many as there are: the game of WinoGAViL."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from scipy.stats import hypergeom


def jaccard_per_query(scores: Sequence[np.ndarray], own: Sequence[np.ndarray]) -> np.ndarray:
    """Jaccard index of the best candidates and the query's own, with as many chosen as there are own.

        J = |chosen and own| / |chosen or own| = h / (2k - h),   k = |own|, h = |chosen and own|

    Where equal scores lie on both sides of the cut, the expectation over their orders: a model that scores all
    candidates alike gets what chance gives, whatever the order of the candidates.

    Args:
        scores: Q arrays, each (C_q,): similarity of every candidate to the query.
        own: Q arrays, each (C_q,) bool: which candidates belong to the query; at least one does.

    Returns:
        (Q,) in [0, 1].

    Raises:
        ValueError: when shapes differ, a query has no own candidate, or a score is not a number.

    Reference:
        Bitton et al., 2022, WinoGAViL, arXiv 2207.12576. DataComp's main number is the mean over the
        queries with 10 or 12 candidates.

    Example:
        >>> jaccard_per_query([np.array([0.9, 0.1, 0.5, 0.2])], [np.array([True, True, False, False])]).round(4)
        array([0.3333])
    """
    if len(scores) != len(own):
        raise ValueError(f"expected one array of own candidates per query, got {len(scores)} and {len(own)}")
    return np.array([_expected_jaccard(s, np.asarray(o, dtype=bool)) for s, o in zip(scores, own, strict=True)])


def jaccard(scores: Sequence[np.ndarray], own: Sequence[np.ndarray]) -> float:
    """Mean over the queries of `jaccard_per_query`, in [0, 1].

    Example:
        >>> jaccard([np.array([0.9, 0.1]), np.array([0.3, 0.8])], [np.array([True, False])] * 2)
        0.5
    """
    if not len(scores):
        raise ValueError("expected at least one query, got none")
    return float(jaccard_per_query(scores, own).mean())


def _expected_jaccard(scores: np.ndarray, own: np.ndarray) -> float:
    if scores.ndim != 1 or scores.shape != own.shape or not own.any():
        raise ValueError(f"expected scores and own (C,) with at least one own, got {scores.shape} and {own.shape}")
    if np.isnan(scores).any():
        raise ValueError("scores hold NaN")
    k = int(own.sum())
    cut = np.sort(scores)[-k]
    above, tied = scores > cut, scores == cut
    certain = int((above & own).sum())
    places = k - int(above.sum())  # left for the tied ones
    hits = np.arange(places + 1)
    chance = hypergeom(int(tied.sum()), int((tied & own).sum()), places).pmf(hits)
    return float(chance @ ((certain + hits) / (2 * k - certain - hits)))
