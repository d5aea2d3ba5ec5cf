"""Gates on runs whose rows and samples are written by hand."""

import csv
import io
import json
import math
import re
from dataclasses import replace
from typing import NamedTuple

import numpy as np
import pytest

from clipib.data.catalog import CATALOG
from clipib.data.prompts import prompts_sha256
from clipib.errors import UserError
from clipib.metrics.paired import Difference, paired_proportions
from clipib.tasks.asked import Asked, read_asked
from clipib.tasks.baselines import published_rows
from clipib.tasks.gate_words import parse_thresholds
from clipib.tasks.gates import plan_gates
from clipib.tasks.paired import Paired
from clipib.tasks.results import COLUMNS, ResultsFolder, Row, read_rows
from clipib.tasks.verdicts import Verdict, exit_code, judge, to_csv


def row(metric="acc1", value=0.9, **values):
    blank = dict.fromkeys(COLUMNS, "") | {"command": "zeroshot", "model": "tiny", "pretrained": "a", "dataset": "d"}
    blank |= {"split": "test", "protocol": "strict", "precision": "fp32", "data_sha256": "1" * 64}
    blank |= {"checkpoint_sha256": "a" * 64, "prompts_sha256": "2" * 64, "seed": 0, "n_bad": 0, "is_main": True}
    blank |= dict.fromkeys(("ci_low", "ci_high", "n", "n_ties", "limit"))
    return Row(**{**blank, "metric": metric, "value": value, **values})


def write(out, rows, hits=None):
    """A run folder; hits: (N,) 0 or 1, the samples of `acc1`."""
    samples = None
    if hits is not None:
        ids = [f"s{i}" for i in range(len(hits))]
        samples = {"sample_id": ids, "target_rank": [0 if h else 3 for h in hits]}
    with ResultsFolder(out, command="zeroshot", settings={}) as folder:
        folder.begin()
        folder.add(rows, samples)
    return out


def tell(out, *, failures=(), **settings):
    """Write into `results.json` what the run was asked for, and which data sets failed."""
    about = json.loads((out / "results.json").read_text())
    about["failures"] = [{"model": "", "dataset": name, "error": "damaged"} for name in failures]
    (out / "results.json").write_text(json.dumps(about | {"settings": settings}))


def verdicts_of(out, rows, **options):
    beside = {k: options.pop(k) for k in ("partial", "progress") if k in options}
    return judge(plan_gates("zeroshot", out=out, **options), rows, out, **beside)


def hits(n, *misses):
    values = np.ones(n, dtype=int)
    values[list(misses)] = 0
    return values


# --- words -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("cifar10.acc1=0.88", [("cifar10", "acc1", "", 0.88)]),
        (" a.acc1 = 0.5 ,b.acc5=1,", [("a", "acc1", "", 0.5), ("b", "acc5", "", 1.0)]),
        ("flickr30k.image_retrieval_recall@1=.58", [("flickr30k", "image_retrieval_recall@1", "", 0.58)]),
        ("my.photos/v1.2.acc1=0.5", [("my.photos/v1.2", "acc1", "", 0.5)]),
        (
            "digitworld:objects=2.text_retrieval_recall@5=0.1",
            [("digitworld:objects=2", "text_retrieval_recall@5", "", 0.1)],
        ),
        ("org/set@v1.0:test.acc1=0.5", [("org/set@v1.0:test", "acc1", "", 0.5)]),
        ('"a,b/c".acc1=0.5, d.acc1=0.6', [("a,b/c", "acc1", "", 0.5), ("d", "acc1", "", 0.6)]),
        ("d.acc1(shots=4; probe=knn)=0.5", [("d", "acc1", "probe=knn;shots=4", 0.5)]),
    ],
)
def test_a_key_is_split_before_its_metric(text, expected):
    assert [t[1:] for t in parse_thresholds(text)] == expected


@pytest.mark.parametrize(
    ("text", "kind", "words"),
    [
        ("acc1=0.5", "fail-under", "is no threshold"),
        ("cifar10.acc1", "fail-under", "is no threshold"),
        ("a,b.acc1=0.5", "fail-under", "'a' in --fail-under is no threshold"),
        ("cifar10.ac1=0.5", "fail-under", "Did you mean 'acc1'"),
        ("f.image_recall@1=0.5", "fail-under", "image_retrieval_recall@K"),
        ("cifar10.acc1=88%", "fail-under", "'88%' is no number"),
        ("cifar10.acc1=88", "fail-under", "between 0 and 1"),
        ("cifar10.acc1=nan", "fail-under", "'nan' is no number"),
        ("cifar10.acc1=", "fail-under", "'' is no number"),
        ("cifar10.nll=0.5", "fail-under", "lower is better"),
        ("cifar10.acc1=0.5", "fail-over", "higher is better"),
        (" , ", "fail-under", "names no metric"),
    ],
)
def test_what_is_no_threshold_is_refused(text, kind, words):
    with pytest.raises(UserError, match=re.escape(words)):
        parse_thresholds(text, kind)


