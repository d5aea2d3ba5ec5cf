import math

import pytest
import torch

from clipib.information.v_information import FAMILIES, Labelled, v_information

SIZES = (1000, 1000, 20_000)


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def normal(n, width, seed=0):
    return torch.randn(n, width, generator=generator(seed), dtype=torch.float64)


def split(features, labels, given=None, sizes=SIZES):
    parts = [x.split(sizes) for x in (features, labels)]
    return [Labelled(x, a, g) for x, a, g in zip(*parts, [None] * 3 if given is None else given.split(sizes))]


def bits(n, seed, p=0.5):
    return (torch.rand(n, generator=generator(seed)) < p).long()


def information_of_two_gaussians(p):
    """I(A; X) for P(A = 1) = p and X = N(+-1, 1), by integration."""
    x = torch.linspace(-12, 12, 100_001, dtype=torch.float64)
    low, high = (torch.exp(-((x - m) ** 2) / 2) / math.sqrt(2 * math.pi) for m in (-1, 1))
    mixed = (1 - p) * low + p * high
    return float(torch.trapezoid((1 - p) * torch.xlogy(low, low / mixed) + p * torch.xlogy(high, high / mixed), x))


@pytest.mark.parametrize("family", FAMILIES)
def test_two_gaussians_reach_the_closed_form(family):
    label = bits(sum(SIZES), 1)
    found = v_information(*split(2.0 * label[:, None] - 1 + normal(sum(SIZES), 1), label), family=family)
    assert information_of_two_gaussians(0.5) == pytest.approx(0.33683, abs=5e-6)
    # The standard error is 0.004; what 1,000 rows miss is 1 / 1,000 for the line and more for the mlp.
    assert found.value_nats == pytest.approx(0.33683, abs=0.01)
    assert found.value_nats == pytest.approx(0.33683, abs=4 * found.standard_error_nats)
    assert found.h_without_nats == pytest.approx(math.log(2), abs=1e-3)
    assert found.entropy_share == pytest.approx(found.value_nats / found.h_without_nats, rel=1e-12)
    assert found.accuracy == pytest.approx(0.8413, abs=0.01)  # Phi(1)
    assert found.majority_share == pytest.approx(0.5, abs=0.02)


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("seed", range(3))
def test_an_independent_attribute_is_zero_within_three_errors_and_is_not_clipped(family, seed):
    sizes = (500, 200, 5000)
    label = torch.randint(0, 4, (sum(sizes),), generator=generator(seed))
    found = v_information(*split(normal(sum(sizes), 64, seed + 10), label, sizes=sizes), family=family)
    assert -0.02 < found.value_nats <= 3 * found.standard_error_nats
    if family == "logistic":
        assert found.value_nats != 0


