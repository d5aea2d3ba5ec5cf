import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from embeddings import store_worker

from clipib.embeddings.claims import Claims
from clipib.embeddings.rows import Rows
from clipib.embeddings.store import CLAIMS, Store

KEYS = store_worker.item_keys(40)


def start(cache, **options):
    options = {"n": 40, "pause": 0.0, "patience": 60, **options}
    command = [sys.executable, store_worker.__file__, str(cache), json.dumps(options)]
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])}
    return subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True)


def answer(process):
    out, _ = process.communicate(timeout=60)
    assert process.returncode == 0
    return json.loads(out)


@pytest.mark.parametrize("kept", [True, False])
def test_equal_keys_are_one_row_and_the_order_is_that_of_the_keys(tmp_path, kept):
    keys = [KEYS[i] for i in (3, 1, 3, 2)]
    for new in (3, 0 if kept else 3):
        features, n_new = store_worker.fill(Store(tmp_path), keys) if kept else filled_alone(keys)
        assert np.array_equal(features, store_worker.encode(keys)) and n_new == new


def filled_alone(keys):
    with Rows(None, keys) as rows:
        for todo in rows.passes():
            for batch in rows.claimed(todo, 2):
                rows.add(batch, store_worker.encode([keys[i] for i in batch]))
    return rows.get(range(len(keys))), rows.n_new


def test_what_was_given_up_is_missing_and_asked_for_no_more(tmp_path):
    with Rows(Store(tmp_path).space({}), KEYS[:5]) as rows:
        for todo in rows.passes():
            for batch in rows.claimed(todo, 2):
                rows.give_up([i for i in batch if i == 3])
                good = [i for i in batch if i != 3]
                rows.add(good, store_worker.encode([KEYS[i] for i in good]))
    assert [rows.has(i) for i in range(5)] == [True, True, True, False, True]
    with pytest.raises(KeyError, match="1 of 5"):
        rows.get(range(5))
    assert len(rows.get([0, 4])) == 2


def test_a_damaged_block_is_encoded_again(tmp_path):
    store = Store(tmp_path)
    store_worker.fill(store, KEYS[:20])
    store_worker.fill(store, KEYS)
    path = next(p for p in store.root.glob("*/*.features.npy") if len(np.load(p)) == 20)
    data = bytearray(path.read_bytes())
    data[200] ^= 4
    path.write_bytes(data)
    for encoded in (20, 0):
        features, n_new = store_worker.fill(store, KEYS)
        assert np.array_equal(features, store_worker.encode(KEYS)) and n_new == encoded


def test_a_claim_is_seen_by_other_processes_and_ends_with_its_holder(tmp_path):
    code = "import sys; from pathlib import Path; from clipib.embeddings.claims import Claims\n"
    code += "c = Claims(Path(sys.argv[1])); print(c.take(b'a' * 32), c.take(b'b' * 32), flush=True); sys.stdin.read()"
    path = tmp_path / "space" / CLAIMS
    other = subprocess.Popen(
        [sys.executable, "-c", code, str(path)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])},
    )
    assert other.stdout.readline().split() == ["True", "True"]
    claims = Claims(path)
    assert not claims.take(b"a" * 32) and claims.take(b"c" * 32)
    other.kill()
    other.wait()
    assert claims.take(b"a" * 32)


def test_two_processes_share_the_work_and_do_nothing_twice(tmp_path):
    n = 1_600
    both = [start(tmp_path, n=n, pause=0.01, wait=True) for _ in range(2)]
    time.sleep(0.5)
    (tmp_path / "go").touch()
    found = [answer(process) for process in both]
    assert {f["digest"] for f in found} == {store_worker.digest(store_worker.encode(store_worker.item_keys(n)))}
    assert sum(f["encoded"] for f in found) == n and min(f["encoded"] for f in found) > n / 5


def test_a_holder_that_sleeps_hangs_nobody(tmp_path):
    asleep = start(tmp_path, pause=60.0)
    try:
        while not list(tmp_path.glob(f"features/*/{CLAIMS}")):
            time.sleep(0.01)
        time.sleep(0.2)
        asleep.send_signal(signal.SIGSTOP)
        found = answer(start(tmp_path, patience=0.5))
        assert found["digest"] == store_worker.digest(store_worker.encode(KEYS)) and found["encoded"] == 40
    finally:
        asleep.kill()
        asleep.wait()


def test_where_nothing_can_be_locked_all_is_encoded(tmp_path, monkeypatch):
    monkeypatch.setattr("clipib.embeddings.claims.fcntl", None)
    assert store_worker.fill(Store(tmp_path), KEYS)[1] == 40


def test_a_mixture_of_shapes_is_an_error():
    with Rows(None, KEYS) as rows:
        rows.add([0], np.zeros((1, 4)))
        with pytest.raises(ValueError, match=r"\(4,\), got \(5,\)"):
            rows.add([1], np.zeros((1, 5)))
