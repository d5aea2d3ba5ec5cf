import numpy as np
import pytest
from PIL import Image

from clipib.data.specs import parse_spec
from clipib.data.splits import find_splits, read_split
from clipib.errors import UserError


def test_folders_have_the_splits_that_are_there(photo_folder):
    assert find_splits(parse_spec(f"folder:{photo_folder}")) == ("train", "test")
    assert find_splits(parse_spec(f"folder:{photo_folder}/test")) == ("test",)
    assert find_splits(parse_spec(f"folder:{photo_folder}/test/blue_dot")) == ("",)
    (photo_folder / "test" / "blue_dot" / "0.png").rename(photo_folder / "0.png")
    (photo_folder / "train" / "nobody").mkdir()
    read = read_split(parse_spec(f"folder:{photo_folder}"), "train")
    assert read.classnames == ("blue dot", "nobody", "red square") and np.bincount(read.labels).tolist() == [6, 0, 6]


@pytest.fixture
def flickr(tmp_path):
    """A copy of flickr8k of a few pictures, with a table for each of two splits."""
    home = tmp_path / "data" / "flickr8k"
    home.mkdir(parents=True)
    for i in range(4):
        Image.new("RGB", (20, 20), (60 * i, 0, 0)).save(home / f"{i}.png")
    (home / "train.csv").write_text("image,caption\n0.png,a\n1.png,b\n")
    (home / "test.csv").write_text("image,caption\n2.png,c\n3.png,d\n3.png,e\n")
    return home


def test_an_entry_has_the_splits_of_its_tables(flickr):
    spec, root = parse_spec("flickr8k"), flickr.parent
    assert find_splits(spec, data_root=root) == ("train", "test")
    assert find_splits(parse_spec("flickr8k:val"), data_root=root) == ("val",)
    read = read_split(spec, "test", data_root=root)  # the counts are not those of the catalogue
    assert (read.name, read.split, len(read), read.captions) == ("flickr8k", "test", 2, ("c", "d", "e"))
    (flickr / "train.csv").unlink()
    (flickr / "test.csv").unlink()
    (flickr / "captions.csv").write_text("image,caption,split\n0.png,a,dev\n1.png,b,training\n")
    assert find_splits(spec, data_root=root) == ("train", "val")


def test_tables_have_the_splits_of_their_column(tmp_path, flickr):
    table = flickr / "t.csv"
    table.write_text("image;caption\n0.png;a\n")
    assert find_splits(parse_spec(f"csv:{table}")) == ("",)
    table.write_text("image;caption;split\n0.png;a;fold1\n")
    with pytest.raises(UserError, match="fold1"):
        find_splits(parse_spec(f"csv:{table}"))


def test_digitworld_has_all_three():
    assert find_splits(parse_spec("digitworld")) == ("train", "val", "test")
    assert find_splits(parse_spec("digitworld:n=3+split=val")) == ("val",)
    assert len(read_split(parse_spec("digitworld:n=3"), "val")) == 3
