import math

import pytest
import torch
from reference.contrasts import naive_kme, random_points
from reference.ranks import inner_products, naive_ranks, ranks_of_scores

from clipib.scoring.features import Features
from clipib.scoring.kme import KME
from clipib.scoring.ranks import retrieval_ranks
from clipib.scoring.running_top import RunningTop
from clipib.scoring.scorer import Scorer
from clipib.scoring.wpse import WPSE


def unit(*shape, seed=0):
    return torch.nn.functional.normalize(torch.randn(*shape, generator=torch.Generator().manual_seed(seed)), dim=-1)


def lists(ranks):
    return [part.tolist() for part in ranks]


@pytest.mark.parametrize("n, captions, width", [(1, 1, 3), (7, 3, 5), (33, 2, 16), (60, 1, 4)])
def test_ranks_equal_loops(n, captions, width):
    images, texts = unit(n, width), unit(n * captions, width, seed=1)
    image_of_text = torch.arange(n * captions) % n
    ranks = retrieval_ranks(images, texts, image_of_text, tile=32)
    assert lists(ranks) == list(ranks_of_scores(inner_products(images, texts), image_of_text))


def planted():
    """30 images and 75 texts of which many are copies, some of them of texts of their own image."""
    images, texts = unit(30, 8), unit(75, 8, seed=1)
    images[20:] = images[:10]
    texts[60:70] = texts[:10]
    texts[70:] = texts[45:50]
    owner = torch.cat([torch.arange(30), torch.arange(30), torch.tensor([5] * 8 + [0] * 2), torch.arange(15, 20)])
    return images, texts, owner


@pytest.fixture(scope="module")
def of_planted():
    images, texts, owner = planted()
    return list(ranks_of_scores(inner_products(images, texts), owner))


@pytest.mark.parametrize("tile", [4, 16, 1000, (3, 50), (64, 7)])
def test_planted_duplicates_tie_to_the_lowest_index_whatever_the_tile(tile, of_planted):
    ranks = retrieval_ranks(*planted(), tile=tile)
    assert lists(ranks) == of_planted
    assert (ranks.tied_texts > 0).sum() == 10 * 2 + 10 * 2 + 10 and ranks.tied_texts.max() == 1  # of twins
    assert (ranks.tied_images > 0).any()


def test_tiles_of_one_pair_give_the_same():
    images, texts = unit(4, 8)[torch.tensor([0, 1, 2, 0, 3, 1])], unit(9, 8, seed=1)[torch.arange(18) % 9]
    owner = torch.arange(18) % 6
    ranks = retrieval_ranks(images, texts, owner, tile=1)
    assert lists(ranks) == list(ranks_of_scores(inner_products(images, texts), owner))
    assert ranks.tied_texts.any() and ranks.tied_images.any()


@pytest.mark.parametrize("strength", [0.0, 0.1, 0.25])
def test_ranks_of_many_do_not_depend_on_the_tile(strength):
    """Every owner has from one to nine texts, in mixed order; the oracle is a stable sort of float64 scores."""
    owner = torch.cat([torch.arange(300), torch.randint(80, (500,), generator=torch.Generator().manual_seed(2))])
    owner = owner[torch.randperm(800, generator=torch.Generator().manual_seed(3))]
    images = unit(300, 64)
    texts = torch.nn.functional.normalize(strength * 8 * images[owner] + 8 * unit(800, 64, seed=1), dim=-1)
    scores = images.double() @ texts.double().T
    place = scores.argsort(dim=1, descending=True, stable=True).argsort(dim=1)[owner, torch.arange(800)]
    for tile in (None, 128, 100, (300, 17), (31, 800)):
        ranks = retrieval_ranks(images, texts, owner, tile=tile)
        assert torch.equal(ranks.text_to_image, (scores > scores[owner, torch.arange(800)]).sum(0))
        assert torch.equal(ranks.own_text_ranks, torch.minimum(place, torch.bincount(owner)[owner]))
        best = torch.full((300,), 800).scatter_reduce(0, owner, place, "amin")
        assert torch.equal(ranks.image_to_text, best)


