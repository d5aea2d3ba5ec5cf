import io
import json

import pandas as pd
import pytest
from PIL import Image

from clipib.data.table import load_table, read_rows, sorted_values
from clipib.errors import UserError


@pytest.fixture
def images(tmp_path):
    for i, name in enumerate(("a.png", "b.png", "c.png")):
        Image.new("RGB", (8, 8), (i, 0, 0)).save(tmp_path / name)
    return tmp_path


def table(folder, text, name="t.csv"):
    (folder / name).write_text(text)
    return folder / name


@pytest.mark.parametrize("separator", [",", "\t", ";", "|"])
def test_separator_and_columns_are_sniffed(images, separator):
    rows = [("filepath", "title"), ("a.png", "one"), ("b.png", "two, or more")]
    quoted = "\n".join(separator.join(f'"{c}"' if separator in c else c for c in r) for r in rows)
    dataset = load_table(table(images, quoted), split="test")
    assert dataset.captions == ("one", "two, or more")
    assert "image column 'filepath', caption column 'title'" in dataset.notes[0]


def test_repeated_rows_and_list_cells_give_several_captions(images):
    text = "image,caption\na.png,first\nb.png,\"['x', 'y']\"\na.png,second\n"
    dataset = load_table(table(images, text), split="test")
    assert dataset.images.ids == ["a.png", "b.png"]
    assert dataset.captions == ("first", "second", "x", "y")
    assert dataset.image_of_caption.tolist() == [0, 0, 1, 1]


def test_json_lines_and_parquet_lists(images):
    rows = [{"image": "a.png", "captions": ["p", "q"]}, {"image": "b.png", "captions": ["r"]}]
    file = table(images, "\n".join(map(json.dumps, rows)), "t.jsonl")
    pd.DataFrame(rows).to_parquet(images / "t.parquet")
    for path in (file, images / "t.parquet"):
        assert load_table(path, split="test").captions == ("p", "q", "r")


def test_parquet_with_image_bytes(images):
    cells = []
    for name in ("a.png", "b.png", "a.png"):
        cells.append({"bytes": (images / name).read_bytes(), "path": name})
    pd.DataFrame({"image": cells, "text": ["one", "two", "three"]}).to_parquet(images / "t.parquet")
    dataset = load_table(images / "t.parquet", split="test")
    assert len(dataset) == 2 and dataset.captions == ("one", "three", "two")
    assert dataset.images.open(1).getpixel((0, 0)) == (1, 0, 0)


def test_labels_and_the_split_column(images):
    text = "image,label,split\na.png,cat,test\nb.png,big_dog,train\nc.png,big_dog,test\n"
    dataset = load_table(table(images, text), split="test")
    assert dataset.images.ids == ["a.png", "c.png"]
    assert dataset.classnames == ("big dog", "cat") and dataset.labels.tolist() == [1, 0]
    with pytest.raises(UserError, match="no rows of the split 'val'.*test, train"):
        load_table(images / "t.csv", split="val")


def test_columns_can_be_named(images):
    text = "image,other,caption\na.png,b.png,x\n"
    dataset = load_table(table(images, text), split="test", image_column="other", caption_column="image")
    assert dataset.images.ids == ["b.png"] and dataset.captions == ("a.png",)


@pytest.mark.parametrize(
    "text, options, message",
    [
        ("caption,url\nx,y\n", {}, "no image column: it has 'caption', 'url'"),
        ("image,url\na.png,y\n", {"need": "caption"}, "no caption column"),
        ("image,caption\na.png,x\n", {"image_column": "img"}, "no column 'img'"),
        ("image,caption\nz.png,x\n", {}, "would be .*z.png"),
        ("image,caption\n,x\n", {}, "no image in 1 rows"),
        ("image,caption\n", {}, "has no rows"),
        ("image,caption\na.png,\n", {}, "1 of 1 images .* have no caption"),
        ("image,label\na.png,x\na.png,y\n", {}, "two labels"),
        ("image,label\na.png,x\nb.png,\n", {}, "no label in 1 rows; the first is row 2"),
        ("caption,image\na dog, black,a.png\n", {}, "Line 2 .* has 3 cells, the header has 2"),
        ("image,caption,caption\na.png,x,y\n", {}, "'caption' twice"),
        ("image,text\na.png,x\n", {"caption_column": "image"}, "two roles"),
        ("image\nC:\\\\a.png\n", {}, "are not there"),
        ("image,caption\na.png,x\n", {"separator": "ab"}, "not one character"),
    ],
)
def test_mistakes_are_named(images, text, options, message):
    with pytest.raises(UserError, match=message):
        load_table(table(images, text), split="test", **options)


