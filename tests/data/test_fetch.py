"""Fetching from a hub on loopback, with the hub's real client: locks, resumption, tampering, refusals."""

import json
import os
import time
from concurrent.futures import ThreadPoolExecutor
from functools import partial

import pytest
from wds_files import labelled, repository

from clipib.data.catalog import CATALOG
from clipib.data.fetch import Wanted, at_once, fetch, is_complete
from clipib.data.http import download
from clipib.data.load import load_datasets
from clipib.data.lock import hash_again, read_lock
from clipib.errors import UserError

REPO = "datasets/org/pets"
FILES = repository(labelled([0, 1, 1, 0]), classnames=("cat", "dog"), templates=("a photo of a {c}.",))


@pytest.fixture
def wanted(hub, monkeypatch):
    monkeypatch.setenv("HF_ENDPOINT", hub.url)
    hub.add(REPO, FILES)
    return Wanted("pets", "org/pets", "", "test")


def paths(hub):
    return [r.path for r in hub.requests]


def test_a_split_arrives_with_a_lock_and_is_asked_for_once(hub, wanted, tmp_path):
    (plan,) = fetch([wanted], tmp_path)
    assert {p.relative_to(tmp_path / "pets").as_posix() for p in (tmp_path / "pets").rglob("*.t*")} >= set(FILES)
    locked = read_lock(tmp_path)["pets"]
    assert locked["revision"] == plan.commit and set(locked["files"]) == set(FILES)
    hub.requests.clear()
    assert fetch([wanted], tmp_path) == [] and not hub.requests
    hub.stop()
    assert fetch([wanted], tmp_path) == []


def test_a_named_repository_is_a_data_set(hub, wanted, tmp_path):
    (dataset,) = load_datasets("wds:org/pets:test", need="label", data_root=tmp_path)
    assert dataset.name == "org/pets" and dataset.labels.tolist() == [0, 1, 1, 0]
    hub.stop()
    (again,) = load_datasets("wds:org/pets", need="label", data_root=tmp_path)
    assert again.sha256 == dataset.sha256


def test_only_the_wanted_split_is_fetched(hub, wanted, tmp_path):
    hub.add(REPO, {**FILES, **repository(labelled([1, 1], 9), split="train", classnames=("cat", "dog"))})
    fetch([wanted], tmp_path)
    assert not (tmp_path / "pets" / "train").exists()
    fetch([wanted._replace(split="train")], tmp_path)
    assert (tmp_path / "pets" / "train" / "1.tar").exists()
    assert len(read_lock(tmp_path)["pets"]["files"]) == len(FILES) + 3


def test_the_lock_keeps_the_commit_until_told_otherwise(hub, wanted, tmp_path):
    fetch([wanted], tmp_path)
    first = read_lock(tmp_path)["pets"]["revision"]
    hub.add(REPO, repository(labelled([1, 1, 1, 1]), classnames=("cat", "dog"), templates=("a photo of a {c}.",)))
    (tmp_path / "pets" / "test" / "1.tar").unlink()
    fetch([wanted], tmp_path)
    assert read_lock(tmp_path)["pets"]["revision"] == first
    assert (tmp_path / "pets" / "test" / "1.tar").read_bytes() == FILES["test/1.tar"]
    fetch([wanted], tmp_path, update=True)
    assert read_lock(tmp_path)["pets"]["revision"] != first
    assert (tmp_path / "pets" / "test" / "1.tar").read_bytes() != FILES["test/1.tar"]


def test_a_connection_cut_half_way_is_taken_up_there(hub, wanted, tmp_path):
    large = [*labelled([0]), {"png": b"x" * (12 << 20), "cls": b"1"}]  # the client keeps what it has every 10 MiB
    files = repository(large, shards=1, classnames=("cat", "dog"))
    hub.add(REPO, {**dict.fromkeys(FILES), **files})
    hub.cut("test/0.tar", after=11 << 20, times=1)
    fetch([wanted], tmp_path)
    assert (tmp_path / "pets" / "test" / "0.tar").read_bytes() == files["test/0.tar"]
    ranges = [r.range for r in hub.requests if r.path.endswith("test/0.tar") and r.range]
    assert ranges and all(r.startswith("bytes=") and r != "bytes=0-" for r in ranges)