def test_all_equal_features_rank_by_index():
    images, texts = unit(1, 8).repeat(50, 1), unit(1, 8).repeat(50, 1)
    for tile in (16, 64):
        ranks = retrieval_ranks(images, texts, torch.arange(50), tile=tile)
        assert ranks.text_to_image.tolist() == ranks.image_to_text.tolist() == list(range(50))
        assert ranks.ahead_texts.sum() == ranks.ahead_images.sum() == 0
        assert ranks.tied_images.tolist() == ranks.tied_texts.tolist() == [49] * 50
        assert ranks.own_text_ranks.tolist() == [0] + [1] * 49


def test_all_equal_features_at_size_score_one_pair_a_tile(monkeypatch):
    """4,000,000 pairs are near ties, and all are the same pair."""
    seen = []
    real = Scorer.pairs
    monkeypatch.setattr(Scorer, "pairs", lambda self, image, text: seen.append(len(image)) or real(self, image, text))
    images = unit(1, 32).repeat(2000, 1)
    ranks = retrieval_ranks(images, images, torch.arange(2000))
    assert torch.equal(ranks.text_to_image, torch.arange(2000)) and (ranks.tied_images == 1999).all()
    assert sum(seen) == 2000 + 4 * 3


@pytest.mark.parametrize("tile", [None, (7, 300)])
def test_tiles_full_of_ties_between_several_kinds(tile):
    """Scores of vectors of halves are exact in any order; the oracle is a stable sort."""
    halves = torch.cartesian_prod(*[torch.tensor([-0.5, 0.5])] * 4)
    generator = torch.Generator().manual_seed(0)
    images, texts = (halves[torch.randint(16, (n,), generator=generator)] for n in (200, 400))
    owner = torch.arange(400) % 200
    ranks = retrieval_ranks(images, texts, owner, tile=tile)
    scores = images @ texts.T
    to_image = scores.T.argsort(dim=1, descending=True, stable=True).argsort(dim=1)[torch.arange(400), owner]
    place = scores.argsort(dim=1, descending=True, stable=True).argsort(dim=1)[owner, torch.arange(400)]
    assert torch.equal(ranks.text_to_image, to_image)
    assert torch.equal(ranks.image_to_text, place.view(2, 200).amin(0))
    assert torch.equal(ranks.own_text_ranks, place.clamp(max=2))
    own = scores[owner, torch.arange(400)]
    assert torch.equal(ranks.ahead_texts, (scores > own).sum(0))
    assert torch.equal(ranks.tied_texts, (scores == own).sum(0) - 1)


