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
