"""What ib-analyze finds in embeddings whose information is known, and the command around it."""

import json
import math

import numpy as np
import pytest
import torch
from reference.information import gaussian_information, gaussian_pairs

from clipib.data.load import load_dataset
from clipib.information.table import as_table
from clipib.models.checkpoint import RECORD_FILE
from clipib.tasks.attributes import Attribute, digitworld_attributes
from clipib.tasks.ib_analyze import ib_analyze, pooled
from clipib.tasks.ib_figures import arrows_of, names_of
from clipib.tasks.measured import NOT_TESTABLE, Report
from clipib.tasks.pairs import score_table, split_images
from clipib.tasks.private import Probes, measure_bounds, measure_private
from clipib.tasks.results import read_rows
from clipib.tasks.shared import SHARES, Sides, Split, measure_shared, one_text_each

RHO, WIDTH = 0.8, 3


def gaussian_world(n=1500, seed=0):
    x, y = gaussian_pairs(n, WIDTH, RHO, seed)
    sides = Sides(x, y, torch.arange(n))
    keep = 1 - RHO**2
    quadratic = RHO**2 * (x.square().sum(1)[:, None] + y.square().sum(1)) - 2 * RHO * (x @ y.T)
    pmi = gaussian_information(WIDTH, RHO) - quadratic / (2 * keep)
    return sides, as_table(pmi), Split(*split_images(n, SHARES, seed))


def shared(table, sides, split, **options):
    report = Report()
    measure_shared(report, table, sides, split, **{"truth": None, "critics": False, "seed": 0} | options)
    return report


def test_shared_information_of_gaussians():
    sides, table, split = gaussian_world()
    truth = gaussian_information(WIDTH, RHO)  # 1.53
    report = shared(table.map(lambda s: 2 * s), sides, split, truth=truth)
    own = next(m for m in report.measures if m.metric == "shared_own_score_nats")
    assert own.value == pytest.approx(truth, abs=0.15) and own.low < truth < own.high + 0.05
    assert report.value("shared_infonce_nats") < own.value  # twice too large, mended by the fitted scale
    assert report.value("shared_ceiling_nats") == pytest.approx(math.log(600))
    assert report.value("shared_fraction_of_true") == pytest.approx(own.value / truth)
    for metric, tolerance in (
        ("shared_dv_nats", 0.15),
        ("shared_nwj_nats", 0.2),
        ("shared_plugin_nats", 0.2),
        ("shared_gaussian_heldout_nats", 0.15),
        ("shared_gaussian_nats", 0.1),
        ("shared_ksg_nats", 0.25),
    ):
        assert report.value(metric) == pytest.approx(truth, abs=tolerance), metric


def test_a_score_that_sees_half_leaves_the_other_half_unused():
    sides, _, split = gaussian_world()
    half = as_table(gaussian_pmi_of_first(sides))
    report = shared(half, sides, split)
    unused = next(m for m in report.measures if m.metric == "shared_unused_nats")
    expected = gaussian_information(WIDTH, RHO) - gaussian_information(1, RHO)
    assert unused.value == pytest.approx(expected, abs=0.2) and unused.low > 0
    assert any(f.test == "unused" for f in report.findings)


def gaussian_pmi_of_first(sides):
    x, y = sides.image[:, :1], sides.text[:, :1]
    return gaussian_information(1, RHO) - (RHO**2 * (x.square() + y.square().T) - 2 * RHO * x @ y.T) / (
        2 * (1 - RHO**2)
    )


def test_permuted_pairs_share_nothing():
    fine = 0
    for seed in range(20):
        sides, table, split = gaussian_world(300, seed)
        g = torch.Generator().manual_seed(seed)
        order = torch.randperm(300, generator=g)
        moved = Sides(sides.image, sides.text[order], sides.image_of_text)
        scores = torch.cat([s for _, s, _ in table.blocks()])[:, order]
        report = shared(as_table(scores), moved, split, seed=seed)
        lows = [m.low for m in report.measures if m.metric.startswith("shared_") and m.low is not None]
        fine += all(low <= 0 for low in lows)
    assert fine >= 17


def test_separated_pairs_are_flagged_and_not_believed():
    n = 200
    sides, _, split = gaussian_world(n)
    report = shared(as_table(100 * torch.eye(n).double()), sides, split)
    assert any(f.test == "ceiling" for f in report.findings)
    assert report.value("shared_own_score_nats") <= math.log(80) + 1e-9
    sharp = shared(as_table(20 * torch.randn(n, n, generator=torch.Generator().manual_seed(0)).double()), sides, split)
    assert any(f.verdict == NOT_TESTABLE for f in sharp.findings) or sharp.value("shared_dv_nats") < 1