def test_the_other_option_is_named():
    with pytest.raises(UserError) as error:
        parse_thresholds("d.image_retrieval_median_rank=3")
    assert error.value.hint == "Use --fail-over."


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"max_drop": 0.003}, "--max-drop compares with a baseline"),
        ({"require_complete": True}, "--require-complete compares with a baseline"),
        ({"gate_metrics": ["acc5"]}, "--gate-metrics compares with a baseline"),
        ({"baseline": "base"}, "--baseline by itself is no gate"),
        ({"baseline": "base", "significant": True}, "--max-drop is judged, which is not given"),
        ({"baseline": "base", "max_drop": -0.1}, "is no margin"),
        ({"baseline": "base", "non_inferior": 0.0}, "which no sample can"),
        ({"baseline": "base", "max_drop": 0.1, "alpha": 0.5}, "between 0 and 0.5"),
        ({"baseline": "nowhere", "max_drop": 0.1}, "There is no run 'nowhere'"),
        ({"baseline": "ref:openclip", "max_drop": 0.1}, "Did you mean 'ref:open_clip'"),
        ({"baseline": "ref:open_clip", "max_drop": 0.1, "significant": True}, "needs per-sample files"),
        ({"baseline": "base", "non_inferior": 0.1}, "needs per-sample files"),
        ({"baseline": "base", "max_drop": 0.1, "out": "base"}, "compared with itself"),
        ({"baseline": "base", "max_drop": 0.1, "gate_metrics": ["acc2x"]}, "in --gate-metrics"),
        (
            {"baseline": "base", "max_drop": 0.1, "conditions": {"limit": 7}},
            "limit of 'base' is none, and here it is 7",
        ),
        ({"baseline": "base", "max_drop": 0.1, "command": "retrieve"}, "no rows of retrieve"),
        ({"baseline": "base", "max_drop": 0.1, "baseline_checkpoint": "zzz"}, "fits no checkpoint"),
        ({"fail_under": ["cifar100.acc1=0.5"], "datasets": ["cifar10,mnist"]}, "Did you mean 'cifar10'"),
        ({"fail_under": ["mnist.text_retrieval_recall@1=0.5"], "datasets": ["mnist"]}, "zeroshot gives no"),
        ({"fail_under": ["coco.acc1=0.5"], "datasets": ["coco"], "command": "retrieve"}, "retrieve gives no"),
        (
            {"fail_under": ["coco.text_retrieval_recall@3=0.5"], "command": "retrieve", "recall_k": (1, 5)},
            "not among what will be computed",
        ),
        ({"baseline": "ref:open_clip", "max_drop": 0.1, "datasets": ["cifar10"]}, "no number for cifar10"),
        (
            {"baseline": "ref:open_clip", "max_drop": 0.1, "conditions": {"limit": 50}},
            "a sample of 50 cannot be compared with 'ref:open_clip'",
        ),
        (
            {"baseline": "ref:clip_benchmark", "max_drop": 0.1, "conditions": {"protocol": "strict"}},
            "protocol of 'ref:clip_benchmark' is clip_benchmark, and here it is strict",
        ),
        (
            {"command": "finetune", "baseline": "trained", "max_drop": 0.1, "conditions": {"seed": 1}},
            "seed of 'trained' is 0, and here it is 1",
        ),
        *(
            ({"command": "finetune", "datasets": data, "fail_under": [gate]}, f"gives no '{metric}'")
            for data, gate, metric in (
                ("digitworld", "digitworld.image_retrieval_recall@20=0.9", "image_retrieval_recall@20"),
                ("digitworld", "digitworld.acc1=0.9", "acc1"),
                ("digitworld/color", "digitworld/color.acc1=0.9", "acc1"),
                ("folder:x", "x/val.text_retrieval_recall@1=0.9", "text_retrieval_recall@1"),
                ("flickr30k", "flickr30k.acc5=0.9", "acc5"),
                ("csv:x", "x.text_retrieval_map@r=0.9", "text_retrieval_map@r"),
            )
        ),
        ({"command": "finetune", "datasets": "csv:x", "fail_over": ["x.nll=0.9"]}, "finetune gives no 'nll'"),
        ({"baseline": "ref:open_clip", "max_drop": 0.1, "models": ["runs/a/best"]}, "'runs/a/best' is not in"),
    ],
)
def test_what_cannot_be_judged_is_refused_before_the_run(options, words, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    write(tmp_path / "base", [row()])
    write(tmp_path / "trained", [row(command="finetune")])
    with pytest.raises(UserError, match=re.escape(words)):
        plan_gates(options.pop("command", "zeroshot"), **options)


def test_what_a_training_run_measures_may_be_gated():
    for data, gate in (
        ("digitworld", "text_retrieval_recall@10"),
        ("digitworld/color", "image_retrieval_recall@5"),
        ("cifar10", "acc5"),
    ):
        assert plan_gates("finetune", data, fail_under=[f"{data}.{gate}=0.5"]).command == "finetune"


def test_known_names_pass_the_check_by_any_spelling():
    datasets = ["CIFAR-10", "digitworld:n=20", "flickr30k:val"]
    texts = ["cifar10.acc1=0.5, wds/vtab/cifar10.acc1=0.5, digitworld/digit.acc1=0.5, flickr30k:val.acc1=0.1"]
    gates = plan_gates("zeroshot", datasets, fail_under=texts)
    assert gates.names == ("cifar10", "digitworld/digit", "digitworld/color", "digitworld/place", "flickr30k")
    assert plan_gates("zeroshot", datasets) is None


# --- thresholds ------------------------------------------------------------------------------------------------------


def test_thresholds(tmp_path):
    rows = [row(value=0.88), row("nll", 0.5, is_main=False, params="temperature=own")]
    found = verdicts_of(tmp_path, rows, fail_under=["d.acc1=0.88, d.acc1=0.8801"], fail_over=["d.nll=0.5, d.nll=0.4"])
    assert [v.verdict for v in found] == ["passed", "failed", "passed", "failed"]
    assert [v.words for v in found][1::2] == ["below 0.8801", "above 0.4"]
    assert (found[2].params, found[2].value, found[2].margin) == ("temperature=own", 0.5, 0.5)


def test_a_gate_on_a_missing_row_never_passes(tmp_path):
    for text, words in (("d.acc5=0.1", "no such metric, but acc1"), ("e.acc1=0.1", "Unknown data set 'e'")):
        with pytest.raises(UserError, match=words):
            verdicts_of(tmp_path, [row(value=0.0)], fail_under=["d.acc1=0.9", text])
    asked = {"datasets": ["cifar10,mnist"], "fail_under": ["cifar10.acc1=0.1, mnist.acc1=0.1"]}
    found = verdicts_of(tmp_path, [row(dataset="cifar10")], **asked)
    assert [(v.verdict, v.words) for v in found][1:] == [("no row", "this run has no such row")]
    (verdict,) = verdicts_of(tmp_path, [], fail_under=["d.acc1=0.1"])
    assert verdict.verdict == "no row"


def test_of_several_rows_the_plain_one_is_meant_or_the_one_whose_params_are_named(tmp_path):
    rows = [row(value=0.2, params="images=ungreyed"), row(value=0.7), row("acc5", 0.8), row("acc5", 0.9, split="val")]
    found = verdicts_of(tmp_path, rows, fail_under=["d.acc1=0.5, d.acc1(images=ungreyed)=0.5, d:val.acc5=0.85"])
    assert [(v.value, v.verdict) for v in found] == [(0.7, "passed"), (0.2, "failed"), (0.9, "passed")]
    with pytest.raises(UserError, match="2 rows are called d.acc5"):
        verdicts_of(tmp_path, rows, fail_under=["d.acc5=0.5"])


def test_of_a_training_run_the_best_weights_are_held_to_the_gates(tmp_path):
    rows = [row(value=v, params=f"stage={s}", pretrained=s) for s, v in (("start", 0.1), ("best", 0.7), ("last", 0.4))]
    found = verdicts_of(tmp_path, rows, fail_under=["d.acc1=0.5"])
    assert [(v.pretrained, v.verdict) for v in found] == [("best", "passed")]


@pytest.mark.parametrize(
    ("verdicts", "partial", "code"),
    [
        ((), False, 0),
        (("passed",), False, 0),
        (("passed",), True, 3),
        (("passed", "no row"), False, 2),
        (("passed", "no test"), False, 2),
        (("no row",), True, 3),
        (("failed", "no row"), False, 1),
        (("failed", "no row"), True, 1),
    ],
)
def test_only_a_failed_gate_ends_with_1(verdicts, partial, code):
    found = [Verdict(*[""] * 15, verdict, "") for verdict in verdicts]
    assert exit_code(found, partial) == code


# --- by value --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("metric", "before", "after", "margin", "verdict", "words"),
    [
        ("acc1", 0.9, 0.897, 0.003, "passed", "worse by 0.0030, within 0.003"),
        ("acc1", 0.9, 0.8969, 0.003, "failed", "worse by 0.0031, more than 0.003"),
        ("acc1", 0.9, 0.92, 0.0, "passed", "better by 0.0200"),
        ("acc1", 0.9, 0.9, 0.0, "passed", "equal"),
        ("nll", 0.5, 0.6, 0.05, "failed", "worse by 0.1000, more than 0.05"),
        ("nll", 0.5, 0.3, 0.05, "passed", "better by 0.2000"),
    ],
)
def test_max_drop_means_worse_by(metric, before, after, margin, verdict, words, tmp_path):
    write(tmp_path / "base", [row(metric, before)])
    new = row(metric, after, checkpoint_sha256="b" * 64)
    (found,) = verdicts_of(tmp_path / "new", [new], baseline=str(tmp_path / "base"), max_drop=margin)
    assert (found.verdict, found.words) == (verdict, words)
    assert (found.baseline, found.value, found.margin) == (before, after, margin)
    assert found.difference == pytest.approx(after - before) and found.low is None


