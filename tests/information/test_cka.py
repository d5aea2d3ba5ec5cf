import math

import pytest
import torch
from largest import Largest

from clipib.information.cka import cka_biased, cka_null, cka_unbiased, hsic_biased, hsic_unbiased

ALL = [hsic_biased, hsic_unbiased, cka_biased, cka_unbiased]


def draw(n, d, seed=0, shift=0.0):
    return torch.randn(n, d, generator=torch.Generator().manual_seed(seed), dtype=torch.float64) + shift


def naive_hsic_biased(x, y):
    n = len(x)
    h = torch.eye(n, dtype=torch.float64) - 1 / n
    return float(torch.trace(x @ x.T @ h @ y @ y.T @ h)) / (n - 1) ** 2


def naive_hsic_unbiased(x, y):
    """The published form, from two (n, n) kernels without their diagonals."""
    n, one = len(x), torch.ones(len(x), dtype=torch.float64)
    k, m = (z @ z.T - torch.diag((z @ z.T).diagonal()) for z in (x, y))
    total = torch.trace(k @ m) + (one @ k @ one) * (one @ m @ one) / ((n - 1) * (n - 2))
    return float(total - 2 / (n - 2) * (one @ k @ m @ one)) / (n * (n - 3))


def looped_hsic_unbiased(x, y):
    """The U-statistic itself: the mean over ordered quadruples of distinct items."""
    n, total = len(x), 0.0
    k, m = (x @ x.T).tolist(), (y @ y.T).tolist()
    for i in range(n):
        for j in range(n):
            for q in range(n):
                for r in range(n):
                    if len({i, j, q, r}) == 4:
                        total += k[i][j] * (m[i][j] + m[q][r] - 2 * m[i][q])
    return total / (n * (n - 1) * (n - 2) * (n - 3))


@pytest.mark.parametrize("n, dx, dy", [(4, 1, 1), (7, 3, 2), (63, 5, 8), (9, 31, 17)])
def test_hsic_equals_the_kernel_forms(n, dx, dy):
    x, y = draw(n, dx, shift=2.0), draw(n, dy, seed=1, shift=-1.0)
    y[:, 0] += x[:, 0]
    assert hsic_biased(x, y) == pytest.approx(naive_hsic_biased(x, y), rel=1e-10)
    assert hsic_unbiased(x, y) == pytest.approx(naive_hsic_unbiased(x, y), rel=1e-10)
    assert cka_unbiased(x, y) == pytest.approx(
        naive_hsic_unbiased(x, y) / math.sqrt(naive_hsic_unbiased(x, x) * naive_hsic_unbiased(y, y)), rel=1e-9
    )


def test_unbiased_hsic_is_the_mean_over_quadruples():
    x, y = draw(7, 2), draw(7, 3, seed=1)
    assert hsic_unbiased(x, y) == pytest.approx(looped_hsic_unbiased(x, y), rel=1e-10)


def test_hsic_is_the_squared_cross_covariance():
    """x and y = A x + noise: ||Cov(x, y)||_F^2 = ||A||_F^2 in the mean for the unbiased form, 400 draws, 4 s.e.;
    the biased form is above by about tr Cov(x) tr Cov(y) / (n - 1)."""
    a = torch.tensor([[1.0, 0.5], [0.0, -1.0], [0.3, 0.0]], dtype=torch.float64)
    truth = float(a.square().sum())
    unbiased, biased = [], []
    for seed in range(400):
        x, noise = draw(21, 2, seed=2 * seed), draw(21, 3, seed=2 * seed + 1)
        unbiased.append(hsic_unbiased(x, x @ a.T + noise))
        biased.append(hsic_biased(x, x @ a.T + noise))
    unbiased, biased = torch.tensor(unbiased), torch.tensor(biased)
    assert abs(unbiased.mean() - truth) < 4 * unbiased.std() / 20
    assert biased.mean() - truth > 2 * (3 + truth) / 20


