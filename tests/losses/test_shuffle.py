"""The shuffled controls, and what all penalties share."""

import pytest
import torch
from reference.losses import naive_distance
from reference.pairs import assert_same_values_and_gradients, unit_pairs, with_gradient

from clipib.losses import PENALTIES
from clipib.losses.penalty.shuffle import mismatch
from clipib.registry import resolve
from clipib.scoring.features import as_features

SCALE = torch.tensor(14.3)
TWINS = {"shuffle": "distance", "shuffle-logdet": "logdet", "shuffle-mine": "mine"}


def make(name, **options):
    return resolve("penalty", PENALTIES, name)(**options)


def total_after_two(penalty, paired, **options):
    """The third total: what a penalty remembers has entered."""
    torch.manual_seed(0)
    for _ in range(2):
        penalty(paired, logit_scale=SCALE)
    return penalty(paired, logit_scale=SCALE, **options)


@pytest.mark.parametrize("n", [2, 7, 63, 130])
def test_shuffle_is_the_distance_of_each_image_from_its_neighbours_text(n):
    paired = with_gradient(unit_pairs(n))
    found = make("shuffle")(paired, logit_scale=SCALE).total
    order = [(i - 1) % n for i in range(n)]
    assert_same_values_and_gradients(found, naive_distance(paired.image, paired.text[order], float(SCALE)), paired)


@pytest.mark.parametrize("name", TWINS)
def test_it_is_its_twin_on_mismatched_pairs_and_above_it_on_related_ones(name):
    paired, order = unit_pairs(63), [(i - 1) % 63 for i in range(63)]
    moved = paired._replace(text=paired.text[order], text_hidden=paired.text_hidden[order])
    shuffled, twin = make(name), make(TWINS[name])
    found, expected = total_after_two(shuffled, paired), total_after_two(twin, moved)
    assert found.total == expected.total and found.terms == expected.terms
    assert shuffled.term_names == twin.term_names
    if name != "shuffle-mine":
        assert found.total > total_after_two(make(TWINS[name]), paired).total


def test_all_that_belongs_to_a_text_moves_with_it():
    paired = unit_pairs(7)._replace(groups=torch.arange(7))
    paired = paired._replace(image_points=as_features(paired.image), text_points=as_features(paired.text))
    moved = mismatch(paired)
    assert torch.equal(moved.text[1:], paired.text[:-1]) and torch.equal(moved.text[0], paired.text[-1])
    assert torch.equal(moved.text_hidden, paired.text_hidden.roll(1, 0))
    assert torch.equal(moved.text_points.points[:, 0], moved.text)
    assert moved.image is paired.image and moved.image_points is paired.image_points and moved.groups is None


@pytest.mark.parametrize("name", TWINS)
def test_one_pair_cannot_be_mismatched(name):
    with pytest.raises(ValueError, match="at least 2"):
        make(name)(unit_pairs(1), logit_scale=SCALE)


def test_none_is_zero_and_has_no_terms():
    penalty = make("none")
    total, terms = penalty(unit_pairs(), logit_scale=SCALE)
    assert float(total) == 0 and total.dtype == torch.float32 and terms == {} and penalty.term_names == ()


@pytest.mark.parametrize("name", PENALTIES)
def test_the_scale_gets_no_gradient_from_any_penalty(name):
    log_scale = torch.tensor(2.5, requires_grad=True)
    paired = with_gradient(unit_pairs())
    contrast = (paired.image @ paired.text.T * log_scale.exp()).logsumexp(0).mean()
    alone = torch.autograd.grad(contrast, log_scale, retain_graph=True)[0]
    total = contrast + 3 * make(name)(paired, logit_scale=log_scale.exp()).total
    assert torch.equal(torch.autograd.grad(total, log_scale)[0], alone)


@pytest.mark.parametrize("name", PENALTIES)
def test_the_terms_are_those_announced_and_the_first_is_the_total(name):
    penalty = make(name, sigma=0.2, seed=3)
    total, terms = total_after_two(penalty, unit_pairs(), training=False)
    assert set(terms) == set(penalty.term_names) and not any(v.requires_grad for v in terms.values())
    if terms:
        assert terms[penalty.term_names[0]] == total
    assert any(name.endswith("_nats") for name in terms) == (
        name in ("distance", "logdet", "shuffle", "shuffle-logdet")
    )


@pytest.mark.parametrize("name", PENALTIES)
def test_bfloat16_features_under_autocast_are_computed_in_float32(name):
    """To the last bit what the same features give as float32 without autocast."""
    narrow = [x.bfloat16() for x in unit_pairs(63)[:4]]
    paired = unit_pairs(63)._replace(image=narrow[0], text=narrow[1], image_hidden=narrow[2], text_hidden=narrow[3])
    wide = unit_pairs(63)._replace(
        image=narrow[0].float(), text=narrow[1].float(), image_hidden=narrow[2].float(), text_hidden=narrow[3].float()
    )
    expected = total_after_two(make(name), wide).total
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found = total_after_two(make(name), paired).total
    assert found.dtype == torch.float32 and found == expected


@pytest.mark.parametrize("name", PENALTIES)
def test_a_saved_penalty_goes_on_with_the_same_numbers(name):
    first, second = make(name, seed=1), make(name, seed=2)
    total_after_two(first, unit_pairs())
    second.load_state_dict(first.state_dict())
    for penalty in (first, second):
        torch.manual_seed(7)
        penalty.found = [float(penalty(unit_pairs(7, seed=s), logit_scale=SCALE).total) for s in (1, 2, 3)]
    assert first.found == second.found


@pytest.mark.parametrize("name", [name for name in PENALTIES if name != "none"])
def test_shapes_that_do_not_pair_are_named(name):
    paired = unit_pairs()
    with pytest.raises(ValueError, match=r"\(B, D\), got \(7, 5\) and \(7, 4\)"):
        make(name)(paired._replace(text=paired.text[:, :4]), logit_scale=SCALE)
