import pytest
import torch
from reference.contrasts import naive_wpse, random_points

from clipib.scoring.features import Features
from clipib.scoring.wpse import BANDWIDTH, WPSE, embed_point_sets


def sets(seed):
    return Features(*random_points(6, 3, 8, seed=seed, signed=True))


def scores(n_features, draw):
    images, texts = (embed_point_sets(sets(s), draw, n_features=n_features) for s in (0, 1))
    return WPSE.logits(images, texts, logit_scale=torch.tensor(1.0).double())


def exact():
    (u, w), (v, a) = sets(0), sets(1)
    return torch.stack(
        [torch.stack([naive_wpse(u[i], w[i], v[j], a[j], BANDWIDTH) for j in range(6)]) for i in range(6)]
    )


def test_it_is_the_double_sum_within_the_error_of_the_random_features_which_falls_as_their_root():
    expected = exact()
    rms = {}
    for n in (256, 1024, 4096):
        errors = torch.stack([scores(n, draw) - expected for draw in range(1, 13)])
        rms[n] = float(errors.square().mean().sqrt())
        assert abs(float(errors.mean())) < 4 * rms[n] / (12**0.5)  # no bias; 36 entries of a draw are not independent
    assert rms[256] < 1 / 3 * (2 / 256) ** 0.5  # one kernel value has a variance of at most 2 / F, weights sum below 1
    for few, many in ((256, 1024), (1024, 4096)):
        assert rms[few] / rms[many] == pytest.approx(2, rel=0.35)  # root of 4; 12 draws of 36 dependent entries


def test_evaluation_always_has_the_same_frequencies_and_every_training_step_new_ones():
    assert torch.equal(scores(64, 0), scores(64, 0))
    assert not torch.equal(scores(64, 1), scores(64, 2))
    torch.manual_seed(1)
    before = torch.rand(1)
    torch.manual_seed(1)
    scores(64, 3)
    assert torch.equal(torch.rand(1), before)


def test_gradcheck():
    u, w = sets(0)
    inputs = [u[:2].clone().requires_grad_(), w[:2].clone().requires_grad_()]
    assert torch.autograd.gradcheck(lambda u, w: embed_point_sets(Features(u, w), 1, n_features=4).points, inputs)
