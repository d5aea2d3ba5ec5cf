import pytest
import torch
from reference.losses import naive_distance

from clipib.losses.penalty.distance import distance_penalty


def pair(n=7, width=5):
    generator = torch.Generator().manual_seed(n)
    return [torch.nn.functional.normalize(torch.randn(n, width, generator=generator), dim=-1) for _ in range(2)]


@pytest.mark.parametrize("n", [1, 7, 63])
def test_value_and_gradient_equal_loops(n):
    u, v = (x.requires_grad_() for x in pair(n))
    scale = torch.tensor(14.3)
    found, expected = distance_penalty(u, v, logit_scale=scale), naive_distance(u, v, 14.3)
    assert float(found) == pytest.approx(float(expected), rel=1e-6)
    for x in (u, v):
        assert torch.allclose(
            torch.autograd.grad(found, x, retain_graph=True)[0],
            torch.autograd.grad(expected, x, retain_graph=True)[0].float(),
            atol=1e-6,
        )


def test_on_unit_vectors_it_is_scale_times_one_minus_cosine():
    u, v = pair()
    expected = 10 * (1 - (u * v).sum(-1)).mean()
    assert float(distance_penalty(u, v, logit_scale=torch.tensor(10.0))) == pytest.approx(float(expected), rel=1e-5)


def test_the_scale_gets_no_gradient():
    u, v = pair()
    scale = torch.tensor(10.0, requires_grad=True)
    assert not distance_penalty(u, v, logit_scale=scale).requires_grad


def test_it_bounds_the_conditional_information_of_jointly_gaussian_embeddings():
    """z = a x + b e with x shared: I(z + noise; x, e | x) = 1/2 log(1 + b^2/sigma^2), below E|z - z'|^2/(2 sigma^2)."""
    generator = torch.Generator().manual_seed(0)
    x, e = torch.randn(2, 100_000, generator=generator)
    sigma2, b = 0.25, 0.5
    z, other = (x + b * e)[:, None], x[:, None]
    bound = float(distance_penalty(z, other, logit_scale=torch.tensor(1 / sigma2)))
    truth = 0.5 * torch.log1p(torch.tensor(b * b / sigma2))
    assert bound == pytest.approx(b * b / (2 * sigma2), rel=0.02)  # sampling error of 100,000 squares
    assert bound > float(truth)
