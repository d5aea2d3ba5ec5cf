"""Gates at the command line: exit codes, formats, and the recipes of examples/ci."""

import csv
import io
import json
import os
import shlex
import xml.etree.ElementTree as ElementTree
from pathlib import Path

import pytest

from clipib.cli.gated import print_gates, print_verdicts
from clipib.cli.junit import junit
from clipib.tasks.results import COLUMNS, ResultsFolder, Row, read_rows
from clipib.tasks.verdicts import Verdict

EXAMPLES = Path(__file__).parents[2] / "examples" / "ci"


def row(metric="acc1", value=0.9, **values):
    blank = dict.fromkeys(COLUMNS, "") | {"command": "zeroshot", "model": "tiny", "pretrained": "a", "dataset": "d"}
    blank |= {"split": "test", "protocol": "strict", "precision": "fp32", "data_sha256": "1" * 64, "seed": 0}
    blank |= {"checkpoint_sha256": "a" * 64, "is_main": metric == "acc1", "n_bad": 0}
    blank |= dict.fromkeys(("ci_low", "ci_high", "n", "n_ties", "limit"))
    return Row(**{**blank, "metric": metric, "value": value, **values})


@pytest.fixture
def runs(tmp_path):
    """`base` and `new`: of 100 images `new` loses 10."""
    for name, misses, sha in (("base", 0, "a"), ("new", 10, "b")):
        found = [row(value=1 - misses / 100, checkpoint_sha256=sha * 64), row("acc5", 1.0, checkpoint_sha256=sha * 64)]
        samples = {"sample_id": [str(i) for i in range(100)], "target_rank": [2] * misses + [0] * (100 - misses)}
        with ResultsFolder(tmp_path / name, command="zeroshot", settings={}) as folder:
            folder.begin()
            folder.add(found, samples)
    return tmp_path


FAILING = ("--baseline", "base", "--max-drop", "0.003", "--significant", "--fail-under", "d.acc5=0.5")


@pytest.mark.parametrize(
    ("options", "code"),
    [
        (FAILING, 1),
        (("--baseline", "base", "--max-drop", "0.1", "--significant"), 0),
        (("--baseline", "base", "--max-drop", "0.05"), 1),
        (("--baseline", "base", "--max-drop", "0.1"), 0),
        (("--baseline", "base", "--non-inferior", "0.1"), 1),
        (("--baseline", "base", "--non-inferior", "0.3"), 0),
        (("--baseline", "base/results.csv", "--max_drop", "0.1", "--require-complete"), 0),
        (("--fail-under", "d.acc1=0.9"), 0),
        (("--fail-under", "d.acc1=0.91"), 1),
        (("--fail-under", "d.acc1=0.8, e.acc1=0.8"), 2),
        (("--fail-under", "d.acc1=0.91", "--fail-under", "e.acc1=0.8"), 2),
        (("--fail-under", "d.acc1=0.91, d.ece=0.8"), 2),
        (("--fail-over", "d.acc1=0.91"), 2),
        (("--max-drop", "0"), 2),
        (("--baseline", "new", "--max-drop", "0.1"), 2),
        ((), 2),
    ],
)
def test_exit_codes(clipib, runs, options, code):
    result = clipib("gate", "new", *options)
    assert result.exit_code == code, result.stdout + result.stderr
    assert bool(result.stderr) == (code == 2 and not result.stdout)


def test_the_table_has_all_that_a_verdict_rests_on(clipib, runs):
    out = clipib("gate", "new", *FAILING).stdout
    assert "90 % intervals" in out and "1.0000   0.9000   -0.1000" in out and "max-drop 0.003 (if proved)" in out
    assert "FAILED  d.acc1: drop proved beyond 0.003" in out and "regression" not in out
    assert "acc5" in out and "d.acc5" not in out  # what passed needs no words
    assert max(map(len, out.splitlines())) <= 100


def test_machine_formats(clipib, runs):
    rows = read_rows("new/results.csv")
    told = json.loads(clipib("gate", "new", *FAILING, "--format", "json").stdout)
    assert [r["value"] for r in told["rows"]] == [r.value for r in rows]
    assert [(g["metric"], g["verdict"]) for g in told["gates"]] == [("acc5", "passed"), ("acc1", "failed")]
    lines = list(csv.DictReader(io.StringIO(clipib("gate", "new", *FAILING, "--format", "csv").stdout)))
    assert [g["words"] for g in lines] == ["not below 0.5", "drop proved beyond 0.003"]
    assert float(lines[1]["low"]) < -0.1 < float(lines[1]["high"])
    summary = clipib("gate", "new", *FAILING, "--format", "md").stdout
    assert summary.startswith("### clipib: 1 of 2 gates passed, 1 failed\n\n- **FAILED** `d.acc1`: drop proved")
    assert "| d<br>acc1<br>max-drop (if proved) | 1.0000 | 0.9000 | -0.1000<br>" in summary
    assert "main metrics" in summary


