import io
import shutil
import tarfile
from dataclasses import replace

import numpy as np
import pytest
from PIL import Image

from clipib.data.images import decode_rgb
from clipib.data.load import load_dataset
from clipib.errors import UserError
from clipib.tasks import export as module
from clipib.tasks.export import export

pytestmark = pytest.mark.filterwarnings("ignore:WebDataset", "ignore:This DataLoader will create 4 worker")


def read_by_clip_benchmark(folder, split, task="zeroshot_classification"):
    """What CLIP_benchmark's own loader makes of an export: its samples, and the data set with classes and templates."""
    from clip_benchmark.datasets.builder import build_dataset

    dataset = build_dataset("wds/any", root=str(folder), split=split, transform=np.asarray, task=task)
    return list(dataset), dataset


def picture_bytes(form, mode="RGB", size=(37, 23), seed=0, **options):
    rng = np.random.default_rng(seed)
    if mode == "I;16":
        picture = Image.fromarray(rng.integers(0, 65536, size[::-1]).astype(np.uint16))
    else:
        picture = Image.fromarray(rng.integers(0, 256, (*size[::-1], 3)).astype(np.uint8))
        picture = picture.quantize(16) if mode == "P" else picture.convert(mode)
    file = io.BytesIO()
    picture.save(file, form, **options)
    return file.getvalue()


KINDS = {
    "jpeg.jpg": ("JPEG", "RGB", {}),
    "grey.jpeg": ("JPEG", "L", {}),
    "cmyk.jpg": ("JPEG", "CMYK", {}),
    "png.png": ("PNG", "RGB", {}),
    "alpha.png": ("PNG", "RGBA", {}),
    "palette.png": ("PNG", "P", {"transparency": 3}),
    "named_wrongly.jpg": ("PNG", "RGB", {}),
    "webp.webp": ("WEBP", "RGB", {}),
    "deep.png": ("PNG", "I;16", {}),
    "bmp.bmp": ("BMP", "RGB", {}),
    "gif.gif": ("GIF", "P", {}),
    "tiff.tif": ("TIFF", "RGB", {}),
}


@pytest.fixture
def every_kind(tmp_path):
    """Class folders with pictures of every kind, two splits, and a class without a name."""
    for split, seed in (("train", 0), ("test", 100)):
        for k, name in enumerate(("10", "2", "x_y")):
            folder = tmp_path / "kinds" / split / name
            folder.mkdir(parents=True)
            for n, (file, (form, mode, options)) in enumerate(KINDS.items()):
                (folder / file).write_bytes(picture_bytes(form, mode, seed=seed + 20 * k + n, **options))
    (tmp_path / "kinds" / "classnames.txt").write_text("ten\n\nlast\n")
    (tmp_path / "kinds" / "templates.txt").write_text("a {c}.\nthe {c}, café\n", encoding="utf-8")
    return tmp_path / "kinds"


@pytest.mark.parametrize("split", ["train", "test"])
def test_clip_benchmark_reads_labels_sample_for_sample(every_kind, tmp_path, split):
    export(f"folder:{every_kind}", tmp_path / "out", shard_size=10)
    ours = load_dataset(f"folder:{every_kind}", role=split)
    samples, theirs = read_by_clip_benchmark(tmp_path / "out", split)
    assert len(samples) == len(ours) == 36
    for i, (pixels, label) in enumerate(samples):
        assert np.array_equal(pixels, np.asarray(ours.images.open(i))), ours.images.ids[i]
        assert label == ours.labels[i]
    assert theirs.classes == ["ten", "", "last"] == list(ours.classnames)
    assert theirs.templates == ["a {c}.", "the {c}, café"] == list(ours.templates)
    assert not (tmp_path / "out" / "dataset_type.txt").exists()


def test_clip_benchmark_reads_captions_sample_for_sample(shared_data, tmp_path):
    spec = f"csv:{shared_data('coco_val2017_ccby')}/captions.csv"
    (written,) = export(spec, tmp_path / "out")
    assert (written.task, written.n, written.n_shards, written.n_encoded) == ("retrieval", 99, 4, 0)
    ours = load_dataset(spec)
    samples, _ = read_by_clip_benchmark(tmp_path / "out", "test", task="zeroshot_retrieval")
    assert len(samples) == 99
    for i, (pixels, captions) in enumerate(samples):
        assert np.array_equal(pixels, np.asarray(ours.images.open(i)))
        assert captions == [ours.captions[j] for j in np.flatnonzero(ours.image_of_caption == i)]