def test_the_main_metrics_are_gated_and_those_named(tmp_path):
    rows = [row(), row("acc5", is_main=False), row("mean_per_class_recall", is_main=False), row("acc1_bayes")]
    write(tmp_path / "base", rows)
    options = {"baseline": str(tmp_path / "base" / "results.csv"), "max_drop": 0.1}
    assert [v.metric for v in verdicts_of(tmp_path / "new", rows, **options)] == ["acc1"]
    found = verdicts_of(tmp_path / "new", rows, **options, gate_metrics=["acc5"])
    assert [v.metric for v in found] == ["acc1", "acc5"]


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"protocol": "clip_benchmark"}, "protocol strict and clip_benchmark"),
        ({"data_sha256": "9" * 64}, "data 111111111111 and 999999999999"),
        ({"prompts_sha256": "9" * 64}, "class names or templates 2222"),
        ({"precision": "bf16"}, "precision fp32 and bf16"),
        ({"limit": 100}, "limit none and 100"),
        ({"params": "preprocess=hf"}, "settings none and preprocess=hf"),
    ],
)
def test_rows_of_other_conditions_are_refused(change, words, tmp_path):
    write(tmp_path / "base", [row()])
    with pytest.raises(UserError, match=words):
        verdicts_of(tmp_path / "new", [row(**change)], baseline=str(tmp_path / "base"), max_drop=0.1)


