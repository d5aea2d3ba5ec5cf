"""Four processes on one store, killed at random while it is cleaned up and damaged: the features are those of one."""

import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from embeddings import store_worker

from clipib.embeddings.housekeeping import cache_size, collect_garbage, find_damaged, list_spaces
from clipib.embeddings.store import Store


class Workers:
    """Processes that fill one store; each that ends with an answer is checked, and followed by another."""

    def __init__(self, cache, expected, **options):
        self.expected = expected
        self.command = [sys.executable, store_worker.__file__, str(cache), json.dumps(options)]
        self.environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])}
        self.running, self.encoded, self.answers = [], 0, 0

    def start(self):
        pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
        self.running.append(subprocess.Popen(self.command, env=self.environment, **pipes))

    def kill_one(self, rng):
        process = self.running.pop(rng.randrange(len(self.running)))
        process.send_signal(signal.SIGKILL)
        process.communicate()

    def collect(self, *, wait=False):
        for process in list(self.running):
            if wait or process.poll() is not None:
                out, err = process.communicate(timeout=120)
                assert process.returncode == 0, err
                answer = json.loads(out)
                assert answer["digest"] == self.expected
                self.encoded += answer["encoded"]
                self.answers += 1
                self.running.remove(process)


def damage_one(root, rng):
    """Flip a bit, cut off the end, or empty a file of the store, in place."""
    files = [path for path in root.glob("*/*.npy") if not path.name.startswith(".")]
    if not files:
        return
    path, how = rng.choice(files), rng.random()
    try:
        data = bytearray(path.read_bytes())
        if how < 0.7 and data:
            data[rng.randrange(len(data))] ^= 1 << rng.randrange(8)
        else:
            data = data[: len(data) // 2] if how < 0.85 else b""
        # Renamed over, as a tool would: a file that is cut off under a memory map ends its reader with a bus error.
        aside = path.with_name(f".damage{rng.random()}")
        aside.write_bytes(data)
        os.replace(aside, path)
    except OSError:  # removed meanwhile
        return


def torture(tmp_path, *, n, kills, seconds):
    rng = random.Random(0)
    serial, _ = store_worker.fill(Store(tmp_path / "serial"), store_worker.item_keys(n))
    assert np.array_equal(serial, store_worker.encode(store_worker.item_keys(n)))
    cache = tmp_path / "shared"
    store = Store(cache)
    fits = int(0.7 * cache_size(Store(tmp_path / "serial")))
    workers = Workers(cache, store_worker.digest(serial), n=n, pause=0.01, patience=20)
    try:
        for _ in range(kills):
            while len(workers.running) < 4:
                workers.start()
            time.sleep(rng.uniform(0.3, 1.7) * seconds)
            workers.collect()
            damage_one(store.root, rng)
            if rng.random() < 0.5:
                assert collect_garbage(store, max_bytes=fits).left_bytes < 2 * fits
            if workers.running:
                workers.kill_one(rng)
        while len(workers.running) < 4:
            workers.start()
        workers.collect(wait=True)
    finally:
        while workers.running:
            workers.kill_one(rng)
    return store, serial, workers


def check_afterwards(store, serial, tmp_path, monkeypatch):
    keys = store_worker.item_keys(len(serial))
    collect_garbage(store)
    assert find_damaged(store) == []
    features, n_new = store_worker.fill(store, keys)
    assert np.array_equal(features, serial) and n_new < len(keys)
    assert store_worker.fill(store, keys)[1] == 0

    path = next(p for p in store.root.glob("*/*.features.npy"))
    data = bytearray(path.read_bytes())
    for _ in range(9):
        data[random.Random(1).randrange(len(data))] ^= 255
    path.write_bytes(data)
    features, n_new = store_worker.fill(store, keys)
    assert np.array_equal(features, serial) and n_new > 0
    assert find_damaged(store) == []

    copy = Store(shutil.copytree(store.cache_dir, tmp_path / "copy"))
    (info,) = list_spaces(copy)
    lost = next(p for p in copy.root.glob("*/*.features.npy"))
    n_lost = len(np.load(lost))
    lost.write_bytes(b"lost")
    before = {p: p.stat().st_mtime_ns for p in copy.cache_dir.rglob("*")}
    with monkeypatch.context() as patch:
        make_read_only(copy, patch)
        for _ in range(2):
            features, n_new = store_worker.fill(copy, keys)
            assert np.array_equal(features, serial) and 0 < n_new <= n_lost
    assert before == {p: p.stat().st_mtime_ns for p in copy.cache_dir.rglob("*")} and info.rows >= len(keys)


def make_read_only(store, patch):
    """By permissions; and since root may write all the same, by calls that fail as they would for others."""

    def fails(*_, **__):
        raise PermissionError(13, "Permission denied")

    for folder in (store.cache_dir, store.root, *store.root.iterdir()):
        folder.chmod(0o555)
    for name in ("replace", "unlink", "utime", "mkdir", "rmdir"):
        patch.setattr(os, name, fails)
    opened = os.open
    patch.setattr(
        os, "open", lambda path, flags, *rest: opened(path, flags, *rest) if flags == os.O_RDONLY else fails()
    )
    patch.setattr("clipib.embeddings.blocks.write_aside", fails)
    patch.setattr("clipib.embeddings.store.write_aside", fails)
    patch.setattr("clipib.embeddings.store.remove_block", fails)


def test_thirty_kills(tmp_path, monkeypatch):
    store, serial, workers = torture(tmp_path, n=600, kills=30, seconds=0.3)
    assert workers.answers >= 4
    check_afterwards(store, serial, tmp_path, monkeypatch)


@pytest.mark.slow
def test_three_hundred_kills_on_more_items(tmp_path, monkeypatch):
    store, serial, workers = torture(tmp_path, n=5_000, kills=300, seconds=0.5)
    assert workers.answers >= 4
    check_afterwards(store, serial, tmp_path, monkeypatch)
