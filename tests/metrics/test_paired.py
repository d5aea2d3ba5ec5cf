import math

import numpy as np
import pytest
from scipy.stats import binom

from clipib.metrics.paired import (
    mcnemar_mid_p,
    paired_means,
    paired_proportions,
    paired_statistic,
    tango_interval,
)

RNG = np.random.default_rng(2)


@pytest.mark.parametrize("lost, gained", [(0, 1), (2, 8), (8, 2), (5, 5), (30, 41), (900, 1000)])
def test_mid_p_equals_the_binomial(lost, gained):
    n, k = lost + gained, min(lost, gained)
    expected = min(1.0, 2 * (binom.cdf(k, n, 0.5) - binom.pmf(k, n, 0.5) / 2))
    assert mcnemar_mid_p(lost, gained) == pytest.approx(expected, rel=1e-9)


def test_mid_p_of_none_is_one_and_of_many_is_finite():
    assert mcnemar_mid_p(0, 0) == 1
    assert mcnemar_mid_p(400_000, 600_000) == 0.0
    assert mcnemar_mid_p(7, 7) == pytest.approx(1)
    with pytest.raises(ValueError, match="lost=-1"):
        mcnemar_mid_p(-1, 2)


def likelihood_score(lost: int, gained: int, n: int, d: float) -> float:
    """The score at difference d with q found on a fine grid: the most likely share of losses given d."""
    q = np.linspace(max(0.0, -d), (1 - d) / 2, 400_001)[1:-1]
    log = lost * np.log(q) + gained * np.log(q + d) + (n - lost - gained) * np.log(1 - 2 * q - d)
    best = q[np.argmax(log)]
    return (gained - lost - n * d) / math.sqrt(n * (2 * best + d - d * d))


@pytest.mark.parametrize("lost, gained, n", [(3, 9, 50), (10, 2, 40), (1, 1, 30)])
def test_tango_is_where_the_score_of_the_likelihood_is_1_96(lost, gained, n):
    low, high = tango_interval(lost, gained, n)
    assert likelihood_score(lost, gained, n, low) == pytest.approx(1.96, abs=1e-3)
    assert likelihood_score(lost, gained, n, high) == pytest.approx(-1.96, abs=1e-3)


def test_tango_of_no_flips_and_of_all():
    z2 = 1.959964**2
    assert tango_interval(0, 0, 100) == pytest.approx((-z2 / (100 + z2), z2 / (100 + z2)), abs=1e-6)
    low, high = tango_interval(0, 20, 20)
    assert 0.6 < low < 1 and high == pytest.approx(1)


def test_paired_proportions_by_hand():
    a = np.array([1, 1, 1, 1, 0, 0, 0, 0, 0, 0], dtype=bool)
    b = np.array([1, 1, 1, 0, 1, 1, 1, 1, 0, 0], dtype=bool)
    d = paired_proportions(a, b)
    assert (d.value, d.n, d.gained, d.lost) == (pytest.approx(0.3), 10, 4, 1)
    assert d.p == pytest.approx(2 * (1 + 5 / 2) / 32)
    assert d.low < 0 < d.value < d.high
    swapped = paired_proportions(b, a)
    assert (swapped.value, swapped.low, swapped.high) == pytest.approx((-d.value, -d.high, -d.low))


def test_no_flip_does_not_rule_out_what_n_cannot():
    a = RNG.random(100) < 0.8
    d = paired_proportions(a, a)
    assert (d.value, d.p, d.gained, d.lost) == (0, 1, 0, 0)
    assert -0.04 < d.low < -0.03 and 0.03 < d.high < 0.04
    by_class = paired_means(a, a, strata=np.arange(100) % 10)
    assert (by_class.value, by_class.p) == (0, 1) and by_class.low == pytest.approx(d.low, abs=0.003)


def test_equal_numbers_have_a_point_and_p_one():
    x = RNG.normal(size=40)
    assert paired_means(x, x) == (0, 0, 0, 1, 40, None, None)
    assert paired_means(x[:1], x[:1] + 1) == (pytest.approx(1), -math.inf, math.inf, 1, 1, None, None)


