"""Webdataset shards: what CLIP_benchmark's layout holds, read sample for sample, and every way it can be broken."""

import io
import json
import os
import tarfile
import time

import numpy as np
import pytest
import webdataset
from PIL import Image

from clipib.data.wds import load_wds
from clipib.errors import UserError


def picture(i: int, form: str = "PNG") -> bytes:
    out = io.BytesIO()
    Image.new("RGB", (9, 7), (20 * i % 256, 90, 255 - 20 * i % 256)).save(out, form)
    return out.getvalue()


def write(root, shards, *, split="test", classnames=("cat", "dog"), **texts):
    """PATH/split/N.tar from lists of samples (suffix -> bytes), and the text files beside."""
    (root / split).mkdir(parents=True, exist_ok=True)
    number = 0
    for i, samples in enumerate(shards):
        with webdataset.TarWriter(str(root / split / f"{i}.tar")) as writer:
            for sample in samples:
                writer.write({"__key__": f"s{number:07d}", **sample})
                number += 1
    (root / split / "nshards.txt").write_text(str(len(shards)))
    if classnames is not None:
        (root / "classnames.txt").write_text("\n".join(classnames) + "\n")
    for name, text in texts.items():
        (root / f"{name}.txt").write_text(text)
    return root


def labelled(labels, start=0):
    return [{"png": picture(start + i), "cls": str(y).encode()} for i, y in enumerate(labels)]


def test_labels_names_and_templates_in_order(tmp_path):
    texts = {"zeroshot_classification_templates": "a photo of a {c}.\n{c}.\n"}
    root = write(tmp_path / "d", [labelled([1, 0]), labelled([1], 2)], **texts)
    dataset = load_wds(root, split="test")
    assert dataset.labels.tolist() == [1, 0, 1]
    assert dataset.classnames == ("cat", "dog") and dataset.templates == ("a photo of a {c}.", "{c}.")
    assert dataset.images.ids == ["test/0/s0000000", "test/0/s0000001", "test/1/s0000002"]
    assert [dataset.images.content(i) for i in range(3)] == [picture(i) for i in range(3)]
    taken = dataset.take(np.array([2, 0]))
    assert taken.images.content(0) == picture(2) and taken.labels.tolist() == [1, 1]
    same = load_wds(root / "test", split="test")
    assert same.split == "test" and same.classnames == dataset.classnames and same.sha256 == dataset.sha256


def test_twelve_shards_stand_in_order_of_their_numbers(tmp_path):
    root = write(tmp_path / "d", [labelled([i % 2], i) for i in range(12)])
    dataset = load_wds(root, split="test")
    assert [dataset.images.content(i) for i in range(12)] == [picture(i) for i in range(12)]


def test_a_blank_class_name_keeps_its_place(tmp_path):
    root = write(tmp_path / "d", [labelled([0, 1, 2])], classnames=("near", "", "far"))
    assert load_wds(root, split="test").classnames == ("near", "", "far")


def test_captions_are_the_lines_of_txt(tmp_path):
    samples = [{"jpg": picture(i, "JPEG"), "txt": b"one\ntwo" if i else b"only"} for i in range(2)]
    root = write(tmp_path / "d", [samples], classnames=None, dataset_type="retrieval\n")
    dataset = load_wds(root, split="test", need="caption")
    assert dataset.captions == ("only", "one", "two") and dataset.image_of_caption.tolist() == [0, 1, 1]
    assert dataset.labels is None


def test_several_labels_of_one_image(tmp_path):
    def array(row):
        out = io.BytesIO()
        np.save(out, np.array(row))
        return out.getvalue()

    rows = [[1, 0], [1, 1], [0, 1]]
    samples = [{"webp": picture(i, "WEBP"), "npy": array(r)} for i, r in enumerate(rows)]
    dataset = load_wds(write(tmp_path / "d", [samples], dataset_type="multilabel"), split="test")
    assert dataset.labels.tolist() == rows
    assert dataset.take(np.array([2])).labels.tolist() == [[0, 1]]
    assert len(dataset.sample(2, seed=0)) == 2


def test_a_label_beyond_the_names_is_an_error(tmp_path):
    root = write(tmp_path / "d", [labelled([0, 2])])
    with pytest.raises(UserError, match=r"test/0/s0000001 has the label 2, but .* names 2 classes"):
        load_wds(root, split="test")


