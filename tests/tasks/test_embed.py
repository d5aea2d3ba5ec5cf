import json
import shutil

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from clipib import embed
from clipib.errors import UserError


def test_features_and_tables_are_exported(checkpoint, photo_folder, tmp_path):
    images, texts = embed(str(checkpoint), f"folder:{photo_folder}", out=tmp_path / "e", cache_dir=tmp_path / "c")
    features, table = np.load(images.features), pd.read_parquet(images.table)
    assert features.shape == (8, 64) and np.allclose(np.linalg.norm(features, axis=1), 1, atol=1e-6)
    assert table["class"].tolist() == ["blue dot"] * 4 + ["red square"] * 4
    assert table["sample_id"][0] == "blue_dot/0.png" and len(table["sha256"][0]) == 64
    assert pd.read_parquet(texts.table)["text"].tolist() == ["a photo of a blue dot.", "a photo of a red square."]
    again = embed(str(checkpoint), f"folder:{photo_folder}", out=tmp_path / "e", cache_dir=tmp_path / "c")
    assert [e.n_encoded for e in again] == [0, 0]


def test_an_index_says_what_it_is_and_what_it_misses(checkpoint, tmp_path):
    *_, index = embed(str(checkpoint), "digitworld:n=300", index="ivf", out=tmp_path)
    about, features = json.loads(index.table.read_text()), json.loads((tmp_path / "features.json").read_text())
    assert about["kind"] == "ivf" and about["parameters"] == {"nlist": 7, "nprobe": 7} and about["n"] == 300
    assert about["recall"] == {"1": 1.0, "10": 1.0, "100": 1.0}  # all seven lists are read
    assert (about["queries"], about["n_queries"]) == ("texts", 300)
    assert about["features_sha256"] == features["files"]["images.npy"]
    for key in ("checkpoint_sha256", "data_sha256"):
        assert about[key] == features[key]


def test_an_index_goes_with_its_features(checkpoint, tmp_path):
    embed(str(checkpoint), "digitworld:n=30", index="flat", out=tmp_path)
    embed(str(checkpoint), "digitworld:n=30", out=tmp_path)
    assert (tmp_path / "images.faiss").exists()
    embed(str(checkpoint), "digitworld:n=31", out=tmp_path)
    assert not (tmp_path / "images.faiss").exists() and not (tmp_path / "images.index.json").exists()


@pytest.fixture
def captioned(tmp_path):
    """Nine pictures, two of them equal, with captions that do not stand in the order of the pictures."""
    rng = np.random.default_rng(0)
    folder = tmp_path / "captioned"
    folder.mkdir()
    for i in range(9):
        pixels = rng.integers(0, 255, (40, 40, 3)).astype(np.uint8)
        Image.fromarray(pixels).save(folder / f"{i}.png")
    shutil.copy(folder / "0.png", folder / "8.png")
    pairs = [
        (i, f"{word} {i % 4}") for word in ("photo", "a picture of many things") for i in (*range(5, 9), *range(5))
    ]
    pd.DataFrame(pairs, columns=["image", "caption"]).assign(image=lambda t: t["image"].astype(str) + ".png").to_csv(
        folder / "captions.csv", index=False
    )
    return f"csv:{folder / 'captions.csv'}"


@pytest.fixture(params=["captions", "classes"])
def data(request, captioned, photo_folder):
    return captioned if request.param == "captions" else f"folder:{photo_folder}/train"


@pytest.mark.parametrize("n_shards", [1, 2, 3, 7])
def test_shards_joined_from_machines_that_share_nothing_equal_one_run(checkpoint, data, tmp_path, n_shards):
    whole = embed(str(checkpoint), data, out=tmp_path / "whole", cache_dir=tmp_path / "c")
    parts = [
        embed(str(checkpoint), data, shard=f"{i}/{n_shards}", out=tmp_path / "out", cache_dir=tmp_path / f"c{i}")
        for i in range(1, n_shards + 1)
    ]
    joined = embed(str(checkpoint), data, out=tmp_path / "out", cache_dir=tmp_path / "other")
    for one, other in zip(whole, joined, strict=True):
        assert other.n_encoded == 0
        assert np.load(other.features) == pytest.approx(np.load(one.features), abs=1e-6)  # batches differ
        assert pd.read_parquet(other.table).equals(pd.read_parquet(one.table))
    ids = [sample for images, *_ in parts for sample in pd.read_parquet(images.table)["sample_id"]]
    assert ids == pd.read_parquet(whole[0].table)["sample_id"].tolist()  # disjoint, and all of them
    sizes = [images.n for images, *_ in parts]
    assert max(sizes) - min(sizes) <= 1


def test_shards_of_machines_that_share_a_store_need_no_files(checkpoint, captioned, tmp_path):
    for i in (1, 2):
        embed(str(checkpoint), captioned, shard=f"{i}/2", out=tmp_path / f"out{i}", cache_dir=tmp_path / "c")
    joined = embed(str(checkpoint), captioned, out=tmp_path / "o", cache_dir=tmp_path / "c")
    assert [e.n_encoded for e in joined] == [0, 0]


def test_what_no_shard_has_is_encoded_and_told(checkpoint, tmp_path, clipib):
    common = ["embed", "-m", checkpoint, "-d", "digitworld:n=30", "--out", "out"]
    assert clipib(*common, "--shard", "2/3", "--cache-dir", "a").exit_code == 0
    (tmp_path / "out" / "shards" / "003-of-003").mkdir()  # begun, and killed
    result = clipib(*common, "--cache-dir", "b", "--format", "csv")
    assert "not there or not finished: 001-of-003, 003-of-003" in result.stderr
    assert result.stdout.splitlines()[1].startswith("images,30,20,")


def test_a_shard_of_another_checkpoint_is_refused(checkpoint, tmp_path):
    embed("tiny", "digitworld:n=10", pretrained="none", shard="1/2", out=tmp_path, cache_dir=tmp_path / "c")
    with pytest.raises(UserError, match="holds features of tiny \\(random weights\\)"):
        embed(str(checkpoint), "digitworld:n=10", out=tmp_path)


def test_a_damaged_shard_is_refused(checkpoint, tmp_path):
    embed(str(checkpoint), "digitworld:n=10", shard="1/2", out=tmp_path, cache_dir=tmp_path / "c")
    path = tmp_path / "shards" / "001-of-002" / "images.npy"
    np.save(path, -np.load(path))
    with pytest.raises(UserError, match="images.npy"):
        embed(str(checkpoint), "digitworld:n=10", out=tmp_path, cache_dir=tmp_path / "d")


@pytest.mark.parametrize("text", ["0/4", "5/4", "a/b", "4", "1/2/3", "-1/2", "1/0", ""])
def test_a_part_that_there_is_not_is_refused_before_anything_is_loaded(text, clipib, tmp_path):
    result = clipib("embed", "-m", "nowhere", "--shard", text)
    if text:
        assert result.exit_code == 2 and "Write --shard 2/4" in " ".join(result.stderr.split())
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    "options, message",
    [
        ({"shard": "1/9"}, "has only 8 images"),
        ({"shard": "1/2", "index": "flat"}, "not over a shard"),
        ({"index": "ifv"}, "Did you mean 'ivf'"),
    ],
)
def test_mistakes_are_named(checkpoint, tmp_path, options, message):
    with pytest.raises(UserError, match=message):
        embed(str(checkpoint), "digitworld:n=8", out=tmp_path / "e", **options)
    assert not (tmp_path / "e").exists()
