"""`compare` on hand-made runs: every figure is worked out in the test."""

import csv
import math

import numpy as np
import pytest
from made_runs import classified, hits, made_row, made_run, ranked, share
from PIL import Image

from clipib.errors import UserError
from clipib.progress import Progress
from clipib.tasks.compare import compare

# Flips of B against A: seven gained and one lost, six gained, one each way; 20 samples each.
WORDS = {
    "cats": ("11111111" + "0" * 7 + "10111", "01111111" + "1" * 7 + "10111"),
    "dogs": ("0" * 6 + "1" * 14, "1" * 20),
    "birds": ("01" + "1" * 18, "10" + "1" * 18),
}
MID_P = {"cats": 2 * (1 + 8 / 2) / 2**8, "dogs": 2 * (1 / 2) / 2**6, "birds": 1.0}


class Heard(Progress):
    def __init__(self):
        self.lines = []

    def say(self, text):
        self.lines.append(text)

    warn = say


def made_pair(tmp_path, words=WORDS, **settings):
    for i, name in enumerate("ab"):
        rows = [made_row("acc1", share(w[i]), dataset=d, n=20) for d, w in words.items()]
        made_run(tmp_path / name, rows, {d: [hits(w[i])] for d, w in words.items()}, **settings)
    return tmp_path / "a", tmp_path / "b"


def test_differences_tests_and_adjustment_by_hand(tmp_path):
    found = compare(*made_pair(tmp_path))
    lines = {x.dataset: x for x in found.lines}
    assert {d: (x.gained, x.lost) for d, x in lines.items()} == {"cats": (7, 1), "dogs": (6, 0), "birds": (1, 1)}
    for name, difference in (("cats", 6 / 20), ("dogs", 6 / 20), ("birds", 0.0)):
        assert lines[name].difference == pytest.approx(difference)
        assert lines[name].difference == pytest.approx(lines[name].b - lines[name].a)
        assert lines[name].p == pytest.approx(MID_P[name])
        assert lines[name].low <= difference <= lines[name].high
    # of three p values in order, the first is tripled, the second times 3/2
    adjusted = {"dogs": 3 * MID_P["dogs"], "cats": 3 / 2 * MID_P["cats"], "birds": 1.0}
    assert {d: x.p_adjusted for d, x in lines.items()} == pytest.approx(adjusted)
    words = {"dogs": "better", "cats": "no difference shown", "birds": "no difference shown"}
    assert {d: x.verdict for d, x in lines.items()} == words


def test_a_single_data_set_is_not_adjusted(tmp_path):
    (line,) = compare(*made_pair(tmp_path), datasets=["cats"]).lines
    assert line.p_adjusted == line.p and line.verdict == "better"
    (back,) = compare(tmp_path / "b", tmp_path / "a", datasets=["cats"]).lines
    assert back.verdict == "worse" and back.difference == pytest.approx(-0.3)
    assert (back.gained, back.lost) == (1, 7)


def test_alpha_moves_verdict_and_interval(tmp_path):
    runs = made_pair(tmp_path)
    wide, narrow = (compare(*runs, alpha=a, datasets=["cats"]).lines[0] for a in (0.01, 0.2))
    assert wide.verdict == "no difference shown" and narrow.verdict == "better"
    assert wide.low < narrow.low < narrow.high < wide.high


def test_less_is_better_where_the_metric_says_so(tmp_path):
    for name, shift in (("a", 0.0), ("b", -0.5)):
        lines = hits("10" * 20) | {"nll": (np.linspace(1, 2, 40) + shift + 0.01 * np.cos(np.arange(40))).tolist()}
        value = float(np.mean(lines["nll"]))
        made_run(tmp_path / name, [made_row("nll", value), made_row("ece", 0.1 + shift / 10)], {"d": [lines]})
    nll, ece = compare(tmp_path / "a", tmp_path / "b").lines
    assert nll.difference == pytest.approx(-0.5) and nll.verdict == "better" and nll.gained is None
    assert ece.difference == pytest.approx(-0.05) and ece.low is None and ece.verdict == "not tested"
    assert ece.note == "no mean over per-sample lines"


def test_what_could_be_detected(tmp_path):
    line = next(x for x in compare(*made_pair(tmp_path)).lines if x.dataset == "cats")
    d, s, z, z_power = line.detectable, 8 / 20, 1.959964, 0.841621
    assert math.sqrt(20) * d == pytest.approx(
        z * math.sqrt(max(s, d)) + z_power * math.sqrt(max(s, d) - d * d), rel=1e-5
    )


