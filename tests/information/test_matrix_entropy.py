import math

import numpy as np
import pytest
import torch
from sklearn.metrics import mutual_info_score
from sklearn.metrics.pairwise import rbf_kernel

from clipib.information.matrix_entropy import delta_gram, gaussian_gram, matrix_entropy, matrix_mi

ALPHAS = [0.5, 1, 1.01, 2, 3]


def draw(n, rho, seed):
    generator = torch.Generator().manual_seed(seed)
    x, noise = torch.randn(2, n, 1, generator=generator, dtype=torch.float64)
    return x, rho * x + math.sqrt(1 - rho**2) * noise


def labels(n, classes, seed):
    return torch.randint(0, classes, (n,), generator=torch.Generator().manual_seed(seed))


def renyi(counts, alpha):
    p = np.asarray([c for c in counts if c], dtype=float) / sum(counts)
    return -(p * np.log(p)).sum() if alpha == 1 else np.log((p**alpha).sum()) / (1 - alpha)


@pytest.mark.parametrize("alpha", ALPHAS)
@pytest.mark.parametrize("n", [2, 7, 63])
def test_all_apart_is_log_n_and_all_alike_is_0(n, alpha):
    assert matrix_entropy(torch.eye(n), alpha=alpha) == pytest.approx(math.log(n), abs=1e-10)
    assert matrix_entropy(torch.ones(n, n), alpha=alpha) == pytest.approx(0, abs=1e-10)


@pytest.mark.parametrize("alpha", ALPHAS)
def test_label_kernel_is_the_entropy_of_the_histogram(alpha):
    a = labels(63, 5, 0)
    assert matrix_entropy(delta_gram(a), alpha=alpha) == pytest.approx(
        renyi(torch.bincount(a).tolist(), alpha), abs=1e-10
    )


@pytest.mark.parametrize("alpha", ALPHAS)
def test_label_kernels_are_the_renyi_difference_of_the_table(alpha):
    a = labels(63, 5, 0)
    b = (a + labels(63, 2, 1)) % 4
    parts = [renyi(torch.bincount(z).tolist(), alpha) for z in (a, b, 4 * a + b)]
    found = matrix_mi(delta_gram(a), delta_gram(b), alpha=alpha)
    assert found == pytest.approx(parts[0] + parts[1] - parts[2], abs=1e-10)


def test_order_1_of_labels_equals_sklearn_and_order_2_does_not():
    a = labels(63, 5, 0)
    b = torch.where(a > 2, a, labels(63, 3, 1))
    shannon = mutual_info_score(a.numpy(), b.numpy())
    assert matrix_mi(delta_gram(a), delta_gram(b), alpha=1) == pytest.approx(shannon, abs=1e-10)
    assert abs(matrix_mi(delta_gram(a), delta_gram(b), alpha=2) - shannon) > 0.1


