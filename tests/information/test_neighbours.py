import math

import pytest
import torch

from clipib.information.neighbours import mutual_knn


def draw(n, d, seed=0):
    return torch.randn(n, d, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def naive_mutual_knn(x, y, k):
    """Sorted float64 cosines and Python sets."""

    def neighbours(z, i):
        norm = [math.sqrt(sum(v * v for v in row)) for row in z]
        cosine = [sum(a * b for a, b in zip(z[i], row)) / norm[j] for j, row in enumerate(z)]
        return set(sorted((j for j in range(len(z)) if j != i), key=lambda j: -cosine[j])[:k])

    return sum(len(neighbours(x, i) & neighbours(y, i)) for i in range(len(x))) / (k * len(x))


@pytest.mark.parametrize("n, k", [(2, 1), (7, 3), (63, 10), (63, 1)])
def test_overlap_equals_loops(n, k):
    x = draw(n, 5, seed=n)
    y = torch.cat([x[:, :3], draw(n, 4, seed=1)], 1)
    expected = naive_mutual_knn(x.tolist(), y.tolist(), k)
    assert mutual_knn(x, y, k=k) == pytest.approx(expected, abs=1e-12)
    assert mutual_knn(y, x, k=k, seed=5) == pytest.approx(expected, abs=1e-12)


def test_a_rotated_copy_keeps_its_neighbours():
    x = draw(101, 6)
    rotation = torch.linalg.qr(draw(6, 6, seed=1)).Q
    assert mutual_knn(x, 3 * x @ rotation) == 1
    assert mutual_knn(x, draw(101, 6, seed=2), k=100) == 1  # all others, in any space


def test_unrelated_features_overlap_by_chance():
    """k / (n - 1) in the mean, whatever hubs there are; 40 draws, 4 s.e."""
    found = torch.tensor([mutual_knn(draw(101, 20, seed=2 * s), draw(101, 3, seed=2 * s + 1), k=10) for s in range(40)])
    assert abs(found.mean() - 10 / 100) < 4 * found.std() / 40**0.5


def test_ties_are_no_agreement():
    """Groups of 20 equal rows, the same groups in both spaces: two blind choices of k of 19 share k / 19 of them."""
    group = torch.arange(600) % 30
    x, y = draw(30, 8)[group], draw(30, 5, seed=1)[group]
    found = torch.tensor([mutual_knn(x, y, k=5, seed=seed) for seed in range(20)])
    assert abs(found.mean() - 5 / 19) < 4 * found.std() / 20**0.5
    assert mutual_knn(x, y, k=19) == 1
    # Different groups: chance, which one common order would raise.
    shuffled = draw(30, 5, seed=1)[group[torch.randperm(600, generator=torch.Generator().manual_seed(0))]]
    found = torch.tensor([mutual_knn(x, shuffled, k=5, seed=seed) for seed in range(20)])
    assert abs(found.mean() - 5 / 599) < 4 * found.std() / 20**0.5


def test_an_item_is_never_its_own_neighbour():
    """Pairs of equal rows: the nearest other row is the twin, also where the search names the twin first."""
    x = draw(20, 4).repeat_interleave(2, 0)
    y = draw(20, 3, seed=1).repeat_interleave(2, 0)
    assert mutual_knn(x, y, k=1) == 1
    assert mutual_knn(x, draw(40, 3, seed=2), k=1) < 0.2


def test_order_of_items_and_seed_do_not_matter_without_ties():
    x, y = draw(63, 5), draw(63, 4, seed=1)
    order = torch.randperm(63, generator=torch.Generator().manual_seed(0))
    assert mutual_knn(x[order], y[order], seed=7) == pytest.approx(mutual_knn(x, y), abs=1e-12)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
def test_stored_features(dtype):
    """Rounding moves near neighbours only: at most one in ten for the eight bits of bfloat16."""
    x = draw(101, 16)
    assert mutual_knn(x, x.to(dtype), k=10) > 0.9


def test_bad_input_is_refused():
    x = draw(6, 3)
    for k in (0, 6):
        with pytest.raises(ValueError, match=f"expected k from 1 to 5, got {k}"):
            mutual_knn(x, x, k=k)
    with pytest.raises(ValueError, match="expected at least 2 rows of x, got 1"):
        mutual_knn(x[:1], x[:1], k=1)
    with pytest.raises(ValueError, match="the same items, got 6 and 5 rows"):
        mutual_knn(x, x[:5], k=1)
    with pytest.raises(ValueError, match="that vary, got the same row 6 times"):
        mutual_knn(x, torch.ones(6, 3), k=1)
    with pytest.raises(ValueError, match="expected finite y"):
        mutual_knn(x, torch.full((6, 3), torch.nan), k=1)
