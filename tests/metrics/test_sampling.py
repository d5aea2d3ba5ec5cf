import itertools
import math

import numpy as np
import pytest
from scipy.stats import norm, t

from clipib.metrics.sampling import (
    effective_trials,
    make_design,
    moments_of_mean,
    normal_of_student,
    proportion_interval,
    student_of_normal,
)
from clipib.metrics.statistics import wilson_interval

RNG = np.random.default_rng(0)


def test_moments_of_independent_samples():
    x = RNG.exponential(size=30)
    m = moments_of_mean(x, make_design(30))
    assert m.value == pytest.approx(x.mean())
    assert m.variance == pytest.approx(x.var(ddof=1) / 30)
    assert m.freedom == 29


def test_variance_and_third_moment_are_unbiased_over_every_sample():
    """Every sample of 3 + 4 units from two small populations, all equally likely."""
    first, second = [0.0, 1.0, 5.0], [2.0, 3.0]
    strata = np.array([0] * 3 + [1] * 4)
    samples = itertools.product(*[first] * 3, *[second] * 4)
    moments = [moments_of_mean(np.array(s), make_design(7, strata=strata)) for s in samples]
    means = np.array([m.value for m in moments])
    thirds = [m.skewness * m.variance**1.5 for m in moments]
    assert np.mean(means) == pytest.approx((2 + 2.5) / 2)
    assert np.mean([m.variance for m in moments]) == pytest.approx(means.var())
    assert np.mean(thirds) == pytest.approx(((means - means.mean()) ** 3).mean())


def test_moments_of_clusters_are_those_of_a_ratio():
    clusters = np.array([7, 7, 3, 3, 3, 5])
    x = np.array([1.0, 2, 0, 1, 1, 4])
    totals, sizes = np.array([2.0, 4.0, 3.0]), np.array([3, 1, 2])
    m = moments_of_mean(x, make_design(6, clusters=clusters))
    r = (totals - x.mean() * sizes) / 6
    assert m.value == pytest.approx(1.5)
    assert m.variance == pytest.approx(3 / 2 * (r**2).sum())
    assert m.freedom == 2


def test_single_samples_are_drawn_among_each_other():
    strata = np.array([0, 0, 1, 2, 3])
    x = np.array([1.0, 3.0, 0.0, 4.0, 8.0])
    m = moments_of_mean(x, make_design(5, strata=strata))
    # (variance 2 over 2 samples + 3 classes of variance 16) / 4^2
    assert m.value == pytest.approx(3.5)
    assert m.variance == pytest.approx((2 / 2 + 3 * 16) / 16)


def test_trials():
    assert make_design(4, strata=np.array([0, 0, 0, 1])).trials == pytest.approx(4 / (1 / 3 + 1))
    assert make_design(8, clusters=np.array([0, 0, 1, 1, 1, 1, 1, 1])).trials == 4
    design = make_design(100)
    assert effective_trials(0.25, 0.25 / 100, 0.5, design) == pytest.approx(100)
    assert effective_trials(0.25, 0.5 / 100, 0.5, design) == pytest.approx(100 * 52 / 102)
    assert effective_trials(0.0, 0.0, 0.0, design) == 100


def test_proportion_interval_of_independent_hits_is_wilsons():
    hits = np.arange(50) < 45
    assert proportion_interval(hits) == wilson_interval(0.9, 50)


def test_proportion_interval_by_class():
    """Shares 1/2 and 1 of 4 and 6 samples: variance 1/4 of (1/4 / 3), trials 9.6, 1/4 of them missed."""
    hits, strata = np.array([1, 1, 0, 0] + [1] * 6), np.array([0] * 4 + [1] * 6)
    raw = (0.25 / 3 / 4) / (0.75 * 0.25 / 9.6)
    trials = 9.6 * 4.4 / (2.4 * raw + 2)
    expected = wilson_interval(0.75, trials, z=student_of_normal(norm.ppf(0.95), 8))
    assert proportion_interval(hits, strata=strata, alpha=0.1) == pytest.approx(expected)


@pytest.mark.parametrize("kind", ["strata", "clusters"])
def test_all_hit_is_no_certainty(kind):
    low, high = proportion_interval(np.ones(100), **{kind: np.arange(100) // 5})
    assert 0.85 < low < 0.97 and high == 1


def test_a_class_of_one_sample_leaves_much_open():
    hits, strata = np.array([1] * 50 + [0]), np.array([0] * 50 + [1])
    low, high = proportion_interval(hits, strata=strata)
    assert low < 0.25 and high > 0.75


def test_copies_of_a_sample_say_nothing_new():
    hits = RNG.random(200) < 0.7
    once = proportion_interval(hits, clusters=np.arange(200))
    copies = proportion_interval(np.repeat(hits, 5), clusters=np.arange(1000) // 5)
    assert copies == pytest.approx(once, abs=0.002)
    assert np.ptp(proportion_interval(np.repeat(hits, 5))) < 0.5 * np.ptp(copies)


@pytest.mark.parametrize("freedom, within", [(4, 0.01), (9, 1e-3), (99, 1e-5)])
def test_students_quantile_equals_scipys(freedom, within):
    for level in (0.6, 0.95, 0.975):
        found = student_of_normal(norm.ppf(level), freedom)
        assert found == pytest.approx(t.ppf(level, freedom), rel=within)
        assert student_of_normal(norm.ppf(1 - level), freedom) == pytest.approx(-found)
        assert normal_of_student(found, freedom) == pytest.approx(norm.ppf(level))


def test_what_cannot_be():
    with pytest.raises(ValueError, match="strata or clusters"):
        make_design(3, strata=np.zeros(3), clusters=np.zeros(3))
    with pytest.raises(ValueError, match="n=0"):
        make_design(0)
    with pytest.raises(ValueError, match="without NaN"):
        moments_of_mean(np.array([1.0, math.nan]), make_design(2))
