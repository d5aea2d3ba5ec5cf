import math

import numpy as np
import pytest
import torch
from sklearn.covariance import LedoitWolf
from sklearn.covariance import shrunk_covariance as sklearn_shrunk_covariance
from torch.distributions import MultivariateNormal

from clipib.information.gaussian import canonical_correlations, gaussian_mi
from clipib.information.gaussian_critic import canonical_form, fit_gaussian_critic, shrunk_covariance


def draw(n, d, rho, seed):
    generator = torch.Generator().manual_seed(seed)
    x, noise = torch.randn(2, n, d, generator=generator, dtype=torch.float64)
    return x, rho * x + math.sqrt(1 - rho**2) * noise


def info_nce(scores):
    return float((scores.diagonal() - scores.logsumexp(1)).mean()) + math.log(len(scores))


def dv(scores):
    n = len(scores)
    negatives = scores.masked_fill(torch.eye(n, dtype=torch.bool), -math.inf).flatten()
    return float(scores.diagonal().mean() - negatives.logsumexp(0)) + math.log(n * (n - 1))


def log_ratio(mean, covariance, dx, x, y):
    """Every x with every y, by torch's own densities."""
    joint = MultivariateNormal(mean, covariance)
    own = MultivariateNormal(mean[:dx], covariance[:dx, :dx])
    other = MultivariateNormal(mean[dx:], covariance[dx:, dx:])
    pairs = torch.cat([x[:, None].expand(-1, len(y), -1), y[None].expand(len(x), -1, -1)], -1)
    return joint.log_prob(pairs) - own.log_prob(x)[:, None] - other.log_prob(y)


def test_scores_of_two_numbers_in_closed_form():
    x, y = draw(100, 1, 0.8, 0)
    rho = float(np.corrcoef(x[:, 0], y[:, 0])[0, 1])
    u, v = ((z - z.mean()) / z.std(correction=0) for z in (x, y))
    expected = (rho * u * v.T - rho**2 * (u**2 + v.T**2) / 2) / (1 - rho**2) - math.log(1 - rho**2) / 2
    found = fit_gaussian_critic(x, y, normal=False, shrinkage=0.0)(x, y)
    torch.testing.assert_close(found, expected, atol=1e-10, rtol=0)  # rounding of float64


@pytest.mark.parametrize("dx, dy", [(3, 5), (5, 3), (1, 7)])
def test_without_shrinkage_equals_torch_densities(dx, dy):
    x, y = draw(63, 7, 0.7, 1)
    x, y = 100 * x[:, :dx] @ draw(dx, dx, 0, 5)[0], y[:, :dy] + 3
    moments = torch.cat([x, y], 1)
    expected = log_ratio(moments.mean(0), moments.T.cov(correction=0), dx, x[:7], y)
    found = fit_gaussian_critic(x, y, normal=False, shrinkage=0.0)(x[:7], y)
    torch.testing.assert_close(found, expected, atol=1e-8, rtol=0)  # torch solves with the unscaled covariance


def test_with_shrinkage_equals_sklearn_and_torch_densities():
    x, y = draw(63, 5, 0.7, 2)
    y = y[:, :3] @ draw(3, 3, 0, 5)[0]
    x, y = ((z - z.mean(0)) / (z - z.mean(0)).square().mean().sqrt() for z in (x, y))
    fitted = LedoitWolf(assume_centered=True).fit(torch.cat([x, y], 1).numpy())
    expected = log_ratio(torch.zeros(8, dtype=torch.float64), torch.from_numpy(fitted.covariance_), 5, x, y)
    critic = fit_gaussian_critic(7 * x + 1, 0.01 * y, normal=False)  # the scale of a side does not matter
    assert critic.shrinkage == pytest.approx(fitted.shrinkage_, abs=1e-10)
    torch.testing.assert_close(critic(7 * x + 1, 0.01 * y), expected, atol=1e-8, rtol=0)


def test_shrinkage_is_towards_the_mean_variance_as_in_sklearn():
    centred = 3 * draw(63, 5, 0, 6)[0]
    centred -= centred.mean(0)
    sample = centred.numpy().T @ centred.numpy() / 63
    np.testing.assert_allclose(shrunk_covariance(centred, 0.3)[0], sklearn_shrunk_covariance(sample, 0.3), atol=1e-12)
    np.testing.assert_allclose(shrunk_covariance(centred, None)[0], LedoitWolf().fit(centred).covariance_, atol=1e-12)


def test_canonical_form_is_one():
    joint = draw(63, 8, 0, 3)[0] @ draw(8, 8, 0, 4)[0]
    covariance, share = shrunk_covariance(joint, 0.1)
    assert share == 0.1
    left, rho, right = canonical_form(covariance, 5)
    eye = torch.eye(3, dtype=torch.float64)
    torch.testing.assert_close(left.T @ covariance[:5, :5] @ left, eye)
    torch.testing.assert_close(right.T @ covariance[5:, 5:] @ right, eye)
    torch.testing.assert_close(left.T @ covariance[:5, 5:] @ right, rho.diag())


def test_mean_over_the_fitted_pairs_is_the_plugin_information():
    x, y = draw(63, 5, 0.7, 4)
    critic = fit_gaussian_critic(x, y, normal=False, shrinkage=0.0)
    assert float(critic(x, y).diagonal().mean()) == pytest.approx(gaussian_mi(x, y, correct=False), abs=1e-10)
    torch.testing.assert_close(critic.correlations, canonical_correlations(x, y))