def test_other_bytes_under_the_same_revision_are_caught(hub, wanted, tmp_path):
    fetch([wanted], tmp_path)
    commit = read_lock(tmp_path)["pets"]["revision"]
    hub.tamper(REPO, commit, "test/1.tar", FILES["test/1.tar"][::-1])
    (tmp_path / "pets" / "test" / "1.tar").unlink()
    with pytest.raises(UserError, match=r"test/1.tar' of org/pets changed under the same revision"):
        fetch([wanted], tmp_path)


def test_a_local_file_that_changed_is_caught(wanted, tmp_path):
    wanted = wanted._replace(name="org--pets")
    fetch([wanted], tmp_path)
    shard = tmp_path / "org--pets" / "test" / "0.tar"
    content = bytearray(shard.read_bytes())
    content[600] ^= 1
    shard.write_bytes(content)
    with pytest.raises(UserError, match=r"0.tar' is not the file that data.lock names"):
        is_complete(tmp_path, wanted)
    with pytest.raises(UserError, match="not the file"):
        load_datasets("wds:org/pets", need="label", data_root=tmp_path)


def test_hashing_again_sees_what_the_times_hide(wanted, tmp_path):
    fetch([wanted], tmp_path)
    assert hash_again(tmp_path, "pets") == len(FILES)
    shard, stamps = tmp_path / "pets" / "test" / "0.tar", tmp_path / "pets" / ".clipib.json"
    content = bytearray(shard.read_bytes())
    content[600] ^= 1
    shard.write_bytes(content)
    known = json.loads(stamps.read_text())
    stat = shard.stat()
    known["test/0.tar"] = [stat.st_size, stat.st_mtime_ns, stat.st_ino, stat.st_ctime_ns]
    stamps.write_text(json.dumps(known))
    assert is_complete(tmp_path, wanted)  # nothing that a stat could see
    with pytest.raises(UserError, match="not the file"):
        hash_again(tmp_path, "pets")


def test_a_hub_that_sends_other_bytes_than_it_lists(hub, wanted, tmp_path, monkeypatch):
    import clipib.hub

    real = clipib.hub.list_repository

    def lying(*args, **options):
        listing = real(*args, **options)
        files = tuple(f._replace(sha256="0" * 64) if f.path == "test/0.tar" else f for f in listing.files)
        return listing._replace(files=files)

    monkeypatch.setattr("clipib.data.fetch.list_repository", lying)
    with pytest.raises(UserError, match="sent other bytes for 'test/0.tar'"):
        fetch([wanted], tmp_path)
    assert not (tmp_path / "pets" / "test" / "0.tar").exists() and read_lock(tmp_path)["pets"]["complete"] == []


def test_everything_that_is_missing_is_told_at_once(hub, wanted, tmp_path):
    nothing = Wanted("a", "org/nothing", "", "test")
    revision, split = wanted._replace(revision="v9"), wanted._replace(name="b", split="val")
    with pytest.raises(UserError) as caught:
        fetch([nothing, revision, split], tmp_path)
    text = caught.value.message
    assert "org/nothing: there is no such repository" in text
    assert "org/pets@v9: there is no such revision" in text
    assert "org/pets has no split 'val'" in text and "it has test" in text


def test_gated_busy_and_broken(hub, wanted, tmp_path, monkeypatch):
    monkeypatch.setenv("HF_TOKEN", "")
    hub.fail("*test/0.tar", status=500, times=1)
    fetch([wanted], tmp_path / "a")
    hub.fail("*/api/*", status=429, times=1)
    fetch([wanted], tmp_path / "b")
    monkeypatch.setattr("clipib.hub.PAUSE", 0.0)
    hub.fail("*/api/*", status=429, times=4)
    with pytest.raises(UserError, match="answered 429"):
        fetch([wanted], tmp_path / "b2")
    hub.gate(REPO)
    with pytest.raises(UserError, match="org/pets is gated, and no token") as caught:
        fetch([wanted], tmp_path / "c")
    assert "HF_TOKEN" in caught.value.hint
    hub.tokens.add("hf_right")
    monkeypatch.setenv("HF_TOKEN", "hf_right")
    fetch([wanted], tmp_path / "d")
    hub.stop()
    with pytest.raises(UserError, match="cannot be reached"):
        fetch([wanted], tmp_path / "e")


