import csv
import json

import pandas as pd
import pytest

from clipib import __version__
from clipib.errors import UserError
from clipib.tasks.results import COLUMNS, ResultsFolder, Row, read_rows, row_key, slug, to_csv

EXPECTED = (
    "command,model,pretrained,checkpoint_sha256,loss,similarity,dataset,split,protocol,metric,params,value,ci_low,ci_high,"
    "n,n_bad,n_ties,is_main,precision,device,seed,data_sha256,prompts_sha256,limit,clipib_version"
)


def row(**values):
    blank = dict.fromkeys(COLUMNS, "")
    blank |= {"value": 0.5, "ci_low": 0.4, "ci_high": None, "n": 10, "n_bad": 0, "n_ties": None, "is_main": True}
    blank |= {"seed": 0, "limit": None, "metric": "acc1", "dataset": "d", "clipib_version": __version__}
    return Row(**{**blank, **values})


def test_the_columns_are_those_of_the_design():
    assert ",".join(COLUMNS) == EXPECTED


def test_rows_survive_the_file(tmp_path):
    rows = [row(), row(metric="acc5", value=1 / 3, limit=5, is_main=False, params="a=b;k=5")]
    (tmp_path / "r.csv").write_text(to_csv(rows))
    assert read_rows(tmp_path / "r.csv") == rows
    cells = list(csv.DictReader((tmp_path / "r.csv").open()))[0]
    assert cells["ci_high"] == cells["n_ties"] == cells["limit"] == ""


def test_the_key_is_all_that_the_value_depends_on():
    same = (
        "model",
        "pretrained",
        "loss",
        "value",
        "ci_low",
        "ci_high",
        "n",
        "n_bad",
        "n_ties",
        "device",
        "clipib_version",
    )
    for column in COLUMNS:
        changed = row(**{column: False if column == "is_main" else 7 if column in ("seed", "limit") else "other"})
        assert (row_key(changed) == row_key(row())) == (column in same), column


def open_folder(path, **options):
    return ResultsFolder(path, command="zeroshot", settings={"a": 1}, **options)


def test_a_later_run_keeps_what_holds_and_replaces_what_was_computed_again(tmp_path):
    with open_folder(tmp_path) as folder:
        folder.add([row(), row(metric="acc5")], {"sample_id": ["x"]})
    with open_folder(tmp_path) as folder:
        assert [r.metric for r in folder.kept(row(), ["acc1", "acc5"])] == ["acc1", "acc5"]
        assert folder.kept(row(), ["acc1", "new"]) == []
        assert folder.kept(row(seed=1), ["acc1"]) == []
        folder.add([row(value=0.9, device="cuda")])
    assert [(r.metric, r.value) for r in read_rows(tmp_path / "results.csv")] == [("acc5", 0.5), ("acc1", 0.9)]


def test_rows_of_another_version_are_computed_again(tmp_path):
    with open_folder(tmp_path) as folder:
        folder.add([row(clipib_version="0.0.1")])
    with open_folder(tmp_path) as folder:
        assert folder.kept(row(), ["acc1"]) == []


def test_fresh_forgets(tmp_path):
    with open_folder(tmp_path) as folder:
        folder.add([row()], {"sample_id": ["x"]})
    with open_folder(tmp_path, fresh=True) as folder:
        assert folder.rows() == []
        assert (tmp_path / "samples").exists()  # until work begins
        folder.begin()
    assert not (tmp_path / "samples").exists()


def test_two_runs_in_one_folder_at_once(tmp_path):
    with open_folder(tmp_path), pytest.raises(UserError, match="Another run"), open_folder(tmp_path):
        pass
    with open_folder(tmp_path):
        pass


def test_other_columns_are_refused(tmp_path):
    (tmp_path / "results.csv").write_text("a,b\n1,2\n")
    with pytest.raises(UserError, match="columns") as error, open_folder(tmp_path):
        pass
    assert "--fresh" in error.value.hint


@pytest.mark.parametrize("harm, message", [("nan", "'nan' in the column value"), ("cut", "a line is cut short")])
def test_what_is_no_number_or_cut_short_is_refused(tmp_path, harm, message):
    text = to_csv([row(value=0.25)])
    (tmp_path / "results.csv").write_text(text.replace("0.25", "nan") if harm == "nan" else text[: text.index("0.25")])
    with pytest.raises(UserError, match=message):
        read_rows(tmp_path / "results.csv")


def test_samples_of_two_checkpoints_stand_in_one_file(tmp_path):
    with open_folder(tmp_path) as folder:
        folder.add([row(checkpoint_sha256="a")], {"sample_id": ["x", "y"], "correct": [True, False]})
        folder.add([row(checkpoint_sha256="b")], {"sample_id": ["x", "y"], "correct": [False, False]})
        folder.add([row(checkpoint_sha256="a")], {"sample_id": ["x", "y"], "correct": [True, True]})
    frame = pd.read_parquet(tmp_path / "samples" / "d.parquet")
    assert frame.groupby("checkpoint_sha256")["correct"].sum().to_dict() == {"a": 2, "b": 0}
    assert len(frame) == 4


def test_results_json_tells_settings_and_versions(tmp_path):
    with open_folder(tmp_path) as folder:
        folder.begin()
        assert json.loads((tmp_path / "results.json").read_text())["status"] == "running"
    content = json.loads((tmp_path / "results.json").read_text())
    assert content["schema"] == "clipib.results/1" and content["status"] == "complete"
    assert content["settings"] == {"a": 1} and content["environment"]["torch"]


def test_a_failed_run_is_not_called_complete(tmp_path):
    with pytest.raises(RuntimeError), open_folder(tmp_path):
        raise RuntimeError
    assert not (tmp_path / "results.json").exists()
    with pytest.raises(RuntimeError), open_folder(tmp_path) as folder:
        folder.begin()
        raise RuntimeError
    assert json.loads((tmp_path / "results.json").read_text())["status"] == "running"


def test_slugs_are_plain_file_names():
    assert slug("a/b:c d") == "a-b-c-d" and slug("../..") == "data"
