import numpy as np
import pytest

from clipib.metrics.contrasts import answer


def naive(scores):
    """Winoground's definitions, image by image and caption by caption; of equals the first."""
    text, image = [], []
    for s in scores:
        text.append(all(max((0, 1), key=lambda c, i=i: (s[i][c], -c)) == i for i in range(len(s))))
        image.append(all(max(range(len(s)), key=lambda i, c=c: (s[i][c], -i)) == c for c in range(len(s))))
    return text, image


@pytest.mark.parametrize("width", [1, 2])
def test_answers_equal_the_definitions_also_with_ties(width):
    scores = np.random.default_rng(0).integers(0, 4, (500, width, 2)).astype(np.float32)
    found = answer(scores)
    text, image = naive(scores.tolist())
    assert found.text.tolist() == text and found.image.tolist() == image
    assert found.group.tolist() == [t and i for t, i in zip(text, image, strict=True)]
    assert 0 < found.text.mean() < 1 and 0 < found.tied.mean() < 1


def test_ties_by_hand():
    """Equal scores: a hit for the first caption, a miss for the second."""
    one = answer(np.array([[[0.5, 0.5]]]))
    assert one.text.tolist() == [True] and one.tied.tolist() == [True]
    second = answer(np.array([[[0.5, 0.1], [0.4, 0.4]]]))
    assert (second.text[0], second.image[0], second.tied[0]) == (False, True, True)
    across = answer(np.array([[[0.5, 0.4], [0.3, 0.4]]]))
    assert (across.text[0], across.image[0], across.tied[0]) == (True, False, True)
    diagonal = answer(np.array([[[0.5, 0.1], [0.2, 0.5]]]))  # compared with neither
    assert diagonal.group[0] and not diagonal.tied[0]


@pytest.mark.parametrize("shape", [(3, 2), (3, 3, 2), (3, 2, 3)])
def test_other_shapes_and_nan_are_refused(shape):
    with pytest.raises(ValueError, match="expected scores"):
        answer(np.zeros(shape))
    with pytest.raises(ValueError, match="NaN"):
        answer(np.full((1, 1, 2), np.nan))
