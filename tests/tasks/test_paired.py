"""Runs read back, rows matched or refused, samples joined: against figures worked out by hand."""

import numpy as np
import pytest
from made_runs import classified, hits, made_row, made_run, ranked, share

from clipib.errors import UserError
from clipib.tasks.paired import comparable, match, outcomes, pair
from clipib.tasks.runs import read_run, rows_of_checkpoint, samples_of

A = "11111111" + "0000000" + "10" + "111"
B = "01111111" + "1111111" + "10" + "111"  # one lost, seven gained


def two_runs(tmp_path, a=A, b=B):
    for name, word in (("a", a), ("b", b)):
        made_run(tmp_path / name, [made_row("acc1", share(word))], {"d": [hits(word)]})
    return read_run(tmp_path / "a"), read_run(tmp_path / "b")


def paired(run_a, run_b, i=0, j=0, **options):
    return pair(run_a, run_b, run_a.rows[i], run_b.rows[j], **options)


def test_hits_and_misses_by_hand(tmp_path):
    found = paired(*two_runs(tmp_path))
    assert found.difference.value == pytest.approx(6 / 20)
    assert (found.difference.gained, found.difference.lost, found.n, found.only_a, found.only_b) == (7, 1, 20, 0, 0)
    assert found.difference.p == pytest.approx(2 * (1 + 8 / 2) / 2**8)
    assert 0 < found.difference.low < 0.3 < found.difference.high


def test_samples_are_joined_by_id_whatever_their_order(tmp_path):
    run_a, _ = two_runs(tmp_path)
    lines = {k: np.array(v)[::-1].tolist() for k, v in hits(B).items()}
    run_b = read_run(made_run(tmp_path / "c", [made_row("acc1", share(B))], {"d": [lines]}))
    assert paired(run_a, run_b) == paired(run_a, read_run(tmp_path / "b"))


def test_samples_of_one_run_only_are_counted_and_left_out(tmp_path):
    run_a, _ = two_runs(tmp_path)
    lines = {k: list(v)[1:] for k, v in hits(B).items()}  # without the one that was lost
    run_b = read_run(made_run(tmp_path / "c", [made_row("acc1", share(B[1:]))], {"d": [lines]}))
    found = paired(run_a, run_b)
    assert (found.n, found.only_a, found.only_b) == (19, 1, 0)
    assert found.difference.value == pytest.approx(7 / 19) and found.difference.lost == 0


def test_recall_per_class_is_a_mean_over_classes(tmp_path):
    target = [0] * 8 + [1] * 2
    predicted = {"a": [0] * 4 + [1] * 4 + [1, 0], "b": [0] * 6 + [1] * 2 + [1, 1]}
    values = {"a": (4 / 8 + 1 / 2) / 2, "b": (6 / 8 + 2 / 2) / 2}
    for name in "ab":
        row = made_row("mean_per_class_recall", values[name])
        made_run(tmp_path / name, [row], {"d": [classified(target, predicted[name])]})
    found = paired(read_run(tmp_path / "a"), read_run(tmp_path / "b"))
    assert found.difference.value == pytest.approx(0.875 - 0.5)
    assert (found.difference.gained, found.difference.lost) == (3, 0)


def retrieval_runs(tmp_path):
    """Two images with two captions each, one of them written twice."""
    captions = [("x", "a cat"), ("x", "a cat"), ("y", "a dog"), ("y", "a hound")]
    ranks = {"a": ([0, 1, 5, 0], [0, 2]), "b": ([0, 0, 1, 3], [1, 0])}
    for name, (of_captions, of_images) in ranks.items():
        lines = ranked(
            [(*c, r) for c, r in zip(captions, of_captions, strict=True)],
            list(zip("xy", of_images, strict=True)),
        )
        values = {
            "image_retrieval_recall@1": np.mean(np.array(of_captions) < 1),
            "image_retrieval_recall@5": np.mean(np.array(of_captions) < 5),
            "text_retrieval_recall@1": np.mean(np.array(of_images) < 1),
            "image_retrieval_mean_rank": np.mean(of_captions) + 1,
            "text_retrieval_mean_rank": np.mean(of_images) + 1,
            "image_retrieval_median_rank": np.median(of_captions) + 1,
        }
        rows = [made_row(m, float(v), command="retrieve", prompts_sha256="") for m, v in values.items()]
        made_run(tmp_path / name, rows, {"d": [lines]})
    return read_run(tmp_path / "a"), read_run(tmp_path / "b")


