import numpy as np
import pytest

from clipib.embeddings.store import Store


def keys(*names):
    return [name.encode().ljust(32, b"0") for name in names]


def rows(n, width=4, seed=0):
    return np.random.default_rng(seed).normal(size=(n, width)).astype(np.float32)


def test_what_was_put_in_comes_out_in_another_process_view(tmp_path):
    features = rows(3)
    Store(tmp_path).space({"w": 1}).append(keys("a", "b", "c"), features)
    space = Store(tmp_path).space({"w": 1})
    assert len(space) == 3 and keys("b")[0] in space
    assert np.array_equal(space.get(keys("c", "a", "c")), features[[2, 0, 2]])


def test_another_encoding_is_another_space(tmp_path):
    store = Store(tmp_path)
    store.space({"w": 1}).append(keys("a"), rows(1))
    assert keys("a")[0] not in store.space({"w": 2})


def test_a_block_without_keys_or_with_other_lengths_is_passed_over(tmp_path):
    store = Store(tmp_path)
    space = store.space({})
    space.append(keys("a", "b"), rows(2))
    features = next(space.folder.glob("*.features.npy"))
    np.save(features, rows(1))
    assert len(store.space({})) == 0


def test_verify_finds_flipped_bytes_and_gc_removes_the_block(tmp_path):
    store = Store(tmp_path)
    space = store.space({})
    space.append(keys("a"), rows(1))
    space.append(keys("b"), rows(1, seed=1))
    assert store.verify() == []
    path = sorted(space.folder.glob("*.features.npy"))[0]
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(data)
    assert store.verify() == [path]
    assert store.gc() > 0
    assert store.verify() == [] and len(store.space({})) == 1


def test_gc_removes_old_spaces_and_leaves_new_ones(tmp_path):
    import os

    store = Store(tmp_path)
    for i in (1, 2):
        store.space({"i": i}).append(keys("a"), rows(1))
    old = store.space({"i": 1}).folder
    os.utime(old / "space.json", (0, 0))
    store.gc(older_than_days=30)
    assert not old.exists() and len(store.spaces()) == 1


def test_a_read_only_cache_serves_and_does_not_fail(tmp_path, monkeypatch):
    store = Store(tmp_path)
    store.space({}).append(keys("a"), rows(1))
    monkeypatch.setattr(
        "clipib.embeddings.store.write_aside", lambda *_: (_ for _ in ()).throw(PermissionError(13, "no"))
    )
    space = store.space({})
    space.append(keys("b"), rows(1, seed=1))
    assert space.get(keys("a", "b")).shape == (2, 4)
    assert len(store.space({})) == 1


def test_a_full_disk_is_not_hidden(tmp_path, monkeypatch):
    monkeypatch.setattr("clipib.embeddings.store.write_aside", lambda *_: (_ for _ in ()).throw(OSError(28, "full")))
    with pytest.raises(OSError, match="full"):
        Store(tmp_path).space({}).append(keys("a"), rows(1))


def test_the_list_tells_rows_and_names(tmp_path):
    store = Store(tmp_path)
    store.space({"modality": "image"}, about={"model": "tiny"}).append(keys("a", "b"), rows(2))
    (info,) = store.spaces()
    assert (info.rows, info.blocks, info.about["model"]) == (2, 1, "tiny")


def test_many_blocks_need_few_open_files(tmp_path):
    import resource

    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (100, hard))
    try:
        space = Store(tmp_path).space({})
        for i in range(150):
            space.append(keys(f"{i:03d}"), rows(1, seed=i))
        again = Store(tmp_path).space({})
        assert len(again) == 150
        found = again.get(keys(*(f"{i:03d}" for i in range(150))))
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    assert np.array_equal(found, np.concatenate([rows(1, seed=i) for i in range(150)]))
