"""The page of hand-made runs: well-formed, self-contained, escaped, and with every number."""

import base64
import io
import json
import re
from html.parser import HTMLParser

import numpy as np
import pytest
from made_runs import classified, hits, made_row, made_run, ranked, share
from PIL import Image

from clipib.data.load import load_dataset
from clipib.errors import UserError
from clipib.tasks.contenders import compare_with, contenders_of, key_of
from clipib.tasks.markup import VOID
from clipib.tasks.report import report
from clipib.tasks.report_charts import confusion_chart, recall_chart
from clipib.tasks.runs import read_run

A = "11111111" + "0000000" + "10" + "111"
B = "01111111" + "1111111" + "10" + "111"  # one lost, seven gained
EVIL = '<script>alert("x")</script> & co'


class Page(HTMLParser):
    """Tags in balance, links that stay inside, sources that are data; and the text that is shown."""

    def __init__(self, text):
        super().__init__()
        self.open, self.tags, self.text, self.attributes = [], [], "", []
        self.feed(text)
        self.close()
        assert not self.open

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self.attributes += attrs
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        if self.open and self.open[-1] != "style":
            self.text += data + " "


def read(path) -> Page:
    text = path.read_text(encoding="utf-8")
    page = Page(text)
    assert text.startswith("<!doctype html>") and "script" not in page.tags and "link" not in page.tags
    names = dict(page.attributes)
    assert not [name for name in names if name.startswith("on")]
    assert all(v.startswith("data:image/jpeg;base64,") for k, v in page.attributes if k == "src")
    targets = {v for k, v in page.attributes if k == "id"}
    assert {v[1:] for k, v in page.attributes if k == "href"} <= targets
    assert not re.search(r"https?:|url\(|@import", text)
    return page


def two_runs(tmp_path, **second):
    rows = [made_row("acc1", share(A), n=20, ci_low=0.4321, ci_high=0.8765)]
    a = made_run(tmp_path / "a", rows, {"d": [hits(A)]})
    rows = [made_row("acc1", share(B), **{"n": 20, "checkpoint_sha256": "2" * 64, "pretrained": "q", **second})]
    return a, made_run(tmp_path / "b", rows, {"d": [hits(B)]})


def test_the_page_of_two_runs_has_every_number(tmp_path):
    a, b = two_runs(tmp_path)
    found = report([a, b], out=tmp_path / "deep" / "r.html")
    text = read(found.path).text
    assert (found.checkpoints, found.datasets) == (2, 1) and found.n_bytes == found.path.stat().st_size
    run_a, run_b = read_run(a), read_run(b)
    ca, cb = contenders_of([run_a, run_b])
    delta = compare_with(ca, cb, key_of(run_a.rows[0]))
    assert delta.value == pytest.approx(6 / 20) and delta.verdict == "better"
    between = f"+{delta.difference.low:.4f} to +{delta.difference.high:.4f}"
    for shown in ("0.6000", "0.9000", "0.4321 to 0.8765", "+0.3000", between, "▲ better", "n = 20"):
        assert shown in text, shown
    assert "B is better than A in acc1, 0.9000 against 0.6000" in text
    assert "A right, B wrong (1)" in text and "B right, A wrong (7)" in text
    assert "1" * 64 in text and "2" * 64 in text and "d" * 64 in text and "e" * 64 in text
    assert report([a, b], out=tmp_path / "again.html").path.read_bytes() == found.path.read_bytes()


def test_the_baseline_comes_first_and_is_named_once(tmp_path):
    a, b = two_runs(tmp_path)
    text = read(report([a, b], baseline=b, out=tmp_path / "r.html").path).text
    assert "B is worse than A in acc1, 0.6000 against 0.9000" in text and "▼ worse" in text
    assert text == read(report([a], baseline=b, out=tmp_path / "r.html").path).text


def test_lower_is_better_where_the_catalogue_says_so(tmp_path):
    lines = {**hits(A), "nll": np.linspace(1, 2, 20)}
    made_run(tmp_path / "a", [made_row("nll", 1.5, is_main=True)], {"d": [lines]})
    row = made_row("nll", 1.2, is_main=True, checkpoint_sha256="2" * 64)
    made_run(tmp_path / "b", [row], {"d": [{**lines, "nll": lines["nll"] - 0.3}]})
    a, b = contenders_of([read_run(tmp_path / "a"), read_run(tmp_path / "b")])
    assert compare_with(a, b, key_of(row)).verdict == "better"
    assert compare_with(b, a, key_of(row)).verdict == "worse"