def checked(text):
    """The suites of a JUnit text, held to what its readers agree on."""
    root = ElementTree.fromstring(text.encode())
    assert root.tag == "testsuites"
    totals = dict.fromkeys(("tests", "failures", "errors"), 0)
    for suite in root:
        assert suite.tag == "testsuite" and suite.get("name")
        cases = suite.findall("testcase")
        assert [child.tag for child in suite] == ["properties"] + ["testcase"] * len(cases)
        assert all(set(p.attrib) == {"name", "value"} for p in suite.find("properties"))
        found = {"tests": len(cases)}
        found |= {n + "s": sum(c.find(n) is not None for c in cases) for n in ("failure", "error")}
        for count, n in found.items():
            assert int(suite.get(count)) == n
            totals[count] += n
        for case in cases:
            assert case.get("name") and case.get("classname")
            assert sum(c.tag in ("failure", "error", "skipped") for c in case) <= 1
            assert {c.tag for c in case} <= {"failure", "error", "skipped", "system-out"}
            assert all(c.get("message") and c.get("type") for c in case if c.tag in ("failure", "error"))
    assert {count: int(root.get(count)) for count in totals} == totals
    return list(root)


def test_junit_has_a_suite_a_checkpoint_and_a_case_a_metric(clipib, runs):
    about = json.loads((runs / "new" / "results.json").read_text())
    about["failures"] = [{"model": "", "dataset": "e", "error": "damaged"}]
    (runs / "new" / "results.json").write_text(json.dumps(about))
    result = clipib("gate", "new", *FAILING, "--fail-under", "e.acc1=0.1", "--format", "junit")
    (suite,) = checked(result.stdout)
    assert suite.get("name") == "tiny a bbbbbbbbbbbb"
    cases = {(c.get("classname"), c.get("name")): [x.tag for x in c] for c in suite.findall("testcase")}
    assert cases == {
        ("d", "acc1"): ["failure", "system-out"],
        ("d", "acc5"): ["system-out"],
        ("e", "acc1"): ["error", "system-out"],
    }
    assert suite.find(".//failure").get("message") == "max-drop significant: drop proved beyond 0.003"
    properties = {p.get("name"): p.get("value") for p in suite.find("properties")}
    assert properties["protocol"] == "strict" and properties["precision"] == "fp32"
    assert properties["checkpoint_sha256"] == "b" * 64 and properties["data_sha256 d test"] == "1" * 64


def test_junit_escapes_what_names_hold_and_tells_of_trouble():
    text = junit([row(dataset='a<b&"c"\x1b')], failed=[("cifar10", "no such file <here>")])
    suite, trouble = checked(text)
    assert suite.find("testcase").get("classname") == 'a<b&"c"'
    assert trouble.find(".//error").get("message") == "no such file <here>"
    assert checked(junit([])) == []


def test_a_case_with_a_failed_gate_and_one_without_a_row_fails_once():
    place = ("tiny", "a", "a" * 64, "d", "test", "acc1", "")
    failed = Verdict(*place, "fail-under", None, 0.5, None, None, None, None, 0.6, "failed", "below 0.6")
    (suite,) = checked(junit([row()], [failed, failed._replace(verdict="no test", gate="non-inferior")]))
    assert suite.get("failures") == "1" and suite.get("errors") == "0"


def evaluate(clipib, out, *options, model=("tiny", "--pretrained", "none")):
    return clipib("zeroshot", "--model", *model, "-d", "digitworld/digit:n=30", "--out", out, *options)


def test_gates_of_an_evaluation(clipib, tmp_path):
    assert evaluate(clipib, "base").exit_code == 0
    options = ("--baseline", "base", "--max-drop", "0.003", "--significant", "--require-complete")
    result = evaluate(clipib, "new", *options)
    assert result.exit_code == 0, result.stdout + result.stderr
    assert "gates of tiny" in result.stdout and "results in new/results.csv" in result.stderr
    lines = list(csv.DictReader((tmp_path / "new" / "gates.csv").open()))
    assert [(g["gate"], g["verdict"]) for g in lines] == [("max-drop significant", "passed"), ("complete", "passed")]
    result = evaluate(clipib, "new", "--fail-under", "digitworld/digit.acc1=1", "--format", "csv")
    assert result.exit_code == 1 and result.stdout == (tmp_path / "new" / "results.csv").read_text()
    again = clipib("zeroshot", "--config", "new/results.json", "--format", "json")
    assert again.exit_code == 1 and set(json.loads(again.stdout)) == {"rows", "gates"}
    assert evaluate(clipib, "new").exit_code == 0 and not (tmp_path / "new" / "gates.csv").exists()
    path = tmp_path / "base" / "results.csv"
    path.write_text(path.read_text().replace(",strict,", ",datacomp,"))
    result = evaluate(clipib, "new", "--baseline", "base", "--max-drop", "1", "--format", "junit")
    assert result.exit_code == 2 and "protocol of 'base' is datacomp" in " ".join(result.stderr.split())


