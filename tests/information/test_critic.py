"""The trained critic: its objectives against loops, its scores against densities, and what it refuses."""

import math

import numpy as np
import pytest
import torch
from scipy.integrate import trapezoid
from scipy.stats import norm

import clipib.information.critic as critic_module
from clipib.information.critic import Pairs, fit_separable_critic, infonce, infonce_loss, js_loss

SMALL = {"seeds": (0,), "width": 128, "out": 16, "epochs": 30}


def normals(*shape, seed):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def split(x, y, *, n_fit=2000, n_calibrate=400):
    """To fit, to calibrate, and held out."""
    middle = n_fit + n_calibrate
    return Pairs(x[:n_fit], y[:n_fit]), Pairs(x[n_fit:middle], y[n_fit:middle]), Pairs(x[middle:], y[middle:])


def naive_infonce(scores):
    """Row and column InfoNCE, their mean, row by row in float64."""
    s, n = scores.double().numpy(), len(scores)
    rows = [s[i, i] - np.log(np.mean(np.exp(s[i]))) for i in range(n)]
    columns = [s[i, i] - np.log(np.mean(np.exp(s[:, i]))) for i in range(n)]
    return (np.mean(rows) + np.mean(columns)) / 2


def naive_js(scores):
    s, n = scores.double().numpy(), len(scores)
    own = np.mean([math.log1p(math.exp(-s[i, i])) for i in range(n)])
    return own + np.mean([math.log1p(math.exp(s[i, j])) for i in range(n) for j in range(n) if i != j])


@pytest.mark.parametrize("n", [2, 7])
def test_objectives_equal_loops(n):
    scores = 3 * normals(n, n, seed=n)
    assert infonce_loss(scores).item() == pytest.approx(math.log(n) - naive_infonce(scores), abs=1e-12)
    assert js_loss(scores).item() == pytest.approx(naive_js(scores), abs=1e-12)


@pytest.mark.parametrize("n", [2, 7])
def test_gradients_equal_closed_forms(n):
    scores = (3 * normals(n, n, seed=n)).requires_grad_()
    (of_infonce,) = torch.autograd.grad(infonce_loss(scores), scores)
    (of_js,) = torch.autograd.grad(js_loss(scores), scores)
    s, eye = scores.detach(), torch.eye(n, dtype=torch.float64)
    torch.testing.assert_close(of_infonce, (s.softmax(0) + s.softmax(1) - 2 * eye) / (2 * n), atol=1e-14, rtol=0)
    expected = torch.where(eye.bool(), -torch.sigmoid(-s) / n, torch.sigmoid(s) / (n * (n - 1)))
    torch.testing.assert_close(of_js, expected, atol=1e-14, rtol=0)


@pytest.fixture(scope="module")
def folded():
    """y = |x| + noise, which no linear map of x tells of: the splits, and the information by integration."""
    x, noise = normals(4400, 1, seed=0), 0.3
    y = x.abs() + noise * normals(4400, 1, seed=1)
    grid, size = np.linspace(-3, 8, 551), np.linspace(0, 8, 401)
    density = trapezoid(2 * norm.pdf(size) * norm.pdf(grid[:, None], size, noise), size)  # (551,)
    entropy = -trapezoid(density * np.log(density.clip(1e-300)), grid)
    return split(x, y), entropy - math.log(noise * math.sqrt(2 * math.pi * math.e))


@pytest.fixture(scope="module")
def folded_critic(folded):
    (fit, calibrate, _), _ = folded
    return fit_separable_critic(fit, calibrate, **SMALL)


def test_finds_a_dependence_without_correlation(folded, folded_critic):
    (_, _, (x, y)), truth = folded
    found = naive_infonce(folded_critic(x, y))
    correlation = torch.corrcoef(torch.cat([x, y], 1).T)[0, 1].item()
    assert -math.log1p(-(correlation**2)) / 2 < 0.01  # what a Gaussian sees
    assert 0.85 * truth < found < truth + 0.06  # the standard error of 2000 pairs is 0.015
    assert folded_critic.calibration_infonce_nats == pytest.approx(truth, abs=0.15)


