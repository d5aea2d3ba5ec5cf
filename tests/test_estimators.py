"""The benchmark of estimators runs in its small setting, resumes, and says what it leaves out."""

import importlib.util
import math
import sys
from pathlib import Path

import pytest
import torch

BENCHMARKS = Path(__file__).parents[1] / "benchmarks"


@pytest.fixture(scope="module")
def benchmark():
    sys.path.insert(0, str(BENCHMARKS))  # where the script finds its neighbours
    try:
        spec = importlib.util.spec_from_file_location("estimators", BENCHMARKS / "estimators.py")
        module = sys.modules["estimators"] = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
    finally:
        sys.path.remove(str(BENCHMARKS))
    return module


def test_small_setting_runs_once_and_is_then_skipped(benchmark, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["estimators.py", "--results", str(tmp_path / "r.csv")])
    monkeypatch.setitem(benchmark.NEEDS, "bmi-cca", benchmark.Needed("no_such_module", "pip install it"))
    benchmark.main()
    assert "bmi-cca: left out, no_such_module is not there (pip install it)" in capsys.readouterr().out
    rows = benchmark.read_rows(tmp_path / "r.csv")
    found = {(r["estimator"], r["task"], r["metric"]): float(r["value"]) for r in rows}
    # The critic needs more than 300 pairs; sklearn's estimator takes single columns only.
    assert {key[:2] for key in found} == {
        ("separable-infonce", "normal"),
        ("separable-infonce", "2pair-2"),
        ("sklearn-ksg", "normal"),
    }
    assert found["separable-infonce", "normal", "refused"] == 1
    assert found["sklearn-ksg", "normal", "true_nats"] == pytest.approx(0.413339)
    assert found["sklearn-ksg", "normal", "mi_nats"] == pytest.approx(0.413, abs=0.25)  # sd 0.06 at n = 300
    assert found["sklearn-ksg", "normal", "seconds"] > 0
    benchmark.main()
    assert "0 of 3 runs left" in capsys.readouterr().out
    assert benchmark.read_rows(tmp_path / "r.csv") == rows
    monkeypatch.setattr(sys, "argv", [*sys.argv, "--table"])
    benchmark.main()
    assert "| task | truth | sklearn-ksg |" in capsys.readouterr().out


def test_full_plan_covers_every_task(benchmark, monkeypatch):
    monkeypatch.setattr(benchmark, "find_spec", lambda module: True)
    runs = benchmark.plan("full")
    assert {run.task for run in runs if run.estimator == "ksg"} == set(benchmark.TASKS)
    assert {run.estimator for run in runs} == set(benchmark.ESTIMATORS)
    assert all(benchmark.TASKS[run.task].dim_x == 1 for run in runs if run.estimator == "sklearn-ksg")
    assert len(set(runs)) == len(runs) and {run.n for run in runs} == {1000, 10_000}


def test_bounds_of_the_exact_scores(benchmark):
    # rho = 0.5 in 4 dimensions, N = 1024: DV 0.575, sd 0.031 in the specification; InfoNCE is a little lower
    rho, generator = 0.5, torch.Generator().manual_seed(0)
    x, noise = (torch.randn(1024, 4, generator=generator, dtype=torch.float64) for _ in range(2))
    y = rho * x + math.sqrt(1 - rho**2) * noise
    squares = x.square().sum(1)[:, None] + y.square().sum(1)
    scores = (rho * x @ y.T - rho**2 * squares / 2) / (1 - rho**2) - 2 * math.log(1 - rho**2)
    found = benchmark.bounds_of(scores)
    assert found["dv_nats"] == pytest.approx(0.575, abs=4 * 0.031)
    assert found["infonce_nats"] == pytest.approx(found["dv_nats"], abs=0.03)
    assert benchmark.bounds_of(scores + 7) == pytest.approx(found)  # both are blind to a constant
    tilted = benchmark.bounds_of(scores + squares)
    assert tilted["infonce_nats"] < found["infonce_nats"]


def test_splits_share_no_pair(benchmark):
    x = torch.arange(21.0)[:, None]
    fit, calibrate, held_out = benchmark.split(x, -x)
    assert [len(pairs.x) for pairs in (fit, calibrate, held_out)] == [10, 2, 9]
    assert torch.equal(torch.cat([fit.x, calibrate.x, held_out.x]), x) and torch.equal(held_out.y, -held_out.x)