def test_the_lists_of_first_texts_stay_short(monkeypatch):
    """Every text is better than all before it, and would stand first for a while."""
    held = []
    real = RunningTop.add

    def add(self, tile, scorer):
        real(self, tile, scorer)
        held.append(sum(len(text) for _, text, _ in self._found))

    monkeypatch.setattr(RunningTop, "add", add)
    angle = torch.linspace(1.5, 0.1, 400).double()
    texts = torch.stack([angle.cos(), angle.sin()], dim=1).float()
    images = torch.tensor([[1.0, 0.0]]).repeat(10, 1)
    ranks = retrieval_ranks(images, texts, torch.arange(400) // 40, tile=(10, 20))
    assert ranks.own_text_ranks.tolist() == [40] * 360 + list(range(39, -1, -1))
    assert max(held) <= 2 * 400


def test_a_collapsed_model_is_settled_by_float64_tiles(monkeypatch):
    """Every pair is a near tie by float32, and nearly none by float64."""
    seen = []
    real = Scorer.pairs
    monkeypatch.setattr(Scorer, "pairs", lambda self, image, text: seen.append(len(image)) or real(self, image, text))
    images, texts = (
        torch.nn.functional.normalize(unit(1, 256) + 1e-6 * unit(n, 256, seed=n), dim=-1) for n in (150, 300)
    )
    owner = torch.arange(300) % 150
    ranks = retrieval_ranks(images, texts, owner, tile=128)
    scores = images.double() @ texts.double().T
    assert torch.equal(ranks.text_to_image, (scores > scores[owner, torch.arange(300)]).sum(0))
    assert sum(seen) < 300 + 150 * 30


def test_close_scores_are_settled_in_float64():
    """Near copies differ by less than a float32 product resolves; the order must be the exact one."""
    base = unit(1, 512)
    images = torch.nn.functional.normalize(base + 1e-7 * torch.randn(64, 512), dim=-1)
    texts = base.repeat(64, 1)
    ranks = retrieval_ranks(images, texts, torch.arange(64), tile=24)
    assert ranks.text_to_image.tolist() == naive_ranks(images, texts, torch.arange(64))[0]


@pytest.mark.parametrize("n, captions, tile", [(1, 1, None), (7, 3, 4), (17, 2, 5), (17, 2, None)])
@pytest.mark.parametrize("scale", [5.0, 100.0])
def test_kme_ranks_equal_loops_over_points(n, captions, tile, scale):
    u, w = random_points(n, 3, 6, dtype=torch.float32)
    v, a = random_points(n * captions, 2, 6, seed=1, dtype=torch.float32)
    image_of_text = torch.arange(n * captions) % n
    ranks = retrieval_ranks(Features(u, w), Features(v, a), image_of_text, similarity=KME, logit_scale=scale, tile=tile)
    numbers = [x.double() for x in (u, w, v, a)]
    scores = [
        [float(naive_kme(*(x[i] for x in numbers[:2]), *(x[t] for x in numbers[2:]), scale)) for t in range(len(v))]
        for i in range(n)
    ]
    assert lists(ranks) == list(ranks_of_scores(scores, image_of_text))


@pytest.mark.parametrize("similarity", [KME, WPSE], ids=["kme", "wpse"])
@pytest.mark.parametrize("tile", [5, (1, 40), 1000])
def test_equal_sets_of_points_tie_whatever_the_tile(similarity, tile):
    images, texts = (Features(*random_points(40, 3, 8, seed=s, dtype=torch.float32)) for s in (0, 1))
    for side in (images, texts):
        for part in side:
            part[30:] = part[:10]
    images, texts = (similarity.prepare(x, 0) for x in (images, texts))
    ranks = retrieval_ranks(images, texts, torch.arange(40), similarity=similarity, logit_scale=100.0, tile=tile)
    assert ranks.tied_texts.tolist() == ranks.tied_images.tolist() == [1] * 10 + [0] * 20 + [1] * 10
    whole = retrieval_ranks(images, texts, torch.arange(40), similarity=similarity, logit_scale=100.0)
    assert all(torch.equal(a, b) for a, b in zip(ranks, whole, strict=True))


def test_close_kme_scores_are_settled_in_float64():
    """Near copies differ by less than a float32 tile resolves; the order must be the exact one.

    The exact one is that of the inner products: float32 points have unit norm to 1e-7 only, which moves the distances
    of `naive_kme` by as much as these scores differ.
    """
    u, w = random_points(1, 3, 64, dtype=torch.float32)
    noise = 1e-7 * torch.randn(48, 3, 64, generator=torch.Generator().manual_seed(0))
    images = Features(torch.nn.functional.normalize(u + noise, dim=-1), w.repeat(48, 1))
    texts = Features(u.repeat(48, 1, 1), w.repeat(48, 1))
    ranks = retrieval_ranks(images, texts, torch.arange(48), similarity=KME, logit_scale=100.0, tile=20)

    def score(points):
        total = 0.0
        for p, p_weight in zip(points.double(), w[0].double(), strict=True):
            for q, q_weight in zip(u[0].double(), w[0].double(), strict=True):
                total += float(p_weight * q_weight * torch.exp(100.0 * ((p * q).sum() - 1)))
        return math.log(total)

    scores = [score(points) for points in images.points]
    exact = sorted(range(48), key=lambda i: (-scores[i], i))
    assert len(set(scores)) == 48 and max(scores) - min(scores) < 2e-5
    assert ranks.text_to_image.tolist() == [exact.index(i) for i in range(48)]


def test_an_image_without_text_is_an_error():
    with pytest.raises(ValueError, match="image 1 has no text"):
        retrieval_ranks(unit(2, 4), unit(2, 4), torch.tensor([0, 0]))


def test_features_that_are_not_finite_are_an_error():
    images = unit(2, 4)
    images[0, 0] = torch.nan
    with pytest.raises(ValueError, match="finite"):
        retrieval_ranks(images, unit(2, 4), torch.arange(2))