def test_its_four_workers_each_find_a_shard(every_kind, tmp_path):
    import torch

    export(f"folder:{every_kind}", tmp_path / "out")
    _, dataset = read_by_clip_benchmark(tmp_path / "out", "test")
    batches = torch.utils.data.DataLoader(dataset, batch_size=None, num_workers=4)
    assert sorted(int(label) for _, label in batches) == [0] * 12 + [1] * 12 + [2] * 12


def test_bytes_stay_as_they_are_unless_they_would_be_read_otherwise(every_kind, tmp_path):
    export(f"folder:{every_kind}", tmp_path / "out")
    members = {}
    for shard in sorted((tmp_path / "out" / "test").glob("*.tar")):
        with tarfile.open(shard) as tar:
            members |= {m.name: tar.extractfile(m).read() for m in tar if not m.name.endswith(".cls")}
    ours = load_dataset(f"folder:{every_kind}")
    for (name, stored), i in zip(sorted(members.items()), range(len(ours)), strict=True):
        kind, source = ours.images.ids[i].split("/")[1], ours.images.content(i)
        anew = kind in ("deep.png", "bmp.bmp", "gif.gif", "tiff.tif")
        assert (stored != source) == anew, kind
        assert name == f"s{i:07d}." + ("webp" if "webp" in kind else "jpg" if source[:2] == b"\xff\xd8" else "png")
        assert np.array_equal(np.asarray(decode_rgb(stored)), np.asarray(ours.images.open(i)))


def test_multi_label_rows_become_arrays(every_kind, tmp_path):
    ours = load_dataset(f"folder:{every_kind}/test")
    many = replace(ours, labels=np.eye(3, dtype=np.int64)[ours.labels] | np.array([[0, 0, 1]]))
    module._write_about(tmp_path / "out", [many], "classification")
    module._write_split(tmp_path / "out" / "test", many, "classification", 1000, 1, module.SILENT)
    samples, theirs = read_by_clip_benchmark(tmp_path / "out", "test")
    assert np.array_equal([label for _, label in samples], many.labels)
    assert theirs.classes == ["10", "2", "x y"] == list(many.classnames)


