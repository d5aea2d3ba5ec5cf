import hashlib
import resource
import subprocess
import sys

import numpy as np
import pytest

from clipib.embeddings import blocks
from clipib.embeddings.store import Store


def keys(*names):
    return [name.encode().ljust(32, b"0") for name in names]


def rows(n, *shape, seed=0):
    return np.random.default_rng(seed).normal(size=(n, *(shape or (4,)))).astype(np.float32)


def block_files(space, suffix=".features.npy"):
    return sorted(space.folder.glob("*" + suffix))


def flip(path, position=-1, bits=1):
    data = bytearray(path.read_bytes())
    data[position] ^= bits
    path.write_bytes(data)


def test_what_was_put_in_comes_out_in_another_process_view(tmp_path):
    features = rows(3)
    Store(tmp_path).space({"w": 1}).append(keys("a", "b", "c"), features)
    space = Store(tmp_path).space({"w": 1})
    assert np.array_equal(space.get(keys("c", "a")), features[[2, 0]])


def test_what_is_not_there_is_told_and_poisoned(tmp_path):
    space = Store(tmp_path).space({})
    assert space.find(keys("a")).features is None
    space.append(keys("a"), rows(1))
    found = space.find(keys("b", "a"))
    assert found.has.tolist() == [False, True]
    assert np.isnan(found.features[0]).all() and np.array_equal(found.features[1:], rows(1))
    with pytest.raises(KeyError, match="1 of 2"):
        space.get(keys("b", "a"))


def test_another_encoding_is_another_space(tmp_path):
    store = Store(tmp_path)
    store.space({"w": 1}).append(keys("a"), rows(1))
    assert not store.space({"w": 2}).find(keys("a")).has.any()


def test_sets_of_points_keep_their_shape(tmp_path):
    features = rows(5, 3, 4)
    Store(tmp_path).space({}).append(keys(*"abcde"), features)
    space = Store(tmp_path).space({})
    assert np.array_equal(space.get(keys("d", "b")), features[[3, 1]])


def test_another_shape_in_one_space_is_an_error(tmp_path):
    Store(tmp_path).space({}).append(keys("a"), rows(1, 3, 4))
    with pytest.raises(ValueError, match=r"have shape \(3, 4\), got \(4,\)"):
        Store(tmp_path).space({}).append(keys("b"), rows(1, 4))
    with pytest.raises(ValueError, match=r"have shape \(3, 4\), got \(4, 3\)"):
        Store(tmp_path).space({}).append(keys("b"), rows(1, 4, 3))
    with pytest.raises(ValueError, match="items of shape"):
        Store(tmp_path).space({"w": 2}).append(keys("b"), rows(1, 2, 2, 2))


def test_a_store_of_the_first_version_is_read(tmp_path):
    """Plain features lie where and as they always lay."""
    space = Store(tmp_path).space({"w": 1})
    features, key_rows = rows(2), np.frombuffer(b"".join(keys("a", "b")), dtype=np.uint8).reshape(2, 32)
    space.folder.mkdir(parents=True)
    name = hashlib.sha256(key_rows.tobytes() + features.tobytes()).hexdigest()[:32]
    np.save(space.folder / f"{name}.features.npy", features)
    np.save(space.folder / f"{name}.keys.npy", key_rows)
    assert np.array_equal(Store(tmp_path).space({"w": 1}).get(keys("a", "b")), features)


@pytest.mark.parametrize("suffix", [".features.npy", ".keys.npy"])
@pytest.mark.parametrize("position", [-1, 128, 8, 40, 60])
def test_a_flipped_bit_is_found_when_the_block_is_used(tmp_path, suffix, position):
    space = Store(tmp_path).space({})
    space.append(keys("a", "b"), rows(2))
    (hurt,) = block_files(space, suffix)
    space.append(keys("c"), rows(1, seed=1))
    flip(hurt, position)
    found = Store(tmp_path).space({}).find(keys("a", "b", "c"))
    assert found.has.tolist() == [False, False, True]
    assert np.array_equal(found.features[2:], rows(1, seed=1))
    assert not hurt.exists()


def test_a_row_that_lies_in_two_blocks_survives_the_loss_of_one(tmp_path):
    for names, features in ((("a", "b"), rows(2)), (("a",), rows(2)[:1]), (("b",), rows(2)[1:])):
        Store(tmp_path).space({}).append(keys(*names), features)
    space = Store(tmp_path).space({})
    for path in block_files(space):
        whole = {p: p.read_bytes() for p in space.folder.iterdir()}
        flip(path)
        assert np.array_equal(Store(tmp_path).space({}).get(keys("a", "b")), rows(2))
        for file, content in whole.items():
            file.write_bytes(content)


