import itertools

import numpy as np
import pytest
from sklearn.metrics import jaccard_score

from clipib.metrics.selection import jaccard, jaccard_per_query


def random_queries(sizes, *, levels=0):
    rng = np.random.default_rng(len(sizes))
    scores = [rng.integers(0, levels, n).astype(float) if levels else rng.normal(size=n) for n in sizes]
    own = [np.isin(np.arange(n), rng.choice(n, rng.integers(1, n + 1), replace=False)) for n in sizes]
    return scores, own


def test_without_ties_it_is_the_mean_of_scikit_learn_over_the_best():
    scores, own = random_queries([5, 6, 10, 12, 1, 2])
    expected = []
    for row, mine in zip(scores, own, strict=True):
        chosen = np.isin(np.arange(len(row)), np.argsort(row)[-mine.sum() :])
        expected.append(jaccard_score(mine, chosen))
    assert jaccard_per_query(scores, own) == pytest.approx(expected, abs=1e-12)
    assert jaccard(scores, own) == pytest.approx(np.mean(expected), abs=1e-12)


@pytest.mark.parametrize("levels", [1, 2, 3])
def test_with_ties_it_is_the_mean_over_all_orders(levels):
    scores, own = random_queries([3, 5, 6], levels=levels)
    for row, mine, value in zip(scores, own, jaccard_per_query(scores, own), strict=True):
        k, values = mine.sum(), []
        for order in itertools.permutations(range(len(row))):
            chosen = set(sorted(order, key=lambda i: -row[i])[:k])
            owned = set(np.flatnonzero(mine))
            values.append(len(chosen & owned) / len(chosen | owned))
        assert value == pytest.approx(np.mean(values), abs=1e-12)


@pytest.mark.parametrize(
    "scores, own, message",
    [
        ([np.zeros(3)], [np.zeros(3, dtype=bool)], "at least one own"),
        ([np.zeros(3)], [np.ones(2, dtype=bool)], "expected scores and own"),
        ([np.full(2, np.nan)], [np.ones(2, dtype=bool)], "NaN"),
        ([np.zeros(3)], [], "one array of own"),
        ([], [], "at least one query"),
    ],
)
def test_what_cannot_be_graded_is_refused(scores, own, message):
    with pytest.raises(ValueError, match=message):
        jaccard(scores, own)