def test_retrieval_both_ways(tmp_path):
    run_a, run_b = retrieval_runs(tmp_path)
    at_1, at_5, text, rank, text_rank, median = (paired(run_a, run_b, i, i) for i in range(6))
    assert at_1.difference.value == 0.0 and (at_1.difference.gained, at_1.difference.lost) == (1, 1)
    assert (at_1.n, at_1.difference.n) == (4, 2)  # captions, and the images that they cluster in
    assert at_5.difference.value == 0.25
    assert text.difference.value == 0.0 and text.difference.n == text.n == 2
    assert rank.difference.value == pytest.approx(2.0 - 2.5) and rank.difference.gained is None
    assert text_rank.difference.value == pytest.approx(1.5 - 2.0)
    assert median.difference is None and median.why == "no mean over per-sample lines"


def test_equal_captions_of_an_image_are_told_apart_by_their_turn(tmp_path):
    run_a, _ = retrieval_runs(tmp_path)
    found = outcomes(run_a.rows[0], samples_of(run_a, run_a.rows[0]))
    assert len(set(found.ids)) == 4 and found.clusters.tolist() == ["x", "x", "y", "y"]
    assert found.values.tolist() == [True, False, False, True]


def test_a_column_that_bears_the_metrics_name_holds_its_values(tmp_path):
    nll = {"a": [1.0, 2.0, 3.0], "b": [0.5, 1.0, 3.0]}
    for name, values in nll.items():
        lines = classified([0, 1, 0], [0, 1, 1]) | {"nll": values}
        made_run(tmp_path / name, [made_row("nll", float(np.mean(values)))], {"d": [lines]})
    found = paired(read_run(tmp_path / "a"), read_run(tmp_path / "b"))
    assert found.difference.value == pytest.approx(-0.5) and found.difference.gained is None


def test_parts_of_the_samples_go_by_their_column(tmp_path):
    lines = {"sample_id": list("abcd"), "kind": ["swap", "swap", "add", "add"], "text_acc": [True, False, True, True]}
    row = made_row("text_acc", 0.5, command="retrieve", params="kind=swap")
    run = read_run(made_run(tmp_path / "a", [row], {"d": [lines]}))
    assert outcomes(row, samples_of(run, row)).values.tolist() == [True, False]
    other = made_row("acc1", 0.5, params="images=ungreyed")
    assert outcomes(other, samples_of(run, row)) is None


@pytest.mark.parametrize("metric", ["ece", "macro_f1", "worst_group_acc1", "mean_average_precision"])
def test_what_is_no_mean_over_samples_has_no_interval(tmp_path, metric):
    run_a, run_b = two_runs(tmp_path)
    rows = [made_row(metric, 0.5) for _ in range(2)]
    assert pair(run_a, run_b, *rows).why == "no mean over per-sample lines"


def test_samples_that_give_another_value_are_not_those_of_the_row(tmp_path):
    run_a, run_b = two_runs(tmp_path)
    found = pair(run_a, run_b, run_a.rows[0], made_row("acc1", 0.95))
    assert found.difference is None and found.why == "the per-sample file of B gives another value"


def test_without_samples_there_is_no_interval(tmp_path):
    run_a, run_b = two_runs(tmp_path)
    (tmp_path / "b" / "samples" / "d.parquet").unlink()
    assert paired(run_a, run_b).why == "B has no per-sample file"


def test_a_file_of_samples_that_changed_is_read_again_and_a_damaged_one_told(tmp_path):
    run_a, _ = two_runs(tmp_path)
    path = tmp_path / "a" / "samples" / "d.parquet"
    assert len(samples_of(run_a, run_a.rows[0])) == 20
    path.write_bytes(b"no parquet")
    with pytest.raises(UserError, match="is damaged"):
        samples_of(run_a, run_a.rows[0])


