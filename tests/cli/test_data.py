"""`clipib data verify` and `clipib data export` as a user runs them."""

import csv
import io
import json

import pytest


def words(text):
    return " ".join(text.replace("│", " ").split())


@pytest.fixture
def one_damaged(photo_folder):
    (photo_folder / "test" / "blue_dot" / "2.png").write_bytes(b"text")
    return photo_folder


def test_a_clean_set_ends_with_0_and_says_what_is_not_seen(clipib, photo_folder, tmp_path):
    result = clipib("data", "verify", f"folder:{photo_folder}", "--save", "s/sheet.png")
    assert result.exit_code == 0, result.stderr
    assert "12 images, 2 classes" in words(result.stdout)
    assert "wrong label" in result.stderr and "contact sheet in s/sheet.png" in words(result.stderr)
    assert (tmp_path / "s" / "sheet.png").is_file()
    assert max(map(len, result.stdout.splitlines())) <= 100


def test_errors_are_printed_and_end_with_2(clipib, one_damaged):
    result = clipib("data", "verify", f"folder:{one_damaged}")
    assert result.exit_code == 2
    assert "test/blue_dot/2.png" in words(result.stdout)
    assert "1 check found what would spoil numbers: damaged files (test)" in words(result.stderr)


def test_machine_formats_hold_every_example(clipib, one_damaged):
    for i in range(6):
        (one_damaged / "train" / "blue_dot" / f"{i}.png").write_bytes(b"text %d" % i)
    records = json.loads(clipib("data", "verify", f"folder:{one_damaged}", "--format", "json").stdout)
    damaged = {r["split"]: r for r in records if r["check"] == "damaged files"}
    assert damaged["train"]["found"] == len(damaged["train"]["examples"]) == 6
    assert {"verdict", "check", "split", "found", "about", "examples"} == set(records[0])
    text = clipib("data", "verify", f"folder:{one_damaged}", "--format", "csv").stdout
    rows = csv.DictReader(io.StringIO(text))
    (row,) = (r for r in rows if r["check"] == "damaged files" and r["split"] == "test")
    assert row["verdict"] == "error" and row["examples"].startswith("test/blue_dot/2.png: ")


def test_export_says_what_to_type_next(clipib, photo_folder, tmp_path):
    arguments = ["data", "export", f"folder:{photo_folder}", "--to", "shards"]
    assert "dry run" in clipib(*arguments, "--dry-run").stderr and not (tmp_path / "shards").exists()
    result = clipib(*arguments, "--shard_size", 3, "--format", "json")
    assert result.exit_code == 0, result.stderr
    assert [(r["split"], r["images"], r["shards"]) for r in json.loads(result.stdout)] == [
        ("train", 12, 4),
        ("test", 8, 4),
    ]
    assert "clip_benchmark eval --dataset wds/shards --dataset_root shards --split test" in words(result.stderr)
    again = clipib(*arguments)
    assert again.exit_code == 2 and "not empty" in words(again.stderr) and "--overwrite" in words(again.stderr)


@pytest.mark.parametrize(
    "arguments, message",
    [
        (["verify", "folder:photoz"], "There is no folder 'photoz'"),
        (["verify", "cifar11"], "Did you mean 'cifar10'"),
        (["export", "digitworld:n=3", "--to", "x", "--task", "retreival"], "Did you mean 'retrieval'"),
    ],
)
def test_mistakes_end_with_2(clipib, arguments, message):
    result = clipib("data", *arguments)
    assert result.exit_code == 2 and message in words(result.stderr)


def test_a_format_that_a_command_lacks_is_refused_before_its_work(clipib, photo_folder, tmp_path):
    result = clipib("data", "export", f"folder:{photo_folder}", "--to", "shards", "--format", "junit")
    assert result.exit_code == 2 and "no junit output" in result.stderr and not (tmp_path / "shards").exists()
