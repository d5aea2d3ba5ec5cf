import math

import numpy as np
import pytest
import torch
from largest import Largest

from clipib.information.spectra import (
    covariance_eigenvalues,
    double_centred_spectrum,
    inner_product_spectrum,
    participation_ratio,
    rankme,
    singular_values,
    von_neumann_rank,
)


def draw(n, d, seed=0, shift=0.0):
    return torch.randn(n, d, generator=torch.Generator().manual_seed(seed), dtype=torch.float64) + shift


def naive_exp_entropy(p):
    return math.exp(-sum(v * math.log(v) for v in p if v > 0))


@pytest.mark.parametrize("n, d", [(2, 1), (7, 3), (5, 9), (63, 7)])
def test_spectra_equal_numpy(n, d):
    x = draw(n, d, seed=n, shift=1.0)
    eigenvalues = np.linalg.eigvalsh(np.atleast_2d(np.cov(x.numpy().T)))[::-1][: min(n, d)]
    np.testing.assert_allclose(covariance_eigenvalues(x).numpy(), eigenvalues, atol=1e-12)
    gram = np.linalg.eigvalsh((x @ x.T).numpy())[::-1][: min(n, d)]
    np.testing.assert_allclose(singular_values(x).square().numpy(), gram, atol=1e-11)


def test_effective_ranks_equal_loops():
    values = [5.0, 3.0, 2.0, 0.5, 0.0]
    share, square = [v / 10.5 for v in values], [v * v / 38.25 for v in values]
    assert rankme(torch.tensor(values)) == pytest.approx(naive_exp_entropy([p + 1e-7 for p in share]), abs=1e-12)
    assert von_neumann_rank(torch.tensor(values)) == pytest.approx(naive_exp_entropy(square), abs=1e-12)
    assert participation_ratio(torch.tensor(values)) == pytest.approx(10.5**2 / 38.25, abs=1e-12)


def test_vendi_score_of_the_cosine_kernel():
    """exp of the von Neumann entropy of K / n, from the (n, n) kernel."""
    x = torch.nn.functional.normalize(draw(63, 7, shift=0.5))
    eigenvalues = torch.linalg.eigvalsh(x @ x.T / 63).clamp(min=0)
    assert von_neumann_rank(singular_values(x)) == pytest.approx(naive_exp_entropy(eigenvalues.tolist()), abs=1e-9)


@pytest.mark.parametrize("r", [1, 2, 7])
def test_equal_directions_count_as_many(r):
    flat = torch.cat([torch.full((r,), 3.0), torch.zeros(4)])
    assert participation_ratio(flat) == pytest.approx(r, abs=1e-12)
    assert von_neumann_rank(flat) == pytest.approx(r, abs=1e-12)
    # Each zero adds -1e-7 log 1e-7 = 1.6e-6 to the exponent; the others lose at most 1e-7 (1 + log r) each.
    assert rankme(flat) == pytest.approx(r * math.exp(4 * 1.6118e-6), abs=1e-5)


def test_isotropic_features_of_width_512():
    """The numbers of a sample of 5,000: each rank is too low, and by how much is known to first order in d/n."""
    x = draw(5000, 512)
    sigma = singular_values(x)
    ratio = participation_ratio(covariance_eigenvalues(x))
    assert rankme(sigma) == pytest.approx(505, abs=0.6)
    assert von_neumann_rank(sigma) == pytest.approx(486, abs=0.6)
    assert ratio == pytest.approx(464, abs=0.6)
    assert ratio == pytest.approx(1 / (1 / 512 + 1 / 5000), abs=1)
    # Second order: (d/n)^2 / 12 of an entropy under the Marchenko-Pastur law, 1e-3 here.
    assert von_neumann_rank(sigma) == pytest.approx(512 * math.exp(-512 / 10000), rel=2e-3)
    assert rankme(sigma) == pytest.approx(512 * math.exp(-512 / 40000), rel=2e-3)


@pytest.mark.parametrize("n", [63, 200, 1000])
def test_participation_ratio_bias_of_unequal_directions(n):
    """1/PR_hat = 1/PR + 1/n up to O(1/(n PR)), of which the mean over 20 draws shows a few per cent."""
    scales = torch.linspace(1, 2, 41, dtype=torch.float64)
    truth = participation_ratio(scales.square())
    inverse = np.mean(
        [1 / participation_ratio(covariance_eigenvalues(draw(n, 41, seed=s) * scales)) for s in range(20)]
    )
    assert inverse - 1 / truth == pytest.approx(1 / n, rel=0.15)


