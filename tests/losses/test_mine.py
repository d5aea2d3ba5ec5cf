import copy
import math

import pytest
import torch
from reference.losses import naive_critic, naive_donsker_varadhan
from reference.pairs import assert_same_values_and_gradients, unit_pairs, with_gradient

from clipib.errors import UserError
from clipib.losses.penalty import mine
from clipib.losses.penalty.mine import TERMS, MinePenalty
from clipib.losses.terms import Paired

SCALE = torch.tensor(14.3)


def trained(batches, *, seed=0, **options):
    penalty = MinePenalty(seed=seed, **options)
    for step, batch in enumerate(batches):
        torch.manual_seed(step)
        penalty(batch, logit_scale=SCALE)
    return penalty


def private_pairs(n, seed=0):
    """Embeddings that say nothing of each other; each hidden feature is the embedding itself."""
    image, text = unit_pairs(n, seed=seed).image, unit_pairs(n, seed=seed + 50).image
    return Paired(image, text, image.clone(), text.clone())


def draws(paired, seed):
    """The noise of both sides and the shift as the penalty draws them."""
    torch.manual_seed(seed)
    noise = {side: torch.randn_like(z) for side, z in (("image", paired.image), ("text", paired.text))}
    return noise, int(torch.randint(1, len(paired.image), ()))


def naive_mine(penalty, paired, seed):
    noise, shift = draws(paired, seed)
    sigma = 1 / float(SCALE) ** 0.5
    z = {"image": paired.image + sigma * noise["image"], "text": paired.text + sigma * noise["text"]}
    hidden = {"image": paired.image_hidden, "text": paired.text_hidden}
    state = penalty.state_dict()["critics"]
    return {
        name: naive_donsker_varadhan(naive_critic(state, name), z[t.z], hidden[t.hidden], shift)
        for name, t in TERMS.items()
    }


@pytest.mark.parametrize("n", [2, 7, 63])
def test_values_and_gradients_equal_loops(n):
    paired = with_gradient(private_pairs(n))
    penalty = trained([private_pairs(63, seed) for seed in range(30)])
    naive = naive_mine(penalty, paired, seed=5)
    torch.manual_seed(5)
    found = penalty(paired, logit_scale=SCALE, training=False)
    for name, expected in naive.items():
        assert float(found.terms[name]) == pytest.approx(float(expected.detach()), abs=1e-5)  # three layers of float32
    expected = (
        naive["mine_image_image"] - naive["mine_image_text"] + naive["mine_text_text"] - naive["mine_text_image"]
    ) / 2
    assert float(expected.detach()) > 0
    assert_same_values_and_gradients(found.total, expected, paired, rel=2e-5)
    assert found.terms["loss_penalty"] == found.total


def test_the_critics_climb_as_the_loops_say():
    """Adam on the gradient of -T + e^T / (moving average of mean e^T), over two calls of three steps, in float64."""
    paired = unit_pairs(7, dtype=torch.float64)
    penalty, scale = trained([paired]), SCALE.double()
    reference = copy.deepcopy(penalty.critics).requires_grad_(True)
    optimizer = torch.optim.Adam(reference.parameters(), lr=mine.LEARNING_RATE)
    optimizer.load_state_dict(penalty.state_dict()["optimizer"])
    averages = {name: float(value.exp()) for name, value in penalty.log_denominators.items()}
    hidden = {"image": paired.image_hidden, "text": paired.text_hidden}
    for seed in (1, 2):
        torch.manual_seed(seed)
        for _ in range(mine.CRITIC_STEPS):
            z = {s: x + torch.randn_like(x) / scale.sqrt() for s, x in (("image", paired.image), ("text", paired.text))}
            shift = int(torch.randint(1, 7, ()))
            optimizer.zero_grad()
            for name, t in TERMS.items():
                joint = reference[name](z[t.z], hidden[t.hidden])
                order = [(i - shift) % 7 for i in range(7)]
                ratio = reference[name](z[t.z], hidden[t.hidden][order]).exp()
                averages[name] = 0.99 * averages[name] + 0.01 * float(ratio.detach().mean())
                sum((ratio[i] / averages[name] - joint[i]) / 7 for i in range(7)).backward()
            optimizer.step()
        torch.manual_seed(seed)
        penalty(paired, logit_scale=scale)
    for found, expected in zip(penalty.critics.parameters(), reference.parameters()):
        # Adam divides by the root of the second moment, which enlarges the last bits where a gradient is near 0.
        torch.testing.assert_close(found, expected.detach(), rtol=1e-6, atol=1e-8)
    for name, value in averages.items():
        assert float(penalty.log_denominators[name].exp()) == pytest.approx(value, rel=1e-9)


def gaussian_channel(nats, width=4):
    """sigma with I(x + sigma noise; x) = nats for x ~ N(0, I), and a source of batches.

    The text's embedding and hidden feature are drawn apart from the image's: nothing of one is in the other.
    """
    sigma = (math.exp(2 * nats / width) - 1) ** -0.5
    generator = torch.Generator().manual_seed(int(10 * nats))

    def draw(n):
        image, text = torch.randn(2, n, width, generator=generator)
        return Paired(image, text, image, text)

    return sigma, draw


def test_on_a_gaussian_channel_the_estimate_is_below_the_truth_and_sees_what_depends():
    """1 nat; after 100 calls of 128 the estimate on 8,192 fresh pairs is a lower bound up to its sampling error."""
    sigma, draw = gaussian_channel(1.0)
    penalty = MinePenalty(sigma)
    torch.manual_seed(0)
    for _ in range(100):
        penalty(draw(128), logit_scale=SCALE)
    terms = penalty(draw(8192), logit_scale=SCALE, training=False).terms
    for name in ("mine_image_image", "mine_text_text"):
        # Critics come to 0.93 by then and to 0.98 after 1,500 calls; the estimate's own error is some 0.03.
        assert 0.6 < float(terms[name]) < 1.1
    for name in ("mine_image_text", "mine_text_image"):
        assert abs(float(terms[name])) < 0.15  # the truth is 0
    assert float(terms["loss_penalty"]) > 0.5


