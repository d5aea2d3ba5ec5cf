import itertools
import warnings

import numpy as np
import pytest
import torch
from sklearn.metrics import average_precision_score

from clipib.metrics.multilabel import (
    average_precision_per_class,
    mean_average_precision,
    mean_average_precision_by_order,
    mean_average_precision_of_rows,
)


def random_case(n, k, *, levels=0):
    """Scores without ties, or of a few levels only; one class has no positives."""
    rng = np.random.default_rng(n)
    scores = rng.integers(0, levels, (n, k)).astype(np.float32) if levels else rng.normal(size=(n, k))
    targets = rng.random((n, k)) < 0.3
    targets[:, -1] = False
    return scores.astype(np.float32), targets


@pytest.mark.parametrize("n, k", [(1, 2), (7, 3), (63, 5)])
def test_without_ties_it_is_that_of_clip_benchmark(n, k):
    from clip_benchmark.metrics.zeroshot_classification import average_precision_per_class as theirs

    scores, targets = random_case(n, k)
    expected = theirs(torch.from_numpy(scores), torch.from_numpy(targets)).numpy()
    assert average_precision_per_class(scores, targets) == pytest.approx(expected, abs=1e-6)  # theirs is float32
    assert mean_average_precision(scores, targets) == pytest.approx(expected.mean(), abs=1e-6)


@pytest.mark.parametrize("levels", [0, 1, 3])
def test_with_ties_it_is_that_of_scikit_learn(levels):
    scores, targets = random_case(63, 5, levels=levels)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the class without positives
        expected = [average_precision_score(t, s) for s, t in zip(scores.T, targets.T, strict=True)]
    assert average_precision_per_class(scores, targets) == pytest.approx(expected, abs=1e-12)


def test_the_order_of_the_images_does_not_matter():
    scores, targets = random_case(40, 4, levels=3)
    order = np.random.default_rng(1).permutation(40)
    shuffled = average_precision_per_class(scores[order], targets[order])
    assert shuffled == pytest.approx(average_precision_per_class(scores, targets), abs=1e-15)


def test_a_class_without_positives_counts_as_zero():
    scores, targets = np.eye(3), np.diag([1, 1, 0])
    assert average_precision_per_class(scores, targets).tolist() == [1, 1, 0]
    assert mean_average_precision(scores, targets) == pytest.approx(2 / 3)


@pytest.mark.parametrize(
    "scores, targets, message",
    [
        (np.zeros((2, 3)), np.zeros((3, 2)), "expected scores and targets"),
        (np.zeros((2, 2)), np.full((2, 2), 2), "0 and 1"),
        (np.full((2, 2), np.nan), np.zeros((2, 2)), "NaN"),
    ],
)
def test_what_cannot_be_graded_is_refused(scores, targets, message):
    with pytest.raises(ValueError, match=message):
        mean_average_precision(scores, targets)


@pytest.mark.parametrize("levels", [0, 1, 4])
@pytest.mark.parametrize("n, k", [(1, 2), (7, 3), (63, 5)])
def test_of_rows_drawn_several_times_it_is_that_of_their_table(n, k, levels):
    scores, targets = random_case(n, k, levels=levels)
    of_rows, rng = mean_average_precision_of_rows(scores, targets), np.random.default_rng(levels)
    for rows in (np.arange(n), np.zeros(n, int), *(rng.integers(0, n, n) for _ in range(20))):
        assert of_rows(rows) == pytest.approx(mean_average_precision(scores[rows], targets[rows]), abs=1e-12)


def test_of_rows_without_any_positive_it_is_zero():
    assert mean_average_precision_of_rows(np.eye(3), np.zeros((3, 3)))(np.array([0, 0, 2])) == 0
    with pytest.raises(ValueError, match="NaN"):
        mean_average_precision_of_rows(np.full((2, 2), np.nan), np.zeros((2, 2)))


def test_bounds_over_orders_are_those_of_all_permutations():
    scores, targets = random_case(6, 2, levels=2)
    targets[0, 1] = True
    found = []
    for order in itertools.permutations(range(6)):
        places = np.argsort(np.lexsort((np.tile(np.array(order)[:, None], 2), -scores), axis=0), axis=0)
        found.append(average_precision_per_class(-places, targets))
    low, high = mean_average_precision_by_order(scores, targets)
    assert (low, high) == pytest.approx((np.min(found, axis=0).mean(), np.max(found, axis=0).mean()))
    assert low < high
    plain = random_case(63, 5)
    assert mean_average_precision_by_order(*plain) == pytest.approx((mean_average_precision(*plain),) * 2)