def test_offline_names_all_and_asks_nobody(hub, wanted, tmp_path, monkeypatch):
    monkeypatch.setenv("CLIPIB_OFFLINE", "1")
    with pytest.raises(UserError, match=r"'pets' \(test\) from org/pets\n'b' \(test\) from org/b"):
        fetch([wanted, Wanted("b", "org/b", "", "test")], tmp_path)
    assert not hub.requests


def test_plain_web_addresses(hub, tmp_path):
    """The loopback hub is a web server too: its resolve path stands in for a folder on one."""
    hub.add(REPO, FILES)
    base = f"{hub.url}/datasets/org/pets/resolve/main"
    hub.cut("test/1.tar", after=3000, times=1)
    (dataset,) = load_datasets(f"wds:{base}/", need="label", data_root=tmp_path)
    assert dataset.labels.tolist() == [0, 1, 1, 0] and dataset.classnames == ("cat", "dog")
    assert any(r.range for r in hub.requests)
    hub.stop()
    (again,) = load_datasets(f"wds:{base}", need="label", data_root=tmp_path)
    assert again.sha256 == dataset.sha256
    with pytest.raises(UserError, match="cannot be fetched"):
        load_datasets(f"wds:{base}:train", need="label", data_root=tmp_path)


def test_a_read_only_data_root_is_read(wanted, tmp_path):
    fetch([wanted], tmp_path)
    (tmp_path / "pets" / ".clipib.json").unlink()
    os.chmod(tmp_path / "pets", 0o555)
    try:
        assert is_complete(tmp_path, wanted)
    finally:
        os.chmod(tmp_path / "pets", 0o755)


def test_a_dry_run_says_what_it_would_fetch_and_fetches_nothing(hub, wanted, tmp_path, clipib, checkpoint):
    hub.requests.clear()
    for command in ("zeroshot --datasets", "embed --data", "search cat --data", "finetune --val digitworld --train"):
        result = clipib(
            *command.split(), "wds:org/pets:test", "-m", checkpoint, "--data-root", tmp_path / "root", "--dry-run"
        )
        assert result.exit_code == 0, result.stderr
        assert "org--pets (test): 5 files to fetch" in result.stderr and "dry run" in result.stderr
    assert not (tmp_path / "root").exists()
    assert not any("/resolve/" in path for path in paths(hub))


def test_a_fetch_that_broke_off_is_no_copy_of_ones_own(hub, monkeypatch, tmp_path):
    monkeypatch.setenv("HF_ENDPOINT", hub.url)
    monkeypatch.setattr("clipib.hub.PAUSE", 0.0)
    monkeypatch.setattr("clipib.data.fetch.AT_ONCE", 1)  # so that what stands before the failing file has arrived
    entry = CATALOG["renderedsst2"]._replace(counts={}, revision="")
    monkeypatch.setitem(CATALOG, "renderedsst2", entry)
    files = repository(labelled([0, 1] * 4), shards=4, classnames=("a", "b"), templates=("{c}.",))
    hub.add(f"datasets/{entry.hub}", files)
    hub.fail("*test/3.tar", status=500, times=8, method="GET")
    with pytest.raises(UserError, match="answered 500"):
        load_datasets("renderedsst2", need="label", data_root=tmp_path)
    assert (tmp_path / "renderedsst2" / "test" / "0.tar").exists()
    with pytest.raises(UserError, match="answered 500"):  # a part is no data set
        load_datasets("renderedsst2", need="label", data_root=tmp_path)
    hub.requests.clear()
    (dataset,) = load_datasets("renderedsst2", need="label", data_root=tmp_path)
    assert len(dataset) == 8 and not any(r.path.endswith("0.tar") and r.method == "GET" for r in hub.requests)


