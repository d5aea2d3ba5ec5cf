"""What pmi-probe says of scores that are exactly known, and the command around it."""

import math

import numpy as np
import pytest
import torch

from clipib.data.digitworld.truth import true_pmi
from clipib.data.load import load_dataset
from clipib.errors import UserError
from clipib.information.table import as_table
from clipib.tasks.measured import FAILED, NOT_TESTABLE, Report
from clipib.tasks.pairs import Free, check_pairs, split_images
from clipib.tasks.pmi_probe import pmi_probe, probe_scores
from clipib.tasks.probe_blind import probe_chain, probe_pools, probe_prior
from clipib.tasks.probe_truth import probe_truth
from clipib.tasks.results import read_rows

N = 500
ANY = Free(None, "one number is free")
FAULTS = {
    "none": (lambda t, g: t, set()),
    "doubled": (lambda t, g: 2 * t, {"scale"}),
    "offset per image": (lambda t, g: t + 0.7 * g.normal(size=(len(t), 1)), {"image offsets"}),
    "offset per caption": (lambda t, g: t + 0.7 * g.normal(size=len(t)), {"text offsets"}),
    "clipped at zero": (lambda t, g: np.maximum(t, 0), {"bend"}),
    "noise": (lambda t, g: t + 0.7 * g.normal(size=t.shape), {"noise"}),
}


@pytest.fixture(scope="module", params=[1, 2])
def truth(request):
    world = load_dataset(f"digitworld:objects={request.param}+split=test+n={N}")
    return true_pmi(world.world.scenes, list(world.captions))


def failed(report):
    return {f.test for f in report.findings if f.verdict == FAILED}


@pytest.mark.parametrize("fault", FAULTS)
def test_every_fault_is_named_and_no_other(truth, fault):
    spoil, expected = FAULTS[fault]
    report = Report()
    scores = spoil(truth, np.random.default_rng(0)) + 3
    probe_truth(report, as_table(torch.from_numpy(scores)), truth, tuple(split_images(N, (0.5, 0.5), 0)), ANY)
    assert failed(report) == expected
    if fault == "doubled":
        assert report.value("pmi_slope", distribution="Q") == pytest.approx(2, abs=1e-9)
        assert report.value("pmi_kl_gap_scaled_nats") < 0.05 < report.value("pmi_kl_gap_nats")
    if fault in ("none", "offset per image", "offset per caption", "noise"):
        assert report.value("pmi_fit_slope") == pytest.approx(1, abs=0.03)
    if fault == "none":
        for metric in ("pmi_kl_gap_nats", "pmi_residual_row_nats", "pmi_residual_interaction_nats"):
            assert report.value(metric) == pytest.approx(0, abs=1e-9)
    if fault == "offset per image":
        assert report.value("pmi_residual_row_nats") == pytest.approx(0.7, abs=0.1)
        assert report.value("pmi_residual_col_nats") == pytest.approx(0, abs=1e-9)


def test_the_true_pmi_passes_everything(truth):
    report = probe_scores(as_table(torch.from_numpy(truth + 3)), ANY, truth=truth)
    assert failed(report) == set()
    assert report.value("pmi_scale") == pytest.approx(1, abs=0.05)
    assert report.value("pmi_constant_nats", distribution="Q") == pytest.approx(3, abs=1e-9)
    values = [report.value(f"shared_{name}_nats") for name in ("plugin", "dv", "nwj")]
    assert max(values) - min(values) < 0.2


def test_without_a_truth_scale_and_offsets_are_told_apart(truth):
    g = np.random.default_rng(0)
    doubled = probe_scores(as_table(torch.from_numpy(2 * truth)), ANY)
    assert "best scale" in failed(doubled)
    assert doubled.value("pmi_scale") == pytest.approx(0.5, abs=0.03)
    offset = probe_scores(as_table(torch.from_numpy(truth + g.normal(size=(N, 1)))), ANY)
    plain = probe_scores(as_table(torch.from_numpy(truth)), ANY)
    for side, moves in (("row", True), ("col", False)):
        found, before = (
            next(m.value for m in r.measures if m.metric == f"pmi_{side}_norm_std_nats" and not m.params)
            for r in (offset, plain)
        )
        assert (found > before + 0.5) == moves


def test_a_sigmoid_has_no_free_number():
    world = load_dataset(f"digitworld:split=test+n={N}")
    truth = true_pmi(world.world.scenes, list(world.captions))
    fixed = Free(-math.log(63), "batches of 64")
    good = probe_scores(as_table(torch.from_numpy(truth - math.log(63))), fixed, truth=truth)
    assert failed(good) == set()
    bad = probe_scores(as_table(torch.from_numpy(truth)), fixed, truth=truth)
    assert failed(bad) == {"normalisation"}
    assert bad.value("pmi_rmse_nats", distribution="Q") == pytest.approx(math.log(63), abs=1e-9)


def test_large_information_is_called_not_testable():
    g = torch.Generator().manual_seed(0)
    x = torch.randn(60, 8, generator=g).double()
    report = probe_scores(as_table(6 * x @ x.T), ANY)
    assert {f.verdict for f in report.findings if f.test.startswith("norms")} == {NOT_TESTABLE}
    assert any("not testable at this N" in f.words for f in report.findings)


