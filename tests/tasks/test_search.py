import json
import shutil

import numpy as np
import pytest
from PIL import Image

from clipib import embed, search
from clipib.errors import UserError
from clipib.progress import Progress


class Said(Progress):
    """Keeps the lines that a task says."""

    def __init__(self):
        self.lines = []

    def say(self, text):
        self.lines.append(text)


def test_hits_come_best_first_with_their_text(checkpoint, tmp_path):
    hits = search("the red thing", str(checkpoint), "digitworld:n=60", top=7, save=tmp_path / "s" / "sheet.png")
    assert [h.rank for h in hits] == list(range(1, 8))
    assert np.all(np.diff([h.score for h in hits]) <= 0)
    assert hits[0].sample_id.startswith("test/") and hits[0].text
    assert Image.open(tmp_path / "s" / "sheet.png").size == (5 * 168 + 8, 2 * 184 + 8)


@pytest.mark.parametrize("data", ["digitworld:n=300", "digitworld/digit:n=40", "photos"])
@pytest.mark.parametrize("index", [None, "flat", "ivf", "hnsw"])
def test_an_embed_folder_gives_the_hits_of_its_data(checkpoint, photo_folder, tmp_path, data, index):
    data = f"folder:{photo_folder}" if data == "photos" else data
    embed(str(checkpoint), data, out=tmp_path / "e", index=index)
    anew = search("the red thing", str(checkpoint), data, top=5)
    hits = search("the red thing", embedded=tmp_path / "e", top=5)
    assert [h.sample_id for h in hits] == [h.sample_id for h in anew]
    assert [h.text for h in hits] == [h.text for h in anew]
    assert [h.score for h in hits] == pytest.approx([h.score for h in anew], abs=1e-6)


def test_pictures_are_needed_for_a_sheet_alone(checkpoint, photo_folder, tmp_path):
    embed(str(checkpoint), f"folder:{photo_folder}", out=tmp_path / "e", limit=5)
    hits = search("a blue dot", embedded=tmp_path / "e", top=3, save=tmp_path / "sheet.png")
    assert Image.open(tmp_path / "sheet.png").size == (3 * 168 + 8, 184 + 8)
    Image.new("RGB", (40, 40)).save(photo_folder / "test" / hits[0].sample_id)
    with pytest.raises(UserError, match="not the image that was encoded"):
        search("a blue dot", embedded=tmp_path / "e", top=3, save=tmp_path / "sheet.png")
    (photo_folder / "test" / hits[0].sample_id).unlink()
    with pytest.raises(UserError, match="no longer in"):
        search("a blue dot", embedded=tmp_path / "e", top=3, save=tmp_path / "sheet.png")
    shutil.rmtree(photo_folder)
    assert search("a blue dot", embedded=tmp_path / "e", top=3) == hits


def test_the_recall_is_that_written_at_build_time_else_measured(checkpoint, tmp_path):
    embed(str(checkpoint), "digitworld:n=1200", out=tmp_path, index="hnsw")
    about = json.loads((tmp_path / "images.index.json").read_text())
    about["recall"]["10"] = 0.1234  # as it was not
    (tmp_path / "images.index.json").write_text(json.dumps(about))
    written, measured, exact = Said(), Said(), Said()
    search("the red thing", embedded=tmp_path, progress=written)
    search("the red thing", embedded=tmp_path, top=3, progress=measured)
    search("the red thing", embedded=tmp_path, index="flat", progress=exact)
    assert "hnsw (M=32" in written.lines[-1] and "recall@10 0.1234 " in written.lines[-1]
    assert "recall@3 1.0000 " in measured.lines[-1] or "recall@3 0.9" in measured.lines[-1]
    assert all("on 1,000 texts" in said.lines[-1] for said in (written, measured))
    assert not any("recall@" in line for line in exact.lines)


def test_an_index_on_data_is_measured_by_known_texts_else_by_images(checkpoint, tmp_path):
    model, options = str(checkpoint), {"top": 5, "index": "hnsw", "cache_dir": tmp_path / "c"}
    before, after = Said(), Said()
    search("red", model, "digitworld:n=70", progress=before, **options)
    embed(model, "digitworld:n=70", out=tmp_path / "e", cache_dir=tmp_path / "c")
    search("red", model, "digitworld:n=70", progress=after, **options)
    assert "70 images" in before.lines[-1] and "70 texts" in after.lines[-1]


def test_an_index_that_finds_too_few_is_not_trusted(checkpoint, tmp_path):
    embed(str(checkpoint), "digitworld:n=1500", out=tmp_path, index="ivf")
    said = Said()
    hits = search("red", embedded=tmp_path, top=1500, progress=said)
    assert "searched exactly" in said.lines[-1]
    assert [h.sample_id for h in hits] == [
        h.sample_id for h in search("red", embedded=tmp_path, top=1500, index="flat")
    ]


def test_another_checkpoint_is_refused(checkpoint, tmp_path):
    embed(str(checkpoint), "digitworld:n=9", out=tmp_path)
    with pytest.raises(UserError, match="was written by tiny"):
        search("red", "tiny", pretrained="none", embedded=tmp_path)


def test_random_weights_are_found_again_by_their_seed(tmp_path):
    embed("tiny", "digitworld:n=9", pretrained="none", seed=5, out=tmp_path)
    assert len(search("red", embedded=tmp_path, top=4)) == 4


def test_a_damaged_index_is_told_and_exact_search_still_works(checkpoint, tmp_path, clipib):
    assert clipib("embed", "-m", checkpoint, "-d", "digitworld:n=9", "--index", "hnsw", "--out", "e").exit_code == 0
    (tmp_path / "e" / "images.faiss").write_bytes(b"")
    result = clipib("search", "red", "--embedded", "e")
    assert result.exit_code == 2 and "--index flat" in " ".join(result.stderr.split())
    assert clipib("search", "red", "--embedded", "e", "--index", "flat").exit_code == 0


def test_a_dry_run_reads_the_folder_and_encodes_nothing(checkpoint, tmp_path):
    embed(str(checkpoint), "digitworld:n=9", out=tmp_path / "e")
    assert search("red", embedded=tmp_path / "e", dry_run=True) == []
    with pytest.raises(UserError, match="There is no folder"):
        search("red", embedded=tmp_path / "f", dry_run=True)


@pytest.mark.parametrize(
    "options, message",
    [
        ({"query": " "}, "empty"),
        ({"save": "x.txt"}, "no picture file"),
        ({"index": "flatt"}, "Did you mean 'flat'"),
        ({"embedded": "e"}, "--data digitworld:n=9 does not go with it"),
        ({"embedded": "e", "data": None, "limit": 3}, "--limit 3 does not go with it"),
    ],
)
def test_mistakes_are_named(checkpoint, options, message):
    with pytest.raises(UserError, match=message):
        search(**{"query": "a", "model": str(checkpoint), "data": "digitworld:n=9", **options})
