import math

import pytest
import torch

from clipib.information.table import as_table, tally


def test_tally_equals_loops_with_several_texts_an_image(monkeypatch):
    monkeypatch.setattr("clipib.information.table.BLOCK", 13)  # rows come one or two at a time
    g = torch.Generator().manual_seed(0)
    scores = torch.randn(7, 13, generator=g, dtype=torch.float64)
    owner = torch.tensor([0, 1, 2, 3, 4, 5, 6, 0, 0, 3, 5, 5, 1])
    t = tally(as_table(scores, owner))
    for i in range(7):
        negatives = [float(scores[i, j]) for j in range(13) if owner[j] != i]
        assert float(t.rows[i]) == pytest.approx(math.log(sum(map(math.exp, negatives))), abs=1e-12)
        assert float(t.squared_rows[i]) == pytest.approx(math.log(sum(math.exp(2 * s) for s in negatives)), abs=1e-12)
        assert float(t.row_sums[i]) == pytest.approx(sum(negatives), abs=1e-12)
        assert float(t.row_counts[i]) == len(negatives)
    for j in range(13):
        negatives = [float(scores[i, j]) for i in range(7) if owner[j] != i]
        assert float(t.columns[j]) == pytest.approx(math.log(sum(map(math.exp, negatives))), abs=1e-12)
        assert float(t.column_sums[j]) == pytest.approx(sum(negatives), abs=1e-12)
        assert float(t.positives[j]) == float(scores[owner[j], j])


def test_scores_of_a_huge_range_lose_nothing():
    scores = torch.tensor([[0.0, -900.0, -901.0], [-700.0, 0.0, 5.0], [3.0, -2.0, 900.0]], dtype=torch.float64)
    t = tally(scores)
    assert float(t.rows[0]) == pytest.approx(-900 + math.log1p(math.exp(-1)), abs=1e-12)
    assert float(t.columns[0]) == pytest.approx(3.0, abs=1e-12)


def test_take_and_one_text_each_follow_the_pairs():
    scores = torch.arange(12.0).reshape(3, 4)
    table = as_table(scores, torch.tensor([2, 0, 1, 2]))
    taken = table.take(torch.tensor([2, 0]))
    (_, block, own) = next(iter(taken.blocks()))
    assert block.tolist() == [[8, 9, 11], [0, 1, 3]]
    assert own.tolist() == [[True, False, True], [False, True, False]]
    seen = set()
    for seed in range(8):
        square = table.one_text_each(torch.Generator().manual_seed(seed))
        assert square.shape == (3, 3)
        seen.add(float(tally(square).positives[2]))
    assert seen == {8.0, 11.0}


def test_held_tables_are_the_same():
    table = as_table(torch.randn(5, 5)).map(lambda s: 2 * s)
    for a, b in zip(tally(table), tally(table.hold())):
        torch.testing.assert_close(a, b)


@pytest.mark.parametrize(
    "scores, owner, message",
    [
        (torch.zeros(1, 1), None, "at least two images"),
        (torch.zeros(2, 3), None, "square"),
        (torch.zeros(2, 3), torch.zeros(2), "image_of_text"),
        (torch.tensor([[0.0, torch.nan], [0, 0]]), None, "not finite"),
        (torch.zeros(2, 3), torch.zeros(3, dtype=torch.int64), "no text of another"),
    ],
)
def test_bad_tables(scores, owner, message):
    with pytest.raises(ValueError, match=message):
        tally(as_table(scores, owner))


def test_an_image_without_a_text_is_named():
    with pytest.raises(ValueError, match="image 1 has no text"):
        as_table(torch.zeros(2, 2), torch.tensor([0, 0])).one_text_each(torch.Generator())