def test_metrics_and_data_sets_can_be_named(tmp_path):
    captions = [("x", "a cat", 0), ("y", "a dog", 1)]
    for name in "ab":
        rows = [
            made_row(f"{w}_retrieval_recall@{k}", v, command="retrieve", is_main=k == 1)
            for w, by_k in (("image", {1: 0.5, 5: 1.0}), ("text", {1: 1.0, 5: 1.0}))
            for k, v in by_k.items()
        ]
        made_run(tmp_path / name, rows, {"d": [ranked(captions, [("x", 0), ("y", 0)])]})
    runs = tmp_path / "a", tmp_path / "b"
    assert [x.metric for x in compare(*runs, metrics=["image_retrieval_recall"]).lines] == [
        "image_retrieval_recall@1",
        "image_retrieval_recall@5",
    ]
    assert len(compare(*runs, metrics=["text_retrieval_recall@5"]).lines) == 1
    with pytest.raises(UserError, match="Did you mean 'text_retrieval_recall'"):
        compare(*runs, metrics=["text_recall"])
    with pytest.raises(UserError, match="Unknown data set 'e'"):
        compare(*runs, datasets=["e"])


def test_rows_that_differ_are_refused_unless_left_out(tmp_path):
    a, b = made_pair(tmp_path)
    table = (b / "results.csv").read_text().splitlines()
    table[2] = table[2].replace("d" * 64, "f" * 64)  # dogs
    (b / "results.csv").write_text("\n".join(table) + "\n")
    with pytest.raises(UserError) as caught:
        compare(a, b)
    assert "- dogs (test): data dddddddddddd and ffffffffffff" in caught.value.message
    assert "cats" not in caught.value.message and "--datasets" in caught.value.hint
    assert {x.dataset for x in compare(a, b, datasets=["cats", "birds"]).lines} == {"cats", "birds"}


def test_runs_of_nothing_in_common_are_refused(tmp_path):
    made_run(tmp_path / "a", [made_row("acc1", 0.5)])
    made_run(tmp_path / "b", [made_row("text_retrieval_recall@1", 0.5, command="retrieve", dataset="e")])
    with pytest.raises(UserError, match="no data set and metric in common") as caught:
        compare(tmp_path / "a", tmp_path / "b")
    assert "- A: d: acc1\n- B: e: text_retrieval_recall@1" in caught.value.message


def test_two_checkpoints_of_one_run(tmp_path):
    rows = [
        made_row("acc1", share(w), model=m, checkpoint_sha256=h * 64)
        for m, h, w in zip(("old", "new"), "12", WORDS["cats"], strict=True)
    ]
    run = made_run(tmp_path / "a", rows, {"d": [hits(w) for w in WORDS["cats"]]})
    (line,) = compare(run, run, checkpoint_a="old", checkpoint_b="new").lines
    assert (line.gained, line.lost) == (7, 1)
    with pytest.raises(UserError, match="rows of 2 checkpoints"):
        compare(run, run)
    with pytest.raises(UserError, match="the same rows: new"):
        compare(run, run, checkpoint_a="new", checkpoint_b="222")


def test_a_run_against_itself_is_a_slip(tmp_path):
    a, _ = made_pair(tmp_path)
    with pytest.raises(UserError, match="the same rows"):
        compare(a, a / "." / "results.csv")


def test_without_samples_the_rows_are_compared_and_a_line_says_so(tmp_path):
    a, b = made_pair(tmp_path)
    (b / "samples" / "cats.parquet").unlink()
    heard = Heard()
    line = compare(a, b, datasets=["cats"], progress=heard).lines[0]
    assert line.difference == pytest.approx(0.3) and line.low is line.p is line.n is line.detectable is None
    assert line.verdict == "not tested"
    assert "cats: B has no per-sample file; differences stand without interval and test" in heard.lines


def test_what_is_left_out_is_told(tmp_path):
    a, _ = made_pair(tmp_path, {"cats": WORDS["cats"]}, status="running")
    lines = {k: list(v)[:-1] for k, v in hits(WORDS["cats"][1]).items()}
    rows = [made_row("acc1", share(WORDS["cats"][1][:-1]), dataset="cats"), made_row("acc5", 1.0, dataset="cats")]
    c = made_run(tmp_path / "c", rows, {"cats": [lines]})
    heard = Heard()
    compare(a, c, progress=heard)
    assert any("is not finished" in line for line in heard.lines)
    assert "cats: 1 sample only in A and 0 only in B; differences leave them out" in heard.lines
    assert "only in B, and left out: cats: acc5" in heard.lines


