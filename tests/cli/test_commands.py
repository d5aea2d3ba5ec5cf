"""The commands as a user runs them: files, streams, formats, --config, --dry-run."""

import csv
import io
import json
import xml.etree.ElementTree as ElementTree

import pytest

from clipib.tasks.results import COLUMNS, read_rows


def ok(result):
    assert result.exit_code == 0, result.stderr
    return result


def test_finetune_zeroshot_retrieve_in_a_row(clipib, tmp_path, shared_data):
    """The vertical slice on real photographs: class folders become captions, then both evaluations."""
    photos, coco = shared_data("caltech101_20"), shared_data("coco_val2017_ccby")
    train = ["--train", f"folder:{photos}/train", "--limit", 120, "--epochs", 1, "--batch-size", 16]
    ok(clipib("finetune", "--model", "tiny", "--pretrained", "none", *train, "--loss", "cibr", "--out", "a"))
    ok(clipib("zeroshot", "--model", "a/best", "--datasets", f"folder:{photos}/test", "--limit", 101, "--out", "b"))
    ok(clipib("retrieve", "--model", "a/best", "--split", f"csv:{coco}/captions.csv", "--out", "c"))
    for out in "abc":
        header = (tmp_path / out / "results.csv").read_text().splitlines()[0]
        assert header.split(",") == list(COLUMNS)
        assert read_rows(tmp_path / out / "results.csv")
    assert {r.loss for r in read_rows(tmp_path / "b" / "results.csv")} == {"cibr"}


@pytest.mark.parametrize("format_", ["csv", "json", "md", "junit", "table"])
def test_the_result_goes_to_stdout_and_the_rest_to_stderr(clipib, checkpoint, format_):
    result = ok(clipib("zeroshot", "-m", checkpoint, "-d", "digitworld/digit:n=30", "--format", format_))
    rows = read_rows("runs/zeroshot/results.csv")
    assert "zeroshot: tiny" in result.stderr and "zeroshot:" not in result.stdout
    if format_ == "csv":
        assert [r["metric"] for r in csv.DictReader(io.StringIO(result.stdout))] == [r.metric for r in rows]
    elif format_ == "json":
        assert [r["value"] for r in json.loads(result.stdout)] == [r.value for r in rows]
    elif format_ == "junit":
        cases = ElementTree.fromstring(result.stdout).findall(".//testcase")
        assert [c.get("classname") for c in cases] == ["digitworld/digit"] * len(rows)
    else:
        assert "acc1" in result.stdout and f"{rows[0].value:.4f}" in result.stdout
        assert max(map(len, result.stdout.splitlines())) <= 100


def test_flags_may_be_written_as_other_tools_do(clipib, checkpoint):
    ok(
        clipib(
            "zeroshot",
            "--model",
            checkpoint,
            "--datasets",
            "digitworld/digit:n=9, digitworld/color:n=9",
            "--batch_size",
            4,
        )
    )


def test_a_config_repeats_a_run_to_equal_numbers(clipib, checkpoint, tmp_path):
    common = ["--model", checkpoint, "--datasets", "digitworld/digit:n=40", "--limit", 30, "--seed", 4]
    ok(clipib("zeroshot", *common, "--out", "a"))
    ok(clipib("zeroshot", "--config", "a/results.json", "--out", "b"))
    assert read_rows(tmp_path / "a" / "results.csv") == read_rows(tmp_path / "b" / "results.csv")
    ok(clipib("zeroshot", "--config", "a/results.json", "--out", "c", "--seed", 5))
    assert read_rows(tmp_path / "c" / "results.csv")[0].seed == 5


def test_a_config_repeats_a_training_to_equal_weights(clipib, tmp_path):
    train = ["--train", "digitworld:n=80", "--steps", 4, "--batch-size", 8, "--loss", "cibr"]
    ok(clipib("finetune", "--model", "tiny", "--pretrained", "none", *train, "--out", "a"))
    ok(clipib("finetune", "--config", "a/results.json", "--out", "b"))
    a, b = (read_rows(tmp_path / d / "results.csv") for d in "ab")
    assert [(r.value, r.checkpoint_sha256) for r in a] == [(r.value, r.checkpoint_sha256) for r in b]


@pytest.mark.parametrize(
    "content, message",
    [
        ({"command": "zeroshot", "settings": {"batchsize": 3}}, "unknown key 'batchsize'"),
        ({"command": "retrieve", "settings": {}}, "settings of retrieve"),
        ([], "holds no settings"),
    ],
)
def test_a_config_that_does_not_fit_ends_with_2(clipib, tmp_path, content, message):
    (tmp_path / "c.json").write_text(json.dumps(content))
    result = clipib("zeroshot", "--config", "c.json")
    assert result.exit_code == 2 and message in " ".join(result.stderr.replace("│", " ").split())


@pytest.mark.parametrize("command", ["zeroshot", "retrieve", "finetune", "embed", "search"])
def test_a_dry_run_checks_and_writes_nothing(clipib, checkpoint, tmp_path, command):
    flag = {"zeroshot": "--datasets", "retrieve": "--split", "finetune": "--train"}.get(command, "--data")
    query = ["red"] if command == "search" else []
    result = ok(clipib(command, *query, "--model", checkpoint, flag, "digitworld:n=50+seed=9", "--dry-run"))
    assert "dry run" in result.stderr and not list(tmp_path.iterdir())


def test_search_embed_cache_and_list(clipib, checkpoint):
    hits = json.loads(ok(clipib("search", "red", "-m", checkpoint, "-d", "digitworld:n=30", "--format", "json")).stdout)
    assert len(hits) == 10
    ok(clipib("embed", "-m", checkpoint, "-d", "digitworld:n=30"))
    assert "rows" in ok(clipib("cache", "ls")).stdout
    assert "whole" in ok(clipib("cache", "verify")).stdout
    ok(clipib("cache", "gc"))
    assert "cibr" in ok(clipib("list", "losses")).stdout
    assert "flickr30k" in ok(clipib("list", "datasets", "--format", "csv")).stdout
    models = ok(clipib("list", "models", "--filter", "b-32", "--format", "csv")).stdout
    assert "ViT-B-32," in models and "RN50" not in models


def test_the_demo_is_made_of_ordinary_commands(tmp_path):
    from typer.main import get_command

    from clipib.cli import app
    from clipib.cli.demo import demo_commands

    commands = demo_commands(tmp_path, quick=False)
    assert [c[0] for c in commands] == ["finetune", "zeroshot", "retrieve"] * 2
    group = get_command(app)
    for name, *arguments in commands:
        group.commands[name].make_context(name, arguments)
