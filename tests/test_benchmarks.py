"""The studies run in their small setting, and measure what they say."""

import importlib.util
import sys
from pathlib import Path

import numpy as np
import pytest

BENCHMARKS = Path(__file__).parents[1] / "benchmarks"


@pytest.fixture(scope="module")
def study():
    spec = importlib.util.spec_from_file_location("study_losses", BENCHMARKS / "study_losses.py")
    module = importlib.util.module_from_spec(spec)
    sys.modules["study_losses"] = module
    spec.loader.exec_module(module)
    return module


def test_agreement_with_the_truth(study):
    truth = np.random.default_rng(0).normal(size=(20, 20))
    perfect = study.agreement(truth + 5, truth)
    assert perfect["pmi_pearson"] == pytest.approx(1) and perfect["pmi_slope"] == pytest.approx(1)
    assert perfect["pmi_rmse_nats"] == pytest.approx(0, abs=1e-12)
    assert perfect["pmi_spread_nats"] == pytest.approx(truth.std())
    half = study.agreement(truth / 2, truth)
    assert half["pmi_slope"] == pytest.approx(0.5) and half["pmi_rmse_nats"] == pytest.approx(truth.std() / 2)


def test_the_small_study_runs_once_and_is_then_skipped(study, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["study_losses.py", "--results", str(tmp_path / "r.csv")])
    monkeypatch.setattr(study.tempfile, "tempdir", str(tmp_path))
    study.main()
    rows = study.read_rows(tmp_path / "r.csv")
    runs = {tuple(r[f] for f in study.Run._fields) for r in rows}
    assert {(r[2], r[3]) for r in runs} == {(n, o) for n in ("clip", "cibr-logdet", "kme") for o in ("1", "2")}
    metrics = {r["metric"] for r in rows if r["objects"] == "1"}
    assert {"acc1/digit", "pmi_rmse_nats", "image_retrieval_recall@10/true_pmi", "probe_text_nuisance/frame"} <= metrics
    study.main()
    assert "0 of 6 runs left" in capsys.readouterr().out
    assert study.read_rows(tmp_path / "r.csv") == rows
    monkeypatch.setattr(sys, "argv", [*sys.argv, "--table"])
    study.main()
    assert "| cibr-logdet |" in capsys.readouterr().out
