import itertools

import numpy as np
import pytest

from clipib.metrics.retrieval import expected_recall_at_k, recall_at_k


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
