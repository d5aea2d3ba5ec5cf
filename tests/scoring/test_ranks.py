import math

import pytest
import torch
from reference.contrasts import naive_kme, random_points
from reference.ranks import naive_ranks

from clipib.scoring.features import Features
from clipib.scoring.kme import KME
from clipib.scoring.ranks import retrieval_ranks
from clipib.scoring.wpse import WPSE


def unit(*shape, seed=0):
    return torch.nn.functional.normalize(torch.randn(*shape, generator=torch.Generator().manual_seed(seed)), dim=-1)


@pytest.mark.parametrize("n, captions, width", [(1, 1, 3), (7, 3, 5), (63, 2, 16), (130, 1, 4)])
def test_ranks_equal_loops(n, captions, width):
    images, texts = unit(n, width), unit(n * captions, width, seed=1)
    image_of_text = torch.arange(n * captions) % n
    ranks = retrieval_ranks(images, texts, image_of_text, tile=32)
    to_image, to_text = naive_ranks(images, texts, image_of_text)
    assert ranks.text_to_image.tolist() == to_image
    assert ranks.image_to_text.tolist() == to_text


@pytest.mark.parametrize("tile", [1, 5, 16, 1000])
def test_planted_duplicates_tie_to_the_lowest_index_whatever_the_tile(tile):
    images, texts = unit(40, 8), unit(80, 8, seed=1)
    images[30:] = images[:10]
    texts[70:] = texts[:10]
    image_of_text = torch.arange(80) % 40
    ranks = retrieval_ranks(images, texts, image_of_text, tile=tile)
    to_image, to_text = naive_ranks(images, texts, image_of_text)
    assert ranks.text_to_image.tolist() == to_image
    assert ranks.image_to_text.tolist() == to_text
    assert ranks.tied_texts.sum() == 40  # own image among the 20 that have a twin, two texts each


def test_all_equal_features_rank_by_index():
    images, texts = unit(1, 8).repeat(50, 1), unit(1, 8).repeat(50, 1)
    ranks = retrieval_ranks(images, texts, torch.arange(50), tile=16)
    assert ranks.text_to_image.tolist() == list(range(50))
    assert ranks.tied_images.all()


def test_close_scores_are_settled_in_float64():
    """Near copies differ by less than a float32 product resolves; the order must be the exact one."""
    base = unit(1, 512)
    images = torch.nn.functional.normalize(base + 1e-7 * torch.randn(64, 512), dim=-1)
    texts = base.repeat(64, 1)
    ranks = retrieval_ranks(images, texts, torch.arange(64), tile=24)
    assert ranks.text_to_image.tolist() == naive_ranks(images, texts, torch.arange(64))[0]


def naive_point_ranks(scores, image_of_text):
    """Ranks both ways of scores (N, M) by sorting; a tie goes to the lowest index."""
    to_image = [
        sorted(range(len(scores)), key=lambda i: (-scores[i][t], i)).index(image)
        for t, image in enumerate(image_of_text)
    ]
    to_text = []
    for i, line in enumerate(scores):
        order = sorted(range(len(line)), key=lambda t: (-line[t], t))
        to_text.append(next(r for r, t in enumerate(order) if image_of_text[t] == i))
    return to_image, to_text


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
    to_image, to_text = naive_point_ranks(scores, image_of_text.tolist())
    assert ranks.text_to_image.tolist() == to_image
    assert ranks.image_to_text.tolist() == to_text


@pytest.mark.parametrize("similarity", [KME, WPSE], ids=["kme", "wpse"])
@pytest.mark.parametrize("tile", [1, 5, 1000])
def test_equal_sets_of_points_tie_whatever_the_tile(similarity, tile):
    images, texts = (Features(*random_points(40, 3, 8, seed=s, dtype=torch.float32)) for s in (0, 1))
    for side in (images, texts):
        for part in side:
            part[30:] = part[:10]
    images, texts = (similarity.prepare(x, 0) for x in (images, texts))
    ranks = retrieval_ranks(images, texts, torch.arange(40), similarity=similarity, logit_scale=100.0, tile=tile)
    assert ranks.tied_texts.tolist() == ranks.tied_images.tolist() == [True] * 10 + [False] * 20 + [True] * 10
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