def test_a_gate_that_cannot_be_is_refused_before_anything_is_done(clipib, tmp_path):
    for options in (
        ("--fail-under", "mnist.acc1=0.5"),
        ("--fail-under", "digitworld/digit.acc=0.5"),
        ("--max-drop", 0),
    ):
        result = evaluate(clipib, "new", *options)
        assert result.exit_code == 2 and not (tmp_path / "new").exists() and "loading" not in result.stderr
    split = ("-d", "digitworld:n=20", "--recall-k", "1,5")
    result = clipib("retrieve", "-m", "tiny", *split, "--fail-under", "digitworld.text_retrieval_recall@10=0.5")
    assert result.exit_code == 2 and "--recall-k 1,5,10" in result.stderr


def test_a_finished_run_keeps_its_verdicts(clipib, runs):
    for folder in (runs / "new", runs / "new" / "results.csv"):
        (runs / "new" / "gates.csv").unlink(missing_ok=True)
        assert clipib("gate", folder, *FAILING).exit_code == 1
        lines = list(csv.DictReader((runs / "new" / "gates.csv").open()))
        assert [(g["metric"], g["verdict"]) for g in lines] == [("acc5", "passed"), ("acc1", "failed")]
    (runs / "new" / "gates.csv").unlink()
    (runs / "new" / "gates.csv").mkdir()  # as good as a folder that cannot be written
    assert clipib("gate", "new", *FAILING).exit_code == 1


def test_a_table_says_on_which_part_of_the_samples_a_gate_passed(capsys):
    place = ("tiny", "a", "a" * 64, "d", "test", "acc1", "")
    words = "drop not proved beyond 0.1 on the samples that both have (4 are in one only)"
    passed = Verdict(*place, "max-drop significant", 1.0, 1.0, 0.0, -0.1, 0.1, 0.05, 0.1, "passed", words)
    print_gates([passed, passed._replace(words="drop not proved beyond 0.1")])
    assert capsys.readouterr().out.count("passed  d.acc1: drop not proved") == 1
    print_verdicts([], [passed], "md")
    assert f"- **passed** `d.acc1`: {words}" in capsys.readouterr().out


def test_a_picture_that_cannot_be_read_leaves_no_gate_passed(clipib, photo_folder):
    run = ("zeroshot", "--model", "tiny", "--pretrained", "none", "-d", "digitworld/digit:n=20,folder:photos")
    gates = ("--baseline", "base", "--max-drop", "0.003")
    assert clipib(*run, "--out", "base").exit_code == 0
    (photo_folder / "test" / "blue_dot" / "0.png").write_text("no picture")
    result = clipib(*run, "--out", "new", "--keep-going", *gates)
    assert result.exit_code == 3 and "NO ROW  photos/test.acc1: could not be computed" in result.stdout
    result = clipib("gate", "new", *gates)
    assert result.exit_code == 3 and "NO ROW  photos/test.acc1: could not be computed" in result.stdout
    assert "'new' is partial" in result.stderr
    assert clipib("gate", "new", "--baseline", "base", "--require-complete").exit_code == 3
    result = clipib(*run[:-1], "digitworld/digit:n=20", "--out", "part", *gates)
    assert result.exit_code == 0 and "no rows of it: photos/test" in result.stderr


# --- recipes ---------------------------------------------------------------------------------------------------------


def recipe_lines(name):
    """The `clipib` lines of a recipe with its variables put in, and the whole file as read."""
    yaml = pytest.importorskip("yaml")
    content = yaml.safe_load((EXAMPLES / name).read_text())
    job = content["jobs"]["evaluate"] if name == "github.yml" else content["evaluate"]
    if name == "github.yml":
        variables, scripts = job["env"], [s["run"] for s in job["steps"] if "run" in s]
    else:
        variables, scripts = job["variables"], [*job["script"], *job["after_script"]]
    lines = [line for script in scripts for line in script.splitlines() if line.startswith("clipib ")]
    for key, value in variables.items():
        lines = [line.replace(f"${key}", value) for line in lines]
    return lines, content


@pytest.mark.parametrize("name", sorted(os.listdir(EXAMPLES)))
def test_the_commands_of_a_recipe_parse(name):
    from typer.main import get_command

    from clipib.cli import app

    lines, _ = recipe_lines(name)
    assert len(lines) == 4
    for line in lines:
        _, command, *arguments = shlex.split(line.partition(" >")[0])
        get_command(app).commands[command].make_context(command, arguments)


@pytest.mark.parametrize("name", sorted(os.listdir(EXAMPLES)))
def test_a_recipe_keeps_store_and_data(name):
    text = (EXAMPLES / name).read_text()
    assert "CLIPIB_CACHE: " in text and "CLIPIB_DATA: " in text and "gates.xml" in text
    _, content = recipe_lines(name)
    cached = content["evaluate"]["cache"]["paths"] if name == "gitlab.yml" else [".clipib"]
    assert cached == [".clipib"] and text.count(".clipib/") == 2
