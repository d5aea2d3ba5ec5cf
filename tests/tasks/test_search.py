import numpy as np
import pytest
from PIL import Image

from clipib import search
from clipib.errors import UserError


def test_hits_come_best_first_with_their_text(checkpoint, tmp_path):
    hits = search("the red thing", str(checkpoint), "digitworld:n=60", top=7, save=tmp_path / "s" / "sheet.png")
    assert [h.rank for h in hits] == list(range(1, 8))
    assert np.all(np.diff([h.cosine for h in hits]) <= 0)
    assert hits[0].sample_id.startswith("test/") and hits[0].text
    assert Image.open(tmp_path / "s" / "sheet.png").size == (5 * 168 + 8, 2 * 184 + 8)


@pytest.mark.parametrize("options, message", [({"query": " "}, "empty"), ({"save": "x.txt"}, "no picture file")])
def test_mistakes_are_named(checkpoint, options, message):
    with pytest.raises(UserError, match=message):
        search(**{"query": "a", "model": str(checkpoint), "data": "digitworld:n=9", **options})