def test_blocks_swaps_order_and_float32():
    x, y = draw(63, 4, 0.7, 5)
    fresh_x, fresh_y = draw(7, 4, 0.7, 6)
    critic = fit_gaussian_critic(x, y)
    scores = critic(fresh_x, fresh_y)
    assert scores.shape == (7, 7) and scores.dtype == torch.float64 and not scores.requires_grad
    torch.testing.assert_close(critic(fresh_x[2:3], fresh_y), scores[2:3])
    torch.testing.assert_close(critic.embed_x(fresh_x) @ critic.embed_y(fresh_y).T, scores)
    torch.testing.assert_close(fit_gaussian_critic(y, x)(fresh_y, fresh_x), scores.T)
    torch.testing.assert_close(fit_gaussian_critic(x.flip(0), y.flip(0))(fresh_x, fresh_y), scores)
    single = fit_gaussian_critic(x.float(), y.float())(fresh_x.float(), fresh_y.float())
    torch.testing.assert_close(single, scores, atol=1e-4, rtol=0)  # 1e-7 of the values, into scores of some tens


def test_normal_scores_make_rising_maps_harmless():
    x, y = draw(200, 3, 0.7, 7)
    fresh = draw(20, 3, 0.7, 8)
    expected = fit_gaussian_critic(x, y)(*fresh)
    torch.testing.assert_close(fit_gaussian_critic(x.exp(), y**3)(fresh[0].exp(), fresh[1] ** 3), expected)


def test_width_keeps_the_directions_of_largest_variance():
    x, y = draw(200, 5, 0.7, 9)
    loud = torch.tensor([9.0, 5.0, 1e-2, 1e-2, 1e-2])
    narrow = fit_gaussian_critic(x * loud, y * loud, normal=False, width=2, shrinkage=0.0)
    assert len(narrow.correlations) == 2
    expected = fit_gaussian_critic(x[:, :2], y[:, :2], normal=False, shrinkage=0.0).correlations
    torch.testing.assert_close(narrow.correlations, expected, atol=1e-3, rtol=0)  # the quiet columns turn the axes


def test_cubed_normals_of_5_nats_on_held_out_pairs():
    rho = math.sqrt(1 - math.exp(-0.5))  # 0.25 nats in each of 20 coordinates
    x, y = draw(10_000, 20, rho, 0)
    fresh_x, fresh_y = draw(5000, 20, rho, 1)
    scores = fit_gaussian_critic(x, y**3)(fresh_x, fresh_y**3)
    # 4.80 and 4.96 were measured on other draws; the s.e. of a mean of 5,000 scores of spread 2.8 is 0.04.
    assert info_nce(scores) == pytest.approx(4.80, abs=0.1)
    assert dv(scores) == pytest.approx(4.96, abs=0.15)
    plain = fit_gaussian_critic(x, y**3, normal=False)(fresh_x[:2000], fresh_y[:2000] ** 3)
    assert info_nce(plain) == pytest.approx(2.78, abs=0.15)  # low, and still a bound


def test_held_out_bounds_stay_below_the_truth():
    for seed in range(3):
        x, y = draw(800, 3, 0.6, seed)
        scores = fit_gaussian_critic(x[:400], y[:400].exp())(x[400:], y[400:].exp())
        spread = float(scores.diagonal().std()) / math.sqrt(400)
        assert 0.3 < info_nce(scores) < 0.67 + 2 * spread  # 0.67 = -3/2 log(1 - 0.36)


def test_known_failure_independent_features_on_their_own_pairs():
    x, y = draw(800, 40, 0.0, 0)
    critic = fit_gaussian_critic(x[:400], y[:400], normal=False, shrinkage=0.0)
    assert info_nce(critic(x[:400], y[:400])) == pytest.approx(2.07, abs=0.4)  # of other draws
    assert info_nce(critic(x[400:], y[400:])) == pytest.approx(-3.06, abs=0.6)
    shrunk = fit_gaussian_critic(x[:400], y[:400])
    assert shrunk.shrinkage > 0.9
    assert abs(info_nce(shrunk(x[400:], y[400:]))) < 0.05


def test_more_dimensions_than_pairs_and_labels_as_features():
    x, y = draw(40, 30, 0.5, 1)
    assert bool(fit_gaussian_critic(x, y)(x, y).isfinite().all())
    labels = torch.nn.functional.one_hot(torch.arange(60) % 4).double()  # 4 columns of rank 3
    critic = fit_gaussian_critic(labels, draw(60, 2, 0, 2)[0])
    assert len(critic.correlations) == 2


def test_bad_input_is_named():
    x, y = draw(20, 12, 0.5, 0)
    with pytest.raises(ValueError, match="20 and 19"):
        fit_gaussian_critic(x, y[:-1])
    with pytest.raises(ValueError, match="n=20, dx \\+ dy=24"):
        fit_gaussian_critic(x, y, shrinkage=0.0)
    with pytest.raises(ValueError, match="from 0 to 1, got 1.5"):
        fit_gaussian_critic(x, y, shrinkage=1.5)
    with pytest.raises(ValueError, match="y that vary"):
        fit_gaussian_critic(x, torch.ones_like(y))
    with pytest.raises(ValueError, match="that are 1"):
        fit_gaussian_critic(x[:, :2], x[:, :2], shrinkage=0.0)
    with pytest.raises(ValueError, match="at least 1, got 0"):
        fit_gaussian_critic(x, y, width=0)
    for normal in (True, False):
        with pytest.raises(ValueError, match=r"12\) as fitted, got \(20, 11\)"):
            fit_gaussian_critic(x, y, normal=normal)(x[:, :11], y)
