import pytest
from PIL import Image

from clipib.data.catalog import CATALOG
from clipib.data.load import load_dataset, load_datasets
from clipib.errors import UserError


def test_digitworld_as_labels_is_three_sets_that_share_their_images():
    sets = load_datasets("digitworld:n=20", need="label")
    assert [d.name for d in sets] == ["digitworld/digit", "digitworld/color", "digitworld/place"]
    assert sets[0].keys == sets[2].keys


def test_the_split_left_out_follows_the_role():
    assert load_dataset("digitworld:n=9", role="train").split == "train"
    assert load_dataset("digitworld:n=9").split == "test"
    assert load_dataset("digitworld:n=9+split=val", role="train").split == "val"


def test_a_name_is_never_its_test_set_in_training(tmp_path):
    (tmp_path / "flickr30k").mkdir()
    Image.new("RGB", (8, 8)).save(tmp_path / "flickr30k" / "a.png")
    (tmp_path / "flickr30k" / "captions.csv").write_text("image,caption,split\na.png,x,test\n")
    with pytest.raises(UserError, match="no rows of the split 'train'"):
        load_dataset("flickr30k", role="train", data_root=tmp_path)


def test_a_copy_that_does_not_say_its_split_is_refused(tmp_path):
    (tmp_path / "flickr8k").mkdir()
    Image.new("RGB", (8, 8)).save(tmp_path / "flickr8k" / "a.png")
    (tmp_path / "flickr8k" / "captions.csv").write_text("image,caption\na.png,x\n")
    (tmp_path / "mnist" / "0").mkdir(parents=True)
    Image.new("RGB", (8, 8)).save(tmp_path / "mnist" / "0" / "a.png")
    for name in ("flickr8k", "mnist"):
        with pytest.raises(UserError, match=f"Nothing says that .* part of '{name}'"):
            load_dataset(name, role="train", data_root=tmp_path)


def test_counts_are_held_against_the_catalogue(tmp_path):
    for c in CATALOG["cifar10"].classnames:
        (tmp_path / "cifar10" / "test" / c).mkdir(parents=True)
        Image.new("RGB", (8, 8)).save(tmp_path / "cifar10" / "test" / c / "x.png")
    with pytest.raises(UserError, match="10 images as read, 10,000 are expected"):
        load_dataset("cifar10", data_root=tmp_path, need="label")


def test_class_folders_must_be_the_classes_of_the_catalogue(tmp_path):
    for c in ("plane", "automobile"):
        (tmp_path / "cifar10" / "test" / c).mkdir(parents=True)
        Image.new("RGB", (8, 8)).save(tmp_path / "cifar10" / "test" / c / "x.png")
    with pytest.raises(UserError, match="are not its 10 classes"):
        load_dataset("cifar10", data_root=tmp_path, need="label")


def test_folders_with_indices_get_names_and_templates(tmp_path, monkeypatch):
    entry = CATALOG["mnist"]._replace(counts={"test": 10})
    monkeypatch.setitem(CATALOG, "mnist", entry)
    for c in range(10):
        (tmp_path / "mnist" / "test" / str(c)).mkdir(parents=True)
        Image.new("RGB", (8, 8), (c, c, c)).save(tmp_path / "mnist" / "test" / str(c) / "x.png")
    dataset = load_dataset("mnist", data_root=tmp_path, need="label")
    assert dataset.labels.tolist() == list(range(10))
    assert dataset.templates == entry.templates


def test_two_equal_names_in_one_call_are_refused(tmp_path):
    for part in ("x", "y"):
        (tmp_path / part / "d" / "test" / "c").mkdir(parents=True)
        Image.new("RGB", (8, 8)).save(tmp_path / part / "d" / "test" / "c" / "i.png")
    with pytest.raises(UserError, match="Two data sets .* d/test"):
        load_datasets([f"folder:{tmp_path}/x/d", f"folder:{tmp_path}/y/d"])


@pytest.mark.parametrize(
    "text, need, message",
    [
        ("flickr30k", "caption", "Offline, and not in"),
        ("digitworld:objects=2", "label", "no class labels"),
        ("digitworld:objects=3", "", "from 1 to 2"),
    ],
)
def test_what_is_missing_is_named(text, need, message, monkeypatch):
    monkeypatch.setenv("CLIPIB_OFFLINE", "1")
    with pytest.raises(UserError, match=message):
        load_datasets(text, need=need)


def test_a_split_that_was_written_must_be_said_by_the_data(tmp_path):
    from wds_files import labelled, repository

    for path, content in repository(labelled([0, 1]), classnames=("a", "b"), split="validation").items():
        (tmp_path / path).parent.mkdir(exist_ok=True)
        (tmp_path / path).write_bytes(content)
    (dataset,) = load_datasets(f"wds:{tmp_path}:validation", need="label")
    assert len(dataset) == 2 and dataset.split in ("val", "validation")
    plain = tmp_path / "plain"
    (tmp_path / "validation").rename(plain)
    assert load_datasets(f"wds:{plain}", need="label")[0].split == ""
    with pytest.raises(UserError, match="Nothing says"):
        load_datasets(f"wds:{plain}:train", need="label")