@pytest.mark.parametrize(
    "differs, told",
    [({"protocol": "datacomp"}, "protocol strict and datacomp"), ({"limit": 20}, "limit none and 20")],
)
def test_rows_that_cannot_be_compared_stand_side_by_side_and_say_why(tmp_path, differs, told):
    text = read(report(two_runs(tmp_path, **differs), out=tmp_path / "r.html").path).text
    assert f"not comparable: {told}" in text and "0.9000" in text and "better" not in text
    assert "right," not in text  # nor flips


def test_a_run_without_samples_has_differences_without_interval(tmp_path):
    a, b = two_runs(tmp_path)
    (b / "samples" / "d.parquet").unlink()
    text = read(report([a, b], out=tmp_path / "r.html").path).text
    assert "+0.3000, no interval: B has no per-sample file" in text
    assert "Flipped" not in text and "Recall by class" in text


def test_one_run_stands_for_itself(tmp_path):
    a, _ = two_runs(tmp_path)
    text = read(report(a, out=tmp_path / "r.html").path).text
    assert "share of images whose class is ranked first (acc1) 0.6000 (95 % interval 0.4321 to 0.8765), n = 20" in text
    assert "difference" not in text and "Flipped" not in text and "No pictures: " in text


def test_several_checkpoints_of_one_run_are_told_apart(tmp_path):
    rows = [made_row("acc1", share(w), n=20, checkpoint_sha256=str(i) * 64) for i, w in ((1, A), (2, B))]
    run = read_run(made_run(tmp_path / "r", rows, {"d": [hits(A), hits(B)]}))
    assert [(c.letter, c.label) for c in contenders_of([run])] == [("A", "m (p), 11111111"), ("B", "m (p), 22222222")]
    assert "A right, B wrong (1)" in read(report(run.path, out=tmp_path / "r.html").path).text


def test_one_checkpoint_in_two_runs_is_one_column_unless_both_tell_of_the_same_number(tmp_path):
    made_run(tmp_path / "a", [made_row("acc1", 0.5)])
    made_run(tmp_path / "b", [made_row("acc1", 0.6, dataset="other")])
    made_run(tmp_path / "c", [made_row("acc1", 0.7)])
    a, b, c = (read_run(tmp_path / name) for name in "abc")
    (one,) = contenders_of([a, b])
    assert one.label == "m (p)" and {k.dataset for k in one.cells} == {"d", "other"}
    labels = [contender.label for contender in contenders_of([a, c])]
    assert labels == [f"m (p), {tmp_path / name}" for name in "ac"]


def test_retrieval_shows_captions_and_their_ranks(tmp_path):
    captions = [("1.jpg", f"a cat {EVIL}", 0), ("1.jpg", "a pet", 4), ("2.jpg", "a dog", 9)]
    other = [(image, text, 0) for image, text, _ in captions]
    for name, ranks, images in (
        ("a", captions, [("1.jpg", 0), ("2.jpg", 2)]),
        ("b", other, [("1.jpg", 1), ("2.jpg", 0)]),
    ):
        value = float(np.mean([rank < 1 for _, _, rank in ranks]))
        common = {"command": "retrieve", "is_main": True, "checkpoint_sha256": name * 64}
        rows = [made_row("image_retrieval_recall@1", value, n=3, **common)]
        rows.append(made_row("text_retrieval_recall@1", 0.5, n=2, **common))
        made_run(tmp_path / name, rows, {"d": [ranked(ranks, images)]})
    page = read(report([tmp_path / "a", tmp_path / "b"], out=tmp_path / "r.html").path)
    assert "A: captions whose image ranks lowest (2)" in page.text and "image at 10 of 2" in page.text
    assert "rank 10 with A, 1 with B" in page.text and "A right, B wrong (1)" in page.text
    assert "script" not in page.tags


def test_names_captions_and_paths_are_text(tmp_path):
    lines = hits(A)
    names = [EVIL, "b"]
    lines |= {f"{c}_name": [names[i] for i in lines[c]] for c in ("target", "predicted")}
    row = made_row("acc1", share(A), n=20, pretrained=EVIL, dataset=f"{EVIL}/d", params="")
    made_run(tmp_path / "<b>", [row], {row.dataset: [lines]}, datasets=f"folder:{EVIL}")
    text = read(report(tmp_path / "<b>", out=tmp_path / "r.html").path).text
    assert text.count(EVIL) > 8 and str(tmp_path / "<b>") in text


