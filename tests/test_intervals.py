"""The simulation of intervals runs in its small setting, and the rows that are kept say what the docs promise."""

import importlib.util
import sys
from pathlib import Path

import pytest

BENCHMARKS = Path(__file__).parents[1] / "benchmarks"


@pytest.fixture(scope="module")
def benchmark():
    sys.path.insert(0, str(BENCHMARKS))  # where the script finds its neighbours
    try:
        spec = importlib.util.spec_from_file_location("intervals", BENCHMARKS / "intervals.py")
        module = sys.modules["intervals"] = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
    finally:
        sys.path.remove(str(BENCHMARKS))
    return module


@pytest.fixture(scope="module")
def kept(benchmark):
    rows = [r for r in benchmark.read_rows(benchmark.RESULTS) if r["setting"] == "full"]
    return {(r["what"], r["case"], int(r["n"]), r["metric"]): float(r["value"]) for r in rows}


def test_small_setting_runs_once_and_is_then_skipped(benchmark, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["intervals.py", "--results", str(tmp_path / "r.csv")])
    monkeypatch.setitem(benchmark.SETTINGS, "small", benchmark.Setting(3, 1, (100,), (1000,)))
    for study in ("ece", "other statistics"):  # slow
        monkeypatch.setitem(benchmark.STUDIES, study, dict(list(benchmark.STUDIES[study].items())[-1:]))
    benchmark.main()
    rows = benchmark.read_rows(tmp_path / "r.csv")
    assert {r["what"] for r in rows} == set(benchmark.STUDIES)
    benchmark.main()
    assert "0 of" in capsys.readouterr().out
    assert benchmark.read_rows(tmp_path / "r.csv") == rows
    monkeypatch.setattr(sys, "argv", [*sys.argv, "--table"])
    benchmark.main()
    assert "| p = 0.05 | 100 |" in capsys.readouterr().out


def test_kept_rows_are_all_there(benchmark, kept):
    runs = benchmark.plan("full")
    assert all((r.what, r.case, r.n, "seconds") in kept for r in runs)
    assert {r.repetitions for r in runs if r.case not in benchmark.SLOW} == {2000}


@pytest.mark.parametrize("what", ["proportion", "mean_per_class_recall"])
def test_nominal_95_percent_cover_92_to_98(kept, what):
    covered = [v for (w, _, _, metric), v in kept.items() if w == what and metric == "covered"]
    assert len(covered) >= 18 and all(0.92 <= c <= 0.98 for c in covered)


def test_mid_p_mcnemar_raises_a_false_alarm_in_3_to_6_percent(kept):
    alarms = [v for (w, _, _, metric), v in kept.items() if w == "paired proportions" and metric == "alarm"]
    error = 2 * (0.05 * 0.95 / 2000) ** 0.5  # of the simulation; the exact size is in tests/metrics/test_paired.py
    assert len(alarms) == 6 and all(0.03 - error <= a <= 0.06 + error for a in alarms)
