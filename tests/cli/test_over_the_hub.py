"""The whole way in processes of their own: a pretrained tag and two data sets come from a hub on loopback."""

import csv
import io
import subprocess
import sys

import pytest
from wds_files import labelled, picture, repository

# A tag of a small architecture stands in for those of large ones: the rest is open_clip's and the hub client's own.
COMMAND = """
import sys
import open_clip.pretrained as pretrained
from clipib.models.sources import _add_built_in
_add_built_in()
pretrained._PRETRAINED["tiny"] = {"loopback": pretrained._pcfg(hf_hub="someone/tiny/")}
sys.argv[0] = "clipib"
from clipib.__main__ import main
main()
"""


@pytest.fixture
def served(hub, checkpoint):
    weights = (checkpoint / "open_clip_model.safetensors").read_bytes()
    hub.add("someone/tiny", {"open_clip_model.safetensors": weights})
    hub.add("datasets/org/pets", repository(labelled([0, 1, 1]), classnames=("cat", "dog"), templates=("a {c}.",)))
    return hub


def run(hub, home, *arguments):
    done = subprocess.run(
        [sys.executable, "-c", COMMAND, *map(str, arguments), "--format", "csv"],
        env=hub.env(home),
        capture_output=True,
        text=True,
        cwd=home,
    )
    return done, list(csv.DictReader(io.StringIO(done.stdout)))


def test_a_tag_and_a_data_set_arrive_once(served, tmp_path):
    asked = ["zeroshot", "--model", "tiny/loopback", "--datasets", "wds:org/pets", "--cache-dir", tmp_path / "cache"]
    first, rows = run(served, tmp_path, *asked, "--out", "a")
    assert first.returncode == 0, first.stderr
    assert {(r["model"], r["pretrained"], r["dataset"]) for r in rows} == {("tiny", "loopback", "org/pets")}
    assert "Traceback" not in first.stderr and "Error" not in first.stderr
    fetched = {r.path for r in served.requests if r.method == "GET"}
    assert any(p.endswith("open_clip_model.safetensors") for p in fetched) and any(p.endswith("1.tar") for p in fetched)
    served.requests.clear()
    second, again = run(served, tmp_path, *asked, "--out", "b")
    assert second.returncode == 0 and again == rows and not served.requests
    served.stop()
    third, alone = run(served, tmp_path, *asked, "--out", "c", "--offline")
    assert third.returncode == 0 and alone == rows
    other, _ = run(served, tmp_path, *asked[:-1], tmp_path / "empty", "--offline")
    assert other.returncode == 2 and "Offline, and not in" in other.stderr and "'org--pets' (test)" in other.stderr


def test_a_parquet_repository_through_datasets(hub, checkpoint, tmp_path):
    import datasets

    features = datasets.Features({"image": datasets.Image(), "label": datasets.ClassLabel(names=["cat", "dog"])})
    table = datasets.Dataset.from_dict(
        {"image": [{"bytes": picture(i), "path": None} for i in range(4)], "label": [0, 1, 1, 0]}, features=features
    )
    table.to_parquet(str(tmp_path / "t.parquet"))
    hub.add("datasets/org/parquet", {"data/test-00000-of-00001.parquet": tmp_path / "t.parquet"})
    asked = ["zeroshot", "--model", checkpoint, "--cache-dir", tmp_path / "cache", "--out"]
    done, rows = run(hub, tmp_path, *asked, "a", "--datasets", "hf:org/parquet:test")
    assert done.returncode == 0, done.stderr
    assert {r["dataset"] for r in rows} == {"org/parquet"} and rows[0]["n"] == "4"
    streamed, same = run(hub, tmp_path, *asked, "b", "--datasets", "hf:org/parquet:test+stream")
    assert streamed.returncode == 0 and [r["value"] for r in same] == [r["value"] for r in rows]
    hub.gate("datasets/org/parquet")
    refused, _ = run(hub, tmp_path / "", *asked, "c", "--datasets", "wds:org/parquet")
    assert refused.returncode == 2 and "no split 'test' of webdataset shards" in " ".join(
        refused.stderr.replace("│", "").split()
    )
