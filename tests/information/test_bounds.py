import itertools
import math

import pytest
import torch
from reference.information import (
    gaussian_information,
    gaussian_pairs,
    gaussian_pmi,
    information_of,
    pmi_of,
    population_tally,
    random_counts,
)

from clipib.information.bounds import club, dv, info_nce, interpolated, js, leave_one_out, nwj, smile, tuba
from clipib.information.table import as_table, tally


@pytest.mark.parametrize("seed", range(3))
def test_identities_of_a_discrete_table(seed):
    counts = random_counts(seed=seed)
    p, pmi, truth = counts.double() / counts.sum(), pmi_of(counts), information_of(counts)
    q = p.sum(1, keepdim=True) * p.sum(0)
    t = population_tally(counts, pmi)
    assert t.log_mean == pytest.approx(0, abs=1e-12)  # E_Q r = 1
    torch.testing.assert_close(t.rows - t.row_counts.log(), torch.zeros(5).double(), atol=1e-12, rtol=0)
    torch.testing.assert_close(t.columns - t.column_counts.log(), torch.zeros(6).double(), atol=1e-12, rtol=0)
    assert dv(population_tally(counts, pmi + 3)) == pytest.approx(truth, abs=1e-12)
    assert nwj(population_tally(counts, pmi + 1)) == pytest.approx(truth, abs=1e-12)
    assert tuba(t, 0.0) == pytest.approx(truth, abs=1e-12)
    assert club(t) == pytest.approx(truth - float((q * pmi).sum()), abs=1e-12)  # I + lautum


def test_an_exact_baseline_makes_tuba_blind_to_image_offsets():
    counts = random_counts()
    offset = torch.linspace(-2, 2, 5).double()
    t = population_tally(counts, pmi_of(counts) + offset[:, None])
    assert tuba(t, offset) == pytest.approx(information_of(counts), abs=1e-12)
    assert tuba(t, 0.0) < information_of(counts) - 0.1


def as_draws(counts, scores):
    """Scores whose true pairs are those of the table and whose negatives are nearly: for js and smile."""
    own = counts.nonzero().repeat_interleave(counts[counts > 0], 0)
    return scores[own[:, 0]][:, own[:, 1]]


def test_js_is_jensen_shannon_at_the_exact_score_and_loses_1_over_e_under_nwj():
    counts = random_counts()
    p, pmi = counts.double() / counts.sum(), pmi_of(counts)
    q = p.sum(1, keepdim=True) * p.sum(0)
    middle = (p + q) / 2
    divergence = float((p * (p / middle).log() + q * (q / middle).log()).sum()) / 2
    scores = as_draws(counts, pmi)
    value = js(scores)
    naive = [-math.log1p(math.exp(-float(s))) for s in scores.diagonal()]
    off = [float(s) for i, row in enumerate(scores) for j, s in enumerate(row) if i != j]
    naive = sum(naive) / len(naive) - sum(math.log1p(math.exp(s)) for s in off) / len(off)
    assert value == pytest.approx(naive, abs=1e-12)
    population = float((p * -torch.nn.functional.softplus(-pmi)).sum() - (q * torch.nn.functional.softplus(pmi)).sum())
    assert population == pytest.approx(2 * divergence - math.log(4), abs=1e-12)
    t = population_tally(counts, pmi)
    assert nwj(t) == pytest.approx(information_of(counts) - math.exp(-1), abs=1e-12)  # the trap


@pytest.mark.parametrize("shape, n", [((5, 6), 2), ((2, 3), 3), ((2, 2), 4)])
def test_info_nce_enumerated_is_best_at_pmi_and_blind_to_image_offsets(shape, n):
    counts = random_counts(*shape)
    p, pmi = counts.double() / counts.sum(), pmi_of(counts)
    cells = list(itertools.product(*map(range, shape)))

    def expected(scores, side):
        total = 0.0
        for batch in itertools.product(cells, repeat=n):
            x, y = zip(*batch)
            weight = math.prod(float(p[c]) for c in batch)
            total += weight * info_nce(tally(scores[list(x)][:, list(y)]), side=side)
        return total

    offset = torch.linspace(-1, 2, shape[0]).double()[:, None]
    best = expected(pmi, "row")
    assert expected(pmi + offset, "row") == pytest.approx(best, abs=1e-12)
    assert expected(pmi + 0.3 * torch.randn(shape, generator=torch.Generator().manual_seed(1)), "row") < best
    assert best <= math.log(n)
    if n == 2:  # leave-one-out at N = 2 and the exact score is CLUB
        own = sum(
            float(p[a] * p[b]) * leave_one_out(tally(pmi[[a[0], b[0]]][:, [a[1], b[1]]]))
            for a, b in itertools.product(cells, repeat=2)
        )
        assert own == pytest.approx(club(population_tally(counts, pmi)), abs=1e-12)


