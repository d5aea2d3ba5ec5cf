import io
import os
import shutil
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from clipib.errors import UserError
from clipib.tasks.verify import verify


def photograph(rng, side=72):
    """A picture of smooth random colours, unlike any other."""
    coarse = rng.integers(0, 256, (9, 7, 3)).astype(np.uint8)
    return Image.fromarray(coarse).resize((side + int(rng.integers(9)), side), Image.Resampling.BICUBIC)


@pytest.fixture
def generated(tmp_path):
    """PATH/{train,test}/{ant,bee,cow,dog}/N.jpg: 12 photographs of each class in each split."""
    rng = np.random.default_rng(0)
    for split in ("train", "test"):
        for name in ("ant", "bee", "cow", "dog"):
            folder = tmp_path / "animals" / split / name
            folder.mkdir(parents=True)
            for i in range(12):
                photograph(rng).save(folder / f"{i:02d}.jpg", quality=90)
    return tmp_path / "animals"


@pytest.fixture
def caltech(shared_data, tmp_path):
    """The shared Caltech-101 photographs, in a folder that may be changed."""
    for split in ("train", "test"):
        shutil.copytree(shared_data("caltech101_20") / split, tmp_path / "caltech" / split, copy_function=os.symlink)
    return tmp_path / "caltech"


def files(folder, split, k):
    """The images of class k of a split."""
    return sorted(sorted((folder / split).iterdir())[k].iterdir())


def replace_with(path, content):
    path.unlink()
    path.write_bytes(content)


def again(path, scale):
    """The picture of a file at another size, encoded anew."""
    picture = Image.open(path).convert("RGB")
    file = io.BytesIO()
    picture.resize([round(s * scale) for s in picture.size], Image.Resampling.BILINEAR).save(file, "JPEG", quality=60)
    return file.getvalue()


def plant(folder):
    """Three train images into test (one as it is, two encoded anew), two damaged files, one empty class."""
    sources = [files(folder, "train", 0)[0], files(folder, "train", 1)[2], files(folder, "train", 2)[4]]
    targets = [files(folder, "test", k)[n] for k, n in enumerate((1, 3, 5))]
    for source, target, scale in zip(sources, targets, (0, 0.5, 1.0), strict=True):
        replace_with(target, again(source, scale) if scale else source.read_bytes())
    cut, text = files(folder, "train", 3)[1], files(folder, "test", 0)[7]
    replace_with(cut, cut.read_bytes()[:-300])
    replace_with(text, b"<html>404 Not Found</html>")
    emptied = sorted((folder / "test").iterdir())[3]
    for image in emptied.iterdir():
        image.unlink()

    def inside(path):
        return path.relative_to(folder).as_posix()

    pairs = [f"{inside(a)} = {inside(b)}" for a, b in zip(sources, targets, strict=True)]
    return pairs, {"train": inside(cut), "test": inside(text)}, emptied.name.replace("_", " ")


def by_check(report):
    return {(f.check, f.split): f for f in report.findings}


@pytest.mark.parametrize("kind", ["generated", "caltech"])
def test_all_that_was_planted_is_found_and_no_other_error(request, kind, tmp_path):
    folder = request.getfixturevalue(kind)
    before = by_check(verify(f"folder:{folder}"))
    assert not any(f.severity == "error" for f in before.values())
    if kind == "caltech":  # the figures in find_lookalikes
        assert [before["lookalikes", s].found for s in ("train, test", "train", "test")] == [11, 6, 3]
    pairs, damaged, emptied = plant(folder)
    report = verify(f"folder:{folder}", save=tmp_path / "sheet.png")
    found = by_check(report)
    assert found["copies", "train, test"].examples == (pairs[0],)
    for split, path in damaged.items():
        (example,) = found["damaged files", split].examples
        assert example.startswith(f"{path}: ")
    assert "truncated" in found["damaged files", "train"].examples[0]
    assert found["empty classes", "test"].examples == (emptied,)
    assert Counter(f.check for f in report.errors) == {"copies": 1, "damaged files": 2, "empty classes": 1}
    assert report.findings[: len(report.errors)] == report.errors
    alike = found["lookalikes", "train, test"]
    assert alike.severity == "warning" and set(pairs[1:]) <= set(alike.examples)
    new = set(alike.examples) - set(before["lookalikes", "train, test"].examples)
    assert len(new - set(pairs[1:])) <= (1 if kind == "caltech" else 0)  # a copy may have a lookalike of its own
    sheet = Image.open(tmp_path / "sheet.png")
    assert sheet.width == 1284 and np.asarray(sheet).std() > 10


def test_copies_within_a_split_warn_and_under_two_classes_are_an_error(generated):
    a, b, c = files(generated, "train", 0)[0], files(generated, "train", 0)[1], files(generated, "train", 1)[0]
    b.write_bytes(a.read_bytes())
    report = verify(f"folder:{generated}/train")
    assert not report.errors
    assert by_check(report)["copies", "train"].examples == ("train/ant/00.jpg = train/ant/01.jpg",)
    c.write_bytes(a.read_bytes())
    (torn,) = verify(f"folder:{generated}/train").errors
    assert torn.check == "two classes" and torn.examples == ("train/ant/00.jpg (ant) = train/bee/00.jpg (bee)",)


def test_lookalikes_of_two_classes_name_the_classes(generated):
    a, b = files(generated, "train", 0)[0], files(generated, "test", 1)[0]
    b.write_bytes(again(a, 0.8))
    (example,) = by_check(verify(f"folder:{generated}"))["lookalikes", "train, test"].examples
    assert example == "train/ant/00.jpg (ant) = test/bee/00.jpg (bee)"


