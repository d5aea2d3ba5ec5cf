import csv

import numpy as np
import pytest
from made_runs import classified, made_row, made_run
from sklearn.metrics import confusion_matrix, precision_recall_fscore_support

from clipib.tasks.per_class import class_records, per_class, per_class_of, write_per_class
from clipib.tasks.runs import read_run


def a_run(tmp_path, names=("cat", "dog", "n", "cat"), seeds=(0,)):
    rows, tables = [], []
    for seed in seeds:
        rng = np.random.default_rng(seed)
        target, predicted = rng.integers(0, 3, 60), rng.integers(0, len(names), 60)
        lines = classified(target.tolist(), predicted.tolist())
        lines |= {"target_name": [names[i] for i in target], "predicted_name": [names[i] for i in predicted]}
        rows.append(made_row("acc1", float(np.mean(target == predicted)), n=60, checkpoint_sha256=str(seed) * 64))
        tables.append(lines)
    return read_run(made_run(tmp_path / "r", rows, {"d": tables})), tables


def test_the_table_equals_scikit_learn(tmp_path):
    run, (lines,) = a_run(tmp_path)
    found = per_class(run, run.rows[0])
    order = found.worst_first()
    precision, recall, f1, n = precision_recall_fscore_support(lines["target"], lines["predicted"], labels=range(4))
    assert found.classnames == ["cat (0)", "dog", "n", "cat (3)"]  # two classes may bear one name
    assert np.array_equal(found.confusion, confusion_matrix(lines["target"], lines["predicted"], labels=range(4)))
    assert list(order) == sorted(range(3), key=lambda k: (recall[k], -n[k]))
    records = {r["class_index"]: r for r in class_records(found)}
    for k in range(3):
        r = records[k]
        assert (r["n"], r["recall"], r["class_precision"]) == (
            n[k],
            pytest.approx(recall[k]),
            pytest.approx(precision[k]),
        )
        assert r["f1"] == pytest.approx(f1[k])
    assert (records[3]["n"], records[3]["recall"], records[3]["class_precision"]) == (0, "", 0.0)


def test_the_files_hold_every_checkpoint(tmp_path):
    run, tables = a_run(tmp_path, seeds=(0, 1))
    found, without = per_class_of(run.path, run.rows)
    table, confusion = write_per_class(run.path, found)
    assert (table.name, confusion.name, without) == ("d.csv", "d.confusion.csv", [])
    records = list(csv.DictReader(table.open()))
    assert {r["checkpoint_sha256"][0] for r in records} == {"0", "1"}
    header, *lines = csv.reader(confusion.open())
    assert header[-6:] == ["target", "n", "cat (0)", "dog", "n", "cat (3)"] and len(lines) == 8
    counts = [[int(c) for c in line[-4:]] for line in lines]
    for i, lines in enumerate(tables):
        expected = confusion_matrix(lines["target"], lines["predicted"], labels=range(4))
        assert counts[4 * i : 4 * i + 4] == expected.tolist()


def test_classes_without_names_go_by_their_index(tmp_path):
    run = read_run(made_run(tmp_path / "r", [made_row("acc1", 0.5)], {"d": [classified([0, 1], [0, 2])]}))
    assert per_class(run, run.rows[0]).classnames == ["class 0", "class 1", "class 2"]


def test_samples_that_are_gone_or_of_several_classes_are_told_of(tmp_path):
    run, _ = a_run(tmp_path)
    (run.samples / "d.parquet").unlink()
    assert per_class_of(run.path, run.rows) == ([], run.rows)
    lines = {"sample_id": ["a"], "targets": [[0, 1]], "scores": [[0.1, 0.2]]}
    rows = [made_row("mean_average_precision", 0.5, is_main=True)]
    run = read_run(made_run(tmp_path / "m", rows, {"d": [lines]}))
    assert per_class(run, rows[0]) is None
