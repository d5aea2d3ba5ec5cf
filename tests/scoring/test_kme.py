import pytest
import torch
from reference.contrasts import naive_kme, random_points

from clipib.scoring.cosine import cosine_logits
from clipib.scoring.features import Features, as_features, effective_points, pack, unpack
from clipib.scoring.kme import KME, kme_logits


def points(n, m, width=5, seed=0, dtype=torch.float64):
    return Features(*random_points(n, m, width, seed=seed, dtype=dtype))


@pytest.mark.parametrize("n, k, m, other", [(1, 1, 1, 1), (7, 3, 2, 5), (5, 13, 7, 1)])
@pytest.mark.parametrize("scale", [1.0, 14.3, 100.0])
def test_values_and_gradients_equal_loops(n, k, m, other, scale):
    images, texts = points(n, m), points(k, other, seed=1)
    inputs = [t.requires_grad_() for t in (*images, *texts)] + [torch.tensor(scale).double().requires_grad_()]
    u, w, v, a, s = inputs
    u, v = (torch.nn.functional.normalize(t, dim=-1) for t in (u, v))  # the identity holds on the sphere
    found = kme_logits(Features(u, w), Features(v, a), logit_scale=s)
    expected = torch.stack([torch.stack([naive_kme(u[i], w[i], v[j], a[j], s) for j in range(k)]) for i in range(n)])
    assert torch.allclose(found, expected, atol=1e-10)
    weights = torch.randn(n, k, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    for g, e in zip(
        *(torch.autograd.grad((t * weights).sum(), inputs, retain_graph=True) for t in (found, expected)), strict=True
    ):
        assert torch.allclose(g, e, atol=1e-8, rtol=1e-8)


def test_gradcheck():
    u, w = points(3, 2, 3)
    v, a = points(2, 3, 3, seed=1)
    inputs = [t.requires_grad_() for t in (u, w, v, a, torch.tensor(5.0).double())]
    assert torch.autograd.gradcheck(
        lambda u, w, v, a, s: kme_logits(Features(u, w), Features(v, a), logit_scale=s), inputs
    )


@pytest.mark.parametrize("scale", [14.3, 100.0])
def test_one_point_is_the_cosine_less_the_scale(scale):
    u, v = (as_features(points(9, 1, 16, seed=s, dtype=torch.float32).points[:, 0]) for s in (0, 1))
    found = kme_logits(u, v, logit_scale=scale)
    assert torch.allclose(found, cosine_logits(u, v, logit_scale=scale) - scale, atol=scale * 2e-6)  # float32


@pytest.mark.parametrize("scale", [1.0, 30.0, 100.0])
def test_float32_stays_within_its_rounding_bound_and_finite(scale):
    images, texts = points(40, 4, 16), points(50, 8, 16, seed=1)
    low = [Features(*(t.float() for t in f)) for f in (images, texts)]
    found = KME.logits(*low, logit_scale=scale)
    rows = torch.cartesian_prod(torch.arange(40), torch.arange(50))
    exact = KME.pair_scores(low[0].rows(rows[:, 0]), low[1].rows(rows[:, 1]), logit_scale=scale).view(40, 50)
    bound = KME.rounding(*low, logit_scale=scale)
    assert torch.isfinite(found).all()
    assert float((found - exact).abs().max()) <= bound < 1e-2


def test_pair_scores_do_not_depend_on_what_stands_beside():
    images, texts = points(30, 3, dtype=torch.float32), points(30, 3, seed=1, dtype=torch.float32)
    whole = KME.pair_scores(images, texts, logit_scale=20.0)
    for i in (0, 13, 29):
        alone = KME.pair_scores(images.rows(slice(i, i + 1)), texts.rows(slice(i, i + 1)), logit_scale=20.0)
        assert float(alone) == float(whole[i])


def test_effective_points():
    same = Features(torch.ones(2, 4, 1), torch.full((2, 4), 0.25))
    assert effective_points(same, 20.0).tolist() == pytest.approx([1, 1])
    apart = Features(torch.eye(4)[None], torch.full((1, 4), 0.25))
    assert float(effective_points(apart, 50.0)) == pytest.approx(4)
    u, w = points(3, 4)
    kernel = torch.exp(7 * (torch.einsum("nid,njd->nij", u, u) - 1))
    expected = 1 / torch.einsum("ni,nj,nij->n", w, w, kernel)
    assert torch.allclose(effective_points(Features(u, 3 * w), 7.0), expected)


def test_packing_keeps_everything():
    features = points(3, 4)
    back = unpack(pack(features))
    assert torch.equal(back.points, features.points) and torch.equal(back.weights, features.weights)
    plain = unpack(features.points[:, 0])
    assert plain.points.shape == (3, 1, 5) and plain.weights.tolist() == [[1.0]] * 3
