"""Recall of retrieval from ranks, and its expectation when scores are tied."""

from __future__ import annotations

import numpy as np
from scipy.special import gammaln


def recall_at_k(ranks: np.ndarray, k: int) -> float:
    """Share of queries whose first own item is among the first k, in [0, 1].

    Args:
        ranks: (Q,) items placed before the best own item of each query; 0 is a hit at k = 1.
    """
    return float((ranks < k).mean())


def expected_recall_at_k(scores: np.ndarray, own: np.ndarray, k: int) -> float:
    """Recall at k when equal scores are put in random order: the expectation over those orders.

    A query with g items above its best own score and t items (o of them own) equal to it hits with probability
    1 - C(t - o, r) / C(t, r), where r = k - g places are left.

    Args:
        scores: (Q, N) one row per query.
        own: (Q, N) bool, which items belong to the query; at least one in each row.

    Returns:
        The expected recall, in [0, 1].
    """
    best = np.where(own, scores, -np.inf).max(axis=1, keepdims=True)
    above = (scores > best).sum(axis=1)
    tied = (scores == best).sum(axis=1)
    own_tied = ((scores == best) & own).sum(axis=1)
    left = np.clip(k - above, 0, tied)  # places for the tied group
    foreign = tied - own_tied
    certain = left > foreign  # more places than rivals: one own item must be among them
    safe = np.minimum(left, foreign)
    log_miss = gammaln(foreign + 1) - gammaln(foreign - safe + 1) - gammaln(tied + 1) + gammaln(tied - safe + 1)
    return float(np.where(certain, 1.0, -np.expm1(log_miss)).mean())
