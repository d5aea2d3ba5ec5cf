"""Per-sample files with the wrong columns, kinds or gaps."""

import numpy as np
import pandas as pd
import pytest
from made_runs import hits, made_row, made_run, ranked

from clipib.tasks.runs import read_run
from clipib.tasks.sound_samples import trouble_of

WORD = "110101"


def trouble(path) -> str:
    run = read_run(path)
    return trouble_of(run, run.rows[0])


@pytest.mark.parametrize(
    "damage, told",
    [
        (lambda f: f.drop(columns="sample_id"), "has no column 'sample_id'"),
        (lambda f: f.assign(sample_id=range(len(f))), "does not hold text in 'sample_id'"),
        (
            lambda f: f.assign(target=f["target"].astype("Int64").where(f["target"] == 0)),
            "lacks 'target' of some samples",
        ),
        (lambda f: f.assign(target=np.where(f["target"] == 0, np.nan, 1)), "lacks 'target' of some samples"),
        (lambda f: f.assign(predicted=f["predicted"] + 0.5), "does not hold whole numbers from 0 in 'predicted'"),
        (lambda f: f.assign(target=f["target"] - 1), "does not hold whole numbers from 0 in 'target'"),
        (lambda f: f.assign(correct=["yes"] * len(f)), "does not hold true and false in 'correct'"),
        (lambda f: f.assign(correct=[None, *f["correct"].tolist()[1:]]), "lacks 'correct' of some samples"),
        (lambda f: f.assign(confidence=["x"] * len(f)), "does not hold numbers in 'confidence'"),
        (lambda f: f.assign(target_rank="x"), "does not hold whole numbers from 0 in 'target_rank'"),
    ],
)
def test_what_is_wrong_is_said_with_the_data_set_and_the_run(tmp_path, damage, told):
    run = made_run(tmp_path / "a", [made_row("acc1", 4 / 6)], {"d": [hits(WORD)]})
    path = run / "samples" / "d.parquet"
    damage(pd.read_parquet(path)).to_parquet(path)
    assert trouble(run) == f"the per-sample file of 'd' in '{run}' {told}"


def test_what_the_commands_write_is_sound(tmp_path):
    lines = hits(WORD) | {"nll": [None, 0.5, 1, 2, 3, 4]}
    assert trouble(made_run(tmp_path / "a", [made_row("acc1", 4 / 6)], {"d": [lines]})) == ""
    lines = ranked([("1.jpg", "", 0), ("2.jpg", "a dog", 9)], [("1.jpg", 0), ("2.jpg", 2)])
    lines |= {"average_precision": [None, None, 1.0, 0.5]}
    row = made_row("image_retrieval_recall@1", 0.5, command="retrieve")
    assert trouble(made_run(tmp_path / "b", [row], {"d": [lines]})) == ""
    assert trouble(made_run(tmp_path / "c", [row])) == ""  # none are kept


def test_a_file_that_is_no_table_is_damaged(tmp_path):
    run = made_run(tmp_path / "a", [made_row("acc1", 4 / 6)], {"d": [hits(WORD)]})
    (run / "samples" / "d.parquet").write_bytes(b"no table")
    assert "is damaged" in trouble(run)