def test_hits_without_strata_are_nearly_paired_proportions():
    a, b = RNG.random(400) < 0.7, RNG.random(400) < 0.75
    found, expected = paired_means(a, b), paired_proportions(a, b)
    assert found[:3] == pytest.approx(expected[:3], abs=1e-3)
    assert found.p == pytest.approx(expected.p, abs=0.01)
    assert found[4:] == expected[4:]


def test_hits_by_class_have_the_mean_over_classes():
    strata = np.array([0] * 8 + [1] * 2)
    a, b = np.array([1] * 8 + [0, 0]), np.array([1] * 7 + [0] + [1, 0])
    d = paired_means(a, b, strata=strata)
    assert d.value == pytest.approx((-1 / 8 + 1 / 2) / 2)
    assert (d.gained, d.lost, d.n) == (1, 1, 10)


def test_numbers_by_cluster_count_clusters():
    x = RNG.normal(size=30)
    shift = np.repeat(RNG.normal(size=30), 4)
    wide = paired_means(np.repeat(x, 4), np.repeat(x, 4) + shift, clusters=np.arange(120) // 4)
    once = paired_means(x, x + shift[::4])
    narrow = paired_means(np.repeat(x, 4), np.repeat(x, 4) + shift)
    assert wide.n == 30 and wide[:3] == pytest.approx(once[:3], abs=1e-9)
    assert narrow.high - narrow.low == pytest.approx((wide.high - wide.low) / 2, rel=0.1)


def test_numbers_agree_with_the_t_test_where_they_are_normal():
    from scipy.stats import ttest_rel

    a = RNG.normal(size=80)
    b = a + RNG.normal(0.2, 1.0, size=80)
    expected = ttest_rel(b, a)
    d = paired_means(a, b, draws=20_000)
    assert d.p == pytest.approx(expected.pvalue, abs=0.015)
    assert (d.low, d.high) == pytest.approx(tuple(expected.confidence_interval()), abs=0.02)


def test_interval_of_numbers_is_symmetric_about_the_difference():
    x = RNG.exponential(size=70)
    d = paired_means(np.zeros(70), x)
    assert d.high - d.value == pytest.approx(d.value - d.low)
    assert d.high - d.low == pytest.approx(2 * 1.994 * x.std(ddof=1) / math.sqrt(70), rel=0.05)


def test_statistic_of_a_mean_is_the_paired_mean():
    a, b = RNG.normal(size=50), RNG.normal(size=50)
    found = paired_statistic(lambda rows: float((b - a)[rows].mean()), 50)
    assert found[:4] == pytest.approx(paired_means(a, b)[:4], abs=0.04)
    same = paired_statistic(lambda rows: 0.0, 50, draws=50)
    assert same == (0, 0, 0, 1, 50, None, None)


def test_what_cannot_be():
    with pytest.raises(ValueError, match=r"\(3,\) and \(2,\)"):
        paired_means(np.zeros(3), np.zeros(2))
    with pytest.raises(ValueError, match="0 and 1"):
        paired_proportions(np.array([0.5]), np.array([1.0]))


def test_hits_of_very_few_clusters_have_a_wide_interval():
    for n in (2, 3, 4):
        found = paired_means([True] * (2 * n), [False] * (2 * n), clusters=np.arange(2 * n) // 2)
        assert found.value == -1 and -1 <= found.low <= found.high <= 1
    few = paired_means([1, 1, 0, 1], [0, 1, 0, 1], clusters=np.array([0, 0, 1, 1]))
    assert few.low < -0.9 and few.high > 0.5 and few.p > 0.1


@pytest.mark.parametrize(("n", "discordant"), [(100, 0.1), (100, 0.4), (1000, 0.01), (1000, 0.05), (1000, 0.2)])
def test_exact_size_of_mcnemar_is_3_to_6_percent_from_ten_expected_flips(n, discordant):
    """All tables: how many pairs flip is binomial, and which way each flips a coin."""
    size = 0.0
    for flips in range(n + 1):
        if (chance := binom.pmf(flips, n, discordant)) > 1e-9:
            k = np.arange(flips + 1)
            alarms = [mcnemar_mid_p(int(a), int(flips - a)) < 0.05 for a in k]
            size += chance * float(binom.pmf(k, flips, 0.5) @ np.array(alarms))
    assert 0.03 <= size <= 0.06
