import shutil

import numpy as np
import pandas as pd
import pytest
from sklearn.neighbors import KNeighborsClassifier

from clipib.data.load import load_datasets
from clipib.embeddings.encode import embed_images
from clipib.errors import UserError
from clipib.models.load import load_model
from clipib.progress import Progress
from clipib.tasks.feature_probe import feature_probe
from clipib.tasks.results import read_rows, row_key

SPEC = "digitworld/color:n=90"


class Told(Progress):
    """Keeps what is said."""

    def __init__(self):
        self.lines = []

    def say(self, text):
        self.lines.append(text)

    warn = say


def by_params(rows, metric="acc1"):
    return {r.params.rpartition(";train=")[0]: r for r in rows if r.metric == metric}


@pytest.fixture(scope="module")
def features(checkpoint):
    model = load_model(str(checkpoint), device="cpu")
    parts = [load_datasets(SPEC, role=role, need="label")[0] for role in ("train", "test")]
    return [(embed_images(model, d, store=None).array, d.labels) for d in parts]


def test_every_draw_and_the_mean_have_their_rows(checkpoint, tmp_path):
    rows = feature_probe(str(checkpoint), SPEC, shots=("1", "4", "all"), seeds=2, out=tmp_path / "p").rows
    acc1 = by_params(rows)
    assert list(acc1) == [
        "probe=linear;probe_seed=0;shots=1",
        "probe=linear;probe_seed=1;shots=1",
        "probe=linear;probe_seed=0;shots=4",
        "probe=linear;probe_seed=1;shots=4",
        "probe=linear;shots=all",
        "probe=linear;seeds=2;shots=1",
        "probe=linear;seeds=2;shots=4",
    ]
    for k in "14":
        mean, draws = (
            acc1[f"probe=linear;seeds=2;shots={k}"],
            [acc1[f"probe=linear;probe_seed={s};shots={k}"] for s in (0, 1)],
        )
        assert mean.value == pytest.approx(np.mean([r.value for r in draws]))
        half = 12.7062047 * abs(draws[0].value - draws[1].value) / 2  # t(0.975, 1) sd / sqrt(2)
        assert mean.ci_high == pytest.approx(min(1, mean.value + half))
    assert [p for p, r in acc1.items() if r.is_main] == ["probe=linear;shots=all"]
    assert acc1["probe=linear;shots=all"].value > acc1["probe=linear;seeds=2;shots=1"].value
    assert by_params(rows, "probe_c")["probe=linear;probe_seed=1;shots=1"].value == 10.0
    assert len({row_key(r) for r in rows}) == len(rows) and {(r.command, r.protocol) for r in rows} == {
        ("zeroshot", "strict")
    }
    samples = pd.read_parquet(next((tmp_path / "p" / "samples").glob("*.parquet")))
    for params, group in samples.groupby("params"):
        assert group.correct.mean() == acc1[params.rpartition(";train=")[0]].value
    assert samples.params.nunique() == 5


def test_neighbours_equal_scikit_learns(checkpoint, features, tmp_path):
    (x, y), (xt, yt) = features
    rows = feature_probe(str(checkpoint), SPEC, probe="knn", shots=("all",), out=tmp_path / "p").rows
    k = int(by_params(rows, "probe_k")["probe=knn;shots=all"].value)
    theirs = KNeighborsClassifier(k, weights=lambda d: np.exp((1 - d**2 / 2) / 0.07), algorithm="brute").fit(x, y)
    assert by_params(rows)["probe=knn;shots=all"].value == pytest.approx(theirs.score(xt, yt), abs=1 / 90)


def test_a_later_run_does_what_is_missing(checkpoint, tmp_path):
    few = feature_probe(
        str(checkpoint), SPEC, probe="knn", shots=("2",), seeds=2, out=tmp_path / "p", cache_dir=tmp_path / "c"
    )
    assert few.images_encoded < 180  # of the train part only what was drawn
    told = Told()
    more = feature_probe(
        str(checkpoint),
        SPEC,
        probe="knn",
        shots=("2", "all"),
        seeds=3,
        out=tmp_path / "p",
        cache_dir=tmp_path / "c",
        progress=told,
    )
    draws = [r for r in few.rows if "probe_seed" in r.params]
    assert len(draws) == 6 and set(draws) < set(more.rows)
    again = feature_probe(
        str(checkpoint), SPEC, probe="knn", shots=("2", "all"), seeds=3, out=tmp_path / "p", cache_dir=tmp_path / "c"
    )
    assert again.rows == more.rows and again.images_encoded == 0
    assert set(read_rows(tmp_path / "p" / "results.csv")) >= set(more.rows)


def test_zero_shot_rows_in_the_same_folder_are_left_alone(checkpoint, tmp_path):
    from clipib import zeroshot

    first = zeroshot(str(checkpoint), SPEC, out=tmp_path / "p").rows
    feature_probe(str(checkpoint), SPEC, probe="knn", shots=("1",), seeds=1, out=tmp_path / "p")
    assert zeroshot(str(checkpoint), SPEC, out=tmp_path / "p").rows == first


@pytest.mark.parametrize("named", ["photos", "photos/test"])
def test_the_train_part_stands_beside_the_test_part(checkpoint, photo_folder, tmp_path, named):
    told = Told()
    spec = f"folder:{photo_folder.parent / named}"
    shutil.copy(photo_folder / "test" / "blue_dot" / "0.png", photo_folder / "train" / "blue_dot" / "again.png")
    rows = feature_probe(str(checkpoint), spec, shots=("2", "all"), seeds=1, out=tmp_path / "p", progress=told).rows
    assert by_params(rows, "probe_c")["probe=linear;shots=all"].n == 12
    assert by_params(rows)["probe=linear;shots=all"].value == 1.0 and rows[0].dataset == "photos/test"
    assert any("1 train image left out that is tested on too" in line for line in told.lines)


