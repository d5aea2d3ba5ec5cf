"""`--preprocess` reaches the pixels, the store and the rows."""

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image

from clipib import embed, finetune, retrieve, search, zeroshot
from clipib.data.load import load_dataset
from clipib.embeddings.encode import embed_images
from clipib.errors import UserError
from clipib.models.load import load_model


@pytest.fixture
def photographs(tmp_path):
    """Class folders of JPEGs of odd sizes, and one PNG with a palette."""
    rng = np.random.default_rng(0)
    for name, color in (("red", (200, 60, 40)), ("blue", (40, 60, 200))):
        folder = tmp_path / "photographs" / name
        folder.mkdir(parents=True)
        for i in range(4):
            coarse = np.clip(np.array(color) + rng.integers(-60, 60, (9, 7, 3)), 0, 255).astype(np.uint8)
            picture = Image.fromarray(coarse).resize((61 + 12 * i, 83 - 9 * i), Image.Resampling.BICUBIC)
            picture.save(folder / f"{i}.jpg", quality=90)
        picture.convert("P").save(folder / "palette.png")
    return tmp_path / "photographs"


def test_fast_takes_the_bytes_and_is_close(checkpoint, photographs):
    dataset = load_dataset(f"folder:{photographs}", need="label")
    plain = load_model(str(checkpoint), device="cpu")
    fast = load_model(str(checkpoint), device="cpu", preprocess="fast")
    assert fast.fingerprint == plain.fingerprint and fast.transform_key != plain.transform_key
    found, expected = (embed_images(m, dataset, store=None).features for m in (fast, plain))
    same = (found == expected).all(dim=1)
    palette = torch.tensor([name.endswith("png") for name in dataset.images.ids])
    assert same[palette].all() and not same.all()
    assert (found * expected).sum(dim=1).min() > 0.9999
    assert (embed_images(fast, load_dataset("digitworld:n=5"), store=None).features.norm(dim=1) - 1).abs().max() < 1e-5


def test_rows_and_store_tell_the_ways_apart(checkpoint, photographs, tmp_path):
    spec, places = f"folder:{photographs}", {"out": tmp_path / "z", "cache_dir": tmp_path / "c"}
    found = {}
    for name in ("open_clip", "fast", "hf"):
        found[name] = zeroshot(str(checkpoint), spec, preprocess=name, **places)
        assert found[name].images_encoded == 10 and found[name].texts_encoded == (2 if name == "open_clip" else 0)
    assert {r.params for r in found["open_clip"].rows} == {"", "temperature=own"}
    for name in ("fast", "hf"):
        assert all(r.params.split(";")[0] == f"preprocess={name}" for r in found[name].rows)
    for name, first in found.items():  # each is kept under its own name
        again = zeroshot(str(checkpoint), spec, preprocess=name, **places)
        assert again.rows == first.rows and (again.images_encoded, again.texts_encoded) == (0, 0)
    samples = pd.read_parquet(next((tmp_path / "z" / "samples").glob("*.parquet")))
    assert samples.groupby("params").size().to_dict() == {"": 10, "preprocess=fast": 10, "preprocess=hf": 10}


def test_every_task_takes_it(checkpoint, photographs, tmp_path):
    spec = f"folder:{photographs}"
    assert embed(str(checkpoint), spec, preprocess="fast", out=tmp_path / "e")[0].n == 10
    assert len(search("a red thing", str(checkpoint), spec, preprocess="fast", top=3)) == 3
    rows = retrieve(str(checkpoint), "digitworld:n=20", preprocess="hf", out=tmp_path / "r").rows
    assert all("preprocess=hf" in r.params.split(";") for r in rows)
    assert any(r.params == "preprocess=hf;scores=true_pmi;ties=expected" for r in rows)
    run = {"out": tmp_path / "f", "steps": 1, "batch_size": 4, "workers": 0}
    rows = finetune(str(checkpoint), spec, preprocess="fast", allow_overlap=True, **run).rows
    assert {r.params for r in rows} == {f"preprocess=fast;stage={stage}" for stage in ("start", "best", "last")}
    with pytest.raises(UserError, match="differs in preprocess"):
        finetune(str(checkpoint), spec, allow_overlap=True, **run)


def test_an_unknown_way_is_told_before_anything_is_loaded(checkpoint, tmp_path):
    for task in (zeroshot, retrieve, finetune):
        with pytest.raises(UserError, match="Unknown preprocess 'fats'. Did you mean 'fast'"):
            task(str(checkpoint), "digitworld:n=5", preprocess="fats", out=tmp_path / "z")
