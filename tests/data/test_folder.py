import os
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from clipib.data.folder import load_folder
from clipib.errors import UserError


def picture(path, color=(9, 9, 9)):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (8, 8), color).save(path)


def test_split_folders_are_understood(photo_folder):
    for split, n in (("train", 12), ("test", 8)):
        dataset = load_folder(photo_folder, split=split)
        assert (len(dataset), dataset.split, dataset.name) == (n, split, f"photos/{split}")
        assert dataset.classnames == ("blue dot", "red square")
        assert dataset.labels.tolist() == [0] * (n // 2) + [1] * (n // 2)


def test_a_split_that_is_missing_names_those_that_are_there(photo_folder):
    with pytest.raises(UserError, match="no val folder, but train, test"):
        load_folder(photo_folder, split="val")


def test_integer_class_folders_sort_by_number(tmp_path):
    for c in ("10", "2", "0"):
        picture(tmp_path / c / "x.png")
    assert load_folder(tmp_path, split="test").classnames == ("0", "2", "10")


def test_classnames_and_templates_beside_the_split_folders_are_used(photo_folder):
    (photo_folder / "classnames.txt").write_text("blue\nred\n")
    (photo_folder / "templates.txt").write_text("a {c} thing\na {} shape\n")
    dataset = load_folder(photo_folder, split="test")
    assert dataset.classnames == ("blue", "red")
    assert dataset.templates == ("a {c} thing", "a {c} shape")


def test_plain_images_have_no_labels(tmp_path):
    picture(tmp_path / "a.png")
    dataset = load_folder(tmp_path, split="test")
    assert dataset.labels is None and dataset.images.ids == ["a.png"]


def test_an_empty_class_is_named(photo_folder):
    (photo_folder / "test" / "green").mkdir()
    with pytest.raises(UserError, match="1 of 3 class folders .* hold no image: 'green'"):
        load_folder(photo_folder, split="test")


@pytest.mark.parametrize("path, message", [("nowhere", "no folder"), ("file.txt", "is a file")])
def test_a_path_that_is_no_folder(tmp_path, path, message):
    (tmp_path / "file.txt").write_text("")
    with pytest.raises(UserError, match=message):
        load_folder(tmp_path / path, split="test")


def test_a_folder_without_images_says_what_it_holds(tmp_path):
    (tmp_path / "notes.md").write_text("")
    with pytest.raises(UserError, match=r"holds no image, only \.md"):
        load_folder(tmp_path, split="test")


def test_pictures_are_rgb_whatever_their_mode(tmp_path):
    for mode in ("L", "P", "RGBA", "CMYK", "1"):
        path = tmp_path / "c" / f"{mode}.{'jpg' if mode == 'CMYK' else 'png'}"
        path.parent.mkdir(exist_ok=True)
        Image.new(mode, (8, 8)).save(path)
    dataset = load_folder(tmp_path, split="test")
    for i in range(len(dataset)):
        assert np.asarray(dataset.images.open(i)).shape == (8, 8, 3)


def test_classes_that_are_called_train_or_test_are_classes(tmp_path):
    for c in ("bus", "dog", "train"):
        picture(tmp_path / "data" / "test" / c / "x.png")
    assert load_folder(tmp_path / "data", split="test").classnames == ("bus", "dog", "train")
    assert load_folder(tmp_path / "data" / "test", split="test").classnames == ("bus", "dog", "train")


def test_sixteen_bit_greys_are_scaled_and_floats_refused(tmp_path):
    values = np.array([[0, 257 * 100], [65535, 257 * 7 + 100]], dtype=np.uint16)
    Image.fromarray(values).save(tmp_path / "a.png")
    Image.fromarray(np.zeros((2, 2), np.float32)).save(tmp_path / "b.tif")
    dataset = load_folder(tmp_path, split="test")
    assert np.asarray(dataset.images.open(0))[..., 0].tolist() == [[0, 100], [255, 7]]
    with pytest.raises(OSError, match="32-bit"):
        dataset.images.open(1)


def test_a_class_folder_without_rights_is_not_called_empty(photo_folder, monkeypatch):
    real = os.access
    monkeypatch.setattr(os, "access", lambda path, mode: Path(path).name != "blue_dot" and real(path, mode))
    with pytest.raises(UserError, match="may not read the folder .*blue_dot"):
        load_folder(photo_folder, split="test")