def test_calibration_value_is_infonce_of_the_returned_weights(folded, folded_critic, monkeypatch):
    (_, (x, y), _), _ = folded
    assert folded_critic.calibration_infonce_nats == pytest.approx(naive_infonce(folded_critic(x, y)), abs=1e-5)
    monkeypatch.setattr(critic_module, "BLOCK", 63)
    in_blocks = infonce(folded_critic.network, Pairs(folded_critic.x_side(x), folded_critic.y_side(y)))
    assert in_blocks == pytest.approx(folded_critic.calibration_infonce_nats, abs=1e-5)  # float32


def test_blocks_are_rows_of_the_whole(folded, folded_critic):
    (_, _, (x, y)), _ = folded
    whole = folded_critic(x[:63], y[:7])
    assert whole.shape == (63, 7) and whole.dtype == torch.float32 and not whole.requires_grad
    blocks = torch.cat([folded_critic(block, y[:7]) for block in x[:63].split(20)])
    torch.testing.assert_close(blocks, whole, atol=1e-5, rtol=0)  # float32, other tiles of the products
    u, v = folded_critic.embed_x(x[:1]), folded_critic.embed_y(y[:7])
    torch.testing.assert_close(u @ v.T, whole[:1], atol=1e-5, rtol=0)


def test_js_gives_pmi_and_infonce_pmi_up_to_a_number():
    rho = 0.8
    x = normals(2900, 1, seed=0)
    y = rho * x + math.sqrt(1 - rho**2) * normals(2900, 1, seed=1)
    fit, calibrate, (x, y) = split(3 * x + 5, 0.01 * y)
    u, v = (x - 5) / 3, y.T / 0.01
    pmi = (rho * u * v - rho**2 * (u**2 + v**2) / 2) / (1 - rho**2) - math.log1p(-(rho**2)) / 2
    usual = pmi > -4  # further out there are too few pairs to learn from
    for objective in ("js", "infonce"):
        critic = fit_separable_critic(fit, calibrate, objective=objective, **SMALL)
        error = (critic(x, y) - pmi)[usual]
        if objective == "js":
            assert abs(error.mean()) < 0.15
        assert error.std() < 0.35  # of scores whose own is 1.3


def test_independent_sides_give_nothing_on_held_out_pairs():
    fit, calibrate, (x, y) = split(normals(2800, 8, seed=0), normals(2800, 5, seed=1))
    critic = fit_separable_critic(fit, calibrate, **SMALL)
    assert naive_infonce(critic(x, y)) < 0.02
    assert -1e-6 <= critic.calibration_infonce_nats < 0.05
    # the last epoch learned noise by heart, and an earlier one came back
    assert critic.calibration_infonce_nats == pytest.approx(naive_infonce(critic(*calibrate)), abs=1e-5)


def test_same_seed_same_critic_and_the_best_seed_is_kept(folded):
    (fit, calibrate, (x, y)), _ = folded
    torch.manual_seed(5)
    before = torch.get_rng_state()
    options = SMALL | {"epochs": 2}
    alone = [fit_separable_critic(fit, calibrate, **options | {"seeds": (seed,)}) for seed in (3, 4)]
    assert torch.equal(before, torch.get_rng_state())
    torch.manual_seed(6)
    both = fit_separable_critic(fit, calibrate, **options | {"seeds": (3, 4)})
    best = max(alone, key=lambda critic: critic.calibration_infonce_nats)
    assert both.seed == best.seed and both.calibration_infonce_nats == best.calibration_infonce_nats
    assert torch.equal(both(x, y), best(x, y)) and not torch.equal(alone[0](x, y), alone[1](x, y))


