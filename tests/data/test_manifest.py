import os
import time
from dataclasses import replace

import numpy as np
import pytest

from clipib.data.folder import load_folder
from clipib.data.images import FileImages, content_key
from clipib.data.manifest import Entries, Manifest, load_entries, save_entries
from clipib.data.wds import TarImages


@pytest.fixture
def patient(monkeypatch):
    """Files that the test has just written may be remembered."""
    monkeypatch.setattr("clipib.data.manifest.RACY_NS", -(10**18))


@pytest.fixture
def images(photo_folder):
    return load_folder(photo_folder, split="test").images


def hashed(images, cache, **options):
    """The keys, how many files were hashed for them, and how many were remembered wrongly."""
    manifest = Manifest(cache, **options)
    keys = manifest.keys(images, lambda i: content_key(images.content(i)))
    assert keys == [content_key(images.content(i)) for i in range(len(images.ids))] or options.get("wrong")
    return manifest.n_hashed, manifest.n_stale


def edit(path, *, keep_times=True):
    """Flip a bit in place: size, inode and, where asked for, mtime are those of before."""
    before = path.stat()
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(data)
    if keep_times:
        os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))


def test_the_second_time_nothing_is_read(images, tmp_path, patient):
    assert hashed(images, tmp_path / "c") == (8, 0)
    first = [content_key(images.content(i)) for i in range(8)]
    assert Manifest(tmp_path / "c").keys(images, lambda i: pytest.fail("read again")) == first


def test_an_edit_that_keeps_size_and_mtime_is_caught(images, tmp_path, patient):
    hashed(images, tmp_path / "c")
    edit(images.root / images.ids[3])
    assert hashed(images, tmp_path / "c") == (1, 0)
    assert hashed(images, tmp_path / "c") == (0, 0)


def test_a_replaced_file_and_a_new_one_are_hashed(images, tmp_path, patient):
    hashed(images, tmp_path / "c")
    path = images.root / images.ids[0]
    (images.root / "aside").write_bytes(path.read_bytes())
    os.replace(images.root / "aside", path)
    path.with_name("new.png").write_bytes(path.read_bytes())
    more = FileImages(images.root, [*images.ids, str(path.with_name("new.png").relative_to(images.root))])
    assert hashed(more, tmp_path / "c") == (2, 0)


def test_what_has_just_changed_is_not_remembered(images, tmp_path):
    assert hashed(images, tmp_path / "c") == (8, 0)
    assert hashed(images, tmp_path / "c") == (8, 0)
    time.sleep(2.1)
    edit(images.root / images.ids[0], keep_times=False)
    assert hashed(images, tmp_path / "c") == (8, 0)
    assert hashed(images, tmp_path / "c") == (1, 0)


def test_verify_finds_and_mends_what_a_manifest_pretends(images, tmp_path, patient):
    hashed(images, tmp_path / "c")
    edit(images.root / images.ids[3])
    (path,) = (tmp_path / "c" / "manifests").iterdir()
    known = load_entries(path)
    save_entries(path, known._replace(stamps=images.stamps()[[images.ids.index(name) for name in known.names]]))
    assert Manifest(tmp_path / "c").keys(images, pytest.fail)[3] != content_key(images.content(3))  # the pretence works
    assert hashed(images, tmp_path / "c", verify=True) == (8, 1)
    assert hashed(images, tmp_path / "c") == (0, 0)
    assert hashed(images, tmp_path / "c", verify=True) == (8, 0)


def test_an_unreadable_file_is_not_remembered(images, tmp_path, patient):
    manifest = Manifest(tmp_path / "c")
    manifest.keys(images, lambda i: None if i == 2 else b"k" * 32)
    (images.root / images.ids[5]).unlink()
    again = Manifest(tmp_path / "c").keys(images, lambda i: b"%d" % i * 32)
    assert again == [b"%d" % i * 32 if i in (2, 5) else b"k" * 32 for i in range(8)]


def test_data_sets_of_one_folder_remember_side_by_side(images, tmp_path, patient):
    first, second = images.take(np.arange(5)), images.take(np.arange(3, 8))
    assert hashed(first, tmp_path / "c") == (5, 0)
    assert hashed(second, tmp_path / "c") == (3, 0)
    assert hashed(images, tmp_path / "c") == (0, 0)


