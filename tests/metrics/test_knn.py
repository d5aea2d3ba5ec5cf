import numpy as np
import pytest
from sklearn.neighbors import KNeighborsClassifier

from clipib.metrics import knn
from clipib.metrics.few_shot import assign_folds
from clipib.metrics.knn import find_nearest, knn_probe, vote


def unit(rng, n, width=5):
    x = rng.normal(size=(n, width))
    return (x / np.linalg.norm(x, axis=1, keepdims=True)).astype(np.float32)


@pytest.fixture
def data():
    rng = np.random.default_rng(0)
    labels = rng.integers(0, 3, 90)
    features = unit(rng, 3)[labels] + 0.6 * rng.normal(size=(90, 5))
    features = (features / np.linalg.norm(features, axis=1, keepdims=True)).astype(np.float32)
    return features, labels


@pytest.mark.parametrize("k", [1, 3, 7, 40])
def test_the_nearest_are_found_in_order_and_of_equal_ones_the_first(k, monkeypatch):
    monkeypatch.setattr(knn, "BLOCK", 4)
    rng = np.random.default_rng(1)
    keys, queries = unit(rng, 40), unit(rng, 9)
    keys[[5, 17, 30]] = keys[2]  # four equal keys
    queries[0] = keys[2]
    similarity = (queries.astype(np.float64) @ keys.astype(np.float64).T).astype(np.float32)
    found = find_nearest(queries, keys, k)
    for row, index, near in zip(similarity, found.index, found.similarity, strict=True):
        assert index.tolist() == sorted(range(40), key=lambda j: (-row[j], j))[:k]
        assert near.tolist() == row[index].tolist()
    with pytest.raises(ValueError, match="k <= M"):
        find_nearest(queries, keys, 41)


@pytest.mark.parametrize("k", [1, 4, 16])
def test_votes_are_those_of_scikit_learn_with_the_same_weights(data, k):
    features, labels = data
    near = find_nearest(features[60:], features[:60], k)
    votes = vote(near.similarity, labels[near.index], n_classes=3)

    def weights(distance):  # of unit vectors |a - b|^2 = 2 - 2 cos
        return np.exp((1 - distance**2 / 2) / 0.07)

    theirs = KNeighborsClassifier(k, weights=weights, algorithm="brute").fit(features[:60], labels[:60])
    with np.errstate(divide="ignore"):
        ours = np.exp(votes - np.logaddexp.reduce(votes, axis=1, keepdims=True))
    assert ours == pytest.approx(theirs.predict_proba(features[60:]), abs=1e-4)


def test_the_number_of_neighbours_is_that_with_most_hits_on_held_out_folds(data):
    features, labels = data
    folds = assign_folds(labels[:60], seed=3)
    scores, k = knn_probe(features[:60], labels[:60], features[60:], n_classes=3, folds=folds)

    def hits(k):
        total = 0
        for fold in range(5):
            fit, held = np.flatnonzero(folds != fold), np.flatnonzero(folds == fold)
            near = find_nearest(features[held], features[fit], min(k, len(fit)))
            total += (vote(near.similarity, labels[fit][near.index], n_classes=3).argmax(1) == labels[held]).sum()
        return total

    by_hand = [hits(k) for k in (1, 2, 4, 8, 16, 32)]
    assert k == 2 ** int(np.argmax(by_hand)) and len(set(by_hand)) > 1
    near = find_nearest(features[60:], features[:60], k)
    assert np.array_equal(scores, vote(near.similarity, labels[near.index], n_classes=3))


def test_one_image_a_class_leaves_nothing_to_choose_by(data):
    features, _ = data
    scores, k = knn_probe(
        features[:3], np.arange(3), features[3:6], n_classes=4, folds=assign_folds(np.arange(3), seed=0)
    )
    assert k == 1 and np.isneginf(scores).sum() == 9
