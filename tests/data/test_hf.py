"""Data sets through the `datasets` library, from local folders: no network."""

import io

import datasets
import numpy as np
import pytest
from PIL import Image

from clipib.data.hf import load_hf
from clipib.errors import UserError


def picture(i: int, form: str = "PNG") -> bytes:
    out = io.BytesIO()
    Image.new("RGB", (9, 7), (20 * i % 256, 90, 40)).save(out, form)
    return out.getvalue()


def write(folder, columns, features=None, split="test"):
    """A folder with one parquet file of a split, as a repository of the hub holds it."""
    (folder / "data").mkdir(parents=True, exist_ok=True)
    table = datasets.Dataset.from_dict(columns, features=features)
    table.to_parquet(str(folder / "data" / f"{split}-00000-of-00001.parquet"))
    return str(folder)


@pytest.fixture(autouse=True)
def own_cache(tmp_path, monkeypatch):
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "hf-cache")


@pytest.fixture
def labelled(tmp_path):
    features = datasets.Features(
        {
            "pic": datasets.Image(),
            "animal": datasets.ClassLabel(names=["small_cat", "dog"]),
            "n": datasets.Value("int64"),
        }
    )
    rows = {"pic": [{"bytes": picture(i)} for i in range(3)], "animal": [1, 0, 1], "n": [7, 8, 9]}
    return write(tmp_path / "pets", rows, features)


@pytest.mark.parametrize("stream", [False, True])
def test_class_labels_bring_their_names(labelled, stream):
    dataset = load_hf(labelled, split="test", need="label", stream=stream)
    assert dataset.labels.tolist() == [1, 0, 1] and dataset.classnames == ("small cat", "dog")
    assert [dataset.images.content(i) for i in range(3)] == [picture(i) for i in range(3)]
    assert dataset.images.open(2).getpixel((0, 0)) == (40, 90, 40)
    assert "image column 'pic', label column 'animal'" in dataset.notes[0]
    assert dataset.take(np.array([2, 0])).images.content(0) == picture(2)


def test_captions_in_lists_in_numbered_columns_and_in_rows(tmp_path):
    images = [{"bytes": picture(i)} for i in (0, 1)]
    features = datasets.Features({"image": datasets.Image(), "caption": datasets.Sequence(datasets.Value("string"))})
    lists = write(tmp_path / "lists", {"image": images, "caption": [["a", "b"], ["c"]]}, features)
    features = datasets.Features(
        {"image": datasets.Image(), "caption_0": datasets.Value("string"), "caption_1": datasets.Value("string")}
    )
    numbered = write(tmp_path / "n", {"image": images, "caption_0": ["a", "c"], "caption_1": ["b", None]}, features)
    features = datasets.Features({"image": datasets.Image(), "text": datasets.Value("string")})
    rows = write(tmp_path / "rows", {"image": [images[0], images[1], images[0]], "text": ["a", "c", "b"]}, features)
    for place in (lists, numbered, rows):
        dataset = load_hf(place, split="test", need="caption")
        assert dataset.captions == ("a", "b", "c") and dataset.image_of_caption.tolist() == [0, 0, 1], place
        assert len(dataset) == 2


def test_a_folder_of_save_to_disk(tmp_path):
    features = datasets.Features({"image": datasets.Image(), "label": datasets.ClassLabel(names=["x", "y"])})
    table = datasets.Dataset.from_dict({"image": [{"bytes": picture(1)}], "label": [1]}, features=features)
    datasets.DatasetDict({"validation": table}).save_to_disk(str(tmp_path / "saved"))
    dataset = load_hf(str(tmp_path / "saved"), split="val", need="label")
    assert dataset.split == "val" and dataset.labels.tolist() == [1]
    with pytest.raises(UserError, match="no split 'test'; it has validation"):
        load_hf(str(tmp_path / "saved"), split="test")


def test_unknown_split_and_columns(labelled):
    with pytest.raises(UserError, match="has no split 'train'; it has test"):
        load_hf(labelled, split="train")
    with pytest.raises(UserError, match="no column 'photo'; it has pic, animal, n"):
        load_hf(labelled, split="test", image_column="photo")
    with pytest.raises(UserError, match="has no caption column"):
        load_hf(labelled, split="test", need="caption")


def test_numbers_without_names_make_no_prompts(tmp_path):
    features = datasets.Features({"image": datasets.Image(), "label": datasets.Value("int64")})
    place = write(tmp_path / "d", {"image": [{"bytes": picture(0)}], "label": [3]}, features)
    with pytest.raises(UserError, match="numbers without names"):
        load_hf(place, split="test", need="label")


def test_unlabelled_rows_are_no_class(tmp_path):
    features = datasets.Features({"image": datasets.Image(), "label": datasets.ClassLabel(names=["x", "y"])})
    place = write(tmp_path / "d", {"image": [{"bytes": picture(0)}], "label": [-1]}, features)
    with pytest.raises(UserError, match="rows without a label"):
        load_hf(place, split="test", need="label")


def test_a_loader_script_is_refused_with_the_reason(tmp_path):
    (tmp_path / "scripted").mkdir()
    (tmp_path / "scripted" / "scripted.py").write_text("raise SystemExit('ran a stranger's code')")
    with pytest.raises(UserError, match="loader script"):
        load_hf(str(tmp_path / "scripted"), split="test")


def test_an_image_column_of_other_bytes_is_an_unreadable_image(tmp_path):
    features = datasets.Features({"image": datasets.Value("binary"), "label": datasets.ClassLabel(names=["x", "y"])})
    place = write(tmp_path / "d", {"image": [b"no picture", picture(1)], "label": [0, 1]}, features)
    dataset = load_hf(place, split="test", need="label")
    reasons = [why for _, why in dataset.unreadable(range(2))]
    assert reasons[0] and not reasons[1]


def test_a_label_beyond_the_names_and_a_broken_card(tmp_path, monkeypatch):
    monkeypatch.setattr("clipib.data.hf._open", lambda *_: (Beyond(), "test"))
    (tmp_path / "d").mkdir()
    with pytest.raises(UserError, match="Row 1 of .* has the label 5, but 2 classes have names"):
        load_hf(str(tmp_path / "d"), split="test", need="label")
    monkeypatch.undo()
    features = datasets.Features({"image": datasets.Image(), "label": datasets.ClassLabel(names=["x", "y"])})
    place = write(tmp_path / "yaml", {"image": [{"bytes": picture(0)}], "label": [0]}, features)
    (tmp_path / "yaml" / "README.md").write_text("---\nconfigs: [a: b: c\n---\n")
    with pytest.raises(UserError, match="no valid YAML"):
        load_hf(place, split="test", need="label")


class Beyond:
    """A table whose second row has a label that no name belongs to, as a file of another program may have."""

    features = datasets.Features({"image": datasets.Value("binary"), "label": datasets.ClassLabel(names=["x", "y"])})

    def __len__(self):
        return 2

    def __getitem__(self, key):
        return [0, 5] if key == "label" else {"image": picture(key)}

    def select_columns(self, _):
        return self
