import math

import pytest
import torch
from reference.losses import naive_fit, naive_linear_gaussian_bound
from reference.pairs import assert_same_values_and_gradients, unit_pairs, with_gradient

from clipib.losses.penalty.distance import DistancePenalty
from clipib.losses.penalty.logdet import (
    MOMENTUM,
    RIDGE,
    LinearGaussian,
    LogdetPenalty,
    fit_both,
    fit_linear_gaussian,
    linear_gaussian_bound,
)
from clipib.losses.terms import Paired

SCALE = torch.tensor(14.3)
DISTANCE = DistancePenalty()


def positive_definite(width, generator):
    root = torch.randn(width, width, generator=generator, dtype=torch.float64) / width**0.5
    return root @ root.T + 0.05 * torch.eye(width, dtype=torch.float64)


def exact_sample(covariance, mean, n, generator):
    """(n, W) rows whose mean and covariance are exactly those asked for."""
    x = torch.randn(n, len(covariance), generator=generator, dtype=torch.float64)
    x = x - x.mean(0)
    white = torch.linalg.solve_triangular(torch.linalg.cholesky(x.T @ x / n), x.T, upper=False).T
    return white @ torch.linalg.cholesky(covariance).T + mean


def settled(image, text):
    """A penalty whose averages are the moments of these rows."""
    penalty, joined = LogdetPenalty(), torch.cat([image, text], 1).double()
    penalty.load_state_dict({"mean": joined.mean(0), "second": joined.T @ joined / len(joined)})
    return penalty


def value(penalty, image, text, *, scale=SCALE, training=False):
    return float(penalty(Paired(image, text), logit_scale=scale, training=training).total)


@pytest.mark.parametrize("n", [1, 7, 63, 130])
def test_value_and_gradient_equal_loops_after_some_steps(n):
    past = [unit_pairs(n, seed=seed) for seed in range(1, 5)]
    penalty, sigma2 = LogdetPenalty(), 1 / float(SCALE)
    for batch in past:
        penalty(batch, logit_scale=SCALE)
    paired = with_gradient(unit_pairs(n))
    found = penalty(paired, logit_scale=SCALE).total
    assert found.dtype == torch.float32
    images, texts = [p.image for p in past], [p.text for p in past]
    q_image = naive_fit(list(zip(images, texts)), sigma2, momentum=MOMENTUM, ridge=RIDGE)
    q_text = naive_fit(list(zip(texts, images)), sigma2, momentum=MOMENTUM, ridge=RIDGE)
    expected = naive_linear_gaussian_bound(paired.image, paired.text, q_image, sigma2)
    expected = (expected + naive_linear_gaussian_bound(paired.text, paired.image, q_text, sigma2)) / 2
    assert_same_values_and_gradients(found, expected, paired)


@pytest.mark.parametrize("n", [1, 7, 63])
def test_the_guess_equals_weighted_least_squares_over_the_past(n):
    past = [unit_pairs(n, seed=seed, dtype=torch.float64)[:2] for seed in range(4)]
    penalty, variance = LogdetPenalty(), torch.tensor(0.07, dtype=torch.float64)
    for image, text in past:
        penalty(Paired(image, text), logit_scale=SCALE)
    found = fit_both(penalty.mean, penalty.second, variance)
    for q, batches in zip(found, (past, [(text, image) for image, text in past])):
        for a, b in zip(q, naive_fit(batches, 0.07, momentum=MOMENTUM, ridge=RIDGE)):
            torch.testing.assert_close(a, b, rtol=0, atol=1e-12)  # float64, eigenvalues of 0.1


def test_the_gradient_is_that_of_finite_differences_to_both_sides():
    paired = with_gradient(unit_pairs(dtype=torch.float64))
    penalty = settled(unit_pairs(63).image, unit_pairs(63).text)
    scale = SCALE.double()
    assert torch.autograd.gradcheck(
        lambda u, v: penalty(Paired(u, v), logit_scale=scale, training=False).total, (paired.image, paired.text)
    )


def test_the_first_value_is_distance_and_the_batch_enters_the_average_after_it_was_judged():
    paired, penalty = unit_pairs(63), LogdetPenalty()
    first = float(penalty(paired, logit_scale=SCALE).total)
    assert first == pytest.approx(float(DISTANCE(paired, logit_scale=SCALE).total), rel=1e-6)
    assert float(penalty(paired, logit_scale=SCALE).total) < first