def test_every_checkpoint_is_judged_and_each_against_its_namesake(tmp_path):
    both = [row(value=0.9), row(value=0.5, pretrained="b", checkpoint_sha256="b" * 64)]
    write(tmp_path / "base", both)
    options = {"baseline": str(tmp_path / "base"), "max_drop": 0.1}
    new = [row(value=0.7, checkpoint_sha256="c" * 64), row(value=0.5, pretrained="b", checkpoint_sha256="d" * 64)]
    found = verdicts_of(tmp_path / "new", new, **options)
    assert [(v.pretrained, v.baseline, v.verdict) for v in found] == [("a", 0.9, "failed"), ("b", 0.5, "passed")]
    other = [row(value=0.7, pretrained="elsewhere", checkpoint_sha256="e" * 64)]
    with pytest.raises(UserError, match=r"has 2 checkpoints(.|\n)*- tiny \(a\) aaaaaaaa\n- tiny \(b\) bbbbbbbb"):
        verdicts_of(tmp_path / "new", other, **options)
    (found,) = verdicts_of(tmp_path / "new", other, **options, baseline_checkpoint="bbbb")
    assert (found.baseline, found.verdict) == (0.5, "passed")
    write(tmp_path / "one", both[:1])
    found = verdicts_of(tmp_path / "new", new, baseline=str(tmp_path / "one"), max_drop=0.1)
    assert [v.baseline for v in found] == [0.9, 0.9]


def test_rows_that_only_one_side_has_do_not_pass(tmp_path):
    write(tmp_path / "base", [row(), row(dataset="e"), row("acc5", is_main=True)])
    options = {"baseline": str(tmp_path / "base"), "max_drop": 0.1}
    found = verdicts_of(tmp_path / "new", [row(), row(dataset="f")], **options)
    told = {(v.dataset, v.metric, v.verdict, v.words) for v in found}
    assert told == {
        ("d", "acc1", "passed", "equal"),
        ("d", "acc5", "no row", "this run has no such row"),
        ("f", "acc1", "no row", "the baseline has no such row"),
    }


def test_a_data_set_that_was_asked_for_and_gave_nothing_does_not_pass(tmp_path):
    write(tmp_path / "base", [row(dataset="cifar10"), row(dataset="mnist")])
    gates = plan_gates("zeroshot", ["cifar10,mnist"], baseline=str(tmp_path / "base"), max_drop=0.1)
    found = judge(gates, [row(dataset="cifar10")], tmp_path, partial=True)
    assert [(v.dataset, v.verdict) for v in found] == [("cifar10", "passed"), ("mnist", "no row")]
    assert exit_code(found, partial=True) == 3


def test_require_complete(tmp_path):
    rows = [row(), row("acc5", is_main=False), row(dataset="e")]
    write(tmp_path / "base", rows)
    options = {"baseline": str(tmp_path / "base"), "require_complete": True}
    (found,) = verdicts_of(tmp_path / "new", rows, **options)
    assert (found.verdict, found.words) == ("passed", "all of the baseline's 3 rows are in this run")
    found = verdicts_of(tmp_path / "new", rows[:1], **options)
    assert [(v.dataset, v.metric, v.verdict) for v in found] == [("d", "acc5", "failed"), ("e", "acc1", "failed")]
    assert [v.words for v in found] == [
        "in the baseline, not in this run",
        "in the baseline, not asked for in this run",
    ]
    write(tmp_path / "new", rows[:1])
    tell(tmp_path / "new", failures=["e"])
    found = verdicts_of(tmp_path / "new", [rows[0], rows[1]], **options)
    assert [(v.verdict, v.words) for v in found] == [("no row", "could not be computed")]


# --- by proof --------------------------------------------------------------------------------------------------------


def run_pair(tmp_path, before, after, **options):
    write(tmp_path / "base", [row(value=float(before.mean()))], before)
    new = row(value=float(after.mean()), checkpoint_sha256="b" * 64)
    write(tmp_path / "new", [new], after)
    return verdicts_of(tmp_path / "new", [new], baseline=str(tmp_path / "base"), **options)


def test_a_drop_fails_only_when_it_is_proved(tmp_path):
    # 30 of 1,000 lost, none gained: beyond 0.003 without doubt. 8 lost and 3 gained: more than 0.003, but not proved.
    (found,) = run_pair(tmp_path / "1", hits(1000), hits(1000, *range(30)), max_drop=0.003, significant=True)
    assert (found.verdict, found.words) == ("failed", "drop proved beyond 0.003")
    before, after = hits(1000, 0, 1, 2), hits(1000, *range(3, 11))
    (found,) = run_pair(tmp_path / "2", before, after, max_drop=0.003, significant=True)
    assert (found.verdict, found.words) == ("passed", "drop not proved beyond 0.003")
    assert found.difference == pytest.approx(-0.005)
    (found,) = run_pair(tmp_path / "3", before, after, max_drop=0.003)
    assert found.verdict == "failed" and found.low < -0.005 < found.high


