import pytest
import torch
from reference.contrasts import random_points

from clipib.registry import resolve
from clipib.scoring import SIMILARITIES
from clipib.scoring.features import Features
from clipib.scoring.tiles import STATISTICS, reduce_logits, reduce_matrix


def reduced(name, n, *, statistic, tile, groups=None, scale=14.0, dtype=torch.float64, equal=False):
    """Statistics and gradients of a fixed function of them, for a batch of n pairs."""
    similarity = resolve("similarity", SIMILARITIES, name)
    m = 1 if name == "cosine" else 3
    sets = []
    for seed in (0, 1):
        points, weights = random_points(n, m, 6, seed=seed, dtype=dtype)
        sets.append([points[:1].expand_as(points).clone() if equal else points, weights if m > 1 else weights * 0 + 1])
    inputs = [t.requires_grad_() for s in sets for t in s]
    inputs += [torch.tensor(scale, dtype=dtype, requires_grad=True), torch.tensor(-3.0, dtype=dtype).requires_grad_()]
    images, texts = (similarity.prepare(Features(*inputs[i : i + 2]), 1) for i in (0, 2))
    found = reduce_logits(
        similarity,
        images,
        texts,
        logit_scale=inputs[4],
        logit_bias=inputs[5] if statistic == "softplus" else None,
        groups=groups,
        statistic=statistic,
        tile=tile,
    )
    place = torch.arange(1.0, n + 1, dtype=dtype)
    total = (found.rows * place).sum() + (found.columns * place.sqrt()).sum() + 3 * (found.positives**2).sum()
    return found, torch.autograd.grad(total / n**2, inputs, allow_unused=True)


def compare(a, b, atol):
    for x, y in zip((*a[0], *a[1]), (*b[0], *b[1]), strict=True):
        x, y = (torch.zeros(()) if t is None else t for t in (x, y))  # what the score does not depend on
        assert not torch.isnan(x).any()
        assert torch.allclose(x.double(), y.double(), atol=atol, rtol=atol)


@pytest.mark.parametrize("name", SIMILARITIES)
@pytest.mark.parametrize("statistic", STATISTICS)
@pytest.mark.parametrize("n, tile", [(7, 3), (63, 16), (130, 64), (64, 64)])
def test_tiles_equal_the_whole_matrix_in_values_and_gradients(name, statistic, n, tile):
    compare(reduced(name, n, statistic=statistic, tile=tile), reduced(name, n, statistic=statistic, tile=None), 1e-10)


def test_one_pair():
    for name in SIMILARITIES:
        compare(
            reduced(name, 1, statistic="log_sum_exp", tile=1),
            reduced(name, 1, statistic="log_sum_exp", tile=None),
            1e-10,
        )


@pytest.mark.parametrize("statistic", STATISTICS)
def test_groups(statistic):
    groups = torch.randint(0, 20, (63,), generator=torch.Generator().manual_seed(0))
    options = {"statistic": statistic, "groups": groups}
    compare(reduced("kme", 63, tile=16, **options), reduced("kme", 63, tile=None, **options), 1e-10)


@pytest.mark.parametrize("name", ["cosine", "kme"])
@pytest.mark.parametrize("scale", [14.0, 100.0])
def test_float32_tiles_are_near_float64(name, scale):
    options = {"statistic": "log_sum_exp", "scale": scale}
    low = reduced(name, 63, tile=16, dtype=torch.float32, **options)
    high = reduced(name, 63, tile=None, **options)
    compare(low, high, 100 * 2.0**-23 * scale)  # a few roundings of logits as large as the scale


@pytest.mark.parametrize("name", ["cosine", "kme"])
def test_equal_logits(name):
    options = {"statistic": "log_sum_exp", "equal": name == "cosine"}
    compare(reduced(name, 63, tile=16, **options), reduced(name, 63, tile=None, **options), 1e-10)


def test_large_sets_are_streamed_without_being_asked(monkeypatch):
    monkeypatch.setattr("clipib.scoring.tiles.AT_ONCE", 100)
    monkeypatch.setattr("clipib.scoring.tiles.TILE_NUMBERS", 64)
    monkeypatch.setattr("clipib.scoring.tiles.reduce_matrix", None)
    reduced("cosine", 63, statistic="log_sum_exp", tile=None)


def test_a_second_derivative_of_a_streamed_result_is_refused():
    similarity = resolve("similarity", SIMILARITIES, "cosine")
    u = torch.nn.functional.normalize(torch.randn(8, 4), dim=-1).requires_grad_()
    features = Features(u[:, None], torch.ones(8, 1))
    found = reduce_logits(similarity, features, features, logit_scale=torch.tensor(5.0), tile=4)
    with pytest.raises(RuntimeError, match="differentiated twice"):
        torch.autograd.grad(found.rows.sum(), u, create_graph=True)


def test_what_does_not_fit_is_refused():
    with pytest.raises(ValueError, match="expected logits"):
        reduce_matrix(torch.zeros(2, 3))
    similarity = resolve("similarity", SIMILARITIES, "cosine")
    a, b = (Features(torch.ones(n, 1, 3), torch.ones(n, 1)) for n in (3, 4))
    with pytest.raises(ValueError, match="3 images, 4 texts"):
        reduce_logits(similarity, a, b, logit_scale=torch.tensor(1.0))
    with pytest.raises(ValueError, match="statistic"):
        reduce_logits(similarity, a, a, logit_scale=torch.tensor(1.0), statistic="mean")
