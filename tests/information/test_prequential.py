import math

import pytest
import torch

from clipib.information.logistic import fit_logistic, log_probabilities, standardise, turn
from clipib.information.prequential import FRACTIONS, STRENGTHS, laplace_code, prequential_code


def draw(n, width, classes, *, signal, seed=0):
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(n, width, generator=generator, dtype=torch.float64)
    weight = signal * torch.randn(width, classes, generator=generator, dtype=torch.float64)
    return x, torch.multinomial(torch.softmax(x @ weight, 1), 1, generator=generator)[:, 0]


def one_by_one(n):
    return [(i + 1) / n for i in range(n)]


@pytest.mark.parametrize("counts", [(3, 4), (1, 1, 5), (2, 9, 20, 1, 31)])
def test_without_features_and_one_row_at_a_time_it_is_the_rule_of_laplace(counts):
    n, classes = sum(counts), len(counts)
    labels = torch.arange(classes).repeat_interleave(torch.tensor(counts))
    found = prequential_code(torch.zeros(n, 0), labels, fractions=one_by_one(n))
    numerator = math.factorial(n + classes - 1)
    denominator = math.factorial(classes - 1) * math.prod(map(math.factorial, counts))
    expected = math.log(numerator / denominator) / n
    assert found.codes_nats == pytest.approx([expected] * 3, abs=1e-10)
    assert found.laplace_nats == pytest.approx(expected, abs=1e-10)
    assert found.code_nats == pytest.approx(expected, abs=1e-10) and found.spread_nats < 1e-10
    assert found.compression == pytest.approx(math.log(classes) / expected, rel=1e-12)


def test_the_rule_of_laplace_by_counting():
    labels, seen, length = [0, 2, 2, 1, 2, 0, 2], [0, 0, 0, 0], 0.0
    for i, label in enumerate(labels):
        length -= math.log((seen[label] + 1) / (i + 4))
        seen[label] += 1
    assert laplace_code(torch.tensor(seen)) == pytest.approx(length, abs=1e-12)


def test_it_equals_loops_over_blocks_strengths_and_rows():
    x, labels = draw(31, 3, 3, signal=1.0)
    fractions = (0.12, 0.3, 0.55, 1.0)  # 3.7 rows are 4
    found = prequential_code(x, labels, shuffles=2, seed=5, fractions=fractions)
    axes, generator = turn(*standardise(x))[0], torch.Generator().manual_seed(5)
    for length in found.codes_nats:
        order = torch.randperm(31, generator=generator)
        rows, a = axes[order], labels[order]
        codes = []
        for strength in STRENGTHS:
            code = 4 * math.log(3)
            for begin, end in ((4, 9), (9, 17), (17, 31)):
                model = fit_logistic(rows[:begin], a[:begin], classes=3, strength=strength * 3)  # 3 unit variances
                log_p = log_probabilities(model, rows[begin:end])
                code -= sum(float(log_p[i, a[begin + i]]) for i in range(end - begin))
            codes.append(code)
        mixture = -math.log(sum(math.exp(-code) for code in codes) / len(codes))
        assert length == pytest.approx(mixture / 31, abs=1e-5)  # where L-BFGS stops, from two starts
        assert min(codes) / 31 < length < (min(codes) + math.log(len(codes))) / 31


def test_mean_spread_and_compression_are_those_of_the_orders():
    x, labels = draw(63, 2, 4, signal=1.0)
    found = prequential_code(x, labels, shuffles=4)
    mean = sum(found.codes_nats) / 4
    assert found.code_nats == pytest.approx(mean, rel=1e-12) and found.n == 63
    spread = (sum((c - mean) ** 2 for c in found.codes_nats) / 3) ** 0.5
    assert found.spread_nats == pytest.approx(spread, rel=1e-9) and spread > 0
    assert found.compression == pytest.approx(math.log(4) / mean, rel=1e-12)
    assert math.isnan(prequential_code(x, labels, shuffles=1).spread_nats)


def test_easier_features_have_a_shorter_code_and_noise_about_that_of_the_labels():
    generator = torch.Generator().manual_seed(0)
    labels = torch.randint(0, 2, (500,), generator=generator)
    noise = torch.randn(500, 16, generator=generator)
    codes = []
    for signal in (0.0, 0.5, 1.0, 3.0):
        found = prequential_code(
            noise + signal * (2 * labels[:, None] - 1) * (torch.arange(16) == 0), labels, shuffles=1
        )
        codes.append(found.code_nats)
    assert codes == sorted(codes, reverse=True)
    # The mixture costs log 6 in all, the blocks some rows of log 2 / 2: a few hundredths of a nat per row.
    assert found.laplace_nats < codes[0] < found.laplace_nats + 0.03


def test_the_code_exceeds_that_of_the_truth_by_what_learning_costs():
    """A given x = N(+-1, 1), where the true code has log 2 - 0.33683 nats per row in the mean."""
    excess = []
    for n in (100, 1000, 5000):
        generator = torch.Generator().manual_seed(n)
        labels = torch.randint(0, 2, (n,), generator=generator)
        x = 2.0 * labels[:, None] - 1 + torch.randn(n, 1, generator=generator)
        truth = -torch.nn.functional.logsigmoid(2 * x[:, 0] * (2 * labels - 1)).double()
        excess.append(n * (prequential_code(x, labels, shuffles=1).code_nats - float(truth.mean())))
    assert float(truth.mean()) == pytest.approx(math.log(2) - 0.33683, abs=0.03)  # 4 standard errors
    # Two numbers cost log n or so, the mixture log 6, the first block and its coarse followers a few rows.
    assert all(0 < nats < 2 * math.log(n) + 5 for nats, n in zip(excess, (100, 1000, 5000)))


def test_more_dimensions_than_rows_and_a_value_that_comes_late():
    x, labels = draw(63, 130, 2, signal=0.0)
    labels[-1] = 7
    found = prequential_code(x.half(), labels)
    assert math.isfinite(found.code_nats) and 0.5 < found.code_nats < 2 * math.log(3)


def test_one_seed_gives_one_code():
    x, labels = draw(63, 3, 2, signal=1.0)
    found = [prequential_code(x, labels, seed=seed).codes_nats for seed in (0, 0, 1)]
    assert found[0] == found[1] != found[2]


def test_the_blocks_are_those_of_the_paper():
    assert len(FRACTIONS) == 11 and FRACTIONS[0] == 0.001 and FRACTIONS[-1] == 1


@pytest.mark.parametrize(
    "features, labels, options, message",
    [
        (torch.ones(5, 2), torch.arange(4), {}, r"got \(5, 2\) and \(4,\)"),
        (torch.ones(4, 2), torch.arange(4), {}, "4 equal rows"),
        (torch.randn(4, 2) * torch.nan, torch.arange(4), {}, "NaN"),
        (torch.randn(4, 2), torch.ones(4).long(), {}, "two or more values"),
        (torch.randn(4, 2), torch.arange(4), {"fractions": (0.5, 0.9)}, "rise to 1"),
        (torch.randn(4, 2), torch.arange(4), {"fractions": (0.5, 0.2, 1)}, "rise to 1"),
        (torch.randn(4, 2), torch.arange(4), {"shuffles": 0}, "at least one shuffle, got 0"),
    ],
)
def test_input_that_would_give_a_wrong_number_is_refused(features, labels, options, message):
    with pytest.raises(ValueError, match=message):
        prequential_code(features, labels, **options)