def test_a_small_drop_must_be_ruled_out_to_be_not_inferior(tmp_path):
    before, after = hits(1000, 0, 1, 2), hits(1000, *range(3, 11))
    (found,) = run_pair(tmp_path / "1", before, after, non_inferior=0.005)
    assert (found.verdict, found.words) == ("failed", "drop beyond 0.005 not ruled out")
    (found,) = run_pair(tmp_path / "2", before, after, non_inferior=0.02)
    assert (found.verdict, found.words) == ("passed", "drop beyond 0.02 ruled out")


@pytest.mark.parametrize("alpha", [0.05, 0.01])
def test_the_interval_has_one_sided_bounds_at_alpha(alpha, tmp_path):
    before, after = hits(200, 0, 1, 2), hits(200, *range(3, 15))
    (found,) = run_pair(tmp_path, before, after, max_drop=0.01, significant=True, alpha=alpha)
    expected = paired_proportions(before == 1, after == 1, alpha=2 * alpha)
    assert (found.low, found.high, found.alpha) == (expected.low, expected.high, alpha)


def test_of_a_metric_where_lower_is_better_a_rise_is_the_drop(tmp_path):
    before = np.linspace(0.1, 2.0, 400)
    for name, values, sha in (("base", before, "a"), ("new", before + 0.2, "b")):
        made = row("nll", float(values.mean()), checkpoint_sha256=sha * 64)
        write(tmp_path / name, [made])
        with ResultsFolder(tmp_path / name, command="zeroshot", settings={}) as folder:
            folder.begin()
            folder.add([made], {"sample_id": [str(i) for i in range(400)], "nll": values})
    options = {"baseline": str(tmp_path / "base"), "max_drop": 0.1, "significant": True, "non_inferior": 0.3}
    found = verdicts_of(tmp_path / "new", read_rows(tmp_path / "new" / "results.csv"), **options)
    assert [(v.gate, v.verdict) for v in found] == [("max-drop significant", "failed"), ("non-inferior", "passed")]
    assert found[0].low > 0.1 and found[0].difference == pytest.approx(0.2)


def test_what_has_no_paired_interval_is_not_judged(tmp_path):
    made = [row(), row("ece", 0.1, is_main=False)]
    write(tmp_path / "base", made, hits(10, 0))
    new = [row(checkpoint_sha256="b" * 64), row("ece", 0.2, is_main=False, checkpoint_sha256="b" * 64)]
    write(tmp_path / "new", new, hits(10, 1))
    options = {"baseline": str(tmp_path / "base"), "max_drop": 0.1, "significant": True, "gate_metrics": ["ece"]}
    found = verdicts_of(tmp_path / "new", new, **options)
    assert [v.verdict for v in found] == ["passed", "no test"] and exit_code(found) == 2
    assert found[1].words == "no paired interval: no mean over per-sample lines"


def test_a_run_whose_samples_are_gone_is_not_judged_by_proof(tmp_path):
    write(tmp_path / "base", [row()], hits(10, 0))
    new = [row(value=0.8, checkpoint_sha256="b" * 64)]
    options = {"baseline": str(tmp_path / "base"), "max_drop": 0.1, "significant": True}
    (found,) = verdicts_of(tmp_path / "new", new, **options)
    assert (found.verdict, found.words) == ("no test", "no paired interval: this run has no per-sample file")


def test_the_same_weights_are_not_inferior_to_themselves(tmp_path):
    write(tmp_path / "base", [row()], hits(10, 0))
    write(tmp_path / "new", [row()], hits(10, 0))
    (found,) = verdicts_of(tmp_path / "new", [row()], baseline=str(tmp_path / "base"), non_inferior=0.001)
    assert (found.verdict, found.words) == ("passed", "the same weights gave the same number")


# --- published numbers -----------------------------------------------------------------------------------------------


def test_published_rows_name_registry_sets_and_their_source():
    for name, protocol in (("open_clip", "datacomp"), ("clip_benchmark", "clip_benchmark")):
        rows = published_rows(name)
        assert {r.dataset for r in rows} <= set(CATALOG) and {r.protocol for r in rows} == {protocol}
        assert all(0 <= r.value <= 1 for r in rows)
        assert len({(r.model, r.pretrained, r.dataset, r.metric) for r in rows}) == len(rows)
        main = {r.dataset for r in rows if r.is_main}
        if name == "open_clip":  # its table holds the main metric of every set
            assert {d for d in {r.dataset for r in rows} if d.startswith("datacomp/")} == main


def number(name, model, dataset, metric):
    model, _, pretrained = model.partition("/")
    found = [
        r.value
        for r in published_rows(name)
        if (r.model, r.pretrained, r.dataset, r.metric) == (model, pretrained, dataset, metric)
    ]
    assert len(found) == 1
    return found[0]


