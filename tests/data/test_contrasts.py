import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from clipib.data.table import load_table
from clipib.errors import UserError


def save_images(folder: Path, names):
    folder.mkdir(parents=True, exist_ok=True)
    for i, name in enumerate(names):
        Image.new("RGB", (8, 8), (40 * i, 90, 200)).save(folder / name)


def table(tmp_path, text, name="t.csv"):
    (tmp_path / name).write_text(text)
    return load_table(tmp_path / name, split="test")


@pytest.fixture
def three(tmp_path):
    save_images(tmp_path, ["a.png", "b.png", "c.png"])
    return tmp_path


SUGAR = """image,caption,negative_caption,category
a.png,a red dot,a blue dot,swap_att
b.png,two dogs,two cats,replace_obj
a.png,one dot,two dots,swap_att
"""


def test_a_column_of_wrong_captions_makes_questions(three):
    dataset = table(three, SUGAR)
    assert dataset.contrasts.images.tolist() == [[0], [1], [0]]
    assert dataset.contrasts.captions[2] == ("one dot", "two dots")
    assert dataset.contrasts.kinds == ("swap_att", "replace_obj", "swap_att")
    assert dataset.captions == ("a red dot", "one dot", "two dogs") and dataset.labels is None
    assert "3 captions against column 'negative_caption', 2 kinds" in dataset.notes


def test_classes_are_read_where_they_are_needed(tmp_path):
    save_images(tmp_path, ["a.png", "b.png"])
    (tmp_path / "t.csv").write_text("image,class,negative\na.png,x,no\nb.png,y,no\n")
    dataset = load_table(tmp_path / "t.csv", split="test", need="label")
    assert dataset.classnames == ("x", "y") and dataset.contrasts is None


def test_a_list_of_wrong_captions_is_several_questions(three):
    rows = [{"image": "a.png", "caption": "x", "foil": ["y", "z"]}, {"image": "b.png", "caption": "u", "foil": "v"}]
    contrasts = table(three, "\n".join(map(json.dumps, rows)), "t.jsonl").contrasts
    assert contrasts.captions == (("x", "y"), ("x", "z"), ("u", "v")) and contrasts.images.tolist() == [[0], [0], [1]]


def test_winograds_pairs_are_read_as_they_are_published(tmp_path):
    save_images(tmp_path / "images", [f"ex_{i}_img_{j}.png" for i in (0, 1) for j in (0, 1)])
    rows = [
        {"id": i, "image_0": f"ex_{i}_img_0", "image_1": f"ex_{i}_img_1", "caption_0": f"{i} on the left"}
        | {"caption_1": f"left on the {i}", "tag": "Noun", "collapsed_tag": kind}
        for i, kind in ((0, "Object"), (1, "Relation"))
    ]
    dataset = table(tmp_path, "\n".join(map(json.dumps, rows)), "examples.jsonl")
    assert dataset.images.ids[3] == "images/ex_1_img_1.png" and len(dataset) == 4
    assert dataset.contrasts.images.tolist() == [[0, 1], [2, 3]]
    assert dataset.contrasts.captions[1] == ("1 on the left", "left on the 1")
    assert dataset.contrasts.kinds == ("Object", "Relation")
    assert dataset.image_of_caption.tolist() == [0, 1, 2, 3] and dataset.captions[1] == "left on the 0"


@pytest.mark.parametrize("place", ["data/images", "data/val2017", "val2017", "images"])
def test_sugarcrepes_files_and_a_folder_of_them(tmp_path, place):
    save_images(tmp_path / place, ["1.png", "2.png"])
    (tmp_path / "data").mkdir(exist_ok=True)
    for kind, n in (("swap_att", 2), ("add_obj", 1)):
        rows = {str(3 * i): {"filename": f"{i + 1}.png", "caption": "c", "negative_caption": kind} for i in range(n)}
        (tmp_path / "data" / f"{kind}.json").write_text(json.dumps(rows))
    one = load_table(tmp_path / "data" / "swap_att.json", split="test")
    both = load_table(tmp_path / "data", split="test")
    assert one.contrasts.kinds == ("", "") and one.name == "data/swap_att.json"
    assert both.contrasts.kinds == ("add_obj", "swap_att", "swap_att") and both.contrasts.images.ravel().tolist() == [
        0,
        0,
        1,
    ]
    assert both.images.open(1).size == (8, 8)
    (tmp_path / "data" / "x.csv").write_text("image\n")
    with pytest.raises(UserError, match="is a folder, not a table"):
        load_table(tmp_path / "data", split="test")


@pytest.mark.parametrize(
    "text, message",
    [
        ("image,caption,negative_caption\na.png,x,\n", "no negative caption in 1 rows; the first is row 1"),
        ("image,caption,negative_caption\na.png,x,y\nb.png,z, z \n", "1 of 2 wrong captions"),
        ("image,caption,negative_caption\na.png,x,y\na.png,,z\n", "row 2 has 0"),
        ("image,negative_caption\na.png,x\n", "no caption column"),
        ("image_0,image_1,caption_0,caption_1\na.png,b.png,x,x\n", "1 of 1 wrong captions"),
        ("image_0,image_1,caption_0,caption_1\na.png,,x,y\n", "no image in 1 rows"),
        ("image_0,image_1,caption_0\na.png,b.png,x\n", "no caption column"),
    ],
)
def test_what_cannot_be_asked_is_said(three, text, message):
    (three / "t.csv").write_text(text)
    with pytest.raises(UserError, match=message):
        load_table(three / "t.csv", split="test", need="caption")


@pytest.mark.parametrize("text", ["[1]", "{", '"x"'])
def test_json_that_is_no_table(tmp_path, text):
    (tmp_path / "t.json").write_text(text)
    with pytest.raises(UserError, match="JSON"):
        load_table(tmp_path / "t.json", split="test")


def test_questions_follow_their_images(three):
    dataset = table(three, SUGAR + "c.png,sky,sea,replace_obj\n")
    taken = dataset.take(np.array([2, 0]))
    assert taken.contrasts.images.tolist() == [[1], [1], [0]]
    assert [own for own, _ in taken.contrasts.captions] == ["a red dot", "one dot", "sky"]
    without_a = dataset.take(np.array([1, 2]))
    assert without_a.contrasts.images.tolist() == [[0], [1]] and without_a.captions == ("two dogs", "sky")


def test_a_sample_takes_questions_of_every_kind(three):
    dataset = table(three, SUGAR + "c.png,sky,sea,replace_obj\n")
    sample = dataset.sample(2, seed=1)
    assert sorted(sample.contrasts.kinds) == ["replace_obj", "swap_att"] and sample.limit == 2
    assert len(sample) == len(np.unique(sample.contrasts.images))
    assert dataset.sample(4, seed=1) is dataset


def test_the_hash_holds_the_wrong_captions_and_the_kinds(three):
    hashes = [table(three, SUGAR).sha256]
    hashes += [
        table(three, SUGAR.replace(a, b)).sha256 for a, b in (("two cats", "two cows"), ("swap_att", "swap_obj"))
    ]
    assert len(set(hashes)) == 3 and table(three, SUGAR).sha256 == hashes[0]


def test_the_shared_questions_are_read_whole(shared_data):
    path = shared_data("coco_val2017_ccby") / "sugarcrepe.csv"
    contrasts, frame = load_table(path, split="test").contrasts, pd.read_csv(path)
    assert list(contrasts.captions) == list(
        zip(frame.caption.str.strip(), frame.negative_caption.str.strip(), strict=True)
    )
    assert list(contrasts.kinds) == frame.kind.tolist()
