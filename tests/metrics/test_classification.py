import numpy as np
import pytest
import torch
from sklearn.metrics import balanced_accuracy_score, f1_score, precision_recall_fscore_support
from sklearn.metrics import confusion_matrix as sklearn_confusion

from clipib.metrics.classification import (
    accuracy_at_k,
    class_table,
    confusion_matrix,
    macro_f1,
    mean_per_class_recall,
    predict,
    worst_group_accuracy,
)


def random_case(n=200, k=7, seed=0):
    rng = np.random.default_rng(seed)
    return rng.normal(size=(n, k)).astype(np.float32), rng.integers(0, k, n)


@pytest.mark.parametrize("k", [1, 3, 5])
def test_accuracy_equals_topk_where_nothing_is_tied(k):
    logits, targets = random_case()
    top = torch.from_numpy(logits).topk(k, dim=1).indices.numpy()
    expected = (top == targets[:, None]).any(axis=1).mean()
    assert accuracy_at_k(predict(logits, targets).target_rank, k) == expected


def test_mean_per_class_recall_equals_balanced_accuracy_also_with_absent_classes():
    logits, targets = random_case(k=9)
    targets = np.minimum(targets, 5)
    predicted = predict(logits, targets).predicted
    with pytest.warns(UserWarning):
        expected = balanced_accuracy_score(targets, predicted)
    assert mean_per_class_recall(predicted, targets) == pytest.approx(expected, abs=1e-15)


def test_a_tie_goes_to_the_lowest_index_and_is_counted():
    logits = np.array([[1.0, 1.0, 0.0], [0.0, 1.0, 1.0], [2.0, 1.0, 1.0]], dtype=np.float32)
    found = predict(logits, np.array([1, 1, 2]))
    assert found.predicted.tolist() == [0, 1, 0]
    assert found.target_rank.tolist() == [1, 0, 2]
    assert found.tied.tolist() == [True, True, False]
    assert (found.predicted == [1, 1, 2]).tolist() == (found.target_rank == 0).tolist()


def test_confidence_is_the_softmax_of_the_prediction():
    logits, targets = random_case(n=5)
    expected = torch.from_numpy(logits).double().softmax(1).max(1).values.numpy()
    assert predict(logits, targets).confidence == pytest.approx(expected, rel=1e-6)


def test_nan_logits_are_refused():
    with pytest.raises(ValueError, match="NaN"):
        predict(np.array([[np.nan, 0.0]], dtype=np.float32), np.array([0]))


@pytest.mark.parametrize("n, k", [(200, 7), (63, 30), (1, 3)])
def test_macro_f1_is_that_of_wilds(n, k):
    """Its F1 passes `labels=unique(y_true)`; with few samples some classes are only predicted, some never a target."""
    rng = np.random.default_rng(n)
    predicted, targets = rng.integers(0, k, n), rng.integers(0, k - 1, n)
    wilds = f1_score(targets, predicted, average="macro", labels=np.unique(targets))
    assert macro_f1(predicted, targets) == pytest.approx(wilds, abs=1e-15)


def test_a_class_that_is_only_predicted_has_no_f1_of_its_own():
    predicted, targets = np.array([0, 0, 1, 2]), np.array([0, 0, 1, 1])
    assert macro_f1(predicted, targets) == pytest.approx((1 + 2 / 3) / 2)
    assert f1_score(targets, predicted, average="macro") == pytest.approx((1 + 2 / 3 + 0) / 3)


@pytest.mark.parametrize("k", [1, 5])
def test_the_worst_group_is_found_by_a_loop_over_groups(k):
    rng = np.random.default_rng(k)
    ranks, groups = rng.integers(0, 9, 300), rng.choice([0, 1, 4, 9, -1], 300)
    loop = {g: np.mean([r < k for r, own in zip(ranks, groups, strict=True) if own == g]) for g in (0, 1, 4, 9)}
    found = worst_group_accuracy(ranks, groups, k)
    assert found.accuracy == pytest.approx(min(loop.values())) and loop[found.group] == min(loop.values())
    assert found.n == (groups == found.group).sum()


def test_groups_that_are_as_bad_go_by_index_and_left_out_samples_do_not_count():
    ranks = np.array([5, 0, 5, 0, 5])
    assert worst_group_accuracy(ranks, np.array([7, 7, 3, 3, -1])) == (0.5, 3, 2)
    with pytest.raises(ValueError, match="at least one sample in a group"):
        worst_group_accuracy(ranks, np.full(5, -1))


@pytest.mark.parametrize("function", [macro_f1, worst_group_accuracy])
def test_shapes_that_do_not_fit_are_refused(function):
    with pytest.raises(ValueError, match="expected two arrays"):
        function(np.array([0, 1]), np.array([0]))


def test_the_class_table_equals_scikit_learn():
    logits, targets = random_case(n=400, k=9)
    predicted = np.minimum(predict(logits, targets).predicted, 7)  # class 8 is never predicted
    targets = np.where(targets == 3, 4, targets)  # and class 3 never a target
    confusion = confusion_matrix(predicted, targets, 9)
    table = class_table(confusion)
    assert np.array_equal(confusion, sklearn_confusion(targets, predicted, labels=range(9)))
    expected = precision_recall_fscore_support(targets, predicted, labels=range(9), zero_division=np.nan)
    precision, recall, f1, n = expected
    assert table.n.tolist() == n.tolist() and table.n[3] == 0
    np.testing.assert_allclose(table.recall, recall, rtol=1e-15)
    np.testing.assert_allclose(table.precision, precision, rtol=1e-15)
    assert np.isnan(table.f1[3]) and np.isnan(table.precision[8])
    np.testing.assert_allclose(np.delete(table.f1, 3), np.delete(f1, 3), rtol=1e-15)
    assert np.nanmean(table.recall) == pytest.approx(mean_per_class_recall(predicted, targets), abs=1e-15)


def test_the_most_frequent_mistake_is_counted_by_hand():
    confusion = np.array([[9, 2, 2, 0], [0, 5, 0, 0], [1, 0, 0, 7], [0, 0, 0, 0]])
    table = class_table(confusion)
    assert table.mistaken_for.tolist() == [1, -1, 3, -1]  # a tie goes to the lowest index
    assert table.n_mistaken.tolist() == [2, 0, 7, 0]
    assert table.recall.tolist()[:3] == [9 / 13, 1.0, 0.0] and np.isnan(table.recall[3])


def test_classes_out_of_range_are_refused():
    for predicted in (np.array([0, 3]), np.array([-1, 0])):
        with pytest.raises(ValueError, match=r"classes in \[0, 3\)"):
            confusion_matrix(predicted, np.array([0, 1]), 3)
    with pytest.raises(ValueError, match=r"\(K, K\)"):
        class_table(np.zeros((2, 3)))
