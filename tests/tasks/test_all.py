"""`--datasets all` for real: miniature versions of every registry entry on a hub on loopback, down to the numbers."""

import csv
import io

import numpy as np
import pytest
from wds_files import npy, picture, repository

from clipib.data.catalog import CATALOG, SUITES


def miniature(entry, number):
    """A repository with a few images in the layout of that entry; templates are cut to one."""
    count = {"retrieval": 3}.get(entry.task, 4)
    rng = np.random.default_rng(number)
    samples = []
    classnames = entry.classnames or tuple(f"thing {i}" for i in range(entry.classes))
    for i in range(count):
        sample = {
            "webp" if number % 3 == 0 else "png": picture(1000 * (number + 1) + i, "WEBP" if number % 3 == 0 else "PNG")
        }
        if entry.task == "retrieval":
            sample["txt"] = f"first of {number} {i}\nsecond of {number} {i}".encode()
        elif entry.task == "multilabel":
            sample["npy"] = npy(rng.integers(0, 2, entry.classes))
        else:
            sample["cls"] = str(i % entry.classes).encode()
            if entry.group:
                sample["npy"] = npy([i % 2] * len(entry.metadata))
        samples.append(sample)
    if entry.task == "retrieval":
        return repository(samples, shards=1, kind="retrieval")
    kind = "multilabel" if entry.task == "multilabel" else ""
    return repository(
        samples, shards=1 + number % 2, classnames=classnames, templates=("a photo of a {c}.",), kind=kind
    )


@pytest.fixture
def small_world(hub, monkeypatch):
    """Every runnable entry, its counts those of the miniature, its revision the newest."""
    monkeypatch.setenv("HF_ENDPOINT", hub.url)
    for number, (name, entry) in enumerate(CATALOG.items()):
        if entry.not_runnable:
            continue
        hub.add(f"datasets/{entry.hub}", miniature(entry, number))
        retrieval = entry.task == "retrieval"
        small = entry._replace(
            counts={"test": 3 if retrieval else 4},
            captions={"test": 6} if retrieval else {},
            revision="",
            templates_key="",
        )
        monkeypatch.setitem(CATALOG, name, small)
    return hub


def rows_of(result):
    return list(csv.DictReader(io.StringIO(result.stdout)))


def named(need):
    tasks = ("retrieval",) if need == "caption" else ("classification", "multilabel")
    return {n for n, e in CATALOG.items() if e.task in tasks}


def test_zeroshot_on_all_from_name_to_number(small_world, clipib, checkpoint, tmp_path):
    command = ["zeroshot", "--model", checkpoint, "--datasets", "all", "--data-root", tmp_path / "data"]
    result = clipib(*command, "--out", "a", "--format", "csv")
    assert result.exit_code == 0, result.stderr
    rows = rows_of(result)
    runnable = {n for n in named("label") if not CATALOG[n].not_runnable}
    assert {r["dataset"] for r in rows} == runnable | {"suite:all"}
    assert len(runnable) > 70
    for name in named("label") - runnable:
        assert f"{name}: not runnable:" in result.stderr
    mains = {r["dataset"]: r["metric"] for r in rows if r["is_main"] == "true"}
    for name in runnable:
        assert mains.get(name, "") == CATALOG[name].main_metric, name
    assert {"mean_average_precision", "macro_f1", "worst_group_acc1", "worst_group_acc5"} <= set(mains.values())
    (average,) = [r for r in rows if r["dataset"] == "suite:all"]
    values = [float(r["value"]) for r in rows if r["is_main"] == "true" and r["dataset"] != "suite:all"]
    assert float(average["value"]) == pytest.approx(np.mean(values))
    listed = len([e for e in SUITES["all"].entries if CATALOG[e].task != "retrieval"])
    assert average["params"] == f"of={listed};over={len(values)}"
    assert f"over {len(values)} of {listed} data sets" in result.stderr

    small_world.requests.clear()
    again = clipib(*command, "--out", "b", "--format", "csv")
    assert again.exit_code == 0 and not small_world.requests
    assert "nothing was encoded" in again.stderr
    assert [r["value"] for r in rows_of(again)] == [r["value"] for r in rows]
    small_world.stop()
    alone = clipib(*command, "--out", "c", "--format", "csv")
    assert alone.exit_code == 0 and [r["value"] for r in rows_of(alone)] == [r["value"] for r in rows]


