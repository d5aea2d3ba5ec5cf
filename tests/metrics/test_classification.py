import numpy as np
import pytest
import torch
from sklearn.metrics import balanced_accuracy_score

from clipib.metrics.classification import accuracy_at_k, mean_per_class_recall, predict


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
