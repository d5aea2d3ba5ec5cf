import numpy as np
import pytest
from scipy.stats import false_discovery_control

from clipib.metrics.multiple import benjamini_hochberg


def test_by_hand():
    # sorted 0.01 0.02 0.2 0.9 times 4 / rank: 0.04 0.04 0.2667 0.9
    assert benjamini_hochberg([0.2, 0.01, 0.9, 0.02]) == pytest.approx([4 / 15, 0.04, 0.9, 0.04])


def test_equals_scipy():
    p = np.random.default_rng(0).random(37) ** 2
    assert benjamini_hochberg(p) == pytest.approx(false_discovery_control(p))


def test_ties_one_and_none():
    assert benjamini_hochberg([0.03, 0.03]) == pytest.approx([0.03, 0.03])
    assert benjamini_hochberg([0.2]) == pytest.approx([0.2])
    assert len(benjamini_hochberg([])) == 0
    with pytest.raises(ValueError, match="1.5"):
        benjamini_hochberg([1.5])
