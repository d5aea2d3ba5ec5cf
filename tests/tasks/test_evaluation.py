"""Several checkpoints on several data sets: the same rows as one by one, each image decoded once, and what fails."""

import shutil

import pytest

from clipib import retrieve, zeroshot
from clipib.errors import UserError
from clipib.tasks.checkpoint import named_checkpoints
from clipib.tasks.results import read_rows


@pytest.fixture
def runs(checkpoint, tmp_path):
    """Two checkpoint folders: the trained one and a random one."""
    from clipib.models.checkpoint import save_checkpoint
    from clipib.models.load import load_model

    shutil.copytree(checkpoint, tmp_path / "runs" / "a")
    save_checkpoint(load_model("tiny", "none", device="cpu", seed=3), tmp_path / "runs" / "b", {"loss": "clip"})
    return tmp_path / "runs"


def facts(rows):
    return [(r.checkpoint_sha256, r.dataset, r.metric, r.params, r.value) for r in rows]


@pytest.mark.parametrize("protocol", ["strict", "clip_benchmark"])
def test_many_at_once_give_the_rows_of_one_by_one(runs, photo_folder, tmp_path, protocol):
    data = ["digitworld/digit:n=40", f"folder:{photo_folder}"]
    options = {"protocol": protocol, "batch_size": 16}
    both = zeroshot(str(runs / "*"), data, out=tmp_path / "z", cache_dir=tmp_path / "c", **options)
    alone = [zeroshot(str(runs / m), data, out=tmp_path / m, cache_dir=tmp_path / m, **options).rows for m in "ab"]
    assert facts(both.rows) == facts([*alone[0], *alone[1]])
    assert both.images_encoded == 2 * 48
    assert sorted(facts(read_rows(tmp_path / "z" / "results.csv"))) == sorted(facts(both.rows))


@pytest.mark.parametrize("protocol", ["strict", "clip_benchmark"])
def test_each_image_is_decoded_once_for_all(runs, photo_folder, tmp_path, monkeypatch, protocol):
    from clipib.data.images import FileImages

    opened = []
    plain = FileImages.open
    monkeypatch.setattr(FileImages, "open", lambda self, i: (opened.append(i), plain(self, i))[1])
    zeroshot(str(runs / "*"), f"folder:{photo_folder}", out=tmp_path / "z", protocol=protocol, batch_size=3)
    assert len(opened) == 8


def test_equal_weights_are_evaluated_once_and_said_so(runs, photo_folder, tmp_path):
    from clipib.progress import Progress

    class Told(Progress):
        def say(self, text):
            lines.append(text)

    lines = []
    shutil.copytree(runs / "a", runs / "same")
    found = zeroshot(str(runs / "*"), f"folder:{photo_folder}", out=tmp_path / "z", progress=Told())
    assert [r.pretrained for r in found.rows if r.is_main] == [str(runs / "a"), str(runs / "b")]
    assert any("same" in line and "the same weights as" in line for line in lines)
    assert facts(read_rows(tmp_path / "z" / "results.csv")) == facts(found.rows)


def test_rows_whose_samples_are_lost_are_computed_again(runs, photo_folder, tmp_path):
    data = f"folder:{photo_folder}"
    first = zeroshot(str(runs / "a"), data, out=tmp_path / "z")
    shutil.rmtree(tmp_path / "z" / "samples")
    assert zeroshot(str(runs / "a"), data, out=tmp_path / "z").rows == first.rows
    assert list((tmp_path / "z" / "samples").glob("*.parquet"))


def test_later_calls_keep_what_is_there_and_add_what_is_not(runs, photo_folder, tmp_path):
    data = f"folder:{photo_folder}"
    first = zeroshot(str(runs / "a"), data, out=tmp_path / "z", cache_dir=tmp_path / "c")
    both = zeroshot(str(runs / "*"), data, out=tmp_path / "z", cache_dir=tmp_path / "c")
    assert both.images_encoded == 8
    assert both.rows[: len(first.rows)] == first.rows
    assert len(read_rows(tmp_path / "z" / "results.csv")) == len(both.rows) == 2 * len(first.rows)


def test_without_keep_going_the_first_trouble_ends_the_run(runs, photo_folder, tmp_path):
    with pytest.raises(UserError, match="nowhere"):
        zeroshot(str(runs / "a"), [f"folder:{photo_folder}", "folder:nowhere"], out=tmp_path / "z")
    assert not (tmp_path / "z").exists()


