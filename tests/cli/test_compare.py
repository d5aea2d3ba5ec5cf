"""`clipib compare` as a user runs it."""

import csv
import io
import json
import shutil

import pytest
from made_runs import hits, made_row, made_run, share

A, B = "11111111" + "0" * 7 + "10111", "01111111" + "1" * 7 + "10111"


def ok(result):
    assert result.exit_code == 0, result.stderr
    return result


def told(result) -> str:
    assert result.exit_code == 2, result.output
    return " ".join(result.stderr.replace("│", " ").split())


@pytest.fixture
def two(tmp_path):
    for name, word in (("a", A), ("b", B)):
        rows = [made_row("acc1", share(word)), made_row("mean_per_class_recall", share(word)), made_row("ece", 0.1)]
        made_run(tmp_path / name, rows, {"d": [hits(word)]})
    return "a", "b"


def test_the_table_says_what_was_found(clipib, two):
    result = ok(clipib("compare", *two))
    for text in ("A: a, m (p) 11111111", "+0.3000", "0.0391", "+7", "-1", "better", "80 % power"):
        assert text in result.stdout, text
    assert "not tested" in result.stdout and "no proof that there is none" in result.stderr
    doubted = ok(clipib("compare", *two, "--alpha", 0.001))
    assert "clipib gate b --baseline a --non-inferior 0.003" in doubted.stderr and "99.9 % interval" in doubted.stdout
    assert "regression" not in result.output and max(map(len, result.stdout.splitlines())) <= 80


@pytest.mark.parametrize("format_", ["csv", "json", "md"])
def test_other_formats(clipib, two, format_):
    text = ok(clipib("compare", *two, "--format", format_)).stdout
    if format_ == "md":
        assert "| acc1 | 0.6000 | 0.9000 | +0.3000 |" in text and "7 gained, 1 lost | better |" in text
        return
    records = list(csv.DictReader(io.StringIO(text))) if format_ == "csv" else json.loads(text)
    assert [r["metric"] for r in records] == ["acc1", "mean_per_class_recall", "ece"]
    assert float(records[0]["difference"]) == pytest.approx(0.3) and records[2]["low"] in ("", None)


def test_many_data_sets_share_a_table_of_their_main_metric(clipib, tmp_path):
    names = [f"set{i}" for i in range(8)]
    for name, word in (("a", A), ("b", B)):
        rows = [made_row(m, share(word), dataset=d) for d in names for m in ("acc1", "ece")]
        made_run(tmp_path / name, rows, {d: [hits(word)] for d in names})
    text = ok(clipib("compare", "a", "b")).stdout
    assert "acc1; other metrics" in text and "ece" not in text and all(f"\n {d} " in text for d in names)


def test_what_cannot_be_compared_ends_with_2(clipib, two, tmp_path):
    assert "There is no run 'aa'. Did you mean 'a'?" in told(clipib("compare", "aa", "b"))
    assert "Unknown metric 'acc'. Did you mean 'acc1'" in told(clipib("compare", *two, "--metrics", "acc"))
    assert "is no picture file" in told(clipib("compare", *two, "--save", "f.gif"))
    assert "does not say where its data lay" in told(clipib("compare", *two, "--save", "f.png"))
    assert "no junit output" in told(clipib("compare", *two, "--format", "junit"))
    made_run(tmp_path / "c", [made_row("acc1", 0.5, protocol="clip_benchmark")])
    assert "d (test): protocol strict and clip_benchmark" in told(clipib("compare", "a", "c"))


def test_a_checkpoint_and_the_same_with_noise(clipib, checkpoint, tmp_path):
    """Both evaluated for real; the differences are those of the rows, and the pictures that flipped are drawn."""
    import torch
    from safetensors.torch import load_file, save_file

    weights = shutil.copytree(checkpoint, tmp_path / "noisy") / "open_clip_model.safetensors"
    noise = torch.Generator().manual_seed(0)
    loaded = load_file(weights)
    save_file(
        {k: v + 0.5 * v.std() * torch.randn(v.shape, generator=noise) if v.ndim > 1 else v for k, v in loaded.items()},
        weights,
    )
    for out, model in (("a", checkpoint), ("b", "local-dir:noisy")):
        ok(clipib("zeroshot", "-m", model, "-d", "digitworld/digit:n=120", "--out", out))
        ok(clipib("retrieve", "-m", model, "-d", "digitworld:n=40", "--out", f"r{out}"))
    result = ok(clipib("compare", "a", "b", "--save", "flips.png", "--flips", "flips.csv", "--format", "csv"))
    lines = {r["metric"]: r for r in csv.DictReader(io.StringIO(result.stdout)) if not r["params"]}
    assert set(lines) == {"acc1", "acc5", "mean_per_class_recall"}
    for line in lines.values():
        assert float(line["difference"]) == pytest.approx(float(line["b"]) - float(line["a"]), abs=1e-12)
        assert line["n"] == "120" and line["note"] == ""
    gained, lost = int(lines["acc1"]["gained"]), int(lines["acc1"]["lost"])
    assert gained - lost == round(120 * float(lines["acc1"]["difference"])) and lost > 0
    flips = list(csv.DictReader((tmp_path / "flips.csv").open()))
    assert len(flips) == gained + lost and (tmp_path / "flips.png").stat().st_size > 10_000
    found = json.loads(ok(clipib("compare", "ra", "rb", "--save", "r.png", "--format", "json")).stdout)
    assert {"image_retrieval_recall@1", "text_retrieval_recall@10"} <= {r["metric"] for r in found}
    assert all(r["verdict"] in ("better", "worse", "no difference shown") for r in found if r["low"] is not None)