def test_samples_of_another_seed_or_limit_are_not_taken(tmp_path):
    run_a, _ = two_runs(tmp_path)
    row = run_a.rows[0]
    assert len(samples_of(run_a, row)) == 20
    assert samples_of(run_a, made_row("acc1", row.value, seed=1)) is None
    assert samples_of(run_a, made_row("acc1", row.value, limit=20)) is None
    assert samples_of(run_a, made_row("acc1", row.value, params="prompt_pooling=union")) is None


@pytest.mark.parametrize(
    "change, words",
    [
        ({"protocol": "clip_benchmark"}, "protocol strict and clip_benchmark"),
        ({"data_sha256": "f" * 64}, "data dddddddddddd and ffffffffffff"),
        ({"prompts_sha256": "0" * 64}, "class names or templates eeeeeeeeeeee and 000000000000"),
        ({"precision": "bf16"}, "precision fp32 and bf16"),
        ({"limit": 50, "data_sha256": "f" * 64}, "limit none and 50"),
        ({"params": "preprocess=hf"}, "settings none and preprocess=hf"),
    ],
)
def test_rows_that_were_made_otherwise_are_refused(change, words):
    rows = [made_row("acc1", 0.5), made_row("acc5", 0.5)]
    with pytest.raises(UserError) as caught:
        match(rows, [made_row("acc1", 0.5, **change), made_row("acc5", 0.5, **change)])
    assert caught.value.message == f"These rows cannot be compared:\n- d (test): {words}"


def test_differing_templates_are_named_where_the_settings_tell():
    with pytest.raises(UserError, match="--templates mine.txt and none"):
        match(
            [made_row("acc1", 0.5)],
            [made_row("acc1", 0.5, prompts_sha256="0" * 64)],
            settings_a={"templates": "mine.txt"},
            settings_b={"templates": None},
        )


def test_of_several_protocols_each_finds_its_own():
    both = [made_row("acc1", 0.5), made_row("acc1", 0.6, protocol="clip_benchmark")]
    assert match(both, both[::-1]).pairs == [(r, r) for r in both]
    assert match(both, both[1:]).pairs == [(both[1], both[1])]


def test_marks_of_the_result_do_not_keep_rows_apart():
    a = [made_row("worst_group_acc1", 0.5, params="group=3;overlap=val"), made_row("acc1", 0.5), made_row("ece", 0.1)]
    b = [made_row("worst_group_acc1", 0.4, params="group=1"), made_row("acc1", 0.6), made_row("nll", 1.0)]
    found = match(a, b)
    assert found.pairs == [(a[0], b[0]), (a[1], b[1])]
    assert found.only_a == [a[2]] and found.only_b == [b[2]]


def test_ceilings_say_nothing_of_a_checkpoint():
    assert comparable(made_row("acc1", 0.5)) and not comparable(made_row("acc1_bayes", 0.5))
    assert not comparable(made_row("image_retrieval_recall@1", 0.5, params="scores=true_pmi;ties=expected"))


def test_a_checkpoint_is_picked_by_name_weights_or_hash(tmp_path):
    names = [("ViT-B-32", "openai", "a" * 64), ("ViT-B-32", "laion2b", "ab" * 32), ("RN50", "openai", "c" * 64)]
    rows = [made_row("acc1", 0.5, model=m, pretrained=p, checkpoint_sha256=h) for m, p, h in names]
    run = read_run(made_run(tmp_path / "a", rows))
    for text, place in (("rn50", 2), ("laion", 1), ("ab", 1), ("b-32 (openai", 0), ("c" * 64, 2)):
        assert rows_of_checkpoint(run, text, flag="--checkpoint-a") == [rows[place]]
    for text, words in ((None, "has rows of 3"), ("openai", "fits 2"), ("x", "fits no checkpoint")):
        with pytest.raises(UserError, match=words) as caught:
            rows_of_checkpoint(run, text, flag="--checkpoint-a")
        assert "RN50 (openai) cccccccc" in caught.value.message and "--checkpoint-a cccccccc" in caught.value.hint