def test_pictures_come_from_the_data_and_only_from_the_same_data(tmp_path, photo_folder):
    data = load_dataset(f"folder:{photo_folder}", need="label")
    lines = classified(data.labels.tolist(), [0] * 8) | {"sample_id": data.images.ids}
    row = made_row("acc1", 0.5, n=8, dataset=data.name, split=data.split, data_sha256=data.sha256)
    run = made_run(tmp_path / "z", [row], {data.name: [lines]}, datasets=["folder:gone", f"folder:{photo_folder}"])
    page = read(report(run, out=tmp_path / "r.html").path)
    assert page.tags.count("img") == 4 and "wrong with the highest confidence (4)" in page.text
    told = [alt for name, alt in page.attributes if name == "alt"]
    assert told == [f"class 1: {data.images.ids[i]}" for i in np.flatnonzero(data.labels == 1)[::-1]]
    source = next(v for k, v in page.attributes if k == "src").partition(",")[2]
    assert Image.open(io.BytesIO(base64.b64decode(source))).size == (96, 80)
    (photo_folder / "test" / "blue_dot" / "0.png").unlink()
    page = read(report(run, out=tmp_path / "r.html").path)
    assert "img" not in page.tags and "No pictures: No data found are" in page.text


def test_gates_and_the_unfinished_are_shown(tmp_path):
    a = made_run(tmp_path / "a", [made_row("acc1", 0.5)], status="running", seed=7)
    lines = [
        "dataset,metric,params,difference,low,high,margin,verdict,words",
        "d,acc1,x=1,-0.1,-0.2,0.05,0.003,failed,w",
    ]
    (a / "gates.csv").write_text("\n".join([*lines, "d,acc5,,,,,,no row,", "d,ece,,,,,,passed,"]))
    text = read(report(a, out=tmp_path / "r.html").path).text
    assert "✗ failed" in text and "✗ no row" in text and "✓ passed" in text
    assert "acc1 (x=1)" in text and "0.1000 (\N{MINUS SIGN}0.2000 to +0.0500)" in text and "0.003" in text
    assert "is not finished, or was cut off" in text and '"seed": 7' in text


def test_what_cannot_be_reported_is_refused(tmp_path):
    a, _ = two_runs(tmp_path)
    with pytest.raises(UserError, match="There is no run"):
        report([a, tmp_path / "aa"], out=tmp_path / "r.html")
    with pytest.raises(UserError, match="is a folder"):
        report(a, out=tmp_path)
    with pytest.raises(UserError, match="No run is named"):
        report([], out=tmp_path / "r.html")
    assert not (tmp_path / "r.html").exists()


def test_a_page_of_many_classes_and_samples_stays_small(tmp_path):
    rng = np.random.default_rng(0)
    target = rng.integers(0, 300, 5_000)
    lines = classified(target.tolist(), np.where(rng.random(5_000) < 0.6, target, rng.integers(0, 300, 5_000)).tolist())
    value = float(np.mean(lines["correct"]))
    for i, name in enumerate("ab"):
        made_run(tmp_path / name, [made_row("acc1", value, n=5_000, checkpoint_sha256=str(i) * 64)], {"d": [lines]})
    found = report([tmp_path / "a", tmp_path / "b"], out=tmp_path / "r.html")
    page = read(found.path)
    assert "270 more in the table" in page.text and "the 25 most frequent of" in page.text
    assert "no difference shown" in page.text and found.n_bytes < 600_000


def test_a_bar_is_as_long_as_its_recall():
    chart = Page(recall_chart(["a", "b"], [3, 4], [[0.25, 1.0]], "A", [0]))
    widths = [float(v) for k, v in chart.attributes if k == "width"][1:]
    assert widths == [95.0, 380.0] and "a: A 0.2500, n = 3" in chart.text
    marks = Page(recall_chart(["a"], [3], [[0.25], [0.5]], "AB", [0, 1]))
    assert [v for k, v in marks.attributes if k == "class"].count("s1 mark") == 1 and "A 0.2500, B 0.5000" in marks.text


def test_a_cell_is_as_dark_as_its_share_of_the_row():
    chart = Page(confusion_chart(["a", "b"], np.array([[3, 1], [0, 2]])))
    ink = [float(v) for k, v in chart.attributes if k == "fill-opacity"]
    assert ink == pytest.approx([0.06 + 0.94 * s for s in (3 / 4, 1 / 4, 1)], abs=0.006)
    assert "a taken for b: 1 of 4" in chart.text
    kinds = [v for k, v in chart.attributes if k == "class"]
    assert (kinds.count("hit"), kinds.count("miss")) == (2, 1)


def test_settings_are_shown_as_they_are(tmp_path):
    a = made_run(tmp_path / "a", [made_row("acc1", 0.5)], templates=EVIL)
    assert json.dumps(EVIL) in read(report(a, out=tmp_path / "r.html").path).text