def test_what_both_inputs_tell_alike_is_not_penalised():
    """The two inputs are the same: I(Z; X) - I(Z; X') is 0, and the estimates of it cancel up to their errors."""
    sigma, draw = gaussian_channel(1.0)
    penalty = MinePenalty(sigma)
    torch.manual_seed(0)
    for _ in range(100):
        image = draw(128).image
        penalty(Paired(image, image, image, image), logit_scale=SCALE)
    image = draw(8192).image
    assert float(penalty(Paired(image, image, image, image), logit_scale=SCALE, training=False).total) < 0.1


def test_below_zero_the_penalty_is_cut_off_and_has_no_gradient():
    paired = with_gradient(unit_pairs(63))
    swapped = paired._replace(image_hidden=torch.randn(63, 6), text_hidden=torch.randn(63, 4))
    informed = swapped._replace(image_hidden=paired.text.detach(), text_hidden=paired.image.detach())
    penalty = trained([informed] * 40)
    found = penalty(informed, logit_scale=SCALE, training=False)
    assert not found.total.any() and float(found.terms["mine_image_text"]) > float(found.terms["mine_image_image"])
    assert all(not g.any() for g in torch.autograd.grad(found.total, (paired.image, paired.text)))


def test_the_critics_get_no_gradient_from_the_loss_and_hidden_features_none_at_all():
    paired = with_gradient(private_pairs(63))
    paired = paired._replace(image_hidden=paired.image_hidden.requires_grad_())
    penalty = trained([private_pairs(63)] * 30)
    before = [p.clone() for p in penalty.critics.parameters()]
    penalty(paired, logit_scale=SCALE, training=False).total.backward()
    assert paired.image.grad.abs().sum() > 0 and paired.image_hidden.grad is None
    assert all(torch.equal(a, b) for a, b in zip(before, penalty.critics.parameters()))
    assert not any(p.requires_grad for p in penalty.critics.parameters())


def test_building_depends_on_the_seed_alone_and_leaves_the_global_generator_alone():
    def after_first_call(penalty):
        torch.manual_seed(3)
        penalty(unit_pairs(), logit_scale=SCALE, training=False)
        assert not any(p.requires_grad for p in penalty.critics.parameters())
        return torch.rand(()), penalty.state_dict()["critics"]["mine_image_text.layers.0.weight"]

    built = MinePenalty(seed=1)
    first, weights = after_first_call(built)
    again, _ = after_first_call(built)  # nothing left to build
    assert first == again
    torch.rand(5)
    assert torch.equal(weights, after_first_call(MinePenalty(seed=1))[1])
    assert not torch.equal(weights, after_first_call(MinePenalty(seed=2))[1])


def test_a_saved_state_goes_on_with_the_same_numbers(tmp_path):
    batches = [unit_pairs(7, seed=seed) for seed in range(6)]

    def run(penalty, steps):
        found = []
        for step in steps:
            torch.manual_seed(step)
            found.append({k: float(v) for k, v in penalty(batches[step], logit_scale=SCALE).terms.items()})
        return found

    expected = run(MinePenalty(), range(6))
    first = MinePenalty()
    found = run(first, range(3))
    torch.save(first.state_dict(), tmp_path / "state.pt")
    second = MinePenalty(seed=9)  # whose own critics are never used
    second.load_state_dict(torch.load(tmp_path / "state.pt", weights_only=True))
    torch.save(second.state_dict(), tmp_path / "state.pt")  # saved again before the first batch
    third = MinePenalty()
    third.load_state_dict(torch.load(tmp_path / "state.pt", weights_only=True))
    assert found + run(third, range(3, 6)) == expected


def test_a_state_that_was_handed_out_does_not_change():
    penalty = trained([unit_pairs()])
    state = penalty.state_dict()
    kept = copy.deepcopy(state)
    penalty(unit_pairs(), logit_scale=SCALE)
    for part in ("critics", "log_denominators"):
        assert all(torch.equal(state[part][k], kept[part][k]) for k in kept[part])


def test_nothing_to_save_before_the_first_batch():
    penalty = MinePenalty()
    penalty.load_state_dict(MinePenalty().state_dict())
    assert math.isfinite(float(penalty(unit_pairs(), logit_scale=SCALE).total))


def test_a_critic_that_is_nan_stands_before_the_penalty_among_the_terms():
    paired = unit_pairs()
    paired.text_hidden[0, 0] = torch.nan
    terms = trained([paired])(paired, logit_scale=SCALE).terms
    assert next(name for name, value in terms.items() if not torch.isfinite(value)) in TERMS


def test_without_features_before_the_projection_the_user_is_told():
    with pytest.raises(UserError, match="before the projection"):
        MinePenalty()(unit_pairs()._replace(text_hidden=None), logit_scale=SCALE)


def test_one_pair_has_no_marginals():
    with pytest.raises(ValueError, match="at least 2"):
        MinePenalty()(unit_pairs(1), logit_scale=SCALE)


def test_large_scores_do_not_overflow():
    penalty = trained([unit_pairs(63)])
    penalty.critics["mine_image_image"].layers[-1].weight *= 1e4
    terms = trained_step(penalty)
    assert all(torch.isfinite(v) for v in terms.values())
    assert all(torch.isfinite(p).all() for p in penalty.critics.parameters())


def trained_step(penalty):
    torch.manual_seed(0)
    return penalty(unit_pairs(63), logit_scale=SCALE).terms
