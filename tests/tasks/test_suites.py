"""Averages of suites bear the marks of their members."""

from types import SimpleNamespace

import pytest

from clipib.data.specs import Spec
from clipib.progress import SILENT
from clipib.tasks.prepare import RunContext
from clipib.tasks.results import Row
from clipib.tasks.suites import average_rows

MODEL = SimpleNamespace(
    name="m",
    pretrained="p",
    fingerprint="f",
    loss="",
    similarity="cosine",
    precision="fp32",
    preprocess_name="open_clip",
    device=SimpleNamespace(type="cpu"),
)
RUN = RunContext("zeroshot", MODEL, "strict", 0)


def row(dataset, value, **more):
    own = {
        "dataset": dataset,
        "split": "test",
        "metric": "acc1",
        "value": value,
        "is_main": True,
        "data_sha256": dataset,
    }
    return Row(**{**RUN.blank(), **own, **more})


def specs(*names, suite="s"):
    return [Spec("name", name, "", {}, f"suite:{suite}", suite) for name in names]


def test_limit_overlap_and_bad_images_pass_on():
    rows = [
        row("a", 0.2),
        row("b", 0.4, limit=50, n_bad=3, params="overlap=train"),
        row("c", 0.9, params="overlap=val"),
    ]
    (average,) = average_rows(RUN, specs("a", "b", "c", "d"), rows, SILENT)
    assert average.value == pytest.approx(0.5) and average.params == "of=4;over=3;overlap=train"
    assert (average.limit, average.n_bad, average.n) == (50, 3, 3)


def test_other_splits_and_other_sets_are_left_out():
    rows = [row("a", 0.2), row("a", 1.0, split="train"), row("z", 1.0), row("a", 1.0, is_main=False, metric="acc5")]
    (average,) = average_rows(RUN, specs("a"), rows, SILENT)
    assert average.value == 0.2 and average.params == "of=1;over=1"
    assert average_rows(RUN, specs("q"), rows, SILENT) == []


def test_the_two_directions_of_retrieval_count_as_one_set():
    rows = [
        row("a", 0.2, metric="image_retrieval_recall@1"),
        row("a", 0.4, metric="text_retrieval_recall@1"),
        row("b", 0.9),
    ]
    (average,) = average_rows(RUN, specs("a", "b"), rows, SILENT)
    assert average.value == pytest.approx((0.3 + 0.9) / 2) and average.n == 2