def test_a_run_is_a_folder_or_its_table(tmp_path):
    run = two_runs(tmp_path)[0]
    alone = read_run(tmp_path / "a" / "results.csv")
    assert alone.rows == run.rows and alone.samples == run.samples and alone.status == "complete"


def test_what_is_no_run_is_told(tmp_path):
    two_runs(tmp_path / "runs")
    for path, words, hint in (
        (tmp_path / "runs" / "aa", "There is no run", "Did you mean"),
        (tmp_path / "runs", "is no run: it has no results.csv", "a, b"),
    ):
        with pytest.raises(UserError, match=words) as caught:
            read_run(path)
        assert hint in caught.value.hint
    made_run(tmp_path / "none", [])
    with pytest.raises(UserError, match="has no rows"):
        read_run(tmp_path / "none")
    (tmp_path / "none" / "results.csv").write_text("model,value\n")
    with pytest.raises(UserError, match="does not have the columns") as caught:
        read_run(tmp_path / "none")
    assert "Evaluate again" in caught.value.hint


def labelled_runs(tmp_path, *, levels=0, **row):
    """80 images of 5 classes, some of several; B tells them apart better. Returns scores of A and B, and labels."""
    from clipib.metrics.multilabel import mean_average_precision

    rng = np.random.default_rng(5)
    labels = rng.random((80, 5)) < 0.3
    scores = {name: rng.normal(size=(80, 5)) + gap * labels for name, gap in (("a", 0.5), ("b", 2.5))}
    if levels:
        scores = {name: np.round(s * levels) / levels for name, s in scores.items()}
    for name, own in scores.items():
        lines = {
            "sample_id": [f"{i}.png" for i in range(80)],
            "targets": [np.flatnonzero(line).tolist() for line in labels],
            "scores": own.tolist(),
        }
        values = {"n": 80, "is_main": True, "value": mean_average_precision(own, labels), **row}
        made_run(tmp_path / name, [made_row("mean_average_precision", **values)], {"d": [lines]})
    return scores["a"], scores["b"], labels


def test_mean_average_precision_is_drawn_anew_for_both_together(tmp_path):
    from clipib.metrics.multilabel import mean_average_precision
    from clipib.metrics.paired import paired_statistic
    from clipib.tasks.paired import DRAWS

    a, b, labels = labelled_runs(tmp_path)
    run_a, run_b = read_run(tmp_path / "a"), read_run(tmp_path / "b")
    found = paired(run_a, run_b, seed=3)

    def naive(rows):
        return mean_average_precision(b[rows], labels[rows]) - mean_average_precision(a[rows], labels[rows])

    order = np.argsort([f"{i}.png" for i in range(80)])  # the join sorts by id
    expected = paired_statistic(lambda rows: naive(order[rows]), 80, draws=DRAWS, seed=3)
    assert found.difference[:5] == pytest.approx(expected[:5], abs=1e-12)
    assert found.difference.low > 0 and found.difference.p < 0.01 and found.difference.gained is None
    assert found.difference.value == pytest.approx(run_b.rows[0].value - run_a.rows[0].value)
    assert found.n == 80 and paired(run_a, run_a).difference[:4] == (0, 0, 0, 1)


def test_a_value_with_ties_in_some_order_is_that_of_the_samples(tmp_path):
    import torch

    from clipib.tasks.clip_benchmark import average_precision_by_sort

    for name in "ab":
        tables = labelled_runs(tmp_path / name, levels=2, protocol="clip_benchmark")
        scores, labels = tables["ab".index(name)], tables[2]
        value = average_precision_by_sort(torch.from_numpy(scores), labels)
        run = read_run(tmp_path / name / name)
        row = made_row("mean_average_precision", value, n=80, protocol="clip_benchmark")
        assert abs(value - run.rows[0].value) > 1e-3  # ties together
        assert pair(run, run, row, row).difference.n == 80
        for outside in (value - 0.2, value + 0.2, float("nan")):
            other = made_row("mean_average_precision", outside, n=80, protocol="clip_benchmark")
            assert pair(run, run, row, other).why == "the per-sample file of B gives another value"