def test_pooling_repeated_texts_is_overconfident_and_independent_ones_are_not():
    g = torch.Generator().manual_seed(0)
    n = 300
    x = torch.randn(n, 2, generator=g).double()
    owner = torch.arange(n).repeat(2)

    def scores_of(y):
        rho = 0.6
        quadratic = rho**2 * (x.square().sum(1)[:, None] + y.square().sum(1)) - 2 * rho * (x @ y.T)
        return -math.log(1 - rho**2) - quadratic / (2 * (1 - rho**2))

    noise = [torch.randn(n, 2, generator=g).double() for _ in range(2)]
    first, second = (0.6 * x + 0.8 * e for e in noise)
    independent, repeated = Report(), Report()
    probe_pools(independent, as_table(torch.cat([scores_of(first), scores_of(second)], 1), owner))
    probe_pools(repeated, as_table(torch.cat([scores_of(first), scores_of(first)], 1), owner))
    assert repeated.value("pmi_pool_scale@2") == pytest.approx(repeated.value("pmi_pool_scale@1") / 2, abs=1e-4)
    assert independent.value("pmi_pool_scale@2") == pytest.approx(1, abs=0.15)


def test_the_chain_rule_holds_for_sums_and_shows_the_rest():
    g = torch.Generator().manual_seed(0)
    a, b = (torch.randn(50, 9, generator=g).double() for _ in range(2))
    exact, off = Report(), Report()
    probe_chain(exact, a, b, a + b + torch.arange(9))
    assert exact.value("pmi_chain_residual") == pytest.approx(0, abs=1e-12)
    probe_chain(off, a, b, 0.5 * (a + b))
    assert off.value("pmi_chain_residual") == pytest.approx(1, abs=1e-9)


def test_the_class_prior_shows_in_the_intercepts_of_pmi():
    g = np.random.default_rng(0)
    labels = g.integers(5, size=6000)
    means = 1.5 * g.normal(size=(5, 3))
    x = means[labels] + g.normal(size=(6000, 3))
    log_likelihood = -((x[:, None] - means) ** 2).sum(-1) / 2
    pmi = log_likelihood - np.log(np.exp(log_likelihood).mean(1, keepdims=True))
    good, bad = Report(), Report()
    probe_prior(good, pmi, labels, seed=0)
    assert good.value("pmi_prior_slope") == pytest.approx(1, abs=0.1)
    assert good.value("pmi_prior_residual_nats") < 0.15
    probe_prior(bad, pmi + np.linspace(0, 2, 5), labels, seed=0)
    assert bad.value("pmi_prior_residual_nats") > 0.5


def test_command_and_task_on_digitworld(clipib, checkpoint, tmp_path):
    done = clipib("pmi-probe", "--model", checkpoint, "--data", "digitworld:n=200", "--out", "a", "--no-plots")
    assert done.exit_code == 0, done.stderr
    assert "PMI = s - c with one free number c" in done.stdout
    rows = read_rows(tmp_path / "a" / "results.csv")
    names = {r.metric for r in rows}
    assert {"pmi_rmse_nats", "pmi_kl_gap_isotonic_nats", "pmi_scale", "pmi_norm_ess"} <= names
    assert [r.metric for r in rows if r.is_main] == ["pmi_rmse_nats"]
    assert all(r.ci_low <= r.value <= r.ci_high for r in rows if r.ci_low is not None)
    (report,) = (tmp_path / "a").glob("*.md")
    assert "| noise |" in report.read_text()
    again = pmi_probe(str(checkpoint), "digitworld:n=200", out=tmp_path / "b", plots=False)
    assert {(r.metric, r.params): r.value for r in again.rows} == {(r.metric, r.params): r.value for r in rows}


def test_machine_formats_hold_rows_alone(clipib, checkpoint):
    done = clipib("pmi-probe", "--model", checkpoint, "--data", "digitworld:n=60", "--no-plots", "--format", "csv")
    assert done.exit_code == 0 and done.stdout.startswith("command,model")
    assert all(line.startswith(("command,", "pmi-probe,")) for line in done.stdout.splitlines())


@pytest.mark.parametrize("command", ["pmi-probe", "ib-analyze"])
@pytest.mark.parametrize(
    "captions, message",
    [
        (["a red square"], "20 are needed"),
        (["the same"] * 30, "All captions"),
    ],
)
def test_bad_data_are_refused(clipib, checkpoint, photo_folder, tmp_path, command, captions, message):
    files = sorted((photo_folder / "train").rglob("*.png"))
    copies = tmp_path / "copies"
    copies.mkdir()
    rows = ["image,caption"]
    for i, caption in enumerate(captions):
        name = copies / f"{i}.png"
        name.write_bytes(files[i % len(files)].read_bytes() + bytes([i]))
        rows.append(f"{name},{caption}")
    (tmp_path / "pairs.csv").write_text("\n".join(rows) + "\n")
    done = clipib(command, "--model", checkpoint, "--data", f"csv:{tmp_path / 'pairs.csv'}", "--no-plots")
    assert done.exit_code == 2
    assert message in done.stderr and done.stdout == ""


def test_features_that_tell_nothing_are_refused():
    dataset = load_dataset("digitworld:n=30")
    fine = np.random.default_rng(0).normal(size=(30, 4)).astype(np.float32)
    check_pairs(dataset, fine, fine)
    collapsed = np.ones((30, 4), dtype=np.float32)
    nearly = np.where(np.arange(30)[:, None] < 20, collapsed, fine)
    broken = np.where(np.arange(30)[:, None] == 3, np.nan, fine)
    for images, texts, message in (
        (collapsed, fine, "30 of the 30 image features"),
        (nearly, fine, "20 of the 30 image features"),
        (fine, collapsed, "30 of the 30 text features"),
        (fine, broken, "not a finite number"),
    ):
        with pytest.raises(UserError, match=message):
            check_pairs(dataset, images, texts)


@pytest.mark.parametrize("command", ["pmi-probe", "ib-analyze"])
def test_data_without_pairs_are_refused(clipib, checkpoint, photo_folder, command):
    done = clipib(command, "--model", checkpoint, "--data", f"folder:{photo_folder / 'test'}")
    assert done.exit_code == 2 and "no captions" in done.stderr