def test_rankme_is_at_least_von_neumann_rank():
    for seed in range(5):
        sigma = singular_values(draw(31, 9, seed=seed, shift=seed))
        assert rankme(sigma) > von_neumann_rank(sigma)


def test_only_covariance_ignores_a_shift():
    x = draw(63, 5)
    torch.testing.assert_close(covariance_eigenvalues(x + 100), covariance_eigenvalues(x), rtol=1e-10, atol=0)
    assert von_neumann_rank(singular_values(x + 100)) < 1.01 < 4 < von_neumann_rank(singular_values(x))


def test_double_centred_spectrum_by_matrices_and_its_tail():
    scores = draw(9, 7)
    rows, columns = (torch.eye(n, dtype=torch.float64) - 1 / n for n in (9, 7))
    u, s, v = torch.linalg.svd(rows @ scores @ columns, full_matrices=False)
    found = double_centred_spectrum(scores)
    torch.testing.assert_close(found, s / 63**0.5, rtol=0, atol=1e-12)
    rest = (u[:, 2:] * s[2:]) @ v[2:]
    assert float(found[2:].square().sum().sqrt()) == pytest.approx(float(rest.square().mean().sqrt()), abs=1e-12)
    shifted = scores + 5 * draw(9, 1, seed=1) + 5 * draw(1, 7, seed=2)
    torch.testing.assert_close(double_centred_spectrum(shifted), found, rtol=0, atol=1e-12)


def test_independent_attributes_add_and_lose_one_rank():
    """A Kronecker sum of three 4 x 4 tables over 64 x 64 has rank 10, and 9 after double centring."""
    tables = draw(12, 4, seed=5).reshape(3, 4, 4)
    i = torch.arange(64)
    digits = torch.stack([i // 16, i // 4 % 4, i % 4])
    scores = sum(table[digit][:, digit] for table, digit in zip(tables, digits))
    assert int((double_centred_spectrum(scores) > 1e-12).sum()) == 9
    assert int(torch.linalg.matrix_rank(scores)) == 10


@pytest.mark.parametrize("n, m, d", [(63, 41, 7), (5, 9, 7), (3, 2, 31)])
def test_features_give_the_spectrum_of_their_scores(n, m, d):
    image, text = draw(n, d, shift=0.5), draw(m, d, seed=1)
    whole = double_centred_spectrum(-3.0 * image @ text.T)
    found = inner_product_spectrum(image, text, scale=-3.0)
    assert len(found) == min(n, m, d)
    torch.testing.assert_close(found, whole[: len(found)], rtol=0, atol=1e-12)
    assert (whole[len(found) :] < 1e-12).all()


def test_features_never_make_the_score_matrix():
    with Largest() as largest:
        inner_product_spectrum(draw(301, 4), draw(201, 4, seed=1))
    assert largest.numel == 301 * 4


@pytest.mark.parametrize("rank", [participation_ratio, rankme, von_neumann_rank])
def test_spectra_without_shares_are_refused(rank):
    for bad in ([0.0, 0.0], [1.0, -0.1], [1.0, math.nan], [math.inf, 1.0], [[1.0]], []):
        with pytest.raises(ValueError, match=r"expected (eigenvalues|singular values) \(r,\)"):
            rank(torch.tensor(bad))


def test_bad_features_are_refused():
    for spectrum in (singular_values, covariance_eigenvalues, double_centred_spectrum):
        with pytest.raises(ValueError, match="at least 2 rows"):
            spectrum(draw(1, 3))
        with pytest.raises(ValueError, match="expected finite"):
            spectrum(torch.full((3, 3), torch.nan))
    with pytest.raises(ValueError, match="expected features that vary"):
        covariance_eigenvalues(torch.full((5, 3), 0.1))
    with pytest.raises(ValueError, match="at least 2 columns of scores, got 1"):
        double_centred_spectrum(draw(3, 1))
    with pytest.raises(ValueError, match="of one width, got 3 and 4"):
        inner_product_spectrum(draw(5, 3), draw(5, 4))


@pytest.mark.parametrize("dtype, rtol", [(torch.float32, 1e-6), (torch.float16, 2e-3), (torch.bfloat16, 2e-2)])
def test_stored_features(dtype, rtol):
    """The tolerance is the relative rounding of the dtype, 2^-24, 2^-11 and 2^-8, times 4."""
    x = draw(63, 16)
    assert rankme(singular_values(x.to(dtype))) == pytest.approx(rankme(singular_values(x)), rel=rtol)
    exact = participation_ratio(covariance_eigenvalues(x))
    assert participation_ratio(covariance_eigenvalues(x.to(dtype))) == pytest.approx(exact, rel=rtol)