def test_names_that_a_mirror_swaps_under_a_copied_lock_are_caught(hub, wanted, tmp_path):
    fetch([wanted], tmp_path / "a")
    (tmp_path / "b").mkdir()
    lock = tmp_path / "b" / "data.lock"
    lock.write_bytes((tmp_path / "a" / "data.lock").read_bytes())
    hub.tamper(REPO, read_lock(tmp_path / "a")["pets"]["revision"], "classnames.txt", b"dog\ncat\n")
    with pytest.raises(UserError, match="'classnames.txt' of org/pets changed under the same revision"):
        fetch([wanted], tmp_path / "b")
    assert json.loads(lock.read_text())["datasets"]["pets"]["files"] == read_lock(tmp_path / "a")["pets"]["files"]


def test_a_swapped_line_is_not_blessed_by_another_missing_file(wanted, tmp_path):
    fetch([wanted], tmp_path)
    names = tmp_path / "pets" / "classnames.txt"
    names.write_text("dog\ncat\n")
    (tmp_path / "pets" / "test" / "1.tar").unlink()
    fetch([wanted], tmp_path)
    assert names.read_text() == "cat\ndog\n"


def test_two_revisions_lie_apart(hub, wanted, tmp_path):
    first = read_first = hub.add(REPO, FILES)
    more = repository(labelled([1, 1], 50), shards=1, classnames=("dog", "cat"), templates=("a {c}.",))
    hub.add(REPO, {**dict.fromkeys(FILES), **more})
    pinned, newest = load_datasets(f"wds:org/pets@{first}", data_root=tmp_path) + load_datasets(
        "wds:org/pets", data_root=tmp_path
    )
    assert (len(pinned), pinned.classnames) == (4, ("cat", "dog")) and read_first
    assert (len(newest), newest.classnames) == (2, ("dog", "cat"))


def test_an_update_leaves_nothing_of_the_older_commit(hub, wanted, tmp_path):
    fetch([wanted], tmp_path)
    fewer = repository(labelled([1, 1], 50), shards=1)
    hub.add(REPO, {**dict.fromkeys(FILES), **fewer})
    fetch([wanted], tmp_path, update=True)
    left = {p.relative_to(tmp_path / "pets").as_posix() for p in (tmp_path / "pets").rglob("*") if p.is_file()}
    assert {p for p in left if not p.startswith(".")} == set(fewer)


def test_two_fetches_at_once_do_it_once(hub, wanted, tmp_path):
    with ThreadPoolExecutor(2) as pool:
        list(pool.map(lambda _: fetch([wanted], tmp_path), range(2)))
    shards = [r.path for r in hub.requests if r.method == "GET" and r.path.endswith("0.tar")]
    assert len(shards) == 1 and is_complete(tmp_path, wanted)


def test_a_web_file_that_changed_is_not_continued(hub, tmp_path):
    target = tmp_path / "x.bin"
    hub.add("datasets/org/web", {"x.bin": b"new" * 1000})
    (tmp_path / ".x.bin.partial").write_bytes(b"old" * 500)
    (tmp_path / ".x.bin.version").write_text('"another"')
    url = f"{hub.url}/datasets/org/web/resolve/main/x.bin"
    assert download(url, target)
    assert target.read_bytes() in (b"new" * 1000, b"old" * 500 + (b"new" * 1000)[1500:])
    assert not download(url + "x", target.with_name("y"))


@pytest.mark.parametrize("error", [UserError("refused"), KeyboardInterrupt()])
def test_the_first_failure_ends_all_that_wait(error):
    done, stopped = [], []

    def fails():
        raise error

    def works():
        time.sleep(0.02)
        done.append(1)

    with pytest.raises(type(error)):
        at_once([fails, *[works] * 50], 1, lambda: stopped.append(True))
    assert stopped and len(done) < 50
    assert at_once([partial(int, i) for i in range(9)], 3, lambda: None) == list(range(9))