def test_published_numbers_are_as_printed():
    assert number("open_clip", "ViT-B-32/openai", "datacomp/cifar10", "acc1") == 0.8983
    assert number("open_clip", "ViT-L-14/openai", "flickr30k", "text_retrieval_recall@10") == 0.9920
    assert number("open_clip", "ViT-B-16/openai", "datacomp/dollar_street", "worst_group_acc5") == 0.5876
    assert number("clip_benchmark", "ViT-B-32/laion2b_s34b_b79k", "svhn", "acc5") == 0.80228
    assert number("clip_benchmark", "ViT-L-14/openai", "voc2007_multilabel", "mean_average_precision") == 0.79038


MODELS = ("ViT-B-32/openai", "ViT-B-32/laion2b_s34b_b79k", "ViT-B-16/openai", "ViT-L-14/openai")


@pytest.mark.parametrize(
    ("dataset", "points"),
    [
        ("caltech101", (-0.29, 0.14, -1.88, -0.86)),
        ("clevr_count_all", (-0.32, -0.38, 0.79, 0.48)),
        ("clevr_closest_object_distance", (6.19, 5.49, 6.48, 4.14)),
        ("gtsrb", (-0.53, -0.01, -0.24, 0.37)),
        ("kitti_closest_vehicle_distance", (0.00, 0.42, -0.56, -0.56)),
        ("mnist", (-0.16, 0.74, 1.80, -0.45)),
        ("pcam", (0.05, 1.36, 0.09, 0.44)),
        ("renderedsst2", (-0.33, 0.66, -0.44, -1.04)),
        ("svhn", (19.22, 1.55, 21.42, 1.33)),
    ],
)
def test_the_two_tables_differ_as_their_comparison_says(dataset, points):
    metric = CATALOG[f"datacomp/{dataset}"].main_metric
    for model, expected in zip(MODELS, points, strict=True):
        difference = number("open_clip", model, f"datacomp/{dataset}", metric) - number(
            "clip_benchmark", model, dataset, metric
        )
        assert 100 * difference == pytest.approx(expected, abs=0.011)  # both tables are rounded


class Said:
    def __init__(self):
        self.lines = []

    def say(self, text):
        self.lines.append(text)

    warn = say


def published_case(**values):
    entry = CATALOG[values["dataset"]]
    values = {
        "protocol": "clip_benchmark",
        "prompts_sha256": prompts_sha256(entry.classnames, entry.templates),
    } | values
    return row(model="ViT-B-32-quickgelu", pretrained="openai", **values)


def test_a_run_against_published_numbers(tmp_path):
    rows = [published_case(dataset="cifar10", value=0.897), published_case(dataset="svhn", value=0.1)]
    rows.append(published_case(dataset="food101", value=0.8))
    said, options = Said(), {"baseline": "ref:clip_benchmark", "max_drop": 0.003}
    found = verdicts_of(tmp_path, rows, **options, progress=said)
    assert [(v.dataset, v.baseline, v.verdict) for v in found] == [
        ("cifar10", 0.8982, "passed"),
        ("svhn", 0.12369, "failed"),
    ]
    assert said.lines == ["not gated, since 'ref:clip_benchmark' has no number for them: food101.acc1"]
    with pytest.raises(UserError, match="svhn: protocol clip_benchmark and strict") as error:
        verdicts_of(tmp_path, [published_case(dataset="svhn", protocol="strict")], **options)
    assert "--protocol clip_benchmark" in error.value.hint
    with pytest.raises(UserError, match="a sample of 50"):
        verdicts_of(tmp_path, [published_case(dataset="svhn", limit=50)], **options)
    with pytest.raises(UserError, match=r"no number for food101.acc1"):
        verdicts_of(tmp_path, rows[2:], **options)
    found = verdicts_of(tmp_path, [published_case(dataset="mnist")], **options, baseline_checkpoint="ViT-L-14")
    assert [v.baseline for v in found] == [0.7679]


def test_other_metrics_or_other_files_of_the_same_set_are_named(tmp_path):
    made = published_case(dataset="flickr30k", metric="image_retrieval_recall@1", command="retrieve")
    with pytest.raises(UserError) as error:
        verdicts_of(tmp_path, [made], baseline="ref:clip_benchmark", max_drop=0.01)
    assert error.value.hint == "It has others: --gate-metrics image_retrieval_recall@5,text_retrieval_recall@5."
    with pytest.raises(UserError) as error:
        verdicts_of(tmp_path, [published_case(dataset="cifar10")], baseline="ref:open_clip", max_drop=0.01)
    assert "datacomp/cifar10" in error.value.hint


def test_other_words_than_the_registrys_are_not_held_to_published_numbers(tmp_path):
    options = {"baseline": "ref:clip_benchmark", "max_drop": 0.003}
    assert verdicts_of(tmp_path, [published_case(dataset="cifar10")], **options)[0].verdict == "passed"
    with pytest.raises(UserError, match=r"registry's class names and templates; those of cifar10 differ"):
        verdicts_of(tmp_path, [published_case(dataset="cifar10", prompts_sha256="9" * 64)], **options)