@pytest.mark.parametrize("text", [b"-1", b"cat", b"1.5", b""])
def test_a_label_that_is_no_number(tmp_path, text):
    root = write(tmp_path / "d", [[{"png": picture(0), "cls": text}]])
    with pytest.raises(UserError, match="not a whole number"):
        load_wds(root, split="test")


@pytest.mark.parametrize("cut", [1024 + 100, 700, 512 * 5])
def test_a_shard_cut_short(tmp_path, cut):
    root = write(tmp_path / "d", [labelled([0, 1, 0])])
    shard = root / "test" / "0.tar"
    shard.write_bytes(shard.read_bytes()[:cut])
    with pytest.raises(UserError, match=r"0\.tar' is damaged or cut short"):
        load_wds(root, split="test")


def test_bytes_that_are_no_tar(tmp_path):
    root = write(tmp_path / "d", [labelled([0])])
    (root / "test" / "0.tar").write_bytes(b"<html>not found</html>" * 100)
    with pytest.raises(UserError, match="damaged"):
        load_wds(root, split="test")


def test_missing_shards_are_named(tmp_path):
    root = write(tmp_path / "d", [labelled([0]), labelled([1]), labelled([1])])
    (root / "test" / "1.tar").unlink()
    with pytest.raises(UserError, match=r"lacks 1 of 3 shards: 1\.tar"):
        load_wds(root, split="test")


def test_an_unknown_split_names_those_there_are(tmp_path):
    root = write(tmp_path / "d", [labelled([0])], split="train")
    with pytest.raises(UserError, match="no split 'test': it has train"):
        load_wds(root, split="test")
    with pytest.raises(UserError, match="does not exist"):
        load_wds(tmp_path / "nothing", split="test")


def test_validation_shards_are_val_and_doubled_names_are_told(tmp_path):
    root = write(tmp_path / "d", [labelled([0, 1])], split="validation", classnames=("cat", "cat"))
    dataset = load_wds(root, split="val")
    assert dataset.split == "val" and any("stand twice, as 'cat'" in note for note in dataset.notes)


def test_a_sample_without_image_or_label(tmp_path):
    root = write(tmp_path / "a", [[*labelled([0]), {"cls": b"1"}]])
    with pytest.raises(UserError, match=r"1 of 2 samples .* have no image; the first is test/0/s0000001"):
        load_wds(root, split="test")
    root = write(tmp_path / "b", [[*labelled([0]), {"png": picture(1)}]])
    with pytest.raises(UserError, match=r"have no \.cls member; the first is test/0/s0000001"):
        load_wds(root, split="test")


def test_metadata_beside_the_label(tmp_path):
    out = io.BytesIO()
    np.save(out, np.array([4, 7]))
    samples = [{"png": picture(i), "cls": b"0", "npy": out.getvalue()} for i in range(2)]
    dataset = load_wds(write(tmp_path / "d", [samples]), split="test")
    assert dataset.groups.tolist() == [[4, 7], [4, 7]]


def test_folders_and_foreign_members_in_a_shard(tmp_path):
    root = write(tmp_path / "d", [labelled([0])])
    with tarfile.open(root / "test" / "0.tar", "w") as archive:
        for name, content in (
            ("./a/x.png", picture(3)),
            ("./a/x.cls", b"1\n"),
            ("./a/x.json", json.dumps({}).encode()),
        ):
            info = tarfile.TarInfo(name)
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))
    dataset = load_wds(root, split="test")
    assert dataset.images.ids == ["test/0/a/x"] and dataset.labels.tolist() == [1]


def test_keys_of_members_are_remembered_by_the_shard(tmp_path):
    from clipib.data.manifest import Manifest

    root = write(tmp_path / "d", [labelled([1, 0]), labelled([1], 2)])
    for shard in (root / "test").glob("*.tar"):
        os.utime(shard, ns=(1, 1))
    time.sleep(2.1)  # what has just changed is not remembered
    first, again = Manifest(tmp_path / "cache"), Manifest(tmp_path / "cache")
    keys = load_wds(root, split="test").changed(manifest=first).keys
    assert load_wds(root, split="test").changed(manifest=again).keys == keys
    assert (first.n_hashed, again.n_hashed) == (3, 0)
    content = bytearray((root / "test" / "1.tar").read_bytes())
    content[content.index(picture(2)) + 60] ^= 1
    (root / "test" / "1.tar").write_bytes(content)
    changed = load_wds(root, split="test").changed(manifest=again).keys
    assert changed[:2] == keys[:2]
    assert changed[2] != keys[2]
    assert again.n_hashed == 1
