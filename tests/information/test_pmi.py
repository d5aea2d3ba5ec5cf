import numpy as np
import pytest
from reference.information import gaussian_pairs, gaussian_pmi

from clipib.information.pmi import agreement, diagnose, two_way


def world(n=400, m=300, rho=0.7):
    x, y = gaussian_pairs(max(n, m), 2, rho)
    return gaussian_pmi(x, y, rho).numpy()[:n, :m]


def test_the_slopes_multiply_to_the_squared_correlation():
    truth = world().ravel()
    noisy = truth + np.random.default_rng(0).normal(size=truth.shape)
    found = agreement(noisy, truth)
    assert found.slope * found.calibration_slope == pytest.approx(found.pearson**2, abs=1e-12)
    assert found.slope == pytest.approx(1, abs=0.02)  # noise does not bias it
    assert found.calibration_slope < 0.9
    assert found.rmse_nats == pytest.approx(1, abs=0.02)


def test_a_constant_that_is_not_free_counts():
    truth = world().ravel()
    assert agreement(truth + 3, truth).rmse_nats == pytest.approx(0, abs=1e-9)
    assert agreement(truth + 3, truth).constant_nats == pytest.approx(3, abs=1e-9)
    assert agreement(truth + 3, truth, constant=-1.0).rmse_nats == pytest.approx(4, abs=1e-9)


def test_two_way_parts_are_orthogonal():
    d = np.random.default_rng(0).normal(size=(7, 13)) + np.arange(7)[:, None] + 2 * np.arange(13) + 5
    parts = two_way(d)
    assert sum(x * x for x in parts) == pytest.approx((d * d).mean(), rel=1e-12)
    assert parts.row == pytest.approx(np.std(d.mean(1)), rel=1e-12)
    assert two_way(np.arange(7.0)[:, None] + np.arange(5.0)).interaction == pytest.approx(0, abs=1e-12)


FAULTS = {
    "none": lambda t, rng: t,
    "slope": lambda t, rng: 2 * t,
    "image_nats": lambda t, rng: t + 0.7 * rng.normal(size=(len(t), 1)),
    "text_nats": lambda t, rng: t + 0.7 * rng.normal(size=t.shape[1]),
    "bend_nats": lambda t, rng: np.maximum(t, 0),
    "noise_nats": lambda t, rng: t + 0.7 * rng.normal(size=t.shape),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_each_fault_is_found_by_its_own_number_alone(fault):
    truth = world()
    found = diagnose(FAULTS[fault](truth, np.random.default_rng(0)) + 3, truth)
    guilty = {n for n in ("bend_nats", "image_nats", "text_nats", "noise_nats") if getattr(found, n) > 0.1}
    guilty |= {"slope"} if abs(found.slope - 1) > 0.1 and "bend_nats" not in guilty else set()
    assert guilty == ({fault} if fault != "none" else set())
    if fault in ("image_nats", "text_nats", "noise_nats"):
        assert getattr(found, fault) == pytest.approx(0.7, abs=0.1)
    if fault == "slope":
        assert found.slope == pytest.approx(2, abs=0.02)


def test_constant_scores_are_refused():
    with pytest.raises(ValueError, match="equal"):
        agreement(np.zeros(5), np.arange(5.0))
    with pytest.raises(ValueError, match="equal"):
        diagnose(np.zeros((3, 3)), np.zeros((3, 3)))
