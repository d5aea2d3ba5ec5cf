import math

import pytest
import torch
from reference.information import gaussian_pairs, gaussian_pmi

from clipib.information.bounds import dv, info_nce, nwj
from clipib.information.jackknife import (
    dv_without,
    info_nce_without,
    jackknife,
    jackknife_bounds,
    jackknife_groups,
    jackknife_rows,
    nwj_without,
)
from clipib.information.table import as_table, tally


@pytest.mark.parametrize("owner", [None, [0, 1, 2, 3, 4, 5, 6, 0, 3, 3]])
def test_leaving_out_equals_computing_again(owner):
    n = 7
    g = torch.Generator().manual_seed(1)
    scores = torch.randn(n, len(owner or range(n)), generator=g, dtype=torch.float64)
    table = as_table(scores, None if owner is None else torch.tensor(owner))
    t = tally(table)
    rests = [tally(table.take(torch.tensor([k for k in range(n) if k != i]))) for i in range(n)]
    torch.testing.assert_close(
        dv_without(t), torch.tensor([dv(r) for r in rests], dtype=torch.float64), atol=1e-10, rtol=0
    )
    torch.testing.assert_close(
        nwj_without(t), torch.tensor([nwj(r) for r in rests], dtype=torch.float64), atol=1e-10, rtol=0
    )
    if owner is None:
        again = torch.tensor([info_nce(r) for r in rests], dtype=torch.float64)
        torch.testing.assert_close(info_nce_without(table, t), again, atol=1e-10, rtol=0)
    else:
        with pytest.raises(ValueError, match="one text per image"):
            info_nce_without(table, t)


def test_standard_errors_are_the_spread_of_fresh_draws():
    values, errors = {"info_nce": [], "dv": []}, {"info_nce": [], "dv": []}
    for seed in range(200):
        x, y = gaussian_pairs(200, 2, 0.7, seed)
        scores = gaussian_pmi(x, y, 0.7)
        found = jackknife_bounds(scores, tally(scores))
        for name in values:
            values[name].append(found[name][0].value)
            errors[name].append(found[name][0].standard_error)
    for name in values:
        spread = float(torch.tensor(values[name]).std())
        assert sum(errors[name]) / 200 == pytest.approx(spread, rel=0.2)


def test_groups_agree_with_single_images():
    x, y = gaussian_pairs(300, 2, 0.7)
    scores = gaussian_pmi(x, y, 0.7)
    single = jackknife_bounds(scores, tally(scores))["dv"][0]
    grouped = jackknife_groups(lambda t: dv(tally(t)), scores, groups=30)
    assert grouped.value == pytest.approx(single.value, abs=1e-9)
    assert grouped.standard_error == pytest.approx(single.standard_error, rel=0.4)  # 30 groups: 13 % each way


def test_interval_of_a_mean():
    x = torch.randn(50, generator=torch.Generator().manual_seed(0)).double()
    found = jackknife(float(x.mean()), (x.sum() - x) / 49)
    assert found.standard_error == pytest.approx(float(x.std()) / math.sqrt(50), rel=1e-9)
    assert found.high - found.low == pytest.approx(2 * 1.959964 * found.standard_error, rel=1e-6)
    with pytest.raises(ValueError, match="two values"):
        jackknife(0.0, torch.zeros(1))


def test_rows_left_out_in_groups_give_the_error_of_a_mean():
    x = torch.randn(5000, generator=torch.Generator().manual_seed(0)).double()
    found = jackknife_rows(lambda a, b: float((a + b).mean()), x, x, groups=50)
    assert found.value == pytest.approx(2 * float(x.mean()))
    assert found.standard_error == pytest.approx(2 / math.sqrt(5000), rel=0.35)  # 50 groups: 10 % each way
