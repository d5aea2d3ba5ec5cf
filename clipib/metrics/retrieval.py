"""Numbers of retrieval from ranks, and the expectation of recall when scores are tied."""

from __future__ import annotations

import numpy as np


def recall_at_k(ranks: np.ndarray, k: int) -> float:
    """Share of queries whose first own item is among the first k, in [0, 1].

    Args:
        ranks: (Q,) items placed before the best own item of each query; 0 is a hit at k = 1.
    """
    return float((ranks < k).mean())


def median_rank(ranks: np.ndarray) -> float:
    """Median place of the best own item, counted from 1; the mean of the middle two for an even number of queries.

    Args:
        ranks: (Q,) as for `recall_at_k`, from 0.
    """
    return float(np.median(ranks)) + 1


def mean_rank(ranks: np.ndarray) -> float:
    """Mean place of the best own item, counted from 1.

    Args:
        ranks: (Q,) as for `recall_at_k`, from 0.
    """
    return float(np.mean(ranks)) + 1


def average_precision_at_r(own_ranks: np.ndarray, query: np.ndarray) -> np.ndarray:
    """Average precision at R of every query, R being the number of its own items.

        AP@R = 1/R sum_{i <= R} P(i) rel(i)

    with P(i) the share of own items among the first i and rel(i) = 1 where the i-th is an own one. Unlike recall it
    rewards every own item, and reaches 1 only where all of them come first. Its mean over queries is MAP@R.

    Args:
        own_ranks: (M,) how many of all items stand before this one in the list of its query. Ranks of R and more count
            nothing, so that any number from R stands for them.
        query: (M,) int, the query that each item belongs to; every one of 0 .. Q - 1 has an item.

    Returns:
        (Q,) numbers in [0, 1].

    Raises:
        ValueError: when a query has no item, or two items of a query share a rank below R.

    Reference:
        Musgrave, Belongie and Lim, 2020, A metric learning reality check, 2003.08505, section 3.2.

    Example:
        Two of three own items are among the first three, as the first and the third: (1/1 + 2/3) / 3.

        >>> average_precision_at_r(np.array([2, 9, 0]), np.array([0, 0, 0])).round(4).tolist()
        [0.5556]
    """
    size = np.bincount(query)
    if not size.all():
        raise ValueError(f"query {int(size.argmin())} has no item")
    order = np.lexsort((own_ranks, query))
    own_ranks, query = own_ranks[order], query[order]
    place = np.arange(len(query)) - (size.cumsum() - size)[query]  # own items before this one
    if (place > own_ranks)[own_ranks < size[query]].any():
        raise ValueError("two items of one query share a rank")
    precision = np.where(own_ranks < size[query], (place + 1) / (own_ranks + 1), 0.0)
    return np.bincount(query, weights=precision) / size


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
    from scipy.special import gammaln

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
