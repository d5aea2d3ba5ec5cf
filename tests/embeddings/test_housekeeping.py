import os
import time

import numpy as np
import pytest

from clipib.data.folder import load_folder
from clipib.data.manifest import Manifest
from clipib.embeddings.blocks import KEYS, block_names, write_block
from clipib.embeddings.housekeeping import cache_size, collect_garbage, find_damaged, list_spaces
from clipib.embeddings.store import CLAIMS, Store


def keys(*names):
    return [str(name).encode().ljust(32, b"-") for name in names]


def rows(n, *shape, seed=0):
    return np.random.default_rng(seed).normal(size=(n, *(shape or (4,)))).astype(np.float32)


def used(space, name, days_ago):
    moment = time.time() - days_ago * 86_400
    os.utime(space.folder / (name + KEYS), (moment, moment))


def append_aged(space, i, days_ago):
    before = set(block_names(space.folder))
    space.append(keys(i), rows(1, seed=i))
    (name,) = set(block_names(space.folder)) - before
    used(space, name, days_ago)
    return name


def flip(path):
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(data)


def test_verify_finds_flipped_bytes_and_gc_removes_the_block(tmp_path):
    store = Store(tmp_path)
    space = store.space({})
    space.append(keys("a"), rows(1))
    space.append(keys("b"), rows(1, seed=1))
    assert find_damaged(store) == []
    path = sorted(space.folder.glob("*.features.npy"))[0]
    flip(path)
    assert find_damaged(store) == [path]
    assert collect_garbage(store).removed == 1
    assert find_damaged(store) == [] and len(block_names(space.folder)) == 1


def test_gc_removes_what_was_not_used_for_long(tmp_path):
    store = Store(tmp_path)
    for i, days in enumerate((40, 1)):
        append_aged(store.space({"i": i}), i, days)
    collect_garbage(store, older_than_days=30)
    assert [info.about["encoding"]["i"] for info in list_spaces(store)] == [1]
    assert not store.space({"i": 0}).folder.exists()


def test_reading_counts_as_use(tmp_path):
    store = Store(tmp_path)
    for i in range(2):
        append_aged(store.space({}), i, 40)
    store.space({}).get(keys(1))
    collect_garbage(store, older_than_days=30)
    assert store.space({}).find(keys(0, 1)).has.tolist() == [False, True]


def test_gc_makes_the_store_fit_the_least_recently_used_going_first(tmp_path):
    store = Store(tmp_path)
    for i, days in enumerate((3, 9, 1, 7)):
        append_aged(store.space({"i": i % 2}), i, days)
    one = cache_size(store) // 4
    done = collect_garbage(store, max_bytes=cache_size(store) - one)
    has = [bool(store.space({"i": i % 2}).find(keys(i)).has[0]) for i in range(4)]
    assert has[0] and has[2] and not has[1]
    assert done.left_bytes == cache_size(store) and done.freed_bytes > 0
    assert collect_garbage(store, max_bytes=0).left_bytes == 0
    assert list_spaces(store) == [] and not list(store.root.iterdir())


def test_gc_counts_and_removes_remembered_hashes_too(tmp_path, photo_folder, monkeypatch):
    monkeypatch.setattr("clipib.data.manifest.RACY_NS", -(10**18))
    store = Store(tmp_path / "c")
    Manifest(store.cache_dir).keys(load_folder(photo_folder, split="test").images, lambda i: b"k" * 32)
    assert cache_size(store) > 500
    assert collect_garbage(store, max_bytes=0).left_bytes == 0


@pytest.mark.parametrize("shape", [(4,), (3, 4)])
def test_many_small_blocks_become_one_with_each_row_once(tmp_path, shape):
    store = Store(tmp_path)
    for i in range(9):
        store.space({}).append(keys(i, i + 1), np.stack([rows(1, *shape, seed=j)[0] for j in (i, i + 1)]))
    reader = store.space({})
    reader.refresh()
    assert collect_garbage(store).merged == 9
    (info,) = list_spaces(store)
    assert (info.blocks, info.rows, info.item_shape) == (1, 10, shape)
    expected = np.concatenate([rows(1, *shape, seed=i) for i in range(10)])
    for space in (reader, store.space({})):  # one that knew the parts alone, and a new one
        assert np.array_equal(space.get(keys(*range(10))), expected)
    assert collect_garbage(store).merged == 0 and find_damaged(store) == []


def test_few_blocks_and_damaged_ones_are_not_merged(tmp_path):
    store = Store(tmp_path)
    for i in range(8):
        store.space({}).append(keys(i), rows(1, seed=i))
    space = store.space({})
    flip(sorted(space.folder.glob("*.features.npy"))[3])
    assert collect_garbage(store)[1:3] == (1, 0)
    assert space.find(keys(*range(8))).has.sum() == 7


def test_merged_blocks_stay_below_a_bound(tmp_path, monkeypatch):
    monkeypatch.setattr("clipib.embeddings.housekeeping.MERGED_BYTES", 1_000)
    store = Store(tmp_path)
    for i in range(12):
        store.space({}).append(keys(i), rows(1, 60, seed=i))
    collect_garbage(store)
    assert list_spaces(store)[0].blocks == 4
    expected = np.concatenate([rows(1, 60, seed=i) for i in range(12)])
    assert np.array_equal(store.space({}).get(keys(*range(12))), expected)


def test_a_merge_that_was_killed_before_the_parts_were_removed_is_finished(tmp_path, monkeypatch):
    store = Store(tmp_path)
    for i in range(8):
        store.space({}).append(keys(i), rows(1, seed=i))
    with monkeypatch.context() as patch:
        patch.setattr("clipib.embeddings.housekeeping.remove_block", lambda *_: None)
        collect_garbage(store)
    assert list_spaces(store)[0].blocks == 9
    collect_garbage(store)
    assert list_spaces(store)[0][3:5] == (8, 1)
    assert np.array_equal(store.space({}).get(keys(*range(8))), np.concatenate([rows(1, seed=i) for i in range(8)]))


def test_leftovers_of_killed_writers_go_when_an_hour_old(tmp_path):
    store = Store(tmp_path)
    space = store.space({})
    space.append(keys("a"), rows(1))
    for name in (".x.features.npy.12345678.partial", "f" * 32 + ".features.npy"):
        (space.folder / name).write_bytes(b"half")
    collect_garbage(store)
    assert len(list(space.folder.iterdir())) == 5
    for path in space.folder.iterdir():
        os.utime(path, (0, 0))
    collect_garbage(store)
    assert len(list(space.folder.iterdir())) == 3


def test_a_writer_goes_on_where_gc_removed_its_folder(tmp_path, monkeypatch):
    store = Store(tmp_path)
    space = store.space({})
    space.append(keys("a"), rows(1))
    (space.folder / CLAIMS).touch()
    calls = []

    def write_after_gc(folder, *arguments):
        if not calls:
            collect_garbage(store, max_bytes=0)
            assert not folder.exists()
        calls.append(folder)
        return write_block(folder, *arguments)

    monkeypatch.setattr("clipib.embeddings.store.write_block", write_after_gc)
    space.append(keys("b"), rows(1, seed=1))
    assert len(calls) == 2 and store.space({}).find(keys("a", "b")).has.tolist() == [False, True]


def test_the_list_tells_rows_and_names(tmp_path):
    store = Store(tmp_path)
    store.space({"modality": "image"}, about={"model": "tiny"}).append(keys("a", "b"), rows(2))
    (info,) = list_spaces(store)
    assert (info.rows, info.blocks, info.about["model"], info.item_shape) == (2, 1, "tiny", (4,))
    assert info.size_bytes == cache_size(store)
