import itertools

import numpy as np
import pytest

from clipib.metrics.retrieval import (
    average_precision_at_r,
    expected_recall_at_k,
    mean_rank,
    median_rank,
    recall_at_k,
)


def test_recall_counts_ranks_below_k():
    assert recall_at_k(np.array([0, 1, 4, 5]), 5) == 0.75


@pytest.mark.parametrize("k", [1, 2, 3, 5])
def test_expected_recall_equals_the_mean_over_all_orders_of_the_ties(k):
    scores = np.array([[2.0, 1.0, 1.0, 1.0, 0.0], [1.0, 1.0, 1.0, 3.0, 1.0], [0.0, 0.0, 0.0, 0.0, 0.0]])
    own = np.array([[0, 1, 0, 0, 0], [1, 1, 0, 0, 0], [0, 0, 0, 1, 1]], dtype=bool)
    hits = []
    for row, mine in zip(scores, own, strict=True):
        orders = [sorted(p, key=lambda i: -row[i]) for p in itertools.permutations(range(5))]
        hits.append(np.mean([any(mine[i] for i in order[:k]) for order in orders]))
    assert expected_recall_at_k(scores, own, k) == pytest.approx(np.mean(hits), abs=1e-12)


def test_expected_recall_without_ties_is_recall():
    rng = np.random.default_rng(0)
    scores, own = rng.normal(size=(20, 20)), np.eye(20, dtype=bool)
    ranks = (scores > np.diag(scores)[:, None]).sum(1)
    for k in (1, 5, 10, 20):
        assert expected_recall_at_k(scores, own, k) == pytest.approx(recall_at_k(ranks, k), abs=1e-12)


def test_median_and_mean_rank_count_from_one():
    ranks = np.array([0, 0, 3, 9])
    assert median_rank(ranks) == 2.5 and mean_rank(ranks) == 4.0
    assert median_rank(ranks[:3]) == 1.0


def test_average_precision_at_r_by_hand():
    query = np.array([0, 0, 0, 1, 1, 2])
    ranks = np.array([5, 0, 2, 0, 1, 0])  # (1/1 + 2/3) / 3, (1/1 + 2/2) / 2, 1
    assert average_precision_at_r(ranks, query) == pytest.approx([5 / 9, 1, 1], abs=1e-15)
    assert average_precision_at_r(np.array([1, 3, 7]), np.zeros(3, int)) == pytest.approx([1 / 6], abs=1e-15)


def test_average_precision_at_r_equals_its_definition_along_the_list():
    rng = np.random.default_rng(0)
    query = rng.permutation(np.repeat(np.arange(20), rng.integers(1, 8, 20)))
    lists = [rng.permutation(len(query)) for _ in range(20)]  # every query orders all items
    own_ranks = np.array([list(lists[q]).index(item) for item, q in enumerate(query)])
    direct = []
    for q, order in enumerate(lists):
        relevant = [query[item] == q for item in order]
        size = int((query == q).sum())
        direct.append(sum(np.mean(relevant[: i + 1]) for i in range(size) if relevant[i]) / size)
    assert average_precision_at_r(own_ranks, query) == pytest.approx(direct, abs=1e-14)
    clipped = np.minimum(own_ranks, np.bincount(query)[query])  # what retrieval_ranks gives
    assert average_precision_at_r(clipped, query) == pytest.approx(direct, abs=1e-14)


def test_with_one_item_a_query_average_precision_at_r_is_recall_at_1():
    ranks = np.random.default_rng(0).integers(0, 3, 50)
    assert average_precision_at_r(ranks, np.arange(50)).mean() == pytest.approx(recall_at_k(ranks, 1))


def test_average_precision_refuses_what_cannot_be():
    with pytest.raises(ValueError, match="query 1 has no item"):
        average_precision_at_r(np.array([0, 0]), np.array([0, 2]))
    with pytest.raises(ValueError, match="share a rank"):
        average_precision_at_r(np.array([0, 0]), np.array([0, 0]))
