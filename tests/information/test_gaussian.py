import math

import numpy as np
import pytest
import torch
from scipy.linalg import subspace_angles
from scipy.special import digamma, polygamma
from sklearn.decomposition import PCA

from clipib.information.gaussian import canonical_correlations, gaussian_bias, gaussian_mi, reduce_width


def draw(n, rho, seed, dtype=torch.float64):
    """Pairs of standard normals; coordinate k of x and y has correlation rho[k]."""
    generator = torch.Generator().manual_seed(seed)
    rho = torch.tensor(rho, dtype=torch.float64)
    x, noise = torch.randn(2, n, len(rho), generator=generator, dtype=torch.float64)
    return x.to(dtype), (rho * x + (1 - rho**2).sqrt() * noise).to(dtype)


def mixed(width, seed):
    return torch.randn(width, width, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def logdet_mi(x, y):
    """The log determinant form, from numpy's covariance."""
    covariance = np.cov(torch.cat([x, y], 1).double().T)
    dx = x.shape[1]
    logdets = [np.linalg.slogdet(c)[1] for c in (covariance[:dx, :dx], covariance[dx:, dx:], covariance)]
    return (logdets[0] + logdets[1] - logdets[2]) / 2


def test_correlations_that_the_sample_has_exactly():
    rho = torch.tensor([0.9, 0.5, 0.0], dtype=torch.float64)
    basis = torch.linalg.qr(mixed(63, 0)[:, :6] - mixed(63, 0)[:, :6].mean(0))[0]  # columns of mean 0, orthonormal
    x, y = basis[:, :3], rho * basis[:, :3] + (1 - rho**2).sqrt() * basis[:, 3:]
    found = canonical_correlations(x @ mixed(3, 1), y @ mixed(3, 2) + 5)
    torch.testing.assert_close(found, rho, atol=1e-12, rtol=0)  # rounding of float64
    expected = -0.5 * (math.log(1 - 0.81) + math.log(1 - 0.25))
    assert gaussian_mi(x, y, correct=False) == pytest.approx(expected, abs=1e-12)


@pytest.mark.parametrize("n, dx, dy", [(7, 2, 1), (63, 5, 3), (200, 1, 17)])
def test_correlations_equal_scipy_subspace_angles(n, dx, dy):
    x, y = torch.randn(n, dx + dy, generator=torch.Generator().manual_seed(n)).double().split([dx, dy], 1)
    angles = subspace_angles((x - x.mean(0)).numpy(), (y - y.mean(0)).numpy())
    found = canonical_correlations(x, y).numpy()
    np.testing.assert_allclose(found, np.cos(angles)[::-1], atol=1e-12)


def test_invertible_linear_maps_leave_it_equal_to_the_logdet_form():
    x, y = draw(63, [0.9, 0.5, 0.2, 0.0, 0.7], 0)
    expected = logdet_mi(x, y)
    for seed in range(5):
        found = gaussian_mi(x @ mixed(5, seed) - 3, y @ mixed(5, 50 + seed), correct=False)
        assert found == pytest.approx(expected, abs=1e-10)  # rounding, amplified by the condition of the maps


def test_float32_features_and_gradients_are_taken():
    x, y = draw(63, [0.9, 0.5], 0, dtype=torch.float32)
    assert gaussian_mi(x.requires_grad_(), y) == pytest.approx(logdet_mi(x.detach(), y) - gaussian_bias(63, 2, 2))


def test_symmetric_and_blind_to_the_order_of_pairs():
    x, y = draw(63, [0.9, 0.5, 0.1], 1)
    order = torch.randperm(63, generator=torch.Generator().manual_seed(0))
    value = gaussian_mi(x, y[:, :2])
    assert gaussian_mi(y[:, :2], x) == pytest.approx(value, abs=1e-12)
    assert gaussian_mi(x[order], y[order, :2]) == pytest.approx(value, abs=1e-12)


def test_constant_and_repeated_columns_add_nothing():
    x, y = draw(63, [0.9, 0.5], 2)
    wide = torch.cat([x, x @ mixed(2, 0), torch.full((63, 1), 7.0)], 1)
    assert gaussian_mi(wide, y) == pytest.approx(gaussian_mi(x, y), abs=1e-12)
    assert len(canonical_correlations(wide, wide)) == 2


@pytest.mark.parametrize("n, d, bias", [(5000, 64, 0.42), (5000, 512, 29.3), (50000, 512, 2.6)])
def test_bias_of_wide_features(n, d, bias):
    assert gaussian_bias(n, d, d) == pytest.approx(bias, abs=0.06)  # half a unit of the last digit, and rounding
    naive = [sum(digamma((n - i) / 2) for i in range(1, width + 1)) for width in (d, d, 2 * d)]
    assert gaussian_bias(n, d, d) == pytest.approx((naive[0] + naive[1] - naive[2]) / 2, abs=1e-8)


def test_bias_is_symmetric_and_tends_to_dx_dy_over_2n():
    assert gaussian_bias(100, 3, 17) == pytest.approx(gaussian_bias(100, 17, 3), abs=1e-12)
    assert gaussian_bias(10**6, 5, 7) == pytest.approx(35 / 2e6, rel=1e-4)


@pytest.mark.parametrize("rho", [[0.0] * 4, [0.9, 0.7, 0.5, 0.0]])
def test_the_mean_of_the_plugin_is_the_truth_plus_the_bias(rho):
    truth = -0.5 * float(np.log1p(-np.square(rho)).sum())
    values = [gaussian_mi(*draw(23, rho, seed)) for seed in range(600)]
    error = np.std(values) / math.sqrt(len(values))
    assert gaussian_bias(23, 4, 4) > 20 * error  # the correction is what is seen
    assert np.mean(values) == pytest.approx(truth, abs=4 * error)


def test_the_spread_is_about_the_root_of_the_sum_of_squares_over_n():
    rho = [0.8, 0.6, 0.0]
    values = [gaussian_mi(*draw(500, rho, seed)) for seed in range(200)]
    assert np.std(values) == pytest.approx(math.sqrt(1.0 / 500), rel=0.2)  # s.e. of a spread of 200 values: 5 %


def test_known_failure_plugin_of_independent_wide_features_is_all_bias():
    n, d = 1300, 512
    j = np.arange(1, d + 1)
    # Wilks' lambda of independent Gaussians is a product of Beta((n - d - j) / 2, d / 2): its log has this variance.
    variance = (polygamma(1, (n - d - j) / 2) - polygamma(1, (n - j) / 2)).sum() / 4
    plugin = gaussian_mi(*draw(n, [0.0] * d, 3), correct=False)
    assert plugin > 170
    assert plugin == pytest.approx(gaussian_bias(n, d, d), abs=4 * math.sqrt(variance))


def test_known_failure_a_random_sign_hides_all_dependence():
    x, _ = draw(4000, [0.0], 4)
    sign = torch.randint(0, 2, (4000, 1), generator=torch.Generator().manual_seed(0)) * 2 - 1
    assert abs(gaussian_mi(x, sign * x)) < 0.003  # y = +-x has at least log 2 nats and more; sd of the zero: 2 / n


@pytest.mark.parametrize("n, d, k", [(63, 7, 3), (7, 12, 4), (63, 7, 7)])
def test_reduce_width_equals_sklearn_up_to_signs(n, d, k):
    x = torch.randn(n, d, generator=torch.Generator().manual_seed(k), dtype=torch.float64) @ mixed(d, 0)
    expected = PCA(k, svd_solver="full").fit_transform(x.numpy())
    found = reduce_width(x, k).numpy()
    np.testing.assert_allclose(np.abs(found), np.abs(expected), atol=1e-8)  # eigenvectors by squares: half the digits


def test_reduce_width_returns_no_more_than_the_rank_and_only_loses_information():
    x, y = draw(63, [0.9, 0.7, 0.5, 0.3], 5)
    assert reduce_width(torch.cat([x, 2 * x], 1), 64).shape == (63, 4)
    values = [gaussian_mi(reduce_width(x * torch.arange(1, 5), k), y, correct=False) for k in (1, 2, 3, 4)]
    assert values == sorted(values)
    assert values[-1] == pytest.approx(gaussian_mi(x, y, correct=False), abs=1e-10)


def test_bad_input_is_named():
    x, y = draw(20, [0.5, 0.5], 0)
    with pytest.raises(ValueError, match="20 and 19"):
        canonical_correlations(x, y[:-1])
    with pytest.raises(ValueError, match=r"\(20,\)"):
        gaussian_mi(x[:, 0], y)
    with pytest.raises(ValueError, match="at least 2 rows of x, got 1"):
        gaussian_mi(x[:1], y[:1])
    with pytest.raises(ValueError, match="y that vary"):
        gaussian_mi(x, torch.full_like(y, 0.1))
    with pytest.raises(ValueError, match="NaN"):
        gaussian_mi(x, y.index_fill(0, torch.tensor([3]), math.nan))
    with pytest.raises(ValueError, match="n=4, dx=2, dy=2"):
        gaussian_mi(x[:4], y[:4])
    with pytest.raises(ValueError, match="2 of 2 that are 1"):
        gaussian_mi(x, x @ mixed(2, 0))
    with pytest.raises(ValueError, match="at least 1, got 0"):
        reduce_width(x, 0)
    with pytest.raises(ValueError, match="dx=0"):
        gaussian_bias(10, 0, 1)