def test_a_missing_table_names_its_neighbours(images):
    table(images, "image\n", "captions.csv")
    with pytest.raises(UserError) as error:
        load_table(images / "caption.csv", split="test")
    assert "captions.csv" in error.value.hint


def test_bytes_that_are_no_image_raise_oserror(images):
    pd.DataFrame({"image": [b"no image"], "text": ["x"]}).to_parquet(images / "t.parquet")
    with pytest.raises(OSError):
        load_table(images / "t.parquet", split="test").images.open(0)
    buffer = io.BytesIO()
    Image.new("RGB", (64, 64)).save(buffer, "JPEG")
    (images / "cut.jpg").write_bytes(buffer.getvalue()[:-100])
    with pytest.raises(OSError):
        load_table(table(images, "image\ncut.jpg\n"), split="test").images.open(0)


@pytest.mark.parametrize(
    "name, content, message",
    [
        ("t.csv", "image,caption\na.png,\xe9\n".encode("latin-1"), "not UTF-8"),
        ("t.parquet", b"no parquet", "no readable parquet"),
        ("t.jsonl", b'{"image": "a.png"}\n{broken\n', "Line 2 .* no JSON"),
        ("t.jsonl", b"[1]\n", "Line 1 .* no JSON object"),
        ("t.jsonl", b'{"image": "a.png", "caption": {"x": 1}}\n', "Row 1 .* no text"),
        ("t.jsonl", b'{"image": null, "caption": "x"}\n', "no image in 1 rows"),
    ],
)
def test_files_that_are_not_what_they_say(images, name, content, message):
    (images / name).write_bytes(content)
    with pytest.raises(UserError, match=message):
        load_table(images / name, split="test")


def test_trailing_separators_are_no_columns_and_a_caption_may_read_nan(images):
    dataset = load_table(table(images, "image,caption\na.png,nan,\nb.png,7,\n"), split="test")
    assert dataset.captions == ("nan", "7")


def test_rows_with_all_columns(images):
    text = "image,caption,split,camera\n a.png ,\"['x', 'y ']\",test,7\nb.png,z,train,8\na.png,,test,\n"
    rows = read_rows(table(images, text), split="test")
    assert rows.image_ids == ["a.png", "a.png"] == [*load_table(images / "t.csv", split="test").images.ids, "a.png"]
    assert rows.captions == [("x", "y"), ()]
    assert rows.values("camera") == ["7", ""]
    assert read_rows(images / "t.csv").values("camera") == ["7", "8", ""]


def test_rows_of_parquet_with_image_bytes(images):
    cells = [{"bytes": (images / name).read_bytes(), "path": name} for name in ("a.png", "b.png")]
    pd.DataFrame({"photo": cells, "weight": [1.5, None]}).to_parquet(images / "t.parquet")
    rows = read_rows(images / "t.parquet", image_column="photo")
    assert rows.image_ids == load_table(images / "t.parquet", split="", image_column="photo").images.ids
    assert rows.values("weight") == ["1.5", ""] and rows.captions == [(), ()]


def test_rows_need_an_image_column_and_rows(images):
    with pytest.raises(UserError, match="no image column: it has 'camera'"):
        read_rows(table(images, "camera\n7\n"))
    with pytest.raises(UserError, match="has no rows"):
        read_rows(table(images, "image,camera\n"))


def test_whole_numbers_are_sorted_as_numbers():
    assert sorted_values(["10", "9", "9"]) == ["9", "10"]
    assert sorted_values(["10", "9", "x"]) == ["10", "9", "x"]
    assert sorted_values(["1", "01"]) == ["01", "1"]