@pytest.mark.parametrize("alpha", ALPHAS)
def test_equals_numpy_eigenvalues(alpha):
    x = torch.randn(63, 4, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    gram = gaussian_gram(x, 1.5)
    shares = np.linalg.svd(gram.numpy() / 63, compute_uv=False)
    assert matrix_entropy(gram, alpha=alpha) == pytest.approx(renyi(list(shares), alpha), abs=1e-10)


def test_gaussian_kernel_equals_sklearn_and_naive_loops():
    x = torch.randn(31, 3, generator=torch.Generator().manual_seed(0)) + 100
    found = gaussian_gram(x, 0.7)
    np.testing.assert_allclose(found.numpy(), rbf_kernel(x.double().numpy(), gamma=0.5 / 0.49), atol=1e-9)
    for i, j in [(0, 0), (3, 7), (30, 1)]:
        square = sum((float(p) - float(q)) ** 2 for p, q in zip(x[i], x[j]))
        assert float(found[i, j]) == pytest.approx(math.exp(-square / (2 * 0.7**2)), abs=1e-12)
    assert bool((found.diagonal() == 1).all())
    # Half the digits of x - x' are left at this offset; by the form |x|^2 + |x'|^2 - 2 x x' none would be.
    far = gaussian_gram((x.double() - 100) + 2.0**27, 0.7)
    torch.testing.assert_close(far, found, atol=1e-6, rtol=0)


def test_near_order_1_no_digits_are_lost():
    gram = gaussian_gram(draw(63, 0, 0)[0], 0.3)
    limit = matrix_entropy(gram, alpha=1)
    for step in (1e-6, 1e-9, 1e-12):
        for alpha in (1 - step, 1 + step):
            assert matrix_entropy(gram, alpha=alpha) == pytest.approx(limit, abs=10 * step + 1e-12)


def test_scale_and_diagonal_of_a_kernel_do_not_matter():
    gram = gaussian_gram(draw(31, 0, 0)[0], 0.3)
    loud = torch.linspace(0.5, 9, 31, dtype=torch.float64)
    assert matrix_entropy(loud[:, None] * gram * loud) == pytest.approx(matrix_entropy(gram), abs=1e-12)
    assert matrix_mi(loud[:, None] * gram * loud, gram) == pytest.approx(matrix_mi(gram, gram), abs=1e-12)


def test_symmetric_blind_to_order_and_within_its_range():
    x, y = draw(63, 0.5, 1)
    order = torch.randperm(63, generator=torch.Generator().manual_seed(0))
    a, b = gaussian_gram(x, 0.3), gaussian_gram(y, 0.5)
    for alpha in ALPHAS:
        value = matrix_mi(a, b, alpha=alpha)
        assert matrix_mi(b, a, alpha=alpha) == pytest.approx(value, abs=1e-12)
        assert matrix_mi(a[order][:, order], b[order][:, order], alpha=alpha) == pytest.approx(value, abs=1e-10)
        assert value <= min(matrix_entropy(a, alpha=alpha), matrix_entropy(b, alpha=alpha)) + 1e-12 <= math.log(63)
    for seed in range(10):
        grams = [gaussian_gram(z, 0.2) for z in draw(31, 0, seed)]
        assert matrix_mi(*grams, alpha=1) >= 0  # quantum mutual information


def test_known_failure_order_2_can_be_negative():
    a = torch.tensor([0] * 20 + list(range(1, 21)))
    b = a.flip(0)  # 40 different pairs: half share a = 0, the other half b = 0
    expected = 2 * renyi([20] + [1] * 20, 2) - math.log(40)
    assert matrix_mi(delta_gram(a), delta_gram(b), alpha=2) == pytest.approx(expected, abs=1e-10)
    assert expected < -1
    assert matrix_mi(delta_gram(a), delta_gram(b), alpha=1) == pytest.approx(math.log(2), abs=1e-10)


def test_known_failure_the_kernel_width_sets_the_value():
    x, y = draw(500, 0.9, 0)  # 0.83 nats
    for width, found in [(0.02, 3.31), (0.1, 1.27), (0.5, 0.66), (1.0, 0.44)]:
        value = matrix_mi(gaussian_gram(x, width), gaussian_gram(y, width))
        assert value == pytest.approx(found, abs=0.2)  # of other draws; 4 spreads at n = 500


def test_known_failure_a_narrow_kernel_falls_with_n():
    x, y = draw(400, 0.9, 0)
    values = [matrix_mi(gaussian_gram(x[:n], 0.05), gaussian_gram(y[:n], 0.05)) for n in (100, 400)]
    assert values[0] > values[1] + 0.3


def test_bad_input_is_named():
    with pytest.raises(ValueError, match=r"\(n, n\), got \(3, 2\)"):
        matrix_entropy(torch.ones(3, 2))
    with pytest.raises(ValueError, match="alpha above 0, got 0"):
        matrix_entropy(torch.eye(3), alpha=0)
    with pytest.raises(ValueError, match="positive semidefinite"):
        matrix_entropy(torch.tensor([[1.0, 2.0], [2.0, 1.0]]))
    with pytest.raises(ValueError, match="symmetric"):
        matrix_entropy(torch.tensor([[1.0, 0.5], [0.2, 1.0]]))
    with pytest.raises(ValueError, match="diagonal above 0, got 0"):
        matrix_entropy(torch.zeros(2, 2))
    with pytest.raises(ValueError, match="NaN"):
        matrix_entropy(torch.full((2, 2), math.nan))
    with pytest.raises(ValueError, match=r"\(2, 2\) and \(3, 3\)"):
        matrix_mi(torch.eye(2), torch.eye(3))
    with pytest.raises(ValueError, match="width above 0, got 0"):
        gaussian_gram(torch.ones(3, 1), 0)
    with pytest.raises(ValueError, match="integer labels"):
        delta_gram(torch.ones(3))
