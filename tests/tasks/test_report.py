"""The page of hand-made runs: well-formed, self-contained, escaped, and with every number."""

import base64
import io
import json
import re
from html.parser import HTMLParser

import numpy as np
import pandas as pd
import pytest
from made_runs import classified, hits, made_row, made_run, ranked, share
from PIL import Image

from clipib.data.load import load_dataset
from clipib.errors import UserError
from clipib.tasks.compare import compare
from clipib.tasks.contenders import compare_all, contenders_of, key_of
from clipib.tasks.markup import VOID
from clipib.tasks.pictures import Pictures
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
    delta = compare_all([ca, cb])[cb.letter, key_of(run_a.rows[0])]
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
    assert compare_all([a, b])[b.letter, key_of(row)].verdict == "better"
    assert compare_all([b, a])[a.letter, key_of(row)].verdict == "worse"


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
        "pretrained,dataset,metric,params,gate,difference,low,high,margin,verdict,words",
        "p,d/e,acc1,x=1,max-drop,-0.1,-0.2,0.05,0.003,failed,no less than w",
    ]
    odd = ["p,d,acc5,probe=knn;shots=1,,,,,,no row,", "p,d,ece,,,0.5,nan,0.6,y,passed,"]
    (a / "gates.csv").write_text("\n".join([*lines, *odd]))
    page = read(report(a, out=tmp_path / "r.html").path)
    text = " ".join(page.text.split())
    assert "✗ failed no less than w d/ e acc1 (x=1) max-drop 0.003" in text
    assert "0.1000 \N{MINUS SIGN}0.2000 to +0.0500" in text and "acc5 (knn probe, 1 shot)" in text
    assert "✗ no row" in text and "✓ passed" in text and "+0.5000" in text and "nan" not in text
    assert "is not finished, or was cut off" in text and '"seed": 7' in text


def test_the_verdict_of_a_gate_stands_first_and_its_reason_wraps(tmp_path):
    a = made_run(tmp_path / "a", [made_row("acc1", 0.5)])
    (a / "gates.csv").write_text(f"dataset,metric,gate,verdict,words\n{'d' * 90},acc1,fail-under,failed,{'why ' * 30}")
    text = report(a, out=tmp_path / "r.html").path.read_text()
    gates = text[text.index('class="gates"') : text.index("Main metrics")]
    assert gates.index("failed") < gates.index("why why") < gates.index("ddd")
    assert 'class="num"' not in gates  # whose lines never break


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


def many_datasets(tmp_path, words_a, words_b):
    """Two runs, of which each data set has one word of hits."""
    for name, words in (("a", words_a), ("b", words_b)):
        sha = name * 64
        rows = [made_row("acc1", share(w), n=len(w), dataset=k, checkpoint_sha256=sha) for k, w in words.items()]
        made_run(tmp_path / name, rows, {k: [hits(w)] for k, w in words.items()})
    return tmp_path / "a", tmp_path / "b"


def test_verdicts_are_those_of_compare(tmp_path):
    """By itself d1 is worse; beside three data sets without a difference it is not."""
    same = {f"d{i}": "10" * 20 for i in (2, 3, 4)}
    runs = many_datasets(tmp_path, {"d1": "1" * 40, **same}, {"d1": "0" * 6 + "1" * 34, **same})
    told = {line.dataset: line for line in compare(*runs).lines}
    assert told["d1"].high < 0 and told["d1"].p < 0.05 < told["d1"].p_adjusted
    contenders = contenders_of([read_run(run) for run in runs])
    deltas = {key.dataset: delta for (_, key), delta in compare_all(contenders).items()}
    assert {k: (d.p, d.verdict) for k, d in deltas.items()} == {
        k: (line.p_adjusted, line.verdict) for k, line in told.items()
    }
    text = read(report(runs, out=tmp_path / "r.html").path).text
    assert "worse" not in text and f"p = {told['d1'].p_adjusted:.4f}" in text
    alone = contenders_of([r._replace(rows=r.rows[:1]) for r in map(read_run, runs)])
    assert [delta.verdict for delta in compare_all(alone).values()] == ["worse"]


def probe_rows(sha, values, *, train="t", **common):
    """Draws, their mean, and the fit to all images, as `zeroshot --probe` leaves them."""
    common |= {"checkpoint_sha256": sha * 64, "n": 20}
    rows = []
    for shots, value in values.items():
        drawn = [] if shots == "all" else [f"probe_seed={s};shots={shots}" for s in range(2)]
        for own in [*drawn, f"shots={shots}" if shots == "all" else f"seeds=2;shots={shots}"]:
            params = f"probe=linear;{own};train={train}"
            rows.append(made_row("acc1", value, params=params, **{**common, "is_main": shots == "all"}))
    return rows


