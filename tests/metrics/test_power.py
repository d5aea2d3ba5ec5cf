import math

import numpy as np
import pytest
from scipy.stats import binom, nct, norm
from scipy.stats import t as student

from clipib.metrics.power import detectable_difference, detectable_mean_difference


@pytest.mark.parametrize("n, discordant", [(300, 0.2), (1000, 0.05)])
def test_mcnemar_has_that_power_at_that_difference(n, discordant):
    """Exact: over the number of discordant pairs, and of gains among them."""
    d = detectable_difference(n, discordant)
    share = (discordant + d) / 2 / discordant
    power = 0.0
    for m in range(1, n + 1):
        chance = binom.pmf(m, n, discordant)
        if chance > 1e-9:
            gained = np.arange(m + 1)
            k = np.minimum(gained, m - gained)
            mid_p = 2 * binom.cdf(k, m, 0.5) - binom.pmf(k, m, 0.5)
            power += chance * binom.pmf(gained, m, share)[mid_p <= 0.05].sum()
    assert power == pytest.approx(0.8, abs=0.02)


def test_formula_holds_at_the_answer():
    d = detectable_difference(500, 0.1, alpha=0.1, power=0.9)
    expected = norm.ppf(0.95) * math.sqrt(0.1) + norm.ppf(0.9) * math.sqrt(0.1 - d**2)
    assert math.sqrt(500) * d == pytest.approx(expected)


def test_a_difference_needs_as_many_flips():
    d = detectable_difference(100, 0.0)
    assert 0.07 < d < 0.08
    expected = norm.ppf(0.975) * math.sqrt(d) + norm.ppf(0.8) * math.sqrt(d - d * d)
    assert math.sqrt(100) * d == pytest.approx(expected)
    assert detectable_difference(100, d / 2) == pytest.approx(d)
    assert detectable_difference(1, 0.5) == math.inf
    with pytest.raises(ValueError, match="2"):
        detectable_difference(10, 2)


def test_a_mean_is_found_with_that_power():
    n, deviation = 200, 1.7
    d = detectable_mean_difference(n, deviation)
    power = nct.sf(student.ppf(0.975, n - 1), n - 1, d / deviation * math.sqrt(n))
    assert power == pytest.approx(0.8, abs=0.01)
