import pytest
from scipy.stats import binomtest

from clipib.metrics.statistics import wilson_interval


@pytest.mark.parametrize("hits, n", [(0, 10), (3, 10), (10, 10), (450, 500)])
def test_wilson_equals_scipy(hits, n):
    expected = binomtest(hits, n).proportion_ci(0.95, method="wilson")
    found = wilson_interval(hits / n, n)
    assert found.low == pytest.approx(expected.low, abs=1e-12)
    assert found.high == pytest.approx(expected.high, abs=1e-12)