def test_one_text_each_belongs_to_its_image():
    owner = torch.tensor([0, 0, 1, 2, 2, 2])
    sides = Sides(torch.zeros(3, 1), owner[:, None].float() + torch.rand(6, 1) / 10, owner)
    assert one_text_each(sides, 3).floor()[:, 0].tolist() == [0, 1, 2]


def test_nuisance_is_told_where_it_is_and_not_where_it_is_not():
    n = 1200
    g = np.random.default_rng(0)
    labels = g.integers(3, size=n)
    split = Split(*split_images(n, SHARES, 0))
    features = g.normal(size=(n, 4))
    attribute = Attribute("tint", "image", "nuisance", labels, np.arange(n), ("a", "b", "c"), math.log(3))
    absent, present = Report(), Report()
    measure_private(absent, attribute, Probes(torch.from_numpy(features), np.arange(n)), split, seed=0)
    features[:, 0] += 4 * labels
    measure_private(present, attribute, Probes(torch.from_numpy(features), np.arange(n)), split, seed=0)
    assert absent.value("image_nuisance_v_nats", attribute="tint") < 0.02
    assert present.value("image_nuisance_v_nats") == pytest.approx(math.log(3), abs=0.25)
    assert present.value("image_nuisance_mdl_nats") < 0.5 < absent.value("image_nuisance_mdl_nats")
    assert present.value("image_nuisance_floor_nats") == pytest.approx(math.log(3))
    assert "tells it" in present.findings[0].words and "does not tell" in absent.findings[0].words


def test_conditional_bounds_of_equal_sides_are_nothing():
    g = torch.Generator().manual_seed(0)
    z = torch.nn.functional.normalize(torch.randn(400, 5, generator=g).double(), dim=1)
    report = Report()
    measure_bounds(report, Sides(z, z, torch.arange(400)), Split(*split_images(400, SHARES, 0)), seed=0)
    assert {m.params["sigma"] for m in report.measures} == {0.1, 0.3, 1.0}
    assert report.value("private_bound_raw_nats", side="image", sigma=0.1) == pytest.approx(0, abs=1e-9)
    assert report.value("private_bound_logdet_nats", side="text", sigma=0.3) == pytest.approx(0, abs=0.01)


def test_pooled_point_sets_have_unit_norm():
    array = np.random.default_rng(0).normal(size=(3, 4, 6)).astype(np.float32)
    array[..., -1] = 0.25
    assert torch.allclose(pooled(array).norm(dim=1), torch.ones(3))


def test_arrows_and_names(tmp_path):
    from types import SimpleNamespace as Made

    for name, base in (("clip", "x"), ("cibr", "a")):
        (tmp_path / name / "best").mkdir(parents=True)
        (tmp_path / name / "best" / RECORD_FILE).write_text(json.dumps({"base": {"sha256": base}}))
    parent, child = (
        Made(name="tiny", pretrained="", folder=tmp_path / name / "best", fingerprint=f)
        for name, f in (("clip", "a"), ("cibr", "b"))
    )
    measured = [(child, None), (parent, None)]
    assert arrows_of(measured) == [(1, 0)]
    assert names_of(measured) == ["cibr/best", "clip/best"]


def test_command_on_digitworld_with_pictures(clipib, trained, tmp_path):
    done = clipib(
        "ib-analyze", "--model", f"{trained / 'best'},{trained / 'last'}", "--data", "digitworld:n=250", "--out", "a"
    )
    assert done.exit_code == 0, done.stderr
    rows = read_rows(tmp_path / "a" / "results.csv")
    tint = [r for r in rows if r.metric == "image_nuisance_v_nats" and "attribute=tint" in r.params]
    assert tint and all(r.ci_low < r.value < r.ci_high for r in tint)
    assert {r.metric for r in rows if r.is_main} == {"shared_own_score_nats"}
    shared_rows = [r for r in rows if r.metric == "shared_own_score_nats"]
    assert all(r.ci_low < 3.72 for r in shared_rows)  # the truth
    names = {p.name for p in (tmp_path / "a" / "plots").iterdir()}
    assert {"digitworld-plane.png", "digitworld-kept.svg"} <= names


