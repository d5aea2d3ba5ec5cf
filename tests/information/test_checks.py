import pytest
import torch

from clipib.information.checks import centred_features, check_same_items, checked_features, unit_features, unit_pairs


@pytest.mark.parametrize("check", [checked_features, unit_features, centred_features])
def test_bad_features_are_refused_by_name_and_value(check):
    with pytest.raises(ValueError, match=r"expected x of shape \(n, d\), got \(6,\)"):
        check(torch.rand(6), "x")
    with pytest.raises(ValueError, match=r"expected x of shape \(n, d\), got \(3, 0\)"):
        check(torch.rand(3, 0), "x")
    with pytest.raises(ValueError, match="expected x of a float dtype, got torch.int64"):
        check(torch.ones(3, 2, dtype=torch.int64), "x")
    with pytest.raises(ValueError, match="expected at least 2 rows of x, got 1"):
        check(torch.rand(1, 3), "x")
    with pytest.raises(ValueError, match="expected at least 4 rows of x, got 3"):
        check(torch.rand(3, 3), "x", least=4)
    bad = torch.rand(5, 3)
    bad[1, 2], bad[4, 0] = torch.nan, torch.inf
    with pytest.raises(ValueError, match="expected finite x, got NaN or infinity in 2 of 5 rows"):
        check(bad, "x")


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
def test_features_of_any_float_dtype_become_float64_without_gradient(dtype):
    x = torch.rand(5, 3, dtype=dtype, requires_grad=True)
    found = checked_features(x)
    assert found.dtype == torch.float64 and not found.requires_grad
    torch.testing.assert_close(found, x.detach().double(), rtol=0, atol=0)
    torch.testing.assert_close(unit_features(x).norm(dim=1), torch.ones(5, dtype=torch.float64), rtol=0, atol=1e-15)


def test_a_row_of_zeros_has_no_direction():
    with pytest.raises(ValueError, match="got 1 of 3 rows of zeros"):
        unit_features(torch.tensor([[1.0, 0.0], [0.0, 0.0], [0.0, 1.0]]))


@pytest.mark.parametrize("size", [0.0, 1e-6, 1e6])
def test_constant_features_do_not_vary_but_a_small_step_does(size):
    """The mean of 1,001 equal numbers is off by rounding, which is no variation."""
    row = size * torch.rand(7, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    x = row.repeat(1001, 1)
    assert size == 0 or (x - x.mean(0)).abs().max() > 0
    with pytest.raises(ValueError, match="expected x that vary, got the same row 1001 times"):
        centred_features(x, "x")
    x[5, 3] += max(size, 1.0) * 1e-9
    assert centred_features(x).abs().max() > 0


def test_pairs_and_items_must_agree():
    with pytest.raises(ValueError, match=r"of one shape, got \(4, 3\) and \(5, 3\)"):
        unit_pairs(torch.rand(4, 3), torch.rand(5, 3))
    with pytest.raises(ValueError, match=r"of one shape, got \(4, 3\) and \(4, 2\)"):
        unit_pairs(torch.rand(4, 3), torch.rand(4, 2))
    with pytest.raises(ValueError, match="the same items, got 4 and 5 rows"):
        check_same_items(torch.rand(4, 3), torch.rand(5, 9))