@pytest.mark.parametrize("content", [b"", b"garbage" * 20, None])
def test_a_damaged_manifest_costs_hashing_and_nothing_else(images, tmp_path, patient, content):
    hashed(images, tmp_path / "c")
    (path,) = (tmp_path / "c" / "manifests").iterdir()
    data = bytearray(path.read_bytes())
    data[-40] ^= 1
    path.write_bytes(data if content is None else content)
    assert hashed(images, tmp_path / "c") == (8, 0)
    assert hashed(images, tmp_path / "c") == (0, 0)


def test_a_cache_that_cannot_be_written_remembers_nothing(images, tmp_path, patient, monkeypatch):
    def fails(*_):
        raise PermissionError(13, "no")

    monkeypatch.setattr("clipib.data.manifest.write_aside", fails)
    for _ in range(2):
        assert hashed(images, tmp_path / "c") == (8, 0)


def test_parts_of_one_file_go_by_their_place_in_it(tmp_path, patient):
    """As members of a tar file do."""

    class Parts:
        root, ids = tmp_path, ["a.tar/0", "a.tar/1"]

        def stamps(self):
            return np.array([[100, 1, 2, 3, offset, 10] for offset in self.offsets])

    parts, read = Parts(), []
    for offsets, expected in (([0, 10], [0, 1]), ([0, 10], []), ([0, 20], [1])):
        parts.offsets = offsets
        read.clear()
        Manifest(tmp_path / "c").keys(parts, lambda i: read.append(i) or b"k" * 32)
        assert read == expected


def test_a_data_set_asks_its_manifest_and_so_does_a_part_of_it(photo_folder, tmp_path, patient):
    plain = load_folder(photo_folder, split="test")
    manifest = Manifest(tmp_path / "c")
    dataset = replace(plain, manifest=manifest)
    assert dataset.keys == plain.keys and manifest.n_hashed == 8
    part = replace(plain, manifest=manifest).take(np.array([1, 2]))
    assert part.keys == plain.keys[1:3] and manifest.n_hashed == 8
    (photo_folder / "test" / "blue_dot" / "0.png").unlink()
    gone = replace(plain, manifest=manifest)
    assert gone.keys == replace(plain).keys and gone.keys[0] != plain.keys[0]


def test_ten_thousand_files_are_loaded_and_compared_in_no_time(tmp_path):
    """A loose bound on the processor time, which a linear search or a row at a time would break."""
    n = 10_000
    rng = np.random.default_rng(0)

    class Many:
        root, ids = tmp_path, [f"class_{i % 100}/image_{i:05d}.jpg" for i in range(n)]

        def stamps(self):
            return stamps

    stamps, keys = rng.integers(0, 2**40, (n, 6)), rng.integers(0, 256, (n, 32), dtype=np.uint8)
    Manifest(tmp_path / "c").keys(Many(), lambda i: keys[i].tobytes())
    start = time.process_time()
    found = Manifest(tmp_path / "c").keys(Many(), pytest.fail)
    assert time.process_time() - start < 0.5
    assert b"".join(found) == keys.tobytes()


def test_names_are_kept_as_the_file_system_gave_them(tmp_path):
    names = ["a b/\u00e9.png", os.fsdecode(b"\xff.png"), "line\nbreak.png"]
    entries = Entries(names, np.arange(18).reshape(3, 6), np.zeros((3, 32), dtype=np.uint8))
    save_entries(tmp_path / "m" / "x.keys", entries)
    assert load_entries(tmp_path / "m" / "x.keys").names == names


def test_members_of_a_shard_are_remembered_until_the_shard_changes(tmp_path, patient):
    shard = tmp_path / "test" / "0.tar"
    shard.parent.mkdir()
    shard.write_bytes(b"".join(b"%d" % i * 10 for i in range(4)))
    images = TarImages([shard], [f"test/0/{i}" for i in range(4)], np.zeros(4), np.arange(4) * 10, np.full(4, 10))
    assert hashed(images, tmp_path / "c") == (4, 0)
    assert hashed(images.take(np.array([3, 1])), tmp_path / "c") == (0, 0)
    edit(shard)
    assert hashed(images, tmp_path / "c") == (4, 0)
    shard.unlink()
    assert Manifest(tmp_path / "c").keys(images, lambda i: None) == [None] * 4
