import pytest
import torch
from reference.ranks import naive_ranks

from clipib.scoring.ranks import retrieval_ranks


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


def test_an_image_without_text_is_an_error():
    with pytest.raises(ValueError, match="image 1 has no text"):
        retrieval_ranks(unit(2, 4), unit(2, 4), torch.tensor([0, 0]))


def test_features_that_are_not_finite_are_an_error():
    images = unit(2, 4)
    images[0, 0] = torch.nan
    with pytest.raises(ValueError, match="finite"):
        retrieval_ranks(images, unit(2, 4), torch.arange(2))
