import numpy as np
import pytest
from scipy.stats import t

from clipib.metrics.few_shot import assign_folds, draw_shots, rounds, t_interval

LABELS = np.random.default_rng(5).permutation(np.repeat(np.arange(7), [1, 2, 3, 5, 8, 13, 21]))


@pytest.mark.parametrize("shots", [1, 2, 4, 30])
def test_every_class_gives_so_many_or_all_it_has(shots):
    drawn = draw_shots(LABELS, shots, seed=1)
    assert np.bincount(LABELS[drawn]).tolist() == np.minimum(np.bincount(LABELS), shots).tolist()
    assert (np.diff(drawn) > 0).all()


def test_draws_differ_by_seed_and_grow_with_the_shots():
    assert not np.array_equal(draw_shots(LABELS, 2, seed=1), draw_shots(LABELS, 2, seed=2))
    assert set(draw_shots(LABELS, 2, seed=1)) < set(draw_shots(LABELS, 4, seed=1))
    with pytest.raises(ValueError, match="at least one shot"):
        draw_shots(LABELS, 0, seed=1)


def test_each_image_of_a_class_is_drawn_equally_often():
    labels = np.array([0] * 4 + [1] * 4)
    times = sum(np.isin(np.arange(8), draw_shots(labels, 1, seed=s)) for s in range(2_000))
    assert np.abs(times / 2_000 - 0.25).max() < 4 * np.sqrt(0.25 * 0.75 / 2_000)


def test_folds_are_balanced_within_every_class_and_leave_single_images_out():
    folds = assign_folds(LABELS, seed=0)
    for k in range(7):
        counts = np.bincount(folds[k == LABELS] + 1, minlength=6)
        assert counts[1:].max() - counts[1:].min() <= 1
        assert counts[0] == (k == 0)
    assert (assign_folds(np.arange(4), seed=0) == -1).all()


def test_rounds_hold_every_image_out_once_and_fit_on_all_others():
    folds = assign_folds(LABELS, seed=0)
    held = [h for _, h in rounds(folds, most_rows=100)]
    assert sorted(np.concatenate(held)) == sorted(np.flatnonzero(folds >= 0))
    for fit, out in rounds(folds, most_rows=100):
        assert sorted([*fit, *out]) == list(range(len(LABELS)))
        assert set(LABELS[out]) <= set(LABELS[fit])  # nothing is asked that could not be learnt
    assert len(list(rounds(folds, most_rows=10))) == 1
    assert list(rounds(np.full(3, -1), most_rows=10)) == []


def test_the_interval_of_the_mean_is_students():
    values = [0.61, 0.58, 0.66, 0.63]
    expected = t.interval(0.95, 3, np.mean(values), np.std(values, ddof=1) / 2)
    assert t_interval(values) == pytest.approx(expected, abs=1e-12)
    assert t_interval([0.5]) is None
    assert t_interval([0.99, 1.0, 0.9]).high == 1.0
