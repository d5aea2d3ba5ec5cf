import math

import pytest
import torch

from clipib.information.logistic import (
    STRENGTHS,
    Rows,
    Softmax,
    choose_logistic,
    cross_entropies,
    fit_logistic,
    log_probabilities,
    standardise,
    turn,
)


def draw(n, width, classes, *, seed=0, signal=1.0):
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(n, width, generator=generator, dtype=torch.float64)
    weight = signal * torch.randn(width, classes, generator=generator, dtype=torch.float64)
    return Rows(x, torch.multinomial(torch.softmax(x @ weight, 1), 1, generator=generator)[:, 0])


def test_without_features_it_is_the_rule_of_laplace():
    labels = torch.tensor([0, 0, 2, 2, 2, 3])  # of 5 values, two are never seen
    model = fit_logistic(torch.zeros(6, 0, dtype=torch.float64), labels, classes=5, strength=1.0)
    expected = torch.tensor([3, 1, 4, 2, 1], dtype=torch.float64) / 11
    torch.testing.assert_close(model.bias.exp(), expected, rtol=0, atol=1e-12)


@pytest.mark.parametrize("classes", [2, 3, 7])
@pytest.mark.parametrize("strength", [0.1, 3.0, 200.0])
def test_it_equals_scikit_learn(classes, strength):
    from sklearn.linear_model import LogisticRegression

    x, labels = draw(63, 5, classes)
    model = fit_logistic(x, labels, classes=classes, strength=strength)
    x_all = torch.cat([x, torch.zeros(classes, 5, dtype=torch.float64)])
    labels_all = torch.cat([labels, torch.arange(classes)])
    # Of two classes scikit-learn fits the difference of the weights, whose square is twice that of both.
    other = LogisticRegression(C=(2 if classes == 2 else 1) / strength, tol=1e-10, max_iter=10_000)
    other.fit(x_all.numpy(), labels_all.numpy())
    found = log_probabilities(model, x).exp()
    # gtol = 1e-5 in units of sqrt(nats): probabilities miss by about as much.
    torch.testing.assert_close(found, torch.from_numpy(other.predict_proba(x.numpy())), rtol=0, atol=3e-5)


def test_the_gradient_of_the_written_objective_vanishes_also_with_a_ridge_per_feature():
    x, labels = draw(63, 4, 3)
    strength = torch.tensor([0.5, 2.0, 0.1, 30.0], dtype=torch.float64)
    model = Softmax(*(w.requires_grad_() for w in fit_logistic(x, labels, classes=3, strength=strength)))
    loss = cross_entropies(log_probabilities(model, x), labels).sum() - torch.log_softmax(model.bias, 0).sum()
    loss = loss + (strength[:, None] * model.weight.square()).sum() / 2
    for gradient in torch.autograd.grad(loss, tuple(model)):
        assert float(gradient.abs().max()) < 1e-4  # gtol times the root of a curvature below 70


def test_the_start_changes_no_result():
    x, labels = draw(130, 7, 3)
    far = Softmax(torch.full((7, 3), 2.0, dtype=torch.float64), torch.tensor([3.0, 0, -3], dtype=torch.float64))
    for strength in (1.0, 50.0):
        a, b = (fit_logistic(x, labels, classes=3, strength=strength, start=start) for start in (None, far))
        torch.testing.assert_close(log_probabilities(a, x), log_probabilities(b, x), rtol=0, atol=1e-4)


def test_classes_that_a_line_parts_stay_finite():
    x = torch.tensor([[-1.0], [-2], [1], [2]], dtype=torch.float64)
    model = fit_logistic(x, torch.tensor([0, 0, 1, 1]), classes=3, strength=0.01)
    code = cross_entropies(log_probabilities(model, 5 * x), torch.tensor([2, 2, 2, 2]))  # never seen
    assert bool(torch.isfinite(code).all())