def test_evaluation_changes_no_average():
    paired, penalty = unit_pairs(63), LogdetPenalty()
    penalty(paired, logit_scale=SCALE)
    before = penalty.state_dict()["second"].clone()
    values = {float(penalty(paired, logit_scale=SCALE, training=False).total) for _ in range(3)}
    assert len(values) == 1 and torch.equal(penalty.state_dict()["second"], before)


def test_a_later_scale_enters_at_once():
    image, text = unit_pairs(63)[:2]
    penalty = settled(image, text)
    low, high = (value(penalty, image, text, scale=torch.tensor(s)) for s in (5.0, 50.0))
    for scale, found in ((5.0, low), (50.0, high)):
        assert found == pytest.approx(value(settled(image, text), image, text, scale=torch.tensor(scale)), rel=1e-6)
    assert low < high


def gaussian_world(width=3, sigma2=0.1):
    """z' ~ N(m, S), z = A z' + c + N(0, R), and the information in both directions by its closed form."""
    generator = torch.Generator().manual_seed(1)
    source, residual = positive_definite(width, generator), positive_definite(width, generator) / 4
    a = torch.randn(width, width, generator=generator, dtype=torch.float64)
    shift = torch.randn(width, generator=generator, dtype=torch.float64)
    own = a @ source @ a.T + residual
    joint = torch.cat([torch.cat([own, a @ source], 1), torch.cat([source @ a.T, source], 1)])
    backward = source - source @ a.T @ torch.linalg.solve(own, a @ source)
    eye = torch.eye(width, dtype=torch.float64)
    truth = sum(torch.logdet(eye + r / sigma2) / 2 for r in (residual, backward)) / 2

    def draw(n):
        other = torch.randn(n, width, generator=generator, dtype=torch.float64) @ torch.linalg.cholesky(source).T + 1
        noise = torch.randn(n, width, generator=generator, dtype=torch.float64) @ torch.linalg.cholesky(residual).T
        return (other @ a.T + shift + noise).float(), other.float()

    mean = torch.cat([a @ torch.ones(width, dtype=torch.float64) + shift, torch.ones(width, dtype=torch.float64)])
    return draw, mean, joint, float(truth), sigma2


def test_jointly_gaussian_features_reach_the_closed_form_as_the_average_settles():
    draw, _, _, truth, sigma2 = gaussian_world()
    penalty, scale = LogdetPenalty(), torch.tensor(1 / sigma2)
    values = torch.tensor([value(penalty, *draw(64), scale=scale, training=True) for _ in range(1500)])
    late = values[900:]  # the prior's share is 0.99^900 = 1e-4
    error = float(late.std() / len(late) ** 0.5)
    assert values[0] > 5 * truth
    # The averages judge fresh batches, so their own error adds: 18 fitted numbers each way over 2 * 199 * 64 pairs.
    assert truth - 4 * error < float(late.mean()) < truth + 4 * error + 5e-3


def test_at_the_population_moment_it_is_the_closed_form_and_above_it_for_any_other_guess():
    _, mean, joint, truth, sigma2 = gaussian_world()
    generator = torch.Generator().manual_seed(2)
    width, variance = len(mean) // 2, torch.tensor(sigma2, dtype=torch.float64)
    rows = exact_sample(joint, mean, 50, generator)
    image, text = rows[:, :width], rows[:, width:]
    best, back = fit_both(mean, joint + torch.outer(mean, mean), variance)

    def both(q_image, q_text):
        image_part = linear_gaussian_bound(image, text, q_image, variance)
        return float(image_part + linear_gaussian_bound(text, image, q_text, variance)) / 2

    # The ridge moves W by 3e-4 / eigenvalue, and the value by its square.
    assert truth - 1e-9 <= both(best, back) <= truth + 1e-3
    for trial in range(200):
        size = 10.0 ** -(trial % 4)

        def noise(*shape, size=size):
            return size * torch.randn(*shape, generator=generator, dtype=torch.float64)

        def perturb(q, noise=noise):
            factor = torch.matrix_exp(noise(width, width)) @ torch.linalg.cholesky(q.covariance)
            return LinearGaussian(q.weight + noise(width, width), q.bias + noise(width), factor @ factor.T)

        assert both(perturb(best), perturb(back)) > truth


