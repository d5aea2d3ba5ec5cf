import math

import numpy as np
import pytest
import torch
from reference.information import gaussian_information, gaussian_pairs, gaussian_pmi, pmi_of, random_counts

from clipib.information.bounds import dv
from clipib.information.calibrate import best_ranking_scale, best_scale, fit_ratio, ratio_calibration, sinkhorn
from clipib.information.norms import norms
from clipib.information.table import as_table, tally


def test_sinkhorn_finds_pmi_in_any_scores_with_offsets():
    counts = random_counts(8, 11)
    p = counts.double() / counts.sum()
    pmi = pmi_of(counts)
    a, b = torch.linspace(-3, 3, 8).double(), torch.linspace(5, -2, 11).double()
    table = as_table(pmi + a[:, None] + b + 4, torch.zeros(11, dtype=torch.int64))
    found = sinkhorn(table, log_p_images=p.sum(1).log(), log_p_texts=p.sum(0).log(), tolerance=1e-13, steps=2000)
    restored = pmi + a[:, None] + b + 4 + found.images[:, None] + found.texts
    torch.testing.assert_close(restored, pmi, atol=1e-10, rtol=0)


def test_sinkhorn_of_samples_makes_all_means_one():
    scores = torch.randn(30, 30, generator=torch.Generator().manual_seed(0)).double()
    found = sinkhorn(scores, tolerance=1e-12)
    t = tally(scores + found.images[:, None] + found.texts)
    torch.testing.assert_close(t.rows - t.row_counts.log(), torch.zeros(30).double(), atol=1e-9, rtol=0)
    torch.testing.assert_close(t.columns - t.column_counts.log(), torch.zeros(30).double(), atol=1e-9, rtol=0)
    assert float(found.images.mean()) == pytest.approx(0, abs=1e-12)


@pytest.mark.parametrize("factor", [0.5, 2.0, 7.0])
def test_scale_is_the_inverse_of_a_factor(factor):
    x, y = gaussian_pairs(500, 3, 0.6)
    pmi = gaussian_pmi(x, y, 0.6)
    exact, scaled = best_scale(pmi), best_scale(factor * pmi)
    assert scaled.alpha * factor == pytest.approx(exact.alpha, abs=1e-4)
    assert exact.alpha == pytest.approx(1, abs=0.1)
    again = dv(tally(scaled.alpha * factor * pmi)) - dv(tally(factor * pmi))
    assert scaled.gain_nats == pytest.approx(again, abs=1e-6) and scaled.gain_nats > 0


def test_noise_lowers_the_scale_and_backward_scores_get_none():
    x, y = gaussian_pairs(500, 3, 0.6)
    pmi = gaussian_pmi(x, y, 0.6)
    assert best_scale(pmi + torch.randn(500, 500, generator=torch.Generator().manual_seed(0))).alpha < 0.8
    assert best_scale(-pmi).alpha == pytest.approx(0, abs=1e-3)


def test_ranking_scale_is_blind_to_offsets_per_text():
    x, y = gaussian_pairs(400, 2, 0.7)
    pmi = gaussian_pmi(x, y, 0.7)
    offset = torch.linspace(-3, 3, 400).double()
    exact = best_ranking_scale(pmi)
    assert exact == pytest.approx(1, abs=0.15)
    assert best_ranking_scale(2 * pmi + offset) == pytest.approx(exact / 2, abs=1e-4)

    def value(a):
        return float((a * pmi).log_softmax(0).diagonal().mean())

    assert value(exact) > max(value(exact + 0.01), value(exact - 0.01))


def test_ratio_calibration_passes_pmi_and_fails_others():
    x, y = gaussian_pairs(900, 2, 0.7)
    pmi = gaussian_pmi(x, y, 0.7)
    good = ratio_calibration(pmi + 5)
    assert good.p_value > 0.01 and good.nats < 0.15
    assert float(good.weight.sum()) == pytest.approx(1)
    for bad in (2 * pmi, pmi.clamp_min(0), pmi + torch.randn(900, 900, generator=torch.Generator().manual_seed(0))):
        found = ratio_calibration(bad)
        assert found.p_value < 1e-4 and found.nats > good.nats


def test_ratio_calibration_keeps_its_promise_on_fresh_draws():
    p_values = [ratio_calibration(gaussian_pmi(*gaussian_pairs(250, 1, 0.6, s), 0.6)).p_value for s in range(60)]
    assert sum(p < 0.05 for p in p_values) <= 9  # 3 expected; more than 9 of 60 once in a thousand


def test_monotone_map_recovers_a_log_ratio():
    x, y = gaussian_pairs(2000, 1, 0.8)
    pmi = gaussian_pmi(x, y, 0.8)
    own = torch.eye(2000, dtype=torch.bool)
    ratio = fit_ratio(pmi[own].exp() * 3, pmi[~own].exp() * 3)
    s = torch.linspace(-1.0, 0.7, 9).double()
    np.testing.assert_allclose(ratio(s.exp() * 3).numpy(), s.numpy(), atol=0.35)  # 200 bins of 20 pairs: 0.22 each
    assert np.all(np.diff(ratio.log_ratios) >= 0)


def test_norms_of_pmi_lie_in_their_band_and_offsets_show():
    x, y = gaussian_pairs(1000, 1, 0.6)
    pmi = gaussian_pmi(x, y, 0.6)
    images, texts = norms(tally(pmi + 2))
    assert images.testable and texts.testable
    assert images.std_nats < 1.5 * images.band_nats and images.excess_nats < 0.06
    offset = 0.5 * torch.randn(1000, 1, generator=torch.Generator().manual_seed(0))
    images, texts = norms(tally(pmi + offset))
    assert images.excess_nats == pytest.approx(0.5, abs=0.08)
    assert texts.excess_nats < 0.1
    images, texts = norms(tally(pmi + offset.T))
    assert texts.excess_nats == pytest.approx(0.5, abs=0.08) and images.excess_nats < 0.1


def test_copies_of_a_text_are_one_draw():
    x, y = gaussian_pairs(200, 1, 0.6)
    pmi = gaussian_pmi(x, y, 0.6)
    once, _ = norms(tally(pmi))
    copied, _ = norms(tally(as_table(pmi.repeat(1, 4), torch.arange(200).repeat(4))))
    assert copied.median_size == pytest.approx(once.median_size, rel=1e-9)
    assert copied.band_nats == pytest.approx(once.band_nats, rel=1e-6)


def test_large_information_is_not_testable():
    x, y = gaussian_pairs(300, 6, 0.95)
    images, _ = norms(tally(gaussian_pmi(x, y, 0.95)))
    assert not images.testable and images.median_size < 30
    assert gaussian_information(6, 0.95) > math.log(300)


def test_constant_scores_are_refused():
    with pytest.raises(ValueError, match="nothing to calibrate"):
        ratio_calibration(torch.zeros(5, 5))
    with pytest.raises(ValueError, match="constant"):
        fit_ratio(torch.zeros(5), torch.zeros(9))