def test_of_a_published_table_only_what_was_asked_for_must_be_there(tmp_path):
    rows = [r for r in published_rows("clip_benchmark") if (r.model, r.pretrained) == ("ViT-B-32", "openai")]
    rows = [replace(r, command="zeroshot") for r in rows if r.dataset == "cifar10"]
    options = {"baseline": "ref:clip_benchmark", "require_complete": True}
    (found,) = verdicts_of(tmp_path, rows, **options)
    assert (found.verdict, found.words) == ("passed", "all of the baseline's 3 rows of these data sets are in this run")
    found = verdicts_of(tmp_path, rows[:1], **options)
    assert [(v.dataset, v.verdict) for v in found] == [("cifar10", "failed")] * 2
    found = verdicts_of(tmp_path, rows, **options, datasets=["cifar10,svhn"], max_drop=0.5)
    assert {(v.dataset, v.gate, v.verdict) for v in found if v.verdict != "passed"} == {
        ("svhn", "max-drop", "no row"),
        ("svhn", "complete", "failed"),
    }


# --- what was asked for ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("told", "verdict", "words"),
    [
        ({"datasets": ["digitworld/color,folder:photos"]}, "no row", "this run has no such row"),
        ({"datasets": "folder:somewhere/photos/test"}, "no row", "this run has no such row"),
        ({"datasets": ["csv:x"], "name": "photos/test"}, "no row", "this run has no such row"),
        ({"datasets": ["digitworld/color"], "failures": ["photos/test"]}, "no row", "could not be computed"),
        ({"datasets": ["digitworld/color"], "failures": ["folder:photos"]}, "no row", "could not be computed"),
        ({"datasets": ["digitworld/color"]}, None, None),
        ({"datasets": 5}, None, None),
        ({}, None, None),
    ],
)
def test_a_data_set_that_was_asked_for_is_not_passed_over(told, verdict, words, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    write(tmp_path / "base", [row(dataset="digitworld/color"), row(dataset="photos/test"), row("acc5", is_main=False)])
    new = [row(dataset="digitworld/color")]
    tell(write(tmp_path / "new", new), **told)
    said = Said()
    found = verdicts_of(tmp_path / "new", new, baseline="base", max_drop=0.1, progress=said)
    assert [(v.dataset, v.verdict, v.words) for v in found] == [
        ("digitworld/color", "passed", "equal"),
        *([("photos/test", verdict, words)] if verdict else []),
    ]
    assert [("rows of it: photos/test;" in line) for line in said.lines] == [True] * (verdict is None)
    found = verdicts_of(tmp_path / "new", new, baseline="base", require_complete=True)
    expected = "no row" if words == "could not be computed" else "failed"
    assert {v.dataset: v.verdict for v in found} == {"photos/test": expected, "d": "failed"}


def test_what_failed_stands_in_results_json(tmp_path):
    class Failure(NamedTuple):
        model: str
        dataset: str
        error: Exception

    write(tmp_path, [row()])
    assert read_asked(tmp_path) == Asked({}, (), (), False)
    with ResultsFolder(tmp_path, command="zeroshot", settings={"datasets": "mnist"}) as folder:
        folder.begin()
        folder.failures = [Failure("tiny", "wds/mnist", UserError("damaged"))]
    about = json.loads((tmp_path / "results.json").read_text())
    assert (about["status"], about["failures"][0]["error"]) == ("partial", "damaged")
    assert read_asked(tmp_path) == Asked({"datasets": "mnist"}, (("mnist",),), (("mnist",),), True)


@pytest.mark.parametrize("content", ["", "5", '{"settings": 5, "failures": 5}', '{"settings": {"datasets": [7]}}'])
def test_settings_that_are_none_ask_for_nothing(content, tmp_path):
    (tmp_path / "results.json").write_text(content)
    assert read_asked(tmp_path)[1:] == ((), (), False)


def test_nothing_to_compare_does_not_pass(tmp_path):
    write(tmp_path / "base", [row(is_main=False)])
    options = {"baseline": str(tmp_path / "base")}
    (found,) = verdicts_of(tmp_path / "new", [row(is_main=False)], **options, max_drop=0.1)
    assert found.verdict == "no row" and "--gate-metrics" in found.words
    gates = plan_gates("", **options, require_complete=True)
    (found,) = judge(gates, [row(command="retrieve")], tmp_path / "new")
    assert (found.verdict, found.words) == ("no row", "the baseline has no row that could be in this run")
    assert {v.verdict for v in judge(gates, [], tmp_path / "new")} == {"no row"}


# --- what is no number -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("value", [None, math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("options", [{"max_drop": 0.1}, {"max_drop": 0.1, "significant": True}, {"non_inferior": 0.5}])
def test_a_value_that_is_no_number_never_passes(value, options, tmp_path):
    good = write(tmp_path / "good", [row(value=0.9)], hits(10, 0))
    assert read_rows(good / "results.csv")
    for base, new, whose in ((0.9, value, "this run's"), (value, 0.9, "the baseline's")):
        gates = plan_gates("zeroshot", baseline=str(good), **options)
        run = gates.baseline.run._replace(rows=[row(value=base)])
        gates = gates._replace(baseline=gates.baseline._replace(run=run))
        (found,) = judge(gates, [row(value=new)], good)
        assert (found.verdict, found.words) == ("no row", f"{whose} row holds no number")
        assert (found.baseline, found.value) == tuple(v if v == 0.9 else None for v in (base, new))


@pytest.mark.parametrize("value", [None, math.nan, math.inf])
def test_a_threshold_is_not_met_by_what_is_no_number(value, tmp_path):
    rows = [row(value=value), row("nll", value)]
    found = verdicts_of(tmp_path, rows, fail_under=["d.acc1=0.1"], fail_over=["d.nll=3"])
    assert [(v.verdict, v.words) for v in found] == [("no row", "this run's row holds no number")] * 2


def test_an_interval_without_ends_is_no_proof(tmp_path, monkeypatch):
    ends = Difference(0.0, math.nan, math.nan, 1.0, 10, None, None)
    monkeypatch.setattr("clipib.tasks.against.pair", lambda *_, **__: Paired(ends, 10))
    found = run_pair(tmp_path, hits(10), hits(10, 1), max_drop=0.5, significant=True, non_inferior=0.5)
    assert [(v.verdict, v.low) for v in found] == [("no test", None)] * 2


# --- words that help -------------------------------------------------------------------------------------------------


def test_of_two_temperatures_neither_is_meant(tmp_path):
    fitted = "temperature=fit;temperature_data=0123456789ab"
    rows = [row("nll", 0.5, params=fitted), row("nll", 0.9, params="temperature=0.01")]
    with pytest.raises(UserError, match="2 rows are called d.nll") as error:
        verdicts_of(tmp_path, rows, fail_over=["d.nll=1"])
    assert error.value.hint == f"Write d.nll({fitted})=..."
    (found,) = verdicts_of(tmp_path, rows, fail_over=["d.nll(temperature=0.01)=1"])
    assert found.value == 0.9


def test_the_hint_of_an_ambiguous_key_can_be_typed(tmp_path):
    rows = [row(value=0.1 * i, params=f"probe=knn;probe_seed={i};shots=1") for i in range(3)]
    rows.append(row(value=0.5, params="probe=knn;seeds=3;shots=1"))
    with pytest.raises(UserError) as error:
        verdicts_of(tmp_path, rows, fail_under=["d.acc1(shots=1)=0.1"])
    typed = error.value.hint.removeprefix("Write ").replace("...", "0.2")
    assert typed == "d.acc1(probe=knn;seeds=3;shots=1)=0.2"
    assert [v.value for v in verdicts_of(tmp_path, rows, fail_under=[typed])] == [0.5]
    with pytest.raises(UserError, match=r"fits no row; the params there are:\n- probe=knn;probe_seed=0;shots=1"):
        verdicts_of(tmp_path, rows, fail_under=["d.acc1(shots=2)=0.1"])


def test_a_refusal_names_the_file_of_class_names(tmp_path):
    write(tmp_path / "base", [row()])
    tell(tmp_path / "base", language="en", classnames=None)
    new = row(prompts_sha256="9" * 64)
    write(tmp_path / "new", [new])
    tell(tmp_path / "new", language="en", classnames="cn.txt")
    with pytest.raises(UserError, match="--classnames none and cn.txt") as error:
        verdicts_of(tmp_path / "new", [new], baseline=str(tmp_path / "base"), max_drop=0.1)
    assert "--language" not in error.value.message


@pytest.mark.parametrize(
    ("command", "change", "hint"),
    [
        ("", {"limit": 9}, "Evaluate both in the same way."),
        ("zeroshot", {"limit": 9}, "--datasets"),
        ("finetune", {"seed": 1, "data_sha256": "9" * 64}, "by --seed, which is 0 there and 1 here"),
        ("finetune", {"data_sha256": "9" * 64}, "Train both with the same --val"),
    ],
)
def test_a_refusal_hints_at_what_the_command_has(command, change, hint, tmp_path):
    kind = command or "zeroshot"
    write(tmp_path / "base", [row(command=kind)])
    gates = plan_gates(command, baseline=str(tmp_path / "base"), max_drop=0.1)
    with pytest.raises(UserError) as error:
        judge(gates, [row(command=kind, **change)], tmp_path / "new")
    assert hint in error.value.hint and ("--datasets" in error.value.hint) == (command == "zeroshot")


def test_a_gate_that_passed_on_a_part_of_the_samples_says_so(tmp_path):
    write(tmp_path / "base", [row(value=1.0)], hits(10))
    new = row(value=1.0, checkpoint_sha256="b" * 64)
    with ResultsFolder(write(tmp_path / "new", [new]), command="zeroshot", settings={}) as folder:
        folder.begin()
        folder.add([new], {"sample_id": [f"s{i}" for i in range(2, 12)], "target_rank": [0] * 10})
    options = {"baseline": str(tmp_path / "base"), "max_drop": 0.5, "significant": True}
    (found,) = verdicts_of(tmp_path / "new", [new], **options)
    assert (found.verdict, found.words) == (
        "passed",
        "drop not proved beyond 0.5 on the samples that both have (4 are in one only)",
    )


# --- what is kept ----------------------------------------------------------------------------------------------------


def test_verdicts_as_csv(tmp_path):
    found = verdicts_of(tmp_path, [row(value=1 / 3)], fail_under=["d.acc1=0.5"])
    (line,) = csv.DictReader(io.StringIO(to_csv(found)))
    assert float(line["value"]) == 1 / 3 and line["baseline"] == "" and line["verdict"] == "failed"