def test_a_guess_that_is_fixed_bounds_the_information_in_the_mean_over_batches():
    draw, mean, joint, _, sigma2 = gaussian_world()
    variance, width = torch.tensor(sigma2), len(mean) // 2
    q, _ = fit_both(mean, joint + torch.outer(mean, mean), variance)
    exact = float(linear_gaussian_bound(*exact_sample(joint, mean, 50, torch.Generator()).split(width, 1), q, variance))
    for n in (2, 7):  # fewer and more pairs than dimensions
        values = torch.stack([linear_gaussian_bound(*draw(n), q, variance) for _ in range(2000)])
        assert abs(float(values.mean()) - exact) < 4 * float(values.std()) / 2000**0.5


def test_a_covariance_of_the_batch_itself_would_be_no_bound():
    """Why the averages are of the past: fitted on 3 pairs of width 3 the same form says 0 where the truth is above."""
    draw, _, _, truth, sigma2 = gaussian_world()
    variance = torch.tensor(sigma2)
    image, text = (x.double() for x in draw(3))
    joined = torch.cat([image, text], 1)
    own = naive_own_fit(image, text, sigma2)
    assert float(linear_gaussian_bound(image, text, own, variance)) < 1e-6 < truth
    q, _ = fit_both(joined.mean(0), joined.T @ joined / 3, variance)  # with the ridge, all but
    assert float(linear_gaussian_bound(image, text, q, variance)) < truth / 5


def naive_own_fit(z, other, sigma2):
    rows = torch.cat([other, torch.ones(len(z), 1, dtype=torch.float64)], 1)
    solution = torch.linalg.pinv(rows) @ z
    residual = z - rows @ solution
    width = z.shape[1]
    covariance = residual.T @ residual / len(z) + sigma2 * torch.eye(width, dtype=torch.float64)
    return LinearGaussian(solution[:width].T, solution[width], covariance)


def test_the_bound_holds_where_the_residual_is_not_gaussian():
    """z = z' + r with r = +-1 and sigma = 0.7: exact 0.5047 <= logdet 0.5561 <= distance 1.0204."""
    sigma2 = 0.49
    x = torch.linspace(-8, 8, 200_001, dtype=torch.float64)
    density = sum(torch.exp(-((x - r) ** 2) / (2 * sigma2)) for r in (-1, 1)) / (2 * math.sqrt(2 * math.pi * sigma2))
    entropy = torch.trapezoid(-torch.xlogy(density, density), x)
    exact = float(entropy) - 0.5 * math.log(2 * math.pi * math.e * sigma2)
    assert exact == pytest.approx(0.5047, abs=5e-5)

    generator = torch.Generator().manual_seed(3)
    other = 3 * torch.rand(100_000, 1, generator=generator, dtype=torch.float64)
    z = other + (torch.randint(0, 2, other.shape, generator=generator) * 2 - 1)
    variance = torch.tensor(sigma2, dtype=torch.float64)
    past, fresh = slice(0, 50_000), slice(50_000, None)
    joined = torch.cat([z, other], 1)[past]
    q, _ = fit_both(joined.mean(0), joined.T @ joined / len(joined), variance)
    bound = float(linear_gaussian_bound(z[fresh], other[fresh], q, variance))
    # W, b and C miss by some 1 / sqrt(50,000), the value by less.
    assert bound == pytest.approx(0.5561, abs=5e-3)
    assert exact < bound < float(((z - other) ** 2).mean()) / (2 * sigma2) == pytest.approx(1.0204, abs=1e-3)


@pytest.mark.parametrize("seed", range(10))
def test_at_the_optimum_logdet_is_at_most_the_trace_and_that_at_most_distance(seed):
    image, text = unit_pairs(130, 7, seed=seed, dtype=torch.float64)[:2]
    penalty, sigma2 = settled(image, text), 1 / float(SCALE)
    logdet = value(penalty, image, text)
    variance, trace = torch.tensor(sigma2, dtype=torch.float64), 0.0
    for q in fit_both(penalty.mean, penalty.second, variance):
        trace += float(q.covariance.trace() - 7 * sigma2) / (2 * sigma2) / 2
    assert 0 < logdet < trace < float(DISTANCE(Paired(image, text), logit_scale=SCALE).total)