def tree(folder):
    return {p.relative_to(folder).as_posix(): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


def test_the_same_input_gives_the_same_bytes(photo_folder, tmp_path):
    export(f"folder:{photo_folder}", tmp_path / "a", workers=1)
    export(f"folder:{photo_folder}", tmp_path / "b", workers=4)
    assert tree(tmp_path / "a") == tree(tmp_path / "b")


@pytest.mark.parametrize("n, size, expected", [(1, 1000, 1), (3, 1000, 3), (4, 1000, 4), (9, 2, 5), (10, 1, 10)])
def test_shards_are_even_and_at_least_four(tmp_path, n, size, expected):
    folder = tmp_path / "p" / "c"
    folder.mkdir(parents=True)
    for i in range(n):
        (folder / f"{i}.png").write_bytes(picture_bytes("PNG", seed=i))
    (written,) = export(f"folder:{tmp_path / 'p'}", tmp_path / "out", shard_size=size)
    assert written.n_shards == expected == int((tmp_path / "out/test/nshards.txt").read_text())
    sizes = []
    for shard in (tmp_path / "out" / "test").glob("*.tar"):
        with tarfile.open(shard) as tar:
            sizes.append(len(tar.getnames()) // 2)
    assert sum(sizes) == n and max(sizes) <= size and max(sizes) - min(sizes) <= 1


def test_line_breaks_in_captions_become_spaces(photo_folder, tmp_path):
    picture = next(photo_folder.rglob("*.png"))
    (tmp_path / "t.csv").write_text(f'image,caption\n{picture},"a red\r\n\nsquare"\n{picture},two\n')
    export(f"csv:{tmp_path / 't.csv'}", tmp_path / "out")
    samples, _ = read_by_clip_benchmark(tmp_path / "out", "test", task="zeroshot_retrieval")
    assert [captions for _, captions in samples] == [["a red square", "two"]]


def test_a_set_with_labels_and_captions_asks_which(tmp_path):
    with pytest.raises(UserError, match="labels and captions"):
        export("digitworld/digit:n=4+split=test", tmp_path / "out")
    (written,) = export("digitworld/digit:n=5+split=test", tmp_path / "out", task="classification")
    samples, theirs = read_by_clip_benchmark(tmp_path / "out", "test")
    ours = load_dataset("digitworld/digit:n=5+split=test")
    assert written.n_encoded == 5 and theirs.classes == list(ours.classnames)
    assert [label for _, label in samples] == ours.labels.tolist()
    assert all(np.array_equal(pixels, np.asarray(ours.images.open(i))) for i, (pixels, _) in enumerate(samples))


def test_several_sets_go_into_a_folder_each(photo_folder, tmp_path):
    written = export([f"folder:{photo_folder}", "digitworld:n=4+split=val"], tmp_path / "out")
    folders = {w.folder.relative_to(tmp_path / "out").as_posix() for w in written}
    assert "digitworld/val" in folders and len(folders) == 3
    assert all((w.folder / "nshards.txt").is_file() for w in written)


def test_only_an_earlier_export_is_replaced(photo_folder, tmp_path):
    out, spec = tmp_path / "out", f"folder:{photo_folder}"
    out.mkdir()
    export(spec, out)
    with pytest.raises(UserError, match="not empty"):
        export(spec, out)
    (out / "test" / "3.tar").write_bytes(b"old")
    export(spec, out, overwrite=True)
    assert (out / "test" / "3.tar").stat().st_size > 1000
    for stranger in (out / "thesis.docx", out / "test" / "notes.md"):
        stranger.write_text("mine")
        with pytest.raises(UserError, match=stranger.name):
            export(spec, out, overwrite=True)
        assert stranger.read_text() == "mine"
        stranger.unlink()
    with pytest.raises(UserError, match="was not written by an export"):
        export(spec, photo_folder, overwrite=True)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["out", "photos"]


def test_what_was_broken_off_does_not_look_whole(photo_folder, tmp_path, monkeypatch):
    member = module._member

    def broken_off(dataset, index):
        if dataset.split == "test" and index == 5:
            raise KeyboardInterrupt
        return member(dataset, index)

    monkeypatch.setattr(module, "_member", broken_off)
    with pytest.raises(KeyboardInterrupt):
        export(f"folder:{photo_folder}", tmp_path / "out")
    assert not [p for p in tmp_path.iterdir() if p.name != "photos"]
    monkeypatch.setattr(shutil, "rmtree", lambda *_, **__: None)  # as if the process had been killed
    with pytest.raises(KeyboardInterrupt):
        export(f"folder:{photo_folder}", tmp_path / "out")
    (left,) = (p for p in tmp_path.iterdir() if p.name != "photos")
    assert left.name.endswith(".partial") and not (left / "test" / "nshards.txt").exists()


def damage(folder):
    next((folder / "test").rglob("*.png")).write_bytes(b"no picture")


def rename_class(folder):
    (folder / "test" / "blue_dot").rename(folder / "test" / "blue dots")


def brace(folder):
    (folder / "templates.txt").write_text("a {c} of {x}\n")


def empty(folder):
    (folder / "train" / "aa").mkdir()


@pytest.mark.parametrize(
    "harm, message",
    [(damage, "cannot be read"), (rename_class, "differ between"), (brace, "template"), (empty, "hold no image")],
)
def test_what_cannot_be_said_in_shards_is_refused(photo_folder, tmp_path, harm, message):
    harm(photo_folder)
    with pytest.raises(UserError, match=message):
        export(f"folder:{photo_folder}", tmp_path / "out")
    assert [p.name for p in tmp_path.iterdir()] == ["photos"]


def test_a_dry_run_writes_nothing(photo_folder, tmp_path):
    assert export(f"folder:{photo_folder}", tmp_path / "out", dry_run=True) == []
    assert [p.name for p in tmp_path.iterdir()] == ["photos"]


def test_no_way_around_the_check_of_the_target(photo_folder, tmp_path):
    precious = tmp_path / "precious"
    precious.mkdir()
    (precious / "thesis.txt").write_text("mine")
    with pytest.raises(UserError, match="not empty"):
        export(f"folder:{photo_folder}", tmp_path / "nothing" / ".." / "precious")
    assert (precious / "thesis.txt").read_text() == "mine"


def test_a_set_is_not_replaced_by_a_part_of_itself(photo_folder, tmp_path):
    export(f"folder:{photo_folder}", tmp_path / "own")
    with pytest.raises(UserError, match="would replace"):
        export(f"wds:{tmp_path / 'own'}:test", tmp_path / "own", overwrite=True)
    assert (tmp_path / "own" / "train" / "nshards.txt").exists()