def test_cka_of_a_rotated_copy_is_one():
    x = draw(63, 7, shift=1.0)
    rotation = torch.linalg.qr(draw(7, 7, seed=1)).Q
    for cka in (cka_biased, cka_unbiased):
        assert cka(x, x @ rotation) == pytest.approx(1, abs=1e-10)
        assert cka(x, 5 - 3 * x @ rotation) == pytest.approx(1, abs=1e-10)
        assert cka(x, x @ draw(7, 7, seed=2)) < 0.99
        assert cka(x, draw(63, 9, seed=3)) == pytest.approx(cka(draw(63, 9, seed=3), x), abs=1e-12)


@pytest.mark.parametrize("n, null", [(128, 0.80), (512, 0.50)])
def test_cka_of_independent_features_of_width_512(n, null):
    """Eight draws; one draw of the unbiased form has a standard deviation of 0.008 at n=128."""
    pairs = [(draw(n, 512, seed=2 * seed), draw(n, 512, seed=2 * seed + 1)) for seed in range(8)]
    assert cka_null(n, 512, 512) == pytest.approx(null, abs=1e-12)
    assert sum(cka_biased(x, y) for x, y in pairs) / 8 == pytest.approx(null, abs=0.01)
    assert sum(cka_unbiased(x, y) for x, y in pairs) / 8 == pytest.approx(0, abs=0.01)


def test_null_of_two_widths_and_of_a_participation_ratio():
    x, y = draw(151, 300), draw(151, 40, seed=1)
    assert cka_biased(x, y) == pytest.approx(cka_null(151, 300, 40), abs=0.02)
    scales = torch.linspace(0.1, 3, 300, dtype=torch.float64)
    ratio = float(scales.square().sum() ** 2 / scales.pow(4).sum())
    assert cka_biased(x * scales, y) == pytest.approx(cka_null(151, round(ratio), 40), abs=0.02)


def test_unbiased_cka_can_be_negative():
    assert min(cka_unbiased(draw(21, 9, seed=s), draw(21, 9, seed=s + 100)) for s in range(10)) < 0


def test_the_smaller_matrix_is_made():
    for (n, d), most in {(201, 5): 201 * 5, (9, 31): 9 * 31}.items():
        with Largest() as largest:
            cka_unbiased(draw(n, d), draw(n, d, seed=1))
        assert largest.numel == most


@pytest.mark.parametrize("dtype, atol", [(torch.float32, 1e-6), (torch.float16, 2e-3), (torch.bfloat16, 2e-2)])
def test_stored_features_with_a_large_mean(dtype, atol):
    """The tolerance is the relative rounding of the dtype, 2^-24, 2^-11 and 2^-8, times 4 for a mean of size 1."""
    x = draw(63, 6, shift=1.0)
    y = x[:, :3] + draw(63, 3, seed=1)
    assert cka_unbiased(x.to(dtype), y.to(dtype)) == pytest.approx(cka_unbiased(x, y), abs=atol)


@pytest.mark.parametrize("number", ALL)
def test_bad_features_are_refused(number):
    x = draw(6, 3)
    with pytest.raises(ValueError, match="rows of x, got 1"):
        number(x[:1], x[:1])
    with pytest.raises(ValueError, match="the same items, got 6 and 5 rows"):
        number(x, x[:5])
    with pytest.raises(ValueError, match="expected y that vary"):
        number(x, torch.full((6, 2), 0.1))
    with pytest.raises(ValueError, match="expected finite y"):
        number(x, torch.full((6, 2), torch.nan))


def test_unbiased_forms_need_four_items_and_distances_that_differ():
    for number in (hsic_unbiased, cka_unbiased):
        with pytest.raises(ValueError, match="expected at least 4 rows of x, got 3"):
            number(draw(3, 2), draw(3, 2))
    orthogonal = torch.diag(torch.tensor([1.0, 2.0, 3.0, 4.0, 5.0]))
    with pytest.raises(ValueError, match="expected y with distances that differ"):
        cka_unbiased(draw(5, 3), orthogonal)
    assert hsic_unbiased(draw(5, 3), orthogonal) == pytest.approx(0, abs=1e-12)