def test_lookalikes_within_a_split_stand_apart_from_those_across(generated):
    a, b, c = files(generated, "test", 0)[0], files(generated, "test", 0)[1], files(generated, "train", 0)[0]
    b.write_bytes(again(a, 0.8))
    c.write_bytes(again(a, 1.2))
    found = by_check(verify(f"folder:{generated}"))
    assert [found["lookalikes", s].found for s in ("train, test", "train", "test")] == [2, 0, 1]
    assert found["lookalikes", "test"].examples == ("test/ant/00.jpg = test/ant/01.jpg",)


def test_blank_and_tiny_pictures_are_notes_and_no_lookalikes(generated):
    folder = generated / "train" / "ant"
    for k, (red, side) in enumerate(((0, 50), (255, 50), (255, 60))):
        Image.new("RGB", (side, side), (red, 40, 90)).save(folder / f"odd{k}.png")
    photograph(np.random.default_rng(5)).resize((12, 20)).save(folder / "odd3.png")
    report = verify(f"folder:{generated}")
    found = by_check(report)["blank or tiny", "train"]
    assert found.severity == "note" and [e.split(": ")[1] for e in found.examples] == ["blank"] * 3 + ["12 px"]
    assert not report.errors and all(f.severity in ("ok", "note") for f in report.findings)


def test_class_lists_that_differ_between_the_splits(generated):
    (generated / "test" / "cow").rename(generated / "test" / "ox")
    (error,) = verify(f"folder:{generated}").errors
    assert (error.check, error.split) == ("classes", "train, test")
    assert error.examples == ("only in train: cow", "only in test: ox")


def test_a_table_is_looked_at_split_by_split(generated, tmp_path):
    rows = [
        (f"animals/{split}/{name}/{i:02d}.jpg", split, name)
        for split in ("train", "test")
        for name in ("ant", "bee")
        for i in range(5)
    ]
    (tmp_path / "t.csv").write_text("image,split,label\n" + "".join(",".join(row) + "\n" for row in rows))
    report = verify(f"csv:{tmp_path / 't.csv'}")
    assert not report.errors and report.n_images == 20
    assert {f.split for f in report.findings} == {"train", "test", "train, test"}
    (tmp_path / rows[-1][0]).unlink()
    (missing,) = verify(f"csv:{tmp_path / 't.csv'}").errors
    assert missing.check == "damaged files" and missing.examples[0].endswith("No such file or directory")


def test_two_data_sets_are_compared_where_their_splits_differ(generated, tmp_path):
    files(generated, "test", 0)[0].write_bytes(files(generated, "train", 0)[0].read_bytes())
    report = verify([f"folder:{generated}/train", f"folder:{generated}/test"])
    (error,) = report.errors
    assert (error.check, error.split) == ("copies", "animals/train, animals/test")
    shutil.copytree(generated / "test", tmp_path / "other" / "test")
    assert not verify([f"folder:{generated}/test", f"folder:{tmp_path}/other/test"]).errors
    (tmp_path / "other" / "test").rename(tmp_path / "other" / "new")
    (generated / "test").rename(generated / "old")
    (error,) = verify([f"folder:{generated}/old", f"folder:{tmp_path}/other/new"]).errors
    assert (error.check, error.found) == ("copies", 48)


@pytest.fixture
def catalogued(tmp_path, monkeypatch):
    """A catalogue that knows a set of two classes, with its local copy below tmp_path."""
    from clipib.data import catalog

    names = {"classnames": {"two": ["cat", "dog"]}, "templates": {"two": ["a {c}."]}}
    monkeypatch.setattr(catalog, "_names", lambda: names)
    two = catalog.CATALOG["mnist"]._replace(counts={"test": 6}, classes=2, names_key="two", templates_key="two")
    monkeypatch.setitem(catalog.CATALOG, "mnist", two)
    rng = np.random.default_rng(1)
    for name in ("cat", "dog"):
        folder = tmp_path / "data" / "mnist" / "test" / name
        folder.mkdir(parents=True)
        for i in range(3):
            photograph(rng).save(folder / f"{i}.png")
    return tmp_path / "data"


def test_counts_and_classes_of_the_catalogue(catalogued):
    assert not verify("mnist", data_root=catalogued).errors
    (catalogued / "mnist" / "test" / "cat" / "0.png").unlink()
    (error,) = verify("mnist", data_root=catalogued).errors
    assert (error.check, error.split, error.found) == ("counts", "test", 5) and "6 are expected" in error.about
    (catalogued / "mnist" / "test" / "dog").rename(catalogued / "mnist" / "test" / "dogs")
    checks = [e.check for e in verify("mnist", data_root=catalogued).errors]
    assert checks == ["classes", "counts"]


def test_the_sheet_shows_captions_and_letters_that_it_lacks(tmp_path, generated):
    picture = generated / "train" / "ant" / "00.jpg"
    (tmp_path / "t.csv").write_text(f"image,caption\n{picture},蚂蚁 and a very long text that does not fit below\n")
    report = verify(f"csv:{tmp_path / 't.csv'}", save=tmp_path / "s.jpg")
    assert Image.open(tmp_path / "s.jpg").format == "JPEG" and report.sheet == tmp_path / "s.jpg"


@pytest.mark.parametrize("spec, message", [("folder:nowhere", "There is no folder"), ("mnist", "there is no folder")])
def test_what_is_not_there_is_named(spec, message):
    with pytest.raises(UserError, match=message):
        verify(spec)
    with pytest.raises(UserError, match="no picture file"):
        verify("digitworld:n=2+split=test", save=Path("x.pdf"))