def test_rows_in_another_order_under_one_name_are_never_taken_for_each_other(tmp_path):
    """Keys swapped on disk when they were listed, and mended before the block is read."""
    space = Store(tmp_path).space({})
    space.append(keys("a", "b"), rows(2))
    (path,) = block_files(space, ".keys.npy")
    good = path.read_bytes()
    np.save(path, np.load(path)[::-1])
    reader = Store(tmp_path).space({})
    reader.refresh()
    path.write_bytes(good)
    assert not reader.find(keys("a", "b")).has.any()  # not what was listed
    assert np.array_equal(reader.get(keys("a", "b")), rows(2))


@pytest.mark.parametrize("content", [b"", b"garbage", b"\x93NUMPY", None])
@pytest.mark.parametrize("suffix", [".features.npy", ".keys.npy"])
def test_truncated_empty_missing_and_strange_files_are_passed_over(tmp_path, suffix, content):
    space = Store(tmp_path).space({})
    space.append(keys("a"), rows(1))
    space.append(keys("b"), rows(1, seed=1))
    whole = block_files(space)[1]
    hurt = block_files(space, suffix)[0]
    hurt.unlink() if content is None else hurt.write_bytes(content)
    (space.folder / "strange.keys.npy").write_bytes(b"strange")
    (space.folder / "note.txt").write_text("strange")
    found = Store(tmp_path).space({}).find(keys("a", "b"))
    assert found.has.sum() == 1 and np.array_equal(found.features[found.has], np.load(whole))


@pytest.mark.parametrize("unreadable", [False, True])
def test_a_block_without_its_features_hides_no_whole_one(tmp_path, unreadable, monkeypatch):
    for names, features in ((("a", "b"), rows(2)), (("a",), rows(2)[:1]), (("b",), rows(2)[1:])):
        Store(tmp_path).space({}).append(keys(*names), features)
    path = block_files(Store(tmp_path).space({}))[-1]
    if unreadable:
        load, no = np.load, raises(PermissionError(13, "no"))
        monkeypatch.setattr(np, "load", lambda p, **o: no() if p == path else load(p, **o))
    else:
        path.unlink()
    assert np.array_equal(Store(tmp_path).space({}).get(keys("a", "b")), rows(2))


def test_a_writer_killed_half_way_leaves_no_block(tmp_path, monkeypatch):
    write, calls = blocks.write_aside, []
    with monkeypatch.context() as patch:
        patch.setattr(blocks, "write_aside", lambda *a: write(*a) if not calls.append(a) and len(calls) == 1 else 1 / 0)
        with pytest.raises(ZeroDivisionError):
            Store(tmp_path).space({}).append(keys("a"), rows(1))
    assert blocks.block_names(Store(tmp_path).space({}).folder) == []


def test_points_in_another_arrangement_are_damage(tmp_path):
    space = Store(tmp_path).space({})
    space.append(keys("a"), rows(1, 3, 4))
    (path,) = block_files(space)
    path.write_bytes(path.read_bytes().replace(b"(1, 3, 4)", b"(1, 4, 3)"))
    assert not Store(tmp_path).space({}).find(keys("a")).has.any()


def test_a_damaged_block_that_cannot_be_removed_is_passed_over(tmp_path, monkeypatch):
    space = Store(tmp_path).space({})
    space.append(keys("a"), rows(1))
    flip(block_files(space)[0])
    monkeypatch.setattr("clipib.embeddings.store.remove_block", raises(PermissionError(13, "no")))
    for _ in range(2):
        assert not space.find(keys("a")).has.any()
    assert len(block_files(space)) == 1


def raises(error):
    def function(*_):
        raise error

    return function


def test_a_read_only_cache_serves_and_does_not_fail(tmp_path, monkeypatch):
    store = Store(tmp_path)
    store.space({}).append(keys("a"), rows(1))
    monkeypatch.setattr("clipib.embeddings.store.write_block", raises(PermissionError(13, "no")))
    monkeypatch.setattr("os.utime", raises(PermissionError(13, "no")))
    space = store.space({})
    space.append(keys("b"), rows(1, seed=1))
    assert not space.writable and space.find(keys("a", "b")).has.tolist() == [True, False]


def test_a_full_disk_is_not_hidden(tmp_path, monkeypatch):
    monkeypatch.setattr("clipib.embeddings.store.write_block", raises(OSError(28, "full")))
    with pytest.raises(OSError, match="full"):
        Store(tmp_path).space({}).append(keys("a"), rows(1))


def test_many_blocks_need_few_open_files(tmp_path):
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (100, hard))
    try:
        space = Store(tmp_path).space({})
        for i in range(150):
            space.append(keys(f"{i:03d}"), rows(1, seed=i))
        found = Store(tmp_path).space({}).get(keys(*(f"{i:03d}" for i in range(150))))
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    assert np.array_equal(found, np.concatenate([rows(1, seed=i) for i in range(150)]))


def test_the_store_needs_no_torch():
    code = "import sys, clipib.embeddings.rows, clipib.embeddings.housekeeping; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0
