import math

import numpy as np
import pytest
from scipy.optimize import minimize_scalar
from scipy.special import log_softmax
from scipy.stats import foldnorm

from clipib.metrics import calibration
from clipib.metrics.calibration import (
    debiased_calibration_error,
    expected_calibration_error,
    fit_temperature,
    negative_log_likelihood,
)

RNG = np.random.default_rng(3)


def ece_by_loops(confidence, correct, bins):
    total = 0.0
    for b in range(bins):
        low, high = b / bins, (b + 1) / bins
        rows = [i for i, c in enumerate(confidence) if low < c <= high or (b == 0 and c == 0)]
        if rows:
            gap = np.mean([correct[i] for i in rows]) - np.mean([confidence[i] for i in rows])
            total += len(rows) / len(confidence) * abs(gap)
    return total


@pytest.mark.parametrize("bins", [1, 7, 15])
def test_ece_equals_loops(bins):
    confidence, correct = RNG.random(203), RNG.random(203) < 0.6
    assert expected_calibration_error(confidence, correct, bins=bins) == pytest.approx(
        ece_by_loops(confidence, correct, bins), abs=1e-12
    )


def test_edges_belong_to_the_bin_below():
    # 0.5 is in (0, 0.5]: apart from 0.6, whose error has the other sign and would cancel it.
    confidence, correct = np.array([0.5, 0.6]), np.array([True, False])
    assert expected_calibration_error(confidence, correct, bins=2) == pytest.approx((0.5 + 0.6) / 2)
    both = np.array([0.0, 1.0])
    assert expected_calibration_error(both, np.array([False, True])) == 0
    assert expected_calibration_error(np.array([1.0 + 1e-12]), np.array([True])) == pytest.approx(0, abs=1e-9)


@pytest.mark.parametrize("truth, left", [(0.75, 0.85), (0.7, 0.5)])
def test_debiasing_takes_bias_off(truth, left):
    plain, debiased = [], []
    for _ in range(1000):
        correct = RNG.random(60) < truth
        plain.append(expected_calibration_error(np.full(60, 0.75), correct))
        debiased.append(debiased_calibration_error(np.full(60, 0.75), correct))
    bias = np.mean(plain) - (0.75 - truth), np.mean(debiased) - (0.75 - truth)
    assert bias[0] > 0.01 and -0.2 * bias[0] < bias[1] < left * bias[0]


def test_debiased_by_hand():
    """Four samples of confidence 0.8, all hit: a gap of 0.2, and an accuracy taken to be (4 + 0.8) / 5."""
    s = math.sqrt(0.96 * 0.04 / 4)
    folded = foldnorm(0.2 / s, scale=s).mean()
    assert debiased_calibration_error(np.full(4, 0.8), np.ones(4)) == pytest.approx(0.4 - folded)


def test_debiased_of_many_samples_is_plain():
    confidence = RNG.random(200_000)
    correct = RNG.random(200_000) < confidence**2
    plain = expected_calibration_error(confidence, correct)
    assert debiased_calibration_error(confidence, correct) == pytest.approx(plain, abs=1e-4)


def test_nll_equals_scipys_log_softmax():
    logits, targets = RNG.normal(size=(31, 7)).astype(np.float32) * 100, RNG.integers(0, 7, 31)
    expected = -log_softmax(logits.astype(float) / 2.5, axis=1)[np.arange(31), targets]
    assert negative_log_likelihood(logits, targets, temperature=2.5) == pytest.approx(expected)


def test_temperature_in_closed_form():
    # Two classes, logits 2 and 0, right in 3 of 4: sigmoid(2 / T) = 3 / 4.
    logits, targets = np.array([[2.0, 0.0]] * 4), np.array([0, 0, 0, 1])
    assert fit_temperature(logits, targets) == pytest.approx(2 / math.log(3))


@pytest.mark.parametrize("scale", [0.01, 1.0, 60.0])
def test_temperature_minimises_the_likelihood(scale):
    logits = RNG.normal(size=(300, 5))
    targets = np.array([RNG.choice(5, p=np.exp(row) / np.exp(row).sum()) for row in logits])
    logits = (scale * logits).astype(np.float32)
    nll = lambda log_t: negative_log_likelihood(logits, targets, temperature=math.exp(log_t)).mean()  # noqa: E731
    expected = minimize_scalar(nll, bounds=(-9, 9), method="bounded", options={"xatol": 1e-9}).x
    assert math.log(fit_temperature(logits, targets)) == pytest.approx(expected, abs=1e-5)


def test_temperature_is_found_in_few_steps(monkeypatch):
    calls, slope = [], calibration._slope
    monkeypatch.setattr(calibration, "_slope", lambda *a: calls.append(1) or slope(*a))
    logits = RNG.normal(size=(500, 6))
    fit_temperature(logits, (logits + RNG.gumbel(size=logits.shape)).argmax(axis=1))
    assert len(calls) <= 8


def test_temperature_that_samples_do_not_determine():
    logits = np.array([[3.0, 0.0], [0.0, 3.0]])
    assert fit_temperature(logits, np.array([0, 1])) == pytest.approx(1e-3)
    assert fit_temperature(logits, np.array([1, 0])) == pytest.approx(1e3)


def test_what_cannot_be():
    with pytest.raises(ValueError, match=r"\(2, 3\)"):
        negative_log_likelihood(np.zeros((2, 3)), np.zeros(3, int))
    with pytest.raises(ValueError, match=r"\(2,\) and \(3,\)"):
        expected_calibration_error(np.zeros(2), np.zeros(3))