def test_offline_with_an_empty_root_all_that_is_missing_is_named(
    small_world, clipib, checkpoint, tmp_path, monkeypatch
):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")  # --offline sets these; monkeypatch takes them back
    monkeypatch.setenv("CLIPIB_OFFLINE", "1")
    command = ["--model", checkpoint, "--data-root", tmp_path / "data", "--offline"]
    result = clipib("zeroshot", "--datasets", "all", *command)
    assert result.exit_code == 2 and not small_world.requests and not result.stdout
    text = "".join(result.stderr.replace("│", "").split())
    for name in named("label"):
        assert f"'{name}'(test)from" in text or CATALOG[name].not_runnable, name


def test_retrieve_on_all_and_one_name(small_world, clipib, checkpoint, tmp_path):
    command = ["retrieve", "--model", checkpoint, "--data-root", tmp_path / "data", "--format", "csv"]
    result = clipib(*command, "--datasets", "all", "--out", "a")
    assert result.exit_code == 0, result.stderr
    runnable = {n for n in named("caption") if not CATALOG[n].not_runnable}
    assert {r["dataset"] for r in rows_of(result)} == runnable | {"suite:all"}
    one = clipib(*command, "--split", "flickr30k", "--out", "b")
    assert one.exit_code == 0 and {r["dataset"] for r in rows_of(one)} == {"flickr30k"}
    assert "nothing was encoded" in one.stderr
    refused = clipib(*command, "--split", "datacomp/flickr30k", "--out", "c")
    assert refused.exit_code == 2 and "use flickr30k instead" in " ".join(refused.stderr.split())


def test_a_shortfall_is_never_a_number(small_world, clipib, checkpoint, tmp_path, monkeypatch):
    monkeypatch.setitem(CATALOG, "cifar10", CATALOG["cifar10"]._replace(counts={"test": 10_000}))
    result = clipib("zeroshot", "--model", checkpoint, "--datasets", "cifar10", "--data-root", tmp_path / "data")
    assert result.exit_code == 2 and not result.stdout
    assert "4 images as read, 10,000 are expected" in " ".join(result.stderr.replace("│", "").split())


def test_many_data_sets_share_one_table(small_world, clipib, checkpoint, tmp_path):
    names = "mnist,cifar10,stl10,svhn,datacomp/svhn,gtsrb,voc2007_multilabel"
    result = clipib("zeroshot", "-m", checkpoint, "-d", names, "--data-root", tmp_path / "data")
    assert result.exit_code == 0 and result.stdout.count("main metric ") == 1
    assert "mean_average_precision" in result.stdout and "mean_per_class_recall" not in result.stdout


def test_verify_hashes_what_was_fetched_again(small_world, clipib, tmp_path):
    root = tmp_path / "data"
    assert clipib("data", "fetch", "renderedsst2", "--data-root", root).exit_code == 0
    listed = clipib("data", "list", "--data-root", root, "--format", "json")
    assert '"state": "whole"' in listed.stdout and '"name": "renderedsst2"' in listed.stdout
    sound = clipib("data", "verify", "renderedsst2", "--data-root", root)
    assert sound.exit_code == 0 and "data.lock" in sound.stdout, sound.stdout + sound.stderr
    (root / "renderedsst2" / "classnames.txt").write_text("something else\n" * 2)
    broken = clipib("data", "verify", "renderedsst2", "--data-root", root, "--format", "json")
    assert broken.exit_code == 2 and '"check": "lock"' in broken.stdout
    assert '"state": "changed"' in clipib("data", "list", "--data-root", root, "--format", "json").stdout


def test_suites_that_overlap_have_each_their_own_average(small_world, clipib, checkpoint, tmp_path):
    names = "suite:vtab+,suite:imagenet-robustness,cifar10"
    result = clipib("zeroshot", "-m", checkpoint, "-d", names, "--data-root", tmp_path / "data", "--format", "csv")
    assert result.exit_code == 0, result.stderr
    rows = rows_of(result)
    assert len({r["dataset"] for r in rows if not r["dataset"].startswith("suite:")}) == 36
    for suite, size in (("vtab+", 36), ("imagenet-robustness", 5)):
        (average,) = [r for r in rows if r["dataset"] == f"suite:{suite}"]
        values = [float(r["value"]) for r in rows if r["is_main"] == "true" and r["dataset"] in SUITES[suite].entries]
        assert len(values) == size and average["params"] == f"of={size};over={size}"
        assert float(average["value"]) == pytest.approx(np.mean(values))