def test_several_labels_have_no_flips_and_are_compared_as_the_rest(tmp_path):
    from clipib.tasks.compare import compare

    labelled_runs(tmp_path)
    found = compare(tmp_path / "a", tmp_path / "b", out=tmp_path / "o")
    (line,) = found.lines
    assert (line.verdict, line.n, line.gained, line.note) == ("better", 80, None, "") and found.flips == []
    assert line.low < line.difference < line.high and 0 < line.detectable < 1


def rewritten(run, change):
    """The samples of a run with a column changed, read again."""
    import pandas as pd

    path = run.samples / "d.parquet"
    change(frame := pd.read_parquet(path))
    frame.to_parquet(path)
    return read_run(run.path)


def of_column(name, values):
    return lambda frame: frame.__setitem__(name, values)


@pytest.mark.parametrize(
    "change, words",
    [
        (lambda frame: frame.pop("sample_id"), "has no column 'sample_id'"),
        (of_column("sample_id", range(20)), "does not hold text in 'sample_id'"),
        (of_column("sample_id", [None, *map(str, range(19))]), "lacks 'sample_id' of some samples"),
        (of_column("target_rank", ["0"] * 20), "does not hold whole numbers from 0 in 'target_rank'"),
        (of_column("target", [np.nan] + [0.0] * 19), "lacks 'target' of some samples"),
        (of_column("target", [True] * 20), "does not hold whole numbers from 0 in 'target'"),
        (of_column("target", [0.5] * 20), "does not hold whole numbers from 0 in 'target'"),
        (of_column("predicted", [-1] * 20), "does not hold whole numbers from 0 in 'predicted'"),
        (of_column("predicted", [[0]] * 20), "does not hold whole numbers from 0 in 'predicted'"),
        (of_column("confidence", ["high"] * 20), "does not hold numbers in 'confidence'"),
        (of_column("acc1", ["yes"] * 20), "does not hold numbers in 'acc1'"),
        (of_column("seed", ["x"] * 20), "has no line of this row"),
        (of_column("seed", [[0]] * 20), "has no line of this row"),
        (lambda frame: frame.pop("protocol"), "has no line of this row"),
        (of_column("seed", [0] * 3 + [1] * 17), "has 3 samples, not 20"),
        (of_column("acc1", [np.nan] + [0.5] * 19), "has 19 samples, not 20"),
        (of_column("acc1", [np.inf] * 20), "gives another value"),
    ],
)
def test_a_file_of_other_columns_types_or_number_gives_no_test_and_says_why(tmp_path, change, words):
    for name, word in (("a", A), ("b", B)):
        made_run(tmp_path / name, [made_row("acc1", share(word), n=20)], {"d": [hits(word)]})
    run_a, run_b = read_run(tmp_path / "a"), rewritten(read_run(tmp_path / "b"), change)
    assert paired(run_a, run_b) == (None, 0, 0, 0, f"the per-sample file of B {words}")
    assert paired(run_b, run_a).why == f"the per-sample file of A {words}"


@pytest.mark.parametrize(
    "name, values",
    [
        ("scores", [0.5] * 80),
        ("scores", [[0.5] * 4] + [[0.5] * 5] * 79),
        ("scores", [[np.nan] * 5] * 80),
        ("scores", [["x"] * 5] * 80),
        ("targets", [[5]] * 80),
        ("targets", [[-1]] * 80),
        ("targets", [[0.5]] * 80),
        ("targets", ["0"] * 80),
        ("targets", [None] + [[0]] * 79),
    ],
)
def test_lists_of_scores_or_labels_that_are_none_give_no_test(tmp_path, name, values):
    labelled_runs(tmp_path)
    run_b = rewritten(read_run(tmp_path / "b"), of_column(name, values))
    why = paired(read_run(tmp_path / "a"), run_b).why
    assert why == "the per-sample file of B does not hold scores and classes of every image"


