import itertools
import math

import numpy as np
import pytest
from scipy.stats import bootstrap, norm, skew

from clipib.metrics.bootstrap import (
    Draws,
    bootstrap_mean,
    bootstrap_statistic,
    draw_mean,
    draw_statistic,
    interval_of,
    p_of,
)
from clipib.metrics.sampling import make_design, proportion_interval

RNG = np.random.default_rng(1)


def test_draws_have_the_distribution_of_every_possible_draw():
    x = np.array([0.0, 1.0, 4.0])
    every = np.array([np.mean(d) for d in itertools.product(x, repeat=3)])
    drawn = draw_mean(x, make_design(3), 20_000, 0).draws
    for value in np.unique(every):
        share = (np.abs(drawn - value) < 1e-9).mean()
        assert share == pytest.approx((np.abs(every - value) < 1e-9).mean(), abs=0.015)


def test_draws_stay_within_their_strata():
    strata = np.array([2, 0, 2, 0, 2])
    x = np.array([10.0, 0.0, 10.0, 1.0, 10.0])
    drawn = draw_mean(x, make_design(5, strata=strata), 4000, 0).draws
    values, counts = np.unique(drawn.round(9), return_counts=True)
    assert values.tolist() == [5.0, 5.25, 5.5]  # the constant class adds 10 / 2, the other one 0, 1/2 or 1 over 2
    assert counts / 4000 == pytest.approx([0.25, 0.5, 0.25], abs=0.03)


def test_clusters_come_as_a_whole():
    clusters = np.array([0, 1, 0, 1, 1])
    x = np.array([0.0, 2.0, 1.0, 2.0, 3.0])
    drawn = draw_mean(x, make_design(5, clusters=clusters), 4000, 0).draws
    values, counts = np.unique(drawn.round(9), return_counts=True)
    assert values == pytest.approx([1 / 2, 8 / 5, 7 / 3])  # twice the first, one of each, twice the second
    assert counts / 4000 == pytest.approx([0.25, 0.5, 0.25], abs=0.03)


def test_the_stretch_makes_the_variance_of_the_draws_unbiased():
    x, strata = RNG.normal(size=20), np.arange(20) % 4
    d = draw_mean(x, make_design(20, strata=strata), 20_000, 0)
    assert d.stretch == pytest.approx(math.sqrt(5 / 4))
    expected = sum(x[strata == s].var(ddof=1) / 5 for s in range(4)) / 16
    assert d.stretch**2 * d.draws.var() == pytest.approx(expected, rel=0.03)


def test_the_acceleration_is_a_sixth_of_the_skewness_of_the_mean():
    x = RNG.exponential(size=100)
    d = draw_mean(x, make_design(100), 10, 0)
    assert d.acceleration == d.bias == pytest.approx(skew(x, bias=False) / 10 / 6)


def test_bca_is_near_scipys_where_samples_are_many():
    x = RNG.exponential(size=400)
    expected = bootstrap((x,), np.mean, n_resamples=9999, method="BCa", rng=0).confidence_interval
    assert bootstrap_mean(x, draws=10_000) == pytest.approx(tuple(expected), abs=0.008)


def test_limits_by_hand():
    """a = 0.1, z0 = 0.1, 1,000 draws k / 1001: limits are the levels themselves."""
    d = Draws(0.5, np.arange(1, 1001) / 1001, 0.1, 0.1, 1.0, 10**9)
    z = norm.ppf([0.025, 0.975])
    expected = norm.cdf(0.1 + (0.1 + z) / (1 - 0.1 * (0.1 + z)))
    assert interval_of(d, 0.05) == pytest.approx(tuple(expected), abs=1e-6)


@pytest.mark.parametrize("stretch, freedom", [(1.0, 10**6), (1.2, 15)])
def test_p_is_the_alpha_at_which_the_interval_touches(stretch, freedom):
    d = Draws(0.3, np.sort(RNG.normal(0.3, 0.2, 5000)), 0.05, 0.02, stretch, freedom)
    p = p_of(d)
    assert 0.05 < p < 0.5
    assert interval_of(d, p).low == pytest.approx(0, abs=1e-3)
    assert interval_of(d, p * 1.02).low > 0 > interval_of(d, p * 0.98).low
    assert p_of(Draws(-0.3, -d.draws[::-1], -0.05, -0.02, stretch, freedom)) == pytest.approx(p)


def test_hits_have_the_interval_of_a_proportion():
    hits, strata = RNG.random(60) < 0.8, np.arange(60) % 6
    assert bootstrap_mean(hits, strata=strata) == proportion_interval(hits, strata=strata)


def test_ranks_and_likelihoods_that_happen_to_be_0_or_1_are_no_proportions():
    ranks = np.array([1.0] * 30)
    assert bootstrap_mean(ranks).low < 0.9 and tuple(bootstrap_mean(ranks, proportion=False)) == (1, 1)
    mixed = np.arange(30) % 2.0
    assert bootstrap_mean(mixed, proportion=False) != bootstrap_mean(mixed)


def test_equal_values_and_a_single_one():
    assert bootstrap_mean(np.full(9, 0.3)) == pytest.approx((0.3, 0.3))
    assert bootstrap_mean(np.array([0.3])) == (-math.inf, math.inf)
    assert bootstrap_mean(np.array([0.3, 0.4]), clusters=np.zeros(2)) == (-math.inf, math.inf)
    assert p_of(draw_mean(np.array([0.3]), make_design(1), 10, 0)) == 1


def test_a_seed_says_which_draws():
    x = RNG.exponential(size=50)
    assert bootstrap_mean(x, seed=3) == bootstrap_mean(x, seed=3) != bootstrap_mean(x, seed=4)


def test_a_statistic_that_is_a_mean_agrees_with_the_mean():
    x, strata, clusters = RNG.normal(size=60), np.arange(60) % 3, np.arange(60) // 4
    for kind in ({}, {"strata": strata}, {"clusters": clusters}):
        design = make_design(60, **kind)
        weights = 1 / np.bincount(strata)[strata] if "strata" in kind else np.ones(60)
        mean = lambda rows, w=weights: np.average(x[rows], weights=w[rows])  # noqa: E731
        found, expected = draw_statistic(mean, design, 1000, 0), draw_mean(x, design, 1000, 0)
        assert found.draws == pytest.approx(expected.draws)
        assert found.value == pytest.approx(expected.value)
        assert found.stretch == pytest.approx(expected.stretch)
        assert found.freedom == expected.freedom


def test_interval_of_a_median():
    x = RNG.permutation(np.arange(101.0))
    low, high = bootstrap_statistic(lambda rows: np.median(x[rows]), 101, draws=1000)
    # Order statistics 41 and 61 are the exact 95 % interval of a median of 101.
    assert (low, high) == pytest.approx((40, 60), abs=2.5)