def test_a_probe_has_one_column_a_checkpoint_and_its_shots_are_lines(tmp_path):
    runs = []
    for sha, base in (("1", 0.2), ("2", 0.3)):
        rows = probe_rows(sha, {"all": base + 0.5, "1": base, "16": base + 0.25})
        rows += probe_rows(sha, {"all": base + 0.5}, train="u", dataset="e")
        runs.append(made_run(tmp_path / sha, rows, {}))
        runs.append(made_run(tmp_path / f"z{sha}", [made_row("acc1", 0.1, checkpoint_sha256=sha * 64)]))
    contenders = contenders_of([read_run(run) for run in runs])
    assert [c.label for c in contenders] == ["m (p), 11111111", "m (p), 22222222"] and not contenders[0].older
    assert len(contenders[0].cells) == 5
    page = read(report(runs, out=tmp_path / "r.html").path)
    text = " ".join(page.text.split())
    names = ["acc1 share", "acc1 (linear probe, 1 shot)", "acc1 (linear probe, 16 shots)"]
    all_metrics = text[text.index("All metrics") :]
    places = [all_metrics.index(name) for name in [*names, "acc1 (linear probe, all images)"]]
    assert places == sorted(places)
    assert "0.2000 over 2 draws" in text and "+0.1000, no interval: means over draws" in text
    assert "probe_seed" not in text and "settings probe" not in text and "not comparable" not in text


def test_classes_and_samples_of_a_probe_are_those_of_all_images(tmp_path):
    rows = probe_rows("1", {"all": share(A), "1": 0.1})
    run = made_run(tmp_path / "a", rows, {"d": [hits(A)]})
    path = run / "samples" / "d.parquet"
    pd.read_parquet(path).assign(params="probe=linear;shots=all;train=t").to_parquet(path)
    text = read(report(run, out=tmp_path / "r.html").path).text
    assert "Recall by class (linear probe, all images)" in text
    assert "A (linear probe, all images): wrong with the highest confidence (8)" in text


def test_a_run_of_draws_alone_is_refused(tmp_path):
    run = made_run(tmp_path / "a", [made_row("acc1", 0.5, params="probe=knn;probe_seed=0;shots=1;train=t")])
    with pytest.raises(UserError, match="single draws of a probe only"):
        report(run, out=tmp_path / "r.html")


@pytest.mark.parametrize("column", ["sample_id", None])
def test_samples_that_cannot_be_read_are_told_of_and_left_out(tmp_path, column):
    a, b = two_runs(tmp_path)
    path = b / "samples" / "d.parquet"
    if column:
        pd.read_parquet(path).drop(columns=column).to_parquet(path)
    else:
        path.write_bytes(b"no table")
    text = read(report([a, b], out=tmp_path / "r.html").path).text
    assert ("has no column 'sample_id'" if column else "is damaged") in text
    assert "no interval: the per-sample file of B cannot be used" in text
    assert "A: wrong with the highest" in text and "B: wrong" not in text and "Flipped" not in text


@pytest.mark.parametrize("settings", [5, {"datasets": 7}, {"datasets": ["x"], "data_root": 7, "cache_dir": [1]}])
def test_settings_changed_by_hand_cost_the_pictures_only(tmp_path, settings):
    a, _ = two_runs(tmp_path)
    run = read_run(a)._replace(settings=settings)
    assert Pictures().why_missing(run, run.rows[0])
    (a / "results.json").write_text(json.dumps({"status": "complete", "settings": settings}))
    assert "No pictures: " in read(report(a, out=tmp_path / "r.html").path).text


def test_the_stages_of_a_training_run_are_columns(tmp_path):
    values = {"start": (0.1, "0"), "best": (0.5, "1"), "last": (0.5, "1")}
    rows = [
        made_row("acc1", value, command="finetune", params=f"stage={stage}", checkpoint_sha256=sha * 64)
        for stage, (value, sha) in values.items()
    ]
    run = made_run(tmp_path / "a", rows)
    start, best = contenders_of([read_run(run)])
    assert list(start.cells) == list(best.cells) and start.older == best.older == 0
    text = read(report(run, out=tmp_path / "r.html").path).text
    assert "stage=" not in text and "has none" not in text