def test_units_and_offsets_of_the_features_do_not_matter(folded):
    (fit, calibrate, (x, y)), _ = folded
    options = SMALL | {"epochs": 1}
    plain = fit_separable_critic(fit, calibrate, **options)(x, y)
    moved = [Pairs(pairs.x * 1024 + 2**20, pairs.y / 1024) for pairs in (fit, calibrate, Pairs(x, y))]
    found = fit_separable_critic(*moved[:2], **options)(*moved[2])
    torch.testing.assert_close(found, plain, atol=1e-4, rtol=0)  # float32 after 4 steps


def test_one_outlier_does_not_move_the_rest(folded, folded_critic):
    (_, _, (x, y)), _ = folded
    far = torch.cat([x[:1] * 0 + 1e6, x[1:300]])
    near = torch.cat([x[:1] * 0 + 10.0, x[1:300]])  # both are cut at 5 standard deviations
    assert torch.equal(folded_critic(far, y[:300]), folded_critic(near, y[:300]))


def test_runs_inside_inference_mode_and_autocast(folded):
    (fit, calibrate, (x, y)), _ = folded
    options = SMALL | {"epochs": 1}
    plain = fit_separable_critic(fit, calibrate, **options)(x, y)
    with torch.inference_mode(), torch.autocast("cpu", torch.bfloat16):
        inside = [Pairs(pairs.x.clone(), pairs.y.clone()) for pairs in (fit, calibrate)]
        assert torch.equal(fit_separable_critic(*inside, **options)(x, y), plain)


def damaged(pairs, value):
    x = pairs.x.clone()
    x[3] = value
    return Pairs(x, pairs.y)


@pytest.mark.parametrize(
    "change, message",
    [
        (lambda f, c: (Pairs(f.x[:1999], f.y[:1999]), c, {}), "at least 2000 rows of x to fit, got 1999"),
        (lambda f, c: (f, Pairs(c.x[:1], c.y[:1]), {}), "at least 100 rows of x to calibrate, got 1"),
        (lambda f, c: (Pairs(f.x, c.y), c, {}), "rows of y to fit, got 400"),
        (lambda f, c: (f, Pairs(c.x, c.y[:399]), {}), "got 400 and 399 rows"),
        (lambda f, c: (damaged(f, math.nan), c, {}), "NaN or infinity in 1 of 2000 rows"),
        (lambda f, c: (f, damaged(c, math.inf), {}), "NaN or infinity in 1 of 400 rows"),
        (lambda f, c: (Pairs(f.x * 0 + 2, f.y), c, {}), "x to fit that vary"),
        (lambda f, c: (f, Pairs(c.x.repeat(1, 2), c.y), {}), r"expected features of shape \(n, 1\)"),
        (lambda f, c: (f, c, {"objective": "nwj"}), "infonce, js, got nwj"),
        (lambda f, c: (f, c, {"seeds": ()}), "at least one seed"),
    ],
)
def test_refuses(folded, change, message):
    (fit, calibrate, _), _ = folded
    fit, calibrate, options = change(fit, calibrate)
    with pytest.raises(ValueError, match=message):
        fit_separable_critic(fit, calibrate, **SMALL | options)


def test_refuses_other_widths_when_scoring(folded, folded_critic):
    (_, _, (x, y)), _ = folded
    with pytest.raises(ValueError, match=r"shape \(n, 1\) as fitted, got \(2000, 2\)"):
        folded_critic(x.repeat(1, 2), y)


def test_a_column_that_does_not_vary_is_no_harm(folded):
    (fit, calibrate, (x, y)), _ = folded
    wide = [Pairs(torch.cat([x, 7 * torch.ones_like(x)], 1), y) for x, y in (fit, calibrate, (x, y))]
    scores = fit_separable_critic(*wide[:2], **SMALL | {"epochs": 8})(*wide[2])
    assert scores.isfinite().all() and naive_infonce(scores[:300, :300]) > 0.1
