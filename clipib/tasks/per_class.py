"""How each class of a classification fared, from the per-sample predictions of a run."""

from __future__ import annotations

import csv
import io
import math
from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from clipib.files import write_aside
from clipib.metrics.classification import ClassTable, class_table, confusion_matrix
from clipib.tasks.results import Row, slug
from clipib.tasks.runs import Run, read_run, samples_of

if TYPE_CHECKING:
    import pandas as pd

FOLDER = "per_class"
CONTEXT = ("model", "pretrained", "checkpoint_sha256", "dataset", "split", "protocol")


class PerClass(NamedTuple):
    """The classes of one data set for one checkpoint.

    row: one of its rows. classnames: K distinct names. table: see `class_table`. confusion: (K, K) counts.
    """

    row: Row
    classnames: list[str]
    table: ClassTable
    confusion: np.ndarray

    def worst_first(self) -> np.ndarray:
        """The classes that have images, lowest recall first; among equals the larger class, then the lower index."""
        present = np.flatnonzero(self.table.n > 0)
        return present[np.lexsort((-self.table.n[present], self.table.recall[present]))]


def per_class(run: Run, row: Row) -> PerClass | None:
    """The classes behind a row; None where its samples are gone or have several classes each."""
    frame = samples_of(run, row)
    if frame is None or not {"target", "predicted"} <= set(frame.columns):
        return None
    target, predicted = (frame[c].to_numpy(dtype=np.int64) for c in ("target", "predicted"))
    confusion = confusion_matrix(predicted, target, int(max(target.max(), predicted.max())) + 1)
    return PerClass(row, classnames_of(frame), class_table(confusion), confusion)


def per_class_of(out: str | Path, rows: Iterable[Row]) -> tuple[list[PerClass], list[Row]]:
    """The classes of every data set and checkpoint of a call, and a row of each that has none to tell of."""
    run, found, without = read_run(out), [], []
    main = [r for r in rows if r.is_main and not r.dataset.startswith("suite:")]
    for row in {tuple(getattr(r, c) for c in CONTEXT): r for r in main}.values():
        classes = per_class(run, row)
        found.append(classes) if classes else without.append(row)
    return found, without


def write_per_class(out: str | Path, found: Sequence[PerClass]) -> list[Path]:
    """Write `per_class/<data set>.csv`, one line a class, and `<data set>.confusion.csv`, one line a true class.

    Both hold every checkpoint of the call, one below the other. In the latter a column is a predicted class, in the
    order of the lines.
    """
    folder, written = Path(out) / FOLDER, []
    folder.mkdir(parents=True, exist_ok=True)
    by_dataset: dict[str, list[PerClass]] = {}
    for classes in found:
        by_dataset.setdefault(slug(classes.row.dataset), []).append(classes)
    for name, group in by_dataset.items():
        records = [record for classes in group for record in class_records(classes)]
        table = [list(records[0]), *(list(record.values()) for record in records)]
        for path, lines in ((folder / f"{name}.csv", table), (folder / f"{name}.confusion.csv", _confusion(group))):
            write_aside(path, lambda file, lines=lines: file.write(_csv_text(lines).encode()))
            written.append(path)
    return written


def class_records(classes: PerClass) -> list[dict[str, object]]:
    """One record a class that has images or was predicted, worst first; undefined is empty."""
    table, names = classes.table, classes.classnames
    predicted_only = np.flatnonzero((table.n == 0) & (classes.confusion.sum(axis=0) > 0))
    return [
        {
            **{c: getattr(classes.row, c) for c in CONTEXT},
            "class_index": int(k),
            "class": names[k],
            "n": int(table.n[k]),
            "recall": _known(table.recall[k]),
            "class_precision": _known(table.precision[k]),
            "f1": _known(table.f1[k]),
            "mistaken_for": names[table.mistaken_for[k]] if table.mistaken_for[k] >= 0 else "",
            "n_mistaken": int(table.n_mistaken[k]),
        }
        for k in [*classes.worst_first(), *predicted_only]
    ]


def classnames_of(frame: pd.DataFrame) -> list[str]:
    """The classes up to the last that is met, as the samples name them; `class 7` where none does, indices for doubles.

    Args:
        frame: columns `target`, `predicted`, and where they are known `target_name` and `predicted_name`.
    """
    names = [f"class {k}" for k in range(int(frame[["target", "predicted"]].max().max()) + 1)]
    for column in ("predicted", "target"):
        if f"{column}_name" in frame.columns:
            pairs = frame[[column, f"{column}_name"]].dropna().drop_duplicates()
            for k, name in zip(pairs[column], pairs[f"{column}_name"], strict=True):
                names[int(k)] = str(name)
    count = Counter(names)
    return [f"{name} ({k})" if count[name] > 1 else name for k, name in enumerate(names)]


def _confusion(group: Sequence[PerClass]) -> list[list[object]]:
    """The lines of a confusion file: the classes that a checkpoint never met or named count 0."""
    longest = max((classes.classnames for classes in group), key=len)
    lines: list[list[object]] = [[*CONTEXT, "target", "n", *longest]]
    for classes in group:
        context = [getattr(classes.row, c) for c in CONTEXT]
        for name, counts in zip(classes.classnames, classes.confusion, strict=True):
            padded = counts.tolist() + [0] * (len(longest) - len(counts))
            lines.append([*context, name, int(counts.sum()), *padded])
    return lines


def _csv_text(lines: Iterable[Sequence[object]]) -> str:
    out = io.StringIO()
    csv.writer(out, lineterminator="\n").writerows(lines)
    return out.getvalue()


def _known(value: float) -> float | str:
    return "" if math.isnan(value) else float(value)