def test_scores_of_another_number_of_classes_give_no_test(tmp_path):
    labelled_runs(tmp_path)
    run_a, run_b = read_run(tmp_path / "a"), read_run(tmp_path / "b")
    lists = {"scores": [[0.5] * 6] * 80, "targets": [list(range(6))] * 80}
    run_b = rewritten(run_b, lambda frame: [frame.__setitem__(*column) for column in lists.items()])
    row = made_row("mean_average_precision", 1.0, n=80)
    assert pair(run_a, run_b, run_a.rows[0], row).why == "the per-sample files have scores of 5 and 6 classes"


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_a_value_that_is_no_number_is_not_that_of_the_samples(tmp_path, value):
    run_a, run_b = two_runs(tmp_path)
    found = pair(run_a, run_b, made_row("acc1", value), run_b.rows[0])
    assert found == (None, 0, 0, 0, "the per-sample file of A gives another value")
    assert pair(run_a, run_b, run_a.rows[0], made_row("acc1", None)).why == "B has no value"


def test_infinite_samples_of_an_infinite_value_give_no_test(tmp_path):
    row = made_row("nll", float("inf"), n=2)
    lines = classified([0, 1], [0, 1]) | {"nll": [float("inf"), 1.0]}
    run = read_run(made_run(tmp_path / "a", [made_row("nll", 1.0)], {"d": [lines]}))
    assert pair(run, run, row, row).why == "the per-sample file of A gives another value"


def test_columns_of_other_commands_in_the_same_file_do_not_count(tmp_path):
    row = made_row("acc1", share(A), n=20)
    other = made_row("text_acc", 0.5, checkpoint_sha256="2" * 64)
    lines = {"sample_id": ["x", "y"], "text_acc": [True, False], "rank": [0, 1]}
    run = read_run(made_run(tmp_path / "a", [row, other], {"d": [hits(A), lines]}))
    assert {"text_acc", "rank"}.isdisjoint(samples_of(run, row).columns)
    assert "predicted" not in samples_of(run, other).columns
    assert paired(run, run).difference.n == 20


def test_stages_of_a_training_run_are_compared_and_the_best_speaks_for_it(tmp_path):
    def stages(name, words):
        rows = [
            made_row("acc1", share(w), params=f"stage={s}", command="finetune", pretrained=s, checkpoint_sha256=h * 64)
            for s, h, w in zip(("start", "best", "last"), "123", words, strict=True)
        ]
        return made_run(tmp_path / name, rows, {"d": [hits(w) for w in words]})

    from clipib.tasks.compare import compare

    run, other = stages("a", (A, B, B[1:] + "0")), stages("b", (A, A, B))
    (line,) = compare(run, run, checkpoint_a="start", checkpoint_b="best").lines
    assert (line.gained, line.lost, line.params) == (7, 1, "")
    (line,) = compare(run, other).lines
    assert (line.gained, line.lost, line.params) == (1, 7, "stage=best")
    assert [r.pretrained for r in rows_of_checkpoint(read_run(run), None, flag="--checkpoint-a")] == ["best"]


def test_params_without_a_value_are_no_traceback():
    assert comparable(made_row("acc1", 0.5, params="odd")) and comparable(made_row("acc1", 0.5, params="odd;k=1"))
    assert not comparable(made_row("acc1", 0.5, params="odd;ties=optimistic"))


def test_settings_that_no_run_writes_are_left_out(tmp_path):
    import json

    made_run(tmp_path / "a", [made_row("acc1", 0.5)])
    about = tmp_path / "a" / "results.json"
    kept = {"datasets": ["cifar10"], "name": "x", "limit": 5, "classnames": None}
    for settings, expected in (
        (5, {}),
        ([1], {}),
        ({**kept, "data_root": 7, "cache_dir": [0]}, kept),
        ({"datasets": 5, "name": {}, "separator": 1.5}, {}),
    ):
        about.write_text(json.dumps({"status": ["complete"], "settings": settings}))
        assert read_run(tmp_path / "a")[2:4] == (expected, "")