@pytest.mark.parametrize("change", ["offset", "rotation"])
def test_it_does_not_pull_together_two_clouds_that_say_the_same(change):
    image = unit_pairs(130).image.double()
    turn = torch.linalg.qr(torch.randn(5, 5, generator=torch.Generator().manual_seed(4), dtype=torch.float64)).Q
    text = image + 0.4 if change == "offset" else image @ turn
    image, text = image.requires_grad_(), text.detach().requires_grad_()
    pull = {}
    for name, penalty in (("logdet", settled(image.detach(), text.detach())), ("distance", DISTANCE)):
        total = penalty(Paired(image, text), logit_scale=SCALE, training=False).total
        pull[name] = max(float(g.abs().max()) for g in torch.autograd.grad(total, (image, text)))
    # What is left is the ridge: 1e-3 / D against eigenvalues of some 1 / D.
    assert pull["logdet"] < 1e-2 * pull["distance"]


def test_what_the_other_side_does_not_support_is_pulled():
    """Text is the first 3 coordinates; the gradient reaches the other coordinates of the image."""
    image = torch.randn(130, 5, generator=torch.Generator().manual_seed(5))
    text = image.clone()
    text[:, 3:] = 0
    penalty = settled(image, text)
    image.requires_grad_()
    total = penalty(Paired(image, text), logit_scale=SCALE, training=False).total
    gradient = torch.autograd.grad(total, image)[0]
    assert float(gradient[:, 3:].abs().max()) > 100 * float(gradient[:, :3].abs().max())
    assert (gradient[:, 3:] * image.detach()[:, 3:]).sum() > 0  # downhill is towards less


def test_a_saved_average_goes_on_with_the_same_numbers():
    batches = [unit_pairs(7, seed=seed) for seed in range(6)]
    whole, first, second = LogdetPenalty(), LogdetPenalty(), LogdetPenalty()
    expected = [float(whole(b, logit_scale=SCALE).total) for b in batches]
    found = [float(first(b, logit_scale=SCALE).total) for b in batches[:3]]
    state = first.state_dict()
    first(batches[5], logit_scale=SCALE)  # must not reach what was handed out
    second.load_state_dict(state)
    assert found + [float(second(b, logit_scale=SCALE).total) for b in batches[3:]] == expected
    fresh = LogdetPenalty()
    fresh.load_state_dict(LogdetPenalty().state_dict())
    assert float(fresh(batches[0], logit_scale=SCALE).total) == expected[0]


def test_features_that_never_change_are_no_trouble():
    still = torch.nn.functional.normalize(torch.ones(7, 5), dim=-1)
    penalty = LogdetPenalty()
    values = [value(penalty, still, -still, training=True) for _ in range(3000)]
    # What is left is the ridge and 0.99^3000.
    assert math.isfinite(values[-1]) and values[-1] == pytest.approx(0, abs=1e-3)


def test_a_feature_that_is_nan_makes_the_value_nan():
    paired, penalty = unit_pairs(), LogdetPenalty()
    broken = paired._replace(image=paired.image * torch.nan)
    assert math.isnan(float(penalty(broken, logit_scale=SCALE).total))
    assert math.isnan(float(penalty(paired, logit_scale=SCALE).total))


def test_moments_that_no_data_have_give_nan():
    fitted = fit_linear_gaussian(torch.zeros(10).double(), -torch.eye(10).double(), 1 / SCALE)
    assert all(x.isnan().all() for x in fitted[:2])


def test_more_dimensions_than_pairs():
    image, text = unit_pairs(7, 64)[:2]
    penalty = settled(image, text)
    fitted = fit_linear_gaussian(penalty.mean, penalty.second - torch.outer(penalty.mean, penalty.mean), 1 / SCALE)
    assert float(torch.linalg.eigvalsh(fitted.covariance).min()) >= 1 / float(SCALE) - 1e-9
    assert math.isfinite(value(penalty, *unit_pairs(7, 64, seed=1)[:2]))
