"""`clipib cache`, and `--verify-cache`, as a user runs them."""

import csv
import io
import os

import pytest

from clipib.cli.cache import n_bytes
from clipib.data.manifest import load_entries, save_entries
from clipib.errors import UserError


@pytest.fixture
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("CLIPIB_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture
def zeroshot(clipib, checkpoint, photo_folder, cache):
    def run(*options):
        return clipib("zeroshot", "-m", checkpoint, "-d", f"folder:{photo_folder}/test", "--fresh", *options)

    return run


def flip(path):
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(data)


def test_ls_verify_and_gc_on_a_store_that_was_used(clipib, zeroshot, cache):
    assert "is empty" in clipib("cache", "ls").stderr
    assert zeroshot().exit_code == 0
    listed = clipib("cache", "ls")
    assert "tiny" in listed.stdout and max(map(len, listed.stdout.splitlines()[1:])) <= 100
    records = list(csv.DictReader(io.StringIO(clipib("cache", "ls", "--format", "csv").stdout)))
    assert {(r["of"], r["rows"], r["width"], r["blocks"]) for r in records} == {
        ("image", "8", "64", "1"),
        ("text", "2", "64", "1"),
    }
    assert "2 blocks, all whole" in clipib("cache", "verify").stdout
    flip(next(cache.glob("features/*/*.features.npy")))
    damaged = clipib("cache", "verify")
    assert damaged.exit_code == 2 and "1 damaged block in" in damaged.stderr
    assert "1 block removed" in clipib("cache", "gc").stdout
    assert "; 0 kB left" in clipib("cache", "gc", "--max-size", "0").stdout
    assert "is empty" in clipib("cache", "ls").stderr


def test_a_damaged_block_is_told_encoded_again_and_changes_no_number(zeroshot, cache):
    before = zeroshot("--format", "csv").stdout
    for path in cache.glob("features/*/*.features.npy"):
        flip(path)
    again = zeroshot("--format", "csv")
    assert again.stdout == before and again.stderr.count("1 damaged block in the store") == 2
    assert "encoded 8 images and 2 texts" in again.stderr
    assert "nothing was encoded" in zeroshot().stderr


def test_verify_cache_finds_what_was_wrongly_remembered(zeroshot, cache, photo_folder, monkeypatch):
    monkeypatch.setattr("clipib.data.manifest.RACY_NS", -(10**18))
    zeroshot()
    assert "hashed 8 image files again: what was remembered holds" in zeroshot("--verify-cache").stderr
    path = photo_folder / "test" / "blue_dot" / "0.png"
    before = path.stat()
    other = path.with_name("1.png").read_bytes()[: before.st_size].ljust(before.st_size, b"\0")
    path.write_bytes(other)
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
    (manifest,) = cache.glob("manifests/*")
    entries = load_entries(manifest)
    after = path.stat()
    stamps = entries.stamps.copy()
    stamps[entries.names.index("blue_dot/0.png"), 2:4] = after.st_ino, after.st_ctime_ns
    save_entries(manifest, entries._replace(stamps=stamps))
    assert "nothing was encoded" in zeroshot().stderr  # deceived, by somebody who wrote into the cache
    found = zeroshot("--verify-cache")
    assert "hashed 8 image files again: of 1 another content was remembered; mended" in found.stderr
    assert "encoded 1 image and" in found.stderr


def test_finetune_remembers_hashes_too(clipib, cache, photo_folder, monkeypatch):
    monkeypatch.setattr("clipib.data.manifest.RACY_NS", -(10**18))
    base = ["finetune", "--model", "tiny", "--pretrained", "none", "--train", f"folder:{photo_folder}"]
    assert clipib(*base, "--dry-run").exit_code == 0 and not cache.exists()
    run = clipib(*base, "--steps", 1, "--batch-size", 4, "--verify-cache")
    assert run.exit_code == 0 and "hashed 12 image files again" in run.stderr
    assert len(list(cache.glob("manifests/*"))) == 1


def test_sizes_as_people_write_them():
    found = [n_bytes(text) for text in ("0", "50G", "50 gb", "1.5TiB", "10k", "7MiB", "12B")]
    assert found == [0, 50 * 10**9, 50 * 10**9, 3 * 2**39, 10_000, 7 * 2**20, 12]
    for text in ("", "G", "-1G", "50Q", "5iB", "1e9"):
        with pytest.raises(UserError, match="is no size"):
            n_bytes(text)
