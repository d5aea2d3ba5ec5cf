import pytest
import torch
from reference.losses import naive_distance
from reference.pairs import assert_same_values_and_gradients, unit_pairs, with_gradient

from clipib.errors import UserError
from clipib.losses.penalty.distance import DistancePenalty
from clipib.losses.terms import Paired

distance = DistancePenalty()


@pytest.mark.parametrize("n", [1, 7, 63, 130])
@pytest.mark.parametrize("sigma", [None, 0.3])
def test_value_and_gradient_equal_loops(n, sigma):
    paired = with_gradient(unit_pairs(n))
    found = DistancePenalty(sigma)(paired, logit_scale=torch.tensor(14.3)).total
    expected = naive_distance(paired.image, paired.text, 14.3 if sigma is None else 1 / sigma**2)
    assert_same_values_and_gradients(found, expected, paired)


def test_the_gradient_is_that_of_finite_differences():
    paired = with_gradient(unit_pairs(dtype=torch.float64))
    scale = torch.tensor(10.0, dtype=torch.float64)
    assert torch.autograd.gradcheck(
        lambda u, v: distance(Paired(u, v), logit_scale=scale).total, (paired.image, paired.text)
    )


def test_on_unit_vectors_it_is_scale_times_one_minus_cosine():
    paired = unit_pairs()
    expected = 10 * (1 - (paired.image * paired.text).sum(-1)).mean()
    assert float(distance(paired, logit_scale=torch.tensor(10.0)).total) == pytest.approx(float(expected), rel=1e-5)


@pytest.mark.parametrize("sigma", [0.0, -1.0, float("nan"), float("inf")])
def test_an_impossible_sigma_is_refused(sigma):
    with pytest.raises(UserError, match="sigma"):
        DistancePenalty(sigma)


def test_it_bounds_the_conditional_information_of_jointly_gaussian_embeddings():
    """z = a x + b e with x shared: I(z + noise; x, e | x) = 1/2 log(1 + b^2/sigma^2), below E|z - z'|^2/(2 sigma^2)."""
    generator = torch.Generator().manual_seed(0)
    x, e = torch.randn(2, 100_000, generator=generator)
    sigma2, b = 0.25, 0.5
    z, other = (x + b * e)[:, None], x[:, None]
    bound = float(distance(Paired(z, other), logit_scale=torch.tensor(1 / sigma2)).total)
    truth = 0.5 * torch.log1p(torch.tensor(b * b / sigma2))
    assert bound == pytest.approx(b * b / (2 * sigma2), rel=0.02)  # sampling error of 100,000 squares
    assert bound > float(truth)
