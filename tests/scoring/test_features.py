import numpy as np
import pytest
import torch

from clipib.scoring.features import sum_in_fixed_order


@pytest.mark.parametrize("width", [1, 2, 7, 8, 9, 127, 128, 129, 255, 512, 513, 1_000, 9_001])
def test_a_row_has_one_sum_wherever_it_stands(width):
    """In the middle of many rows, as the last one, alone, in a block, at another place in memory."""
    row = torch.from_numpy(np.random.default_rng(width).normal(size=width))
    alone = sum_in_fixed_order(row)
    for n in (1, 2, 3, 17, 64, 65, 300):
        many = torch.randn(n, width, dtype=torch.float64)
        many[n // 2] = many[-1] = row
        found = sum_in_fixed_order(many)
        assert found[n // 2] == found[-1] == alone
        assert torch.allclose(found, many.sum(1), rtol=0, atol=1e-10)
    assert (sum_in_fixed_order(row.expand(3, 5, width)) == alone).all()
    for offset in range(1, 9):  # another alignment
        space = torch.empty(offset + width, dtype=torch.float64)
        space[offset:] = row
        assert sum_in_fixed_order(space[offset:]) == alone