def test_columns_made_attributes_and_none(clipib, checkpoint, photo_folder, tmp_path):
    rng = np.random.default_rng(0)
    from PIL import Image

    rows = ["image,caption,camera"]
    for i in range(120):
        color = (200, 30, 30) if i % 2 else (30, 30, 200)
        noise = rng.integers(-30, 30, (32, 32, 3))
        Image.fromarray(np.clip(np.array(color) + noise, 0, 255).astype(np.uint8)).save(tmp_path / f"{i}.png")
        rows.append(f"{i}.png,a {'red' if i % 2 else 'blue'} thing {i},{'phone' if i % 3 else 'film'}")
    (tmp_path / "t.csv").write_text("\n".join(rows) + "\n")
    common = ("ib-analyze", "--model", checkpoint, "--data", "csv:t.csv", "--no-plots", "--format", "csv")
    done = clipib(*common, "--attributes", "camera", "--out", "a")
    assert done.exit_code == 0 and "attribute=camera" in done.stdout, done.stderr
    made = clipib(*common, "--out", "b")
    assert made.exit_code == 0 and "attribute=flip" in made.stdout and "attribute=paraphrase" in made.stdout
    none = clipib(*common, "--attributes", "none", "--out", "c")
    assert none.exit_code == 0 and "attribute=" not in none.stdout
    typo = clipib(*common, "--attributes", "camrea", "--out", "d")
    assert typo.exit_code == 2 and "camera" in typo.stderr
    both = clipib(*common, "--attributes", "none,camera", "--out", "e")
    assert both.exit_code == 2 and "stands alone" in both.stderr
    world = clipib("ib-analyze", "--model", checkpoint, "--attributes", "camera", "--out", "f")
    assert world.exit_code == 2 and "one table" in world.stderr


def test_the_task_is_a_function(checkpoint, tmp_path):
    outcome = ib_analyze(str(checkpoint), "digitworld:objects=2+n=100", out=tmp_path, plots=False, attributes=("none",))
    assert {r.metric for r in outcome.rows} >= {"alignment", "cka_unbiased", "shared_ksg_nats"}
    assert outcome.probed[0].findings


def test_digitworld_attributes_reach_the_report():
    dataset = load_dataset("digitworld:n=50")
    assert {a.name for a in digitworld_attributes(dataset).attributes} >= {"tint", "frame"}


@pytest.fixture(scope="module")
def photographs(tmp_path_factory):
    """COCO photographs with captions, a random `tiny` and one that was trained on them, and what both see."""
    from conftest import SHARED

    from clipib import finetune
    from clipib.embeddings.encode import embed_images, embed_texts
    from clipib.models.load import load_model

    if not (SHARED / "coco_val2017_ccby").is_dir():
        pytest.skip(f"no coco_val2017_ccby in {SHARED}; set CLIPIB_TEST_DATA")
    spec = f"csv:{SHARED / 'coco_val2017_ccby' / 'captions.csv'}"
    out = tmp_path_factory.mktemp("photographs")
    finetune("tiny", spec, pretrained="none", out=out, steps=30, lr=1e-3, batch_size=32)
    dataset, seen = load_dataset(spec), {}
    for name, words in (("random", ("tiny", "none")), ("trained", (str(out / "last"), None))):
        model = load_model(*words, device="cpu")
        images = embed_images(model, dataset, store=None, workers=0).array
        seen[name] = model, images, embed_texts(model, dataset.captions, store=None).array
    return spec, dataset, out / "last", seen


@pytest.mark.parametrize("weights", ["random", "trained"])
def test_permuted_photographs_share_nothing(photographs, weights):
    _, dataset, _, seen = photographs
    model, images, texts = seen[weights]
    fine = 0
    for seed in range(20):
        moved = np.random.default_rng(seed).permutation(len(images))[dataset.image_of_caption]
        sides = Sides(torch.from_numpy(images), torch.from_numpy(texts), torch.from_numpy(moved))
        table = score_table(model, images, texts, moved)
        report = shared(table, sides, Split(*split_images(len(images), SHARES, seed)), seed=seed)
        lows = {m.metric: m.low for m in report.measures if m.metric.startswith("shared_") and m.low is not None}
        fine += all(low <= 0 for low in lows.values())
    assert fine >= 17


@pytest.mark.parametrize("command", ["pmi-probe", "ib-analyze"])
def test_commands_on_a_hundred_photographs(clipib, photographs, command):
    spec, _, trained, _ = photographs
    options = (command, "--data", spec, "--no-plots", "--out", "a")
    refused = clipib(*options, "--model", trained)
    assert refused.exit_code == 2 and "--allow-overlap" in refused.stderr
    done = clipib(*options, "--model", trained, "--allow-overlap")
    assert done.exit_code == 0 and "overlap=train" in done.stdout, done.stderr
    rest = ("--attributes", "none") if command == "ib-analyze" else ()
    assert clipib(*options, "--model", "tiny", "--pretrained", "none", *rest).exit_code == 0


@pytest.mark.slow
def test_a_trained_critic_takes_part_where_there_are_enough_images():
    sides, table, split = gaussian_world(4000)
    report = shared(table, sides, split, critics=True)
    assert report.value("shared_critic_nats") == pytest.approx(gaussian_information(WIDTH, RHO), abs=0.2)
