import numpy as np
import pytest

from clipib.embeddings.index import build_index, search_index


def unit(n, width, seed):
    rows = np.random.default_rng(seed).normal(size=(n, width)).astype(np.float32)
    return rows / np.linalg.norm(rows, axis=1, keepdims=True)


def test_neighbours_equal_a_full_sort():
    items, queries = unit(50, 8, 0), unit(5, 8, 1)
    found = search_index(build_index(items), queries, 7)
    scores = queries @ items.T
    assert np.array_equal(found.indices, np.argsort(-scores, axis=1)[:, :7])
    assert found.scores == pytest.approx(np.sort(-scores, axis=1)[:, :7] * -1, abs=1e-6)


def test_k_is_cut_to_the_number_of_items():
    assert search_index(build_index(unit(3, 4, 0)), unit(1, 4, 1), 10).indices.shape == (1, 3)


def test_other_shapes_are_named():
    with pytest.raises(ValueError, match="expected features"):
        build_index(np.zeros(4))
