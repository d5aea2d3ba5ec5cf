import math

import numpy as np
import pytest
import torch
from scipy.stats import norm, rankdata

from clipib.information.normal_scores import fit_normal_scores, normal_scores


def draw(n, d, seed=0):
    return torch.randn(n, d, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


@pytest.mark.parametrize("n, d", [(2, 1), (7, 3), (63, 5)])
def test_equals_scipy_ranks_also_with_ties(n, d):
    for x in (draw(n, d), (2 * draw(n, d)).round()):
        expected = norm.ppf(rankdata(x.numpy(), axis=0) / (n + 1))
        np.testing.assert_allclose(normal_scores(x).numpy(), expected, atol=1e-12)


def test_held_out_values_by_naive_counting():
    fitted, fresh = (2 * draw(63, 2)).round(), (4 * draw(20, 2, seed=1)).round() / 2
    found = fit_normal_scores(fitted)(fresh)
    for i in range(20):
        for k in range(2):
            below = sum(1 for v in fitted[:, k] if v < fresh[i, k])
            equal = sum(1 for v in fitted[:, k] if v == fresh[i, k])
            assert float(found[i, k]) == pytest.approx(norm.ppf((below + equal / 2 + 0.5) / 64), abs=1e-12)


def test_rising_maps_of_coordinates_change_nothing():
    x, fresh = draw(63, 3), draw(7, 3, seed=1)
    torch.testing.assert_close(fit_normal_scores(x.exp())(fresh.exp()), fit_normal_scores(x)(fresh))


def test_no_score_is_infinite_and_a_constant_is_0():
    scores = fit_normal_scores(torch.tensor([[1.0, 5.0], [2.0, 5.0]]))(torch.tensor([[-1e30, 5.0], [1e30, 5.0]]))
    edge = norm.ppf(0.5 / 3)
    torch.testing.assert_close(scores, torch.tensor([[edge, 0.0], [-edge, 0.0]], dtype=torch.float64))


def test_bad_input_is_named():
    scores = fit_normal_scores(draw(7, 3))
    with pytest.raises(ValueError, match=r"\(m, 3\) as fitted, got \(7, 2\)"):
        scores(draw(7, 2))
    with pytest.raises(ValueError, match="NaN"):
        scores(torch.full((1, 3), math.nan))
    with pytest.raises(ValueError, match="at least 2 rows"):
        normal_scores(draw(1, 3))