def test_classes_go_by_their_names(checkpoint, photo_folder, tmp_path):
    """The test part names its classes in another order than the table that is learnt from."""
    (photo_folder / "test" / "classnames.txt").write_text("zebra\napple\n")  # of blue_dot and red square
    names = {"blue_dot": "zebra", "red square": "apple"}
    lines = [f"train/{folder}/{i}.png,{name}" for folder, name in names.items() for i in range(6)]
    (photo_folder / "train.csv").write_text("\n".join(["path,label", *lines]))
    data = {"train_data": f"csv:{photo_folder}/train.csv", "shots": ("all",), "probe": "knn"}
    rows = feature_probe(str(checkpoint), f"folder:{photo_folder}/test", out=tmp_path / "p", **data).rows
    assert rows[0].value == 1.0
    (photo_folder / "train.csv").write_text("path,label\ntrain/blue_dot/0.png,zebra\ntrain/blue_dot/1.png,c\n")
    with pytest.raises(UserError, match="only train has 'c', only test has 'apple'"):
        feature_probe(str(checkpoint), f"folder:{photo_folder}/test", out=tmp_path / "p", **data)


@pytest.mark.parametrize(
    "options, message",
    [
        ({"shots": ("0",)}, "'0' is no number of shots"),
        ({"shots": ("1", "half")}, "'half'"),
        ({"shots": ()}, "No number of shots"),
        ({"seeds": 0}, "none"),
        ({"probe": "liner"}, "Did you mean 'linear'"),
        ({"train_data": "digitworld/digit:n=20"}, "tested on 8 classes and learnt from 10"),
        ({"train_data": "digitworld/color:n=20,digitworld/digit:n=20"}, "2 data sets to learn from, 1 to test on"),
        ({"train_data": SPEC + "+split=test"}, "All 90 images to learn"),
    ],
)
def test_what_cannot_be_learnt_is_said(tmp_path, options, message):
    with pytest.raises(UserError, match=message):
        feature_probe("tiny", SPEC, pretrained="none", out=tmp_path / "p", **options)
    assert not (tmp_path / "p" / "results.csv").exists()


def test_a_folder_without_a_train_part_is_refused(photo_folder, tmp_path):
    shutil.rmtree(photo_folder / "train")
    with pytest.raises(UserError, match="no train folder"):
        feature_probe("tiny", f"folder:{photo_folder}", pretrained="none", out=tmp_path / "p")
    with pytest.raises(UserError, match="All 8 images to learn"):
        feature_probe("tiny", f"folder:{photo_folder}/test", pretrained="none", out=tmp_path / "p")


def test_what_cannot_be_probed_is_told_and_left(checkpoint, photo_folder, tmp_path):
    """A set without a train part, one of another number of classes, a checkpoint that is not there."""
    (photo_folder / "only" / "test").mkdir(parents=True)
    for name in ("a", "b"):
        shutil.copytree(photo_folder / "test" / "blue_dot", photo_folder / "only" / "test" / name)
    models, data = [str(checkpoint), str(tmp_path / "gone")], [SPEC, f"folder:{photo_folder}/only"]
    options = {"probe": "knn", "shots": ("2",), "seeds": 1}
    with pytest.raises(UserError):
        feature_probe(models, data, out=tmp_path / "p", **options)
    found = feature_probe(models, data, out=tmp_path / "p", keep_going=True, **options)
    assert found.rows == feature_probe(str(checkpoint), SPEC, out=tmp_path / "q", **options).rows
    assert [("gone" in f.model, "only" in f.dataset) for f in found.failures] == [(True, False), (False, True)]
    with pytest.raises(UserError, match="Nothing could be evaluated"):
        feature_probe(models[1:], data, out=tmp_path / "r", keep_going=True, **options)
    assert not (tmp_path / "r" / "results.csv").exists()


def test_the_command_shows_means_and_keeps_every_draw(clipib, checkpoint):
    common = ["zeroshot", "-m", checkpoint, "-d", SPEC, "--probe", "knn", "--shots", "1, 2"]
    table = clipib(*common)
    assert table.exit_code == 0, table.stderr
    lines = [line.split() for line in table.stdout.splitlines() if line.strip()]
    assert [line[0] for line in lines[-2:]] == ["1", "2"] and lines[-1][-3:] == ["1,", "1,", "1"]
    assert f"{by_params(read_rows('runs/zeroshot/results.csv'))['probe=knn;seeds=3;shots=2'].value:.4f}" in lines[-1]
    assert "probe_seed=2" in clipib(*common, "--format", "csv").stdout
    repeated = clipib("zeroshot", "--config", "runs/zeroshot/results.json", "--out", "again")
    assert repeated.exit_code == 0, repeated.stderr
    assert read_rows("again/results.csv") == read_rows("runs/zeroshot/results.csv")
    assert "dry run" in clipib(*common, "--dry-run").stderr
    gated = clipib(*common, "--shots", "1,all", "--fail-under", "digitworld/color.acc1=0.1")  # that of all images
    assert gated.exit_code == 0, gated.stderr
    wanted = ["--fail-under", "digitworld/color.acc1(shots=1;seeds=3)=0.999"]
    assert clipib(*common, *wanted).exit_code == 1
    for flags in (["--shots", "1"], ["--probe", "knn", "--templates", "t.txt"], ["--probe", "knn", "--per-class"]):
        assert clipib("zeroshot", "-m", checkpoint, "-d", SPEC, *flags).exit_code == 2