@pytest.mark.parametrize("protocol", ["strict", "clip_benchmark"])
def test_keep_going_does_the_rest_and_names_what_failed(runs, photo_folder, tmp_path, protocol):
    (photo_folder / "test" / "blue_dot" / "0.png").write_bytes(b"x")
    (runs / "c").mkdir()
    data = [f"folder:{photo_folder}", "folder:nowhere", "digitworld/digit:n=20"]
    outcome = zeroshot(str(runs / "*"), data, out=tmp_path / "z", protocol=protocol, keep_going=True)
    assert {r.dataset for r in outcome.rows} == {"digitworld/digit"}
    assert len({r.checkpoint_sha256 for r in outcome.rows}) == 2
    told = "\n".join(map(str, outcome.failures))
    assert "nowhere" in told and "blue_dot/0.png" in told and str(runs / "c") in told
    assert len(outcome.failures) == 4


def test_keep_going_with_nothing_left_is_an_error(runs, tmp_path):
    with pytest.raises(UserError, match="Nothing could be evaluated"):
        zeroshot(str(runs / "a"), ["folder:nowhere", "folder:neither"], out=tmp_path / "z", keep_going=True)


def test_retrieval_of_several(runs, tmp_path):
    both = retrieve(f"{runs}/a,{runs}/b", "digitworld:n=40", out=tmp_path / "r", cache_dir=tmp_path / "c")
    alone = [retrieve(str(runs / m), "digitworld:n=40", out=tmp_path / m).rows for m in "ab"]
    assert facts(both.rows) == facts([*alone[0], *alone[1]])


def test_names_patterns_and_lists(tmp_path):
    for name in ("a", "b", "c,d"):
        (tmp_path / name).mkdir()
    (tmp_path / "list.txt").write_text(f"{tmp_path}/a  # the first\n\nViT-B-32\n")
    assert named_checkpoints("ViT-B-32, tiny", None) == [("ViT-B-32", None), ("tiny", None)]
    assert [m for m, _ in named_checkpoints(f"{tmp_path}/[ab]", None)] == [f"{tmp_path}/a", f"{tmp_path}/b"]
    assert named_checkpoints(f"{tmp_path}/list.txt", None) == [(f"{tmp_path}/a", None), ("ViT-B-32", None)]
    assert named_checkpoints(f"{tmp_path}/c,d", None) == [(f"{tmp_path}/c,d", None)]
    assert named_checkpoints(["a", "a", "b"], "x.pt,none") == [
        ("a", "x.pt"),
        ("a", "none"),
        ("b", "x.pt"),
        ("b", "none"),
    ]
    with pytest.raises(UserError, match="Nothing fits"):
        named_checkpoints(f"{tmp_path}/q*", None)
    with pytest.raises(UserError, match="cannot be read"):
        named_checkpoints(f"{tmp_path}/missing.txt", None)
    with pytest.raises(UserError, match="empty"):
        named_checkpoints(" , ", None)


def test_one_image_has_no_interval_without_ends(checkpoint, tmp_path):
    rows = zeroshot(str(checkpoint), "digitworld/digit:n=1", out=tmp_path / "z").rows
    (nll,) = [r for r in rows if r.metric == "nll"]
    assert nll.n == 1 and nll.ci_low is None and nll.ci_high is None


def test_keep_going_passes_over_a_set_that_cannot_be_classified(checkpoint, photo_folder, tmp_path):
    shutil.rmtree(photo_folder / "test" / "blue_dot")
    data = [f"folder:{photo_folder}", "digitworld/digit:n=10"]
    with pytest.raises(UserError, match="classification needs two"):
        zeroshot(str(checkpoint), data, out=tmp_path / "z")
    outcome = zeroshot(str(checkpoint), data, out=tmp_path / "z", keep_going=True)
    assert {r.dataset for r in outcome.rows} == {"digitworld/digit"}
    assert [f.dataset for f in outcome.failures] == ["photos/test"]
    with pytest.raises(UserError, match="Nothing could be evaluated"):
        zeroshot(str(checkpoint), data[0], out=tmp_path / "y", keep_going=True)


def test_a_second_group_of_checkpoints_leaves_what_the_first_wrote(runs, photo_folder, tmp_path, monkeypatch):
    import pandas as pd

    monkeypatch.setattr("clipib.tasks.evaluation.TOGETHER", 1)
    for _ in range(2):
        outcome = zeroshot(str(runs / "*"), f"folder:{photo_folder}", out=tmp_path / "z", fresh=True)
    samples = pd.read_parquet(next((tmp_path / "z" / "samples").glob("*.parquet")))
    assert samples.checkpoint_sha256.nunique() == 2 and len(samples) == 16
    assert read_rows(tmp_path / "z" / "results.csv") == outcome.rows