def test_flips_are_listed_lost_ones_first(tmp_path):
    a, b = made_pair(tmp_path, {"cats": WORDS["cats"]})
    found = compare(a, b, out=tmp_path / "o", flips=tmp_path / "deep" / "f.csv")
    assert [f.change for f in found.flips] == ["lost"] + ["gained"] * 7
    lost = found.flips[0]
    assert (lost.sample_id, lost.target, lost.predicted_a, lost.predicted_b) == ("0.png", 0, 0, 1)
    assert (lost.rank_a, lost.rank_b) == (1, 2)
    assert [f.sample_id for f in found.flips[1:]] == [f"{i}.png" for i in range(14, 7, -1)]  # A's surest misses first
    with (tmp_path / "deep" / "f.csv").open() as file:
        records = list(csv.DictReader(file))
    assert [r["sample_id"] for r in records] == [f.sample_id for f in found.flips] and records[0]["caption"] == ""
    assert (tmp_path / "o" / "flips.csv").read_text() == (tmp_path / "deep" / "f.csv").read_text()
    with (tmp_path / "o" / "comparison.csv").open() as file:
        (line,) = csv.DictReader(file)
    assert float(line["difference"]) == found.lines[0].difference and line["verdict"] == "better"


def test_flips_of_a_set_whose_main_metric_has_none_are_those_of_acc1(tmp_path):
    for name, word in zip("ab", WORDS["cats"], strict=True):
        rows = [made_row("acc1", share(word), is_main=False), made_row("macro_f1", 0.5, is_main=True)]
        made_run(tmp_path / name, rows, {"d": [hits(word)]})
    assert len(compare(tmp_path / "a", tmp_path / "b", flips=tmp_path / "f.csv").flips) == 8


def photo_runs(tmp_path, photo_folder):
    """Runs on real files: B mistakes the first picture, A the second."""
    from clipib.data.load import load_dataset

    dataset = load_dataset(f"folder:{photo_folder}/test")
    target = dataset.labels.tolist()
    for name, wrong in (("a", 1), ("b", 0)):
        predicted = [1 - t if i == wrong else t for i, t in enumerate(target)]
        lines = classified(target, predicted) | {"sample_id": dataset.images.ids}
        row = made_row("acc1", 7 / 8, dataset=dataset.name, split=dataset.split, data_sha256=dataset.sha256)
        made_run(tmp_path / name, [row], {dataset.name: [lines]}, datasets=[f"folder:{photo_folder}/test"])
    return tmp_path / "a", tmp_path / "b"


def test_the_flipped_pictures_are_drawn(tmp_path, photo_folder):
    a, b = photo_runs(tmp_path, photo_folder)
    found = compare(a, b, save=tmp_path / "flips.png")
    assert [f.change for f in found.flips] == ["lost", "gained"]
    sheet = np.asarray(Image.open(tmp_path / "flips.png").convert("RGB")).astype(int)
    blue = (sheet[..., 2] > sheet[..., 0] + 60).any(axis=1)  # both flips are of blue pictures
    bands = np.flatnonzero(np.diff(blue.astype(int)) == 1)
    assert len(bands) == 2 and not (sheet[..., 0] > sheet[..., 2] + 60).any()
    assert compare(a, b, save=tmp_path / "flips.jpg") and Image.open(tmp_path / "flips.jpg").format == "JPEG"


def test_pictures_that_are_not_what_the_run_saw_are_refused(tmp_path, photo_folder):
    a, b = photo_runs(tmp_path, photo_folder)
    moved = photo_folder.rename(tmp_path / "elsewhere")
    with pytest.raises(UserError, match="The data of .* cannot be opened") as caught:
        compare(a, b, save=tmp_path / "f.png")
    assert "--data SPEC" in caught.value.hint and not (tmp_path / "f.png").exists()
    compare(a, b, save=tmp_path / "f.png", data=f"folder:{moved}/test")
    with pytest.raises(UserError, match="was evaluated"):
        compare(a, b, save=tmp_path / "f.png", data=f"folder:{moved}/train")
    Image.new("RGB", (8, 8), "white").save(moved / "test" / "blue_dot" / "0.png")
    with pytest.raises(UserError, match="was evaluated"):
        compare(a, b, save=tmp_path / "f.png", data=f"folder:{moved}/test")


def test_nothing_flipped_gives_a_sheet_that_says_so(tmp_path):
    a, _ = made_pair(tmp_path)
    compare(a, made_pair(tmp_path / "again")[0], save=tmp_path / "f.png")
    assert Image.open(tmp_path / "f.png").height < 100


@pytest.mark.parametrize("options, words", [({"alpha": 5.0}, "--alpha 5.0"), ({"save": "f.pdf"}, "is no picture file")])
def test_options_out_of_range(tmp_path, options, words):
    with pytest.raises(UserError, match=words):
        compare(*made_pair(tmp_path), **options)