def test_without_a_ridge_independent_labels_cost_what_the_page_says():
    """d (K - 1) / (2 n) nats for d weights per class, to first order: 0.024 at d=64, K=4, n=4000."""
    costs = []
    for seed in range(4):
        x, labels = draw(24_000, 64, 4, seed=seed, signal=0.0)
        fit, judged = Rows(x[:4000], labels[:4000]), Rows(x[4000:], labels[4000:])
        model = fit_logistic(*fit, classes=4, strength=1e-6)
        without = fit_logistic(fit.features[:, :0], fit.labels, classes=4, strength=0.0)
        codes = [
            cross_entropies(log_probabilities(m, judged.features[:, : len(m.weight)]), judged.labels)
            for m in (model, without)
        ]
        costs.append(float((codes[0] - codes[1]).mean()))
    # The next order adds 6 % (14 % at n=2000), and the mean of four fits spreads by sqrt(2 / 192 / 4) = 5 %.
    assert sum(costs) / 4 == pytest.approx(64 * 3 / 8000, rel=0.2)


def test_the_ridge_is_strong_where_nothing_is_to_learn_and_weak_where_much_is():
    chosen = []
    for signal in (0.0, 10.0):
        x, labels = draw(1000, 8, 3, signal=signal)
        chosen.append(choose_logistic(Rows(x[:500], labels[:500]), Rows(x[500:], labels[500:]), classes=3)[1] / 500)
    assert chosen[0] >= 0.1 and chosen[1] <= 0.01


def test_the_choice_is_the_best_of_all_strengths():
    x, labels = draw(400, 8, 3, signal=0.5)
    fit, calibrate = Rows(x[:200], labels[:200]), Rows(x[200:], labels[200:])
    codes = {}
    for share in STRENGTHS:
        model = fit_logistic(*fit, classes=3, strength=200 * share)
        codes[200 * share] = float(
            cross_entropies(log_probabilities(model, calibrate.features), calibrate.labels).mean()
        )
    assert choose_logistic(fit, calibrate, classes=3)[1] == min(codes, key=codes.get)


def test_standardised_features_and_their_axes():
    x, y = draw(63, 5, 2).features * 3 + 7, draw(7, 5, 2, seed=1).features
    x[:, 2] = y[:, 2] = 0.1
    first, second = standardise(x.float(), y.float())
    assert first.dtype == torch.float64 and bool((first[:, 2] == 0).all()) and bool((second[:, 2] == 0).all())
    keep = [0, 1, 3, 4]
    torch.testing.assert_close(first[:, keep].mean(0), torch.zeros(4, dtype=torch.float64), rtol=0, atol=1e-12)
    torch.testing.assert_close(first[:, keep].std(0, correction=0), torch.ones(4, dtype=torch.float64))
    expected = (y.float().double() - x.float().double().mean(0)) / x.float().double().std(0, correction=0)
    torch.testing.assert_close(second[:, keep], expected[:, keep], rtol=0, atol=1e-12)
    a, b = turn(first, second)
    assert a.shape == (63, 4)  # an axis without spread is left out
    torch.testing.assert_close(b @ a.T, second @ first.T, rtol=0, atol=1e-10)
    gram = a.T @ a
    assert float((gram - gram.diagonal().diag()).abs().max()) < 1e-9


def test_the_turn_changes_no_probability():
    x, labels = draw(20, 31, 3)  # more features than rows
    plain = log_probabilities(fit_logistic(x, labels, classes=3, strength=2.0), x)
    turned = turn(x)[0]
    found = log_probabilities(fit_logistic(turned, labels, classes=3, strength=2.0), turned)
    torch.testing.assert_close(found, plain, rtol=0, atol=1e-4)


def test_features_that_never_vary_are_refused():
    still = torch.full((7, 1), 0.1, dtype=torch.float64)
    assert float(still.std(0, correction=0)) > 0  # the mean of equal numbers is not always that number
    with pytest.raises(ValueError, match="7 equal rows of width 1"):
        standardise(still)


def test_strengths_fall():
    assert list(STRENGTHS) == sorted(STRENGTHS, reverse=True) and math.isclose(STRENGTHS[0], 10)
