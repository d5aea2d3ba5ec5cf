import math

import pytest
import torch
from reference.losses import naive_linear_gaussian_bound

from clipib.information.conditional import (
    STRENGTHS,
    LinearGaussian,
    choose_ridge,
    conditional_bounds,
    fit_linear_gaussian,
    linear_gaussian_bound,
    linear_gaussian_divergences,
    trace_bound,
)


def normal(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def halves(n):
    rows = torch.randperm(n, generator=torch.Generator().manual_seed(9))
    return {"fit_rows": rows[: n // 2], "evaluate_rows": rows[n // 2 :]}


def gaussian_world(n, width=3, others=2, seed=0):
    """z = sum A_k z'_k + c + N(0, R): rows, and R."""
    given = [normal(n, width, seed=seed + k) for k in range(others)]
    given[-1] = given[-1] + 0.5 * given[0]
    root = normal(width, width, seed=100) / 2
    own = 3 + normal(n, width, seed=seed + 50) @ root.T
    own = own + sum(other @ normal(width, width, seed=101 + k) for k, other in enumerate(given))
    return own, given, root @ root.T


def exact(residual, sigma):
    return float(torch.logdet(torch.eye(len(residual), dtype=torch.float64) + residual / sigma**2)) / 2


@pytest.mark.parametrize("others", [1, 2])
def test_linear_gaussian_reaches_the_closed_form_and_the_trace_form_its_own(others):
    own, given, residual = gaussian_world(200_000, others=others)
    for found in conditional_bounds(own, given, **halves(len(own)), sigmas=[0.3, 1.0]):
        truth = exact(residual, found.sigma)
        assert found.logdet_nats == pytest.approx(truth, rel=0.01)
        assert found.ridge_nats == pytest.approx(float(residual.trace()) / (2 * found.sigma**2), rel=0.01)
        assert truth < found.ridge_nats < found.centred_nats < found.raw_nats
        errors = found.samples.std(0) / len(found.samples) ** 0.5
        assert found.logdet_nats > truth - 3 * float(errors[3])


def test_a_residual_of_plus_or_minus_one_keeps_the_order_of_the_page():
    """z = z' + r with r = +-1 and sigma = 0.7: exact 0.5047 <= logdet 0.5561 <= trace 1.0204."""
    x = torch.linspace(-8, 8, 20_001, dtype=torch.float64)
    density = sum(torch.exp(-((x - r) ** 2) / 0.98) for r in (-1, 1)) / (2 * math.sqrt(0.98 * math.pi))
    truth = float(torch.trapezoid(-torch.xlogy(density, density), x)) - 0.5 * math.log(2 * math.pi * math.e * 0.49)
    assert truth == pytest.approx(0.5047, abs=5e-5)
    other = 3 * normal(20_000, 1)
    found = conditional_bounds(other + normal(20_000, 1, seed=1).sign(), [other], **halves(20_000), sigmas=[0.7])[0]
    assert exact(torch.eye(1, dtype=torch.float64), 0.7) == pytest.approx(0.5561, abs=5e-5)
    # r^2 is 1 in every row: what is left is the error of two fitted numbers, 2 / 10,000 of the trace form.
    assert found.logdet_nats == pytest.approx(0.5561, abs=1e-3)
    assert truth < found.logdet_nats < found.ridge_nats == pytest.approx(1.0204, abs=1e-3)


def test_the_gap_is_the_difference_of_raw_and_centred():
    own, given, _ = gaussian_world(501)
    rows = halves(501)
    difference = own - (given[0] + given[1]) / 2
    offset, here = difference[rows["fit_rows"]].mean(0), difference[rows["evaluate_rows"]].mean(0)
    for found in conditional_bounds(own, given, **rows):
        # E |d|^2 - E |d - b|^2 = |E d|^2 - |E d - b|^2
        gap = float(here.square().sum() - (here - offset).square().sum()) / (2 * found.sigma**2)
        assert found.raw_nats - found.centred_nats == pytest.approx(gap, rel=1e-12)


def test_an_offset_is_no_information():
    own = normal(400, 5)
    found = conditional_bounds(own, [own - 2], **halves(400), sigmas=[0.5])[0]
    assert found.raw_nats == pytest.approx(4 * 5 / (2 * 0.25), rel=1e-12)
    assert max(abs(x) for x in (found.centred_nats, found.ridge_nats, found.logdet_nats)) < 1e-12


@pytest.mark.parametrize("n, width", [(7, 1), (31, 5), (63, 7)])
def test_every_column_equals_loops_over_rows(n, width):
    own, given, _ = gaussian_world(n, width)
    rows = halves(n)
    found = conditional_bounds(own.float(), [x.float() for x in given], **rows, sigmas=[0.4])[0]
    own, given = own.float().double(), [x.float().double() for x in given]
    fit, judged = rows["fit_rows"].tolist(), rows["evaluate_rows"].tolist()
    difference = [own[i] - (given[0][i] + given[1][i]) / 2 for i in range(n)]
    offset = sum(difference[i] for i in fit) / len(fit)
    weight, bias, _ = penalised(own, given, fit, found.strength)
    covariance = 0.16 * torch.eye(width, dtype=torch.float64)
    for i in fit:
        w, b, _ = penalised(own, given, fit, found.strength, leave_out=i)
        r = own[i] - w @ torch.cat([given[0][i], given[1][i]]) - b
        covariance = covariance + torch.outer(r, r) / len(fit)
    joined = torch.cat(given, 1)
    for row, i in enumerate(judged):
        guess = weight @ joined[i] + bias
        expected = [float(x.square().sum()) / 0.32 for x in (difference[i], difference[i] - offset, own[i] - guess)]
        q = LinearGaussian(weight, bias, covariance)
        expected.append(float(naive_linear_gaussian_bound(own[[i]], joined[[i]], q, 0.16)))
        assert found.samples[row].tolist() == pytest.approx(expected, rel=1e-8)
    assert found[1:5] == pytest.approx(found.samples.mean(0).tolist(), rel=1e-12)


def penalised(own, given, rows, strength, leave_out=None):
    """W, b by least squares with the ridge as rows of its own; the penalty stays that of all rows."""
    x, z = torch.cat(given, 1), own
    width, k = z.shape[1], len(given)
    ridge = strength * float(x[rows].var(0, correction=0).mean()) * len(rows)
    kept = [i for i in rows if i != leave_out]
    d = z[kept] - sum(g[kept] for g in given) / k
    eye = torch.eye(k * width, dtype=torch.float64)
    design = torch.cat([x[kept], torch.ones(len(kept), 1, dtype=torch.float64)], 1)
    pull = torch.cat([ridge**0.5 * eye, torch.zeros(k * width, 1, dtype=torch.float64)], 1)
    target = torch.cat([d, torch.zeros(k * width, width, dtype=torch.float64)])
    solution = torch.linalg.lstsq(torch.cat([design, pull]), target).solution
    middle = torch.eye(width, dtype=torch.float64).repeat(1, k) / k
    return solution[:-1].T + middle, solution[-1], ridge


@pytest.mark.parametrize("others", [1, 3])
def test_residuals_that_leave_a_row_out_equal_separate_fits(others):
    own, given, _ = gaussian_world(13, 2, others)
    strength, residuals = choose_ridge(own, given)
    joined = torch.cat(given, 1)
    errors = {}
    for s in STRENGTHS:
        rows = []
        for i in range(13):
            w, b, _ = penalised(own, given, list(range(13)), s, leave_out=i)
            rows.append(own[i] - w @ joined[i] - b)
        errors[s] = float(torch.stack(rows).square().mean())
        if s == strength:
            assert float((residuals - torch.stack(rows)).abs().max()) < 1e-9
    assert strength == min(errors, key=errors.get)


def test_the_mean_of_the_others_is_the_guess_where_nothing_better_can_be_learnt():
    middle = normal(60, 20)
    own = middle + normal(60, 20, seed=1)
    found = conditional_bounds(own, [middle], **halves(60))[0]
    assert found.strength >= 10
    assert found.ridge_nats == pytest.approx(found.centred_nats, rel=0.02)  # a ridge of 10 leaves 1 / 11 of W


def test_the_log_det_of_the_judged_rows_own_covariance_is_no_bound_and_ours_is():
    """64 judged rows of width 16: the plain form falls short by the size that the docstring gives."""
    width, n, sigma, draws = 16, 64, 0.5, 100
    eye = torch.eye(width, dtype=torch.float64)
    truth, plain, ours = exact(eye, sigma), [], []
    for seed in range(draws):
        residual = normal(2 * n, width, seed=seed)
        own, rows = residual[n:], torch.arange(2 * n)
        plain.append(exact(own.T @ own / n, sigma))
        found = conditional_bounds(
            residual,
            [normal(2 * n, width, seed=999 + seed) * 1e-3],
            fit_rows=rows[:n],
            evaluate_rows=rows[n:],
            sigmas=[sigma],
        )[0]
        ours.append(found.logdet_nats)
    plain, ours = torch.tensor(plain), torch.tensor(ours)
    ratio = 1 / (1 + sigma**2)
    predicted = ((width * ratio) ** 2 + width * ratio**2) / (4 * n)
    # The next order in width / n is a fifth of the first here.
    assert truth - float(plain.mean()) == pytest.approx(predicted, rel=0.3)
    assert truth - float(plain.mean()) > 5 * float(plain.std()) / draws**0.5
    assert float(ours.mean()) > truth - 2 * float(ours.std()) / draws**0.5


def test_more_dimensions_than_rows_stays_a_bound():
    own, given, residual = gaussian_world(40, 30)
    for found in conditional_bounds(own, given, **halves(40)):
        assert exact(residual, found.sigma) < found.logdet_nats < float("inf")


def test_scale_rotation_and_the_order_of_rows_and_of_others_change_nothing():
    own, given, _ = gaussian_world(101, 3)
    rows = halves(101)
    turn = torch.linalg.qr(normal(3, 3, seed=7)).Q
    base = conditional_bounds(own, given, **rows, sigmas=[0.3])[0][1:5]
    changed = [
        conditional_bounds(own * 10, [x * 10 for x in given], **rows, sigmas=[3.0])[0],
        conditional_bounds(own @ turn, [x @ turn for x in given], **rows, sigmas=[0.3])[0],
        conditional_bounds(own, given[::-1], **rows, sigmas=[0.3])[0],
        conditional_bounds(own, given, **{k: v.flip(0) for k, v in rows.items()}, sigmas=[0.3])[0],
    ]
    for found in changed:
        assert found[1:5] == pytest.approx(base, rel=1e-9)


def test_the_moment_form_equals_least_squares_with_several_others():
    own, given, _ = gaussian_world(63, 3, 3)
    joined = torch.cat([own, *given], 1)
    mean, covariance = joined.mean(0), torch.cov(joined.T, correction=0)
    strength = 0.1
    ridge = strength * float(covariance.diagonal()[3:].mean()) * 3
    q = fit_linear_gaussian(mean, covariance, torch.tensor(0.2), others=3, ridge=ridge)
    weight, bias, _ = penalised(own, given, list(range(63)), strength)
    residual = own - torch.cat(given, 1) @ weight.T - bias
    torch.testing.assert_close(q.weight, weight, rtol=0, atol=1e-10)
    torch.testing.assert_close(q.bias, bias, rtol=0, atol=1e-10)
    expected = residual.T @ residual / 63 + torch.tensor(0.2).double() * torch.eye(3, dtype=torch.float64)
    torch.testing.assert_close(q.covariance, expected, rtol=0, atol=1e-10)


def test_the_mean_over_rows_is_the_bound_and_an_isotropic_guess_is_the_trace_form():
    z, other = normal(7, 3), normal(7, 6, seed=1)
    variance = torch.tensor(0.3, dtype=torch.float64)
    q = LinearGaussian(normal(3, 6, seed=2), normal(3, seed=3), torch.eye(3, dtype=torch.float64) * 2)
    bound = linear_gaussian_bound(z, other, q, variance)
    torch.testing.assert_close(linear_gaussian_divergences(z, other, q, variance).mean(), bound, rtol=1e-12, atol=0)
    same = q._replace(covariance=variance * torch.eye(3, dtype=torch.float64))
    trace = trace_bound(z, other @ q.weight.T + q.bias, variance)
    torch.testing.assert_close(linear_gaussian_bound(z, other, same, variance), trace, rtol=1e-12, atol=0)


@pytest.mark.parametrize(
    "change, message",
    [
        ({"own": normal(20, 4)}, "equal shapes"),
        ({"others": []}, "two or more"),
        ({"own": normal(20, 3) * torch.nan}, "NaN"),
        ({"others": [torch.ones(20, 3)]}, "that vary"),
        ({"sigmas": [0.1, 0.0]}, "sigma above 0, got 0.0"),
        ({"fit_rows": torch.tensor([0])}, "fit_rows"),
        ({"evaluate_rows": torch.tensor([11, 20])}, r"in \[0, 20\), got 11 to 20"),
        ({"evaluate_rows": torch.tensor([9, 11])}, "1 shared rows"),
        ({"evaluate_rows": torch.ones(20, dtype=torch.bool)}, "int64"),
    ],
)
def test_input_that_would_give_a_wrong_number_is_refused(change, message):
    good = {"own": normal(20, 3), "others": [normal(20, 3, seed=1)], "fit_rows": torch.arange(10)}
    arguments = {**good, "evaluate_rows": torch.arange(10, 20), **change}
    with pytest.raises(ValueError, match=message):
        conditional_bounds(arguments.pop("own"), arguments.pop("others"), **arguments)