@pytest.mark.parametrize("n, exact", [(2, 0.68622), (10, 2.24122), (100, 4.03570)])
def test_info_nce_of_large_information_ends_at_log_n(n, exact):
    g = torch.Generator().manual_seed(n)
    values = []
    for _ in range(4000 // n):
        x = torch.randint(100, (n,), generator=g)
        scores = torch.where(x[:, None] == x, math.log(100), -60.0).double()
        values.append(info_nce(tally(scores), side="row"))
    values = torch.tensor(values)
    assert abs(float(values.mean()) - exact) < 4 * float(values.std()) / math.sqrt(len(values)) + 1e-3
    assert values.max() <= math.log(n) + 1e-9  # and the truth is 4.605: beyond log N it cannot see


@pytest.mark.parametrize("n, expected, runs", [(16, 2.24, 60), (128, 3.02, 20), (1024, 3.27, 4)])
def test_info_nce_on_gaussians(n, expected, runs):
    found = []
    for seed in range(runs):
        x, y = gaussian_pairs(n, 4, 0.9, seed)
        found.append(info_nce(tally(gaussian_pmi(x, y, 0.9))))
    assert abs(sum(found) / runs - expected) < 0.03 + 4 * float(torch.tensor(found).std()) / math.sqrt(runs)
    assert max(found) <= math.log(n)


def test_dv_and_nwj_on_gaussians():
    pairs = [gaussian_pairs(1024, 4, 0.5, seed) for seed in range(12)]
    tallies = [tally(gaussian_pmi(x, y, 0.5)) for x, y in pairs]
    for found in ([dv(t) for t in tallies], [tuba(t, 0.0) for t in tallies]):
        assert abs(sum(found) / 12 - 0.5754) < 4 * 0.031 / math.sqrt(12)
    small = [dv(tally(gaussian_pmi(*gaussian_pairs(16, 4, 0.9, s), 0.9))) for s in range(400)]
    assert sum(small) / 400 > gaussian_information(4, 0.9)  # a sample of 16 lies above: 3.50


def test_smile_is_dv_without_a_clip_and_no_bound_with_one():
    x, y = gaussian_pairs(1024, 4, 0.9)
    scores = gaussian_pmi(x, y, 0.9)
    assert smile(scores, clip=math.inf) == pytest.approx(dv(tally(scores)), abs=1e-12)
    clipped = [smile(gaussian_pmi(*gaussian_pairs(1024, 4, 0.9, s), 0.9)) for s in range(6)]
    assert sum(clipped) / 6 == pytest.approx(3.41, abs=0.03 + 4 * float(torch.tensor(clipped).std()) / 6**0.5)


def test_club_on_gaussians_is_information_plus_lautum():
    n, rho = 400_000, 0.9
    x, y = gaussian_pairs(n, 1, rho)
    pmi = lambda a, b: -0.5 * math.log(1 - rho**2) - (rho**2 * (a**2 + b**2) - 2 * rho * a * b) / (2 * (1 - rho**2))  # noqa: E731
    t = tally(torch.zeros(2, 2))._replace(
        positives=pmi(x, y)[:, 0], row_sums=pmi(x, y.roll(1, 0))[:, 0], row_counts=torch.ones(n).double()
    )
    assert club(t) == pytest.approx(rho**2 / (1 - rho**2), rel=0.01)


def test_interpolated_lies_between():
    x, y = gaussian_pairs(64, 2, 0.8)
    scores = gaussian_pmi(x, y, 0.8)
    n = len(scores)
    loops = 0.0
    for i in range(n):  # alpha = 1: InfoNCE over K = N - 1
        others = [j for j in range(n) if j != (i + 1) % n]
        loops += float(scores[i, i] - scores[others, i].logsumexp(0)) + math.log(n - 1)
    assert interpolated(scores, alpha=1.0) == pytest.approx(loops / n, abs=1e-12)
    assert interpolated(scores, alpha=0.0) == pytest.approx(tuba(tally(scores), 0.0), abs=1e-12)
    many = [interpolated(gaussian_pmi(*gaussian_pairs(64, 4, 0.9, s), 0.9), alpha=0.01) for s in range(200)]
    error = 4 * float(torch.tensor(many).std()) / math.sqrt(200)
    assert sum(many) / 200 < gaussian_information(4, 0.9) + error


@pytest.mark.parametrize("n", [7, 63])
def test_leave_one_out_equals_loops(n):
    scores = torch.randn(n, n, generator=torch.Generator().manual_seed(n)).double()
    total = 0.0
    for i in range(n):
        row = sum(math.exp(float(scores[i, j])) for j in range(n) if j != i) / (n - 1)
        column = sum(math.exp(float(scores[j, i])) for j in range(n) if j != i) / (n - 1)
        total += float(scores[i, i]) - (math.log(row) + math.log(column)) / 2
    assert leave_one_out(tally(scores)) == pytest.approx(total / n, abs=1e-12)


def test_permuted_pairs_show_nothing():
    x, y = gaussian_pairs(200, 3, 0.9)
    t = tally(gaussian_pmi(x, y.roll(1, 0), 0.9))
    assert info_nce(t) < 0 and dv(t) < 0


def test_several_texts_of_an_image_are_no_negatives():
    scores = torch.tensor([[5.0, 5.0, 0.0], [0.0, 0.0, 5.0]])
    t = tally(as_table(scores, torch.tensor([0, 0, 1])))
    assert float(t.row_counts[0]) == 1
    assert dv(t) == pytest.approx(5.0, abs=1e-12)
