import math

import numpy as np
import pytest
import torch
from scipy.special import digamma
from sklearn.feature_selection import mutual_info_regression

from clipib.information.ksg import ksg_ceiling, ksg_mi


def draw(n, d, rho, seed):
    generator = torch.Generator().manual_seed(seed)
    x, noise = torch.randn(2, n, d, generator=generator, dtype=torch.float64)
    return x, rho * x + math.sqrt(1 - rho**2) * noise


def naive_ksg(x, y, k):
    n, x, y = len(x), x.tolist(), y.tolist()

    def far(a, b):
        return max(abs(p - q) for p, q in zip(a, b))

    total = 0.0
    for i in range(n):
        others = [(far(x[i], x[j]), far(y[i], y[j])) for j in range(n) if j != i]
        radius = sorted(max(pair) for pair in others)[k - 1]
        for side in (0, 1):
            total += digamma(sum(1 for pair in others if pair[side] < radius) + 1)
    return float(digamma(k) + digamma(n) - total / n)


def test_normal_pair_of_0_83_nats():
    values = [ksg_mi(*draw(2000, 1, 0.9, seed)) for seed in range(10)]
    assert np.mean(values) == pytest.approx(0.83, abs=0.1)
    assert np.std(values) == pytest.approx(0.03, abs=0.02)  # of 10 draws


@pytest.mark.parametrize("n, k", [(63, 1), (500, 3), (1001, 5)])
def test_one_dimension_equals_sklearn_on_scaled_data(n, k):
    x, y = (side / side.std(correction=0) for side in draw(n, 1, 0.8, n))
    # sklearn scales again by 1 and adds noise of 1e-10, which changes no count unless two distances are that near.
    expected = mutual_info_regression(x.numpy(), y[:, 0].numpy(), n_neighbors=k, random_state=0)[0]
    assert expected > 0  # where it is not clipped
    assert ksg_mi(x, y, k=k) == pytest.approx(expected, abs=1e-10)


@pytest.mark.parametrize("n, dx, dy, k", [(7, 1, 2, 1), (63, 2, 3, 3), (63, 3, 1, 5)])
def test_equals_naive_loops(n, dx, dy, k):
    x, y = draw(n, 3, 0.8, k)
    assert ksg_mi(x[:, :dx], y[:, :dy], k=k) == pytest.approx(naive_ksg(x[:, :dx], y[:, :dy], k), abs=1e-12)


def test_ties_in_distance_count_as_outside():
    x = torch.arange(31.0)[:, None]
    y = (7 * x) % 31  # a lattice: every distance is an integer, no two pairs are equal
    assert ksg_mi(x, y) == pytest.approx(naive_ksg(x - x.mean(), y - y.mean(), 3), abs=1e-12)


def test_symmetric_and_blind_to_order_shifts_and_a_common_scale():
    x, y = draw(200, 2, 0.7, 0)
    value = ksg_mi(x, y)
    assert ksg_mi(y, x) == pytest.approx(value, abs=1e-12)
    assert ksg_mi(x.flip(0), y.flip(0)) == pytest.approx(value, abs=1e-12)
    assert ksg_mi(4 * x + 1, 4 * y - 3) == pytest.approx(value, abs=1e-12)


def test_independent_pairs_are_about_0_and_not_clipped():
    values = [ksg_mi(*draw(500, 2, 0.0, seed)) for seed in range(20)]
    assert min(values) < 0
    assert abs(np.mean(values)) < 4 * np.std(values) / math.sqrt(20)


def test_no_value_passes_the_ceiling_and_strong_dependence_reaches_it():
    for n, k, seed in [(7, 1, 0), (63, 3, 1), (500, 5, 2)]:
        x, y = draw(n, 2, 0.999, seed)
        assert ksg_mi(x, y, k=k) <= ksg_ceiling(n, k)
    x, noise = draw(2000, 1, 0.0, 3)
    assert ksg_ceiling(2000, 3) == pytest.approx(digamma(2000) - digamma(4), abs=1e-12)
    assert ksg_mi(x, x + 1e-9 * noise) == pytest.approx(ksg_ceiling(2000, 3), abs=1e-3)  # 20 nats are there


def test_only_a_neighbour_tied_in_both_spaces_passes_the_ceiling():
    x, _ = draw(500, 1, 0.0, 0)
    assert ksg_mi(x, x) == pytest.approx(digamma(500) - digamma(3), abs=1e-12)


def test_known_failure_a_cube_moves_it():
    pairs = [draw(1000, 1, 0.9, seed) for seed in range(10)]
    plain = np.mean([ksg_mi(x, y) for x, y in pairs])
    cubed = np.mean([ksg_mi(x**3, y) for x, y in pairs])  # the information is equal
    assert plain == pytest.approx(0.84, abs=0.03)
    assert cubed == pytest.approx(0.78, abs=0.03)  # it falls by 0.057 on average, s.e. 0.006
    assert plain - cubed > 0.03


@pytest.mark.parametrize("d, found", [(5, 1.53), (10, 1.75), (25, 1.64)])
def test_known_failure_many_dimensions(d, found):
    truth = -d / 2 * math.log(1 - 0.75**2)  # 2.07, 4.13, 10.3
    value = ksg_mi(*draw(2000, d, 0.75, 0))
    assert value == pytest.approx(found, abs=0.1)
    assert value < truth - 0.4


def test_known_failure_a_bootstrap_sample():
    x, y = draw(2000, 1, 0.9, 1)
    drawn = torch.randint(0, 2000, (2000,), generator=torch.Generator().manual_seed(0))
    with pytest.raises(ValueError, match=r"of 2000 pairs with 3 or more exact copies"):
        ksg_mi(x[drawn], y[drawn])
    assert ksg_mi(x[drawn], y[drawn], seed=0) > 1.4  # truth 0.83


def test_noise_comes_only_from_a_seed():
    x, y = draw(200, 2, 0.7, 0)
    assert ksg_mi(x, y, seed=1) == pytest.approx(ksg_mi(x, y), abs=1e-10)  # breaks no order where there is no tie
    x, y = x.round(), y.round()
    assert ksg_mi(x, y, seed=1) == ksg_mi(x, y, seed=1) != ksg_mi(x, y, seed=2)


def test_bad_input_is_named():
    x, y = draw(20, 2, 0.5, 0)
    with pytest.raises(ValueError, match="20 and 19"):
        ksg_mi(x, y[:-1])
    with pytest.raises(ValueError, match="k from 1 to n - 1 = 2, got 3"):
        ksg_mi(x[:3], y[:3])
    with pytest.raises(ValueError, match="got 0"):
        ksg_ceiling(10, 0)
    with pytest.raises(ValueError, match="y that vary"):
        ksg_mi(x, torch.ones_like(y))
    with pytest.raises(ValueError, match="infinity"):
        ksg_mi(x, y / 0)
