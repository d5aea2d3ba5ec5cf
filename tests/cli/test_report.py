"""`clipib report` and `clipib zeroshot --per-class` as a user runs them."""

import csv

from made_runs import hits, made_row, made_run, share


def text_of(result) -> str:
    return " ".join(result.stderr.replace("│", " ").split())


def test_a_page_about_two_runs(clipib, tmp_path):
    for i, (name, word) in enumerate((("a", "1100110"), ("b", "1111000"))):
        row = made_row("acc1", share(word), n=7, checkpoint_sha256=str(i) * 64)
        made_run(tmp_path / name, [row], {"d": [hits(word)]})
    result = clipib("report", "a", "b", "--out", "pages/r.html")
    assert result.exit_code == 0 and result.stdout == "pages/r.html\n"
    assert "report of 2 checkpoints in pages/r.html" in result.stderr
    assert (tmp_path / "pages" / "r.html").read_text().count("<section>") == 1


def test_a_run_that_is_not_there_ends_with_2(clipib, tmp_path):
    made_run(tmp_path / "runs" / "zeroshot", [made_row("acc1", 0.5)])
    result = clipib("report", "runs/zeroshto")
    assert result.exit_code == 2 and "Did you mean 'runs/zeroshot'?" in text_of(result)
    assert clipib("report").exit_code == 2
    assert clipib("report", "runs").exit_code == 2


def test_per_class_prints_the_worst_and_writes_all(clipib, checkpoint, tmp_path):
    common = ["-m", checkpoint, "-d", "digitworld/digit:n=60", "--per-class"]
    result = clipib("zeroshot", *common)
    assert result.exit_code == 0, result.stderr
    assert "all classes, least recall first" in result.stdout and "mistaken for" in result.stdout
    assert "classes and confusion in runs/zeroshot/per_class" in result.stderr
    records = list(csv.DictReader((tmp_path / "runs/zeroshot/per_class/digitworld-digit.csv").open()))
    assert sum(int(r["n"]) for r in records) == 60 and "seven" in {r["class"] for r in records}
    recalls = [float(r["recall"]) for r in records if r["n"] != "0"]
    assert recalls == sorted(recalls)
    rows = list(csv.DictReader((tmp_path / "runs/zeroshot/results.csv").open()))
    mean = next(float(r["value"]) for r in rows if r["metric"] == "mean_per_class_recall")
    assert abs(sum(recalls) / len(recalls) - mean) < 1e-12
    again = clipib("zeroshot", *common, "--format", "csv")  # kept rows; only rows on stdout
    assert again.exit_code == 0 and again.stdout.count("\n") == 1 + len(rows)