def test_a_discrete_feature_gives_the_information_of_the_table():
    table = torch.tensor([[0.20, 0.05, 0.05], [0.02, 0.28, 0.10], [0.08, 0.02, 0.20]], dtype=torch.float64)
    truth = float((table * (table / table.sum(0) / table.sum(1, keepdim=True)).log()).sum())
    cells = torch.multinomial(table.flatten(), 22_000, replacement=True, generator=generator())
    z, label = torch.nn.functional.one_hot(cells // 3, 3), cells % 3
    for family in FAMILIES:
        found = v_information(*split(z, label), family=family)
        assert found.value_nats == pytest.approx(truth, abs=4 * found.standard_error_nats)


def test_the_value_is_the_mean_of_the_differences_and_their_spread_its_error():
    label = bits(320, 1)
    found = v_information(*split(label[:, None] + normal(320, 7), label, sizes=(200, 57, 63)))
    d = found.differences.tolist()
    mean = sum(d) / 63
    assert found.n == len(d) == 63 and found.value_nats == pytest.approx(mean, rel=1e-12)
    assert found.standard_error_nats == pytest.approx((sum((x - mean) ** 2 for x in d) / 62 / 63) ** 0.5, rel=1e-12)
    assert found.value_nats == pytest.approx(found.h_without_nats - found.h_with_nats, rel=1e-9)
    assert found.majority_share == pytest.approx(float((label[-63:] == label[:200].mode().values).double().mean()))


def test_without_features_the_code_is_that_of_the_rule_of_laplace():
    label = torch.tensor([0, 0, 0, 1] * 5 + [0, 1] * 3 + [0, 1, 2])
    found = v_information(*split(normal(29, 2), label, sizes=(20, 6, 3)))
    expected = -(math.log(16 / 23) + math.log(6 / 23) + math.log(1 / 23)) / 3  # 2 was not seen
    assert found.h_without_nats == pytest.approx(expected, abs=1e-9)


@pytest.mark.parametrize("family", FAMILIES)
def test_the_error_covers_the_truth_over_fresh_draws(family):
    """4 of 5 draws or more within 2 errors; what 300 rows miss is a fraction of one."""
    sizes, hits = (300, 200, 500), 0
    for seed in range(5):
        label = bits(1000, seed)
        found = v_information(
            *split(2.0 * label[:, None] - 1 + normal(1000, 1, seed + 50), label, sizes=sizes), family=family
        )
        hits += abs(found.value_nats - 0.33683) < 2 * found.standard_error_nats
    assert hits >= 4


@pytest.mark.parametrize("family", FAMILIES)
def test_what_features_say_through_shared_content_alone_is_taken_out(family):
    shared = bits(sum(SIZES), 1)
    label = shared ^ bits(sum(SIZES), 2, 0.2)
    features = shared[:, None] * 2.0 + normal(sum(SIZES), 8)
    given = torch.nn.functional.one_hot(shared, 2)
    plain = v_information(*split(features, label), family=family)
    assert plain.value_nats > 0.05
    found = v_information(*split(features, label, given), family=family)
    assert abs(found.value_nats) < 3 * found.standard_error_nats + 2e-3
    entropy = -0.2 * math.log(0.2) - 0.8 * math.log(0.8)
    assert found.h_without_nats == pytest.approx(entropy, abs=0.015)  # 4 standard errors, 0.55 / sqrt(20,000) each
    assert found.majority_share == pytest.approx(0.8, abs=0.012)


@pytest.mark.parametrize("family", FAMILIES)
def test_what_they_say_beyond_it_is_the_conditional_information(family):
    shared = bits(sum(SIZES), 1)
    label = shared ^ bits(sum(SIZES), 2, 0.2)
    features = 2.0 * label[:, None] - 1 + normal(sum(SIZES), 1)
    found = v_information(*split(features, label, torch.nn.functional.one_hot(shared, 2)), family=family)
    truth = information_of_two_gaussians(0.2)
    assert found.value_nats == pytest.approx(truth, abs=0.01)
    assert found.value_nats < v_information(*split(features, label), family=family).value_nats


def test_what_is_given_is_not_shrunk_with_many_features_that_say_nothing():
    """With one ridge for all, 64 columns of noise would cost what the given column says."""
    sizes = (400, 200, 5000)
    shared = bits(sum(sizes), 1)
    label = shared ^ bits(sum(sizes), 2, 0.05)
    given = torch.nn.functional.one_hot(shared, 2)
    found = v_information(*split(normal(sum(sizes), 64), label, given, sizes))
    assert abs(found.value_nats) < 5e-3 < 0.1 < math.log(2) - found.h_without_nats


def test_only_the_mlp_reads_an_exclusive_or():
    sizes = (1000, 300, 2000)
    x = normal(sum(sizes), 2)
    splits = split(x, ((x[:, 0] * x[:, 1]) > 0).long(), sizes=sizes)
    assert v_information(*splits).value_nats < 0.01
    assert v_information(*splits, family="mlp").value_nats > 0.5


def test_the_mlp_reads_what_features_and_shared_content_say_together_alone():
    sizes = (1000, 300, 1000)
    x, shared = normal(sum(sizes), 1), bits(sum(sizes), 1)
    splits = split(x, (x[:, 0] > 0).long() ^ shared, torch.nn.functional.one_hot(shared, 2), sizes)
    assert v_information(*splits, family="mlp").value_nats > 0.5


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_names_of_values_scale_offset_and_type_do_not_matter(dtype):
    label = torch.randint(0, 3, (700,), generator=generator())
    features = (label[:, None] + normal(700, 5)).to(torch.bfloat16).to(torch.float16)
    sizes = (400, 100, 200)
    base = v_information(*split(features.double(), label, sizes=sizes))
    renamed = v_information(*split(features.to(dtype) * 4, torch.tensor([7, -2, 100])[label], sizes=sizes))
    moved = v_information(*split(features.double() * torch.arange(1, 6) - 9, label.int(), sizes=sizes))
    for found in (renamed, moved):
        assert found.value_nats == pytest.approx(base.value_nats, abs=1e-5)  # where L-BFGS stops


def test_one_seed_gives_one_value():
    label = bits(500, 1)
    splits = split(label[:, None] + normal(500, 3), label, sizes=(200, 100, 200))
    values = [v_information(*splits, family="mlp", seed=seed).value_nats for seed in (0, 0, 1)]
    assert values[0] == values[1] != values[2]


def change(splits, name, **fields):
    return [s._replace(**fields) if n == name else s for n, s in zip(("fit", "calibrate", "evaluate"), splits)]


def test_input_that_would_give_a_wrong_number_is_refused():
    good = split(normal(60, 3), torch.arange(60) % 2, sizes=(20, 20, 20))
    bad = {
        "expected one of logistic, mlp, got 'line'": (good, "line"),
        "NaN or infinite values": (change(good, "evaluate", features=normal(20, 3) / 0), "logistic"),
        "calibrate with two or more values": (change(good, "calibrate", labels=torch.ones(20).long()), "logistic"),
        r"20 equal rows of width 3": (change(good, "fit", features=torch.ones(20, 3)), "logistic"),
        r"fit of \(n, d\), \(n, s\) and \(n,\), got \(20, 3\), \(20, 0\) and \(19,\)": (
            change(good, "fit", labels=torch.arange(19) % 2),
            "logistic",
        ),
        r"evaluate as wide as fit, \(20, 3\), got \(20, 4\)": (change(good, "evaluate", features=normal(20, 4)), "mlp"),
        "calibrate as wide as fit": (change(good, "calibrate", given=torch.ones(20, 2)), "mlp"),
    }
    for message, (splits, family) in bad.items():
        with pytest.raises(ValueError, match=message):
            v_information(*splits, family=family)


@pytest.mark.parametrize("seed", range(4))
def test_a_signal_of_little_spread_is_found_behind_loud_noise(seed):
    generator = torch.Generator().manual_seed(seed)
    labels = torch.randint(4, (1400,), generator=generator)
    loud = 3 * torch.randn(1400, 20, generator=generator) @ torch.randn(20, 40, generator=generator)
    x = loud + 0.2 * torch.randn(4, 40, generator=generator)[labels] + 0.02 * torch.randn(1400, 40, generator=generator)
    splits = [Labelled(x[a:b], labels[a:b]) for a, b in ((0, 700), (700, 800), (800, 1400))]
    assert v_information(*splits).value_nats > 1.0  # of log 4
