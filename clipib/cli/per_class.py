"""What `--per-class` prints."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from clipib.cli.output import print_records
from clipib.progress import Progress
from clipib.tasks.results import Row

SHOWN = 20  # classes in a terminal; all stand in the file


def show_per_class(rows: Sequence[Row], out: Path, format_: str, progress: Progress) -> None:
    """Write the classes of a call's data sets, and print the worst; machine formats print rows alone."""
    from clipib.tasks.per_class import class_records, per_class_of, write_per_class

    found, without = per_class_of(out, rows)
    for row in without:
        progress.warn(f"{row.dataset}: no classes to tell of; its images have several each, or its samples are gone")
    for classes in found if format_ in ("table", "md") else ():
        records, row = class_records(classes), classes.row
        shown = [
            {
                "class": r["class"],
                "n": f"{r['n']:,}",
                "recall": _share(r["recall"]),
                "precision": _share(r["class_precision"]),
                "F1": _share(r["f1"]),
                "mistaken for": f"{r['mistaken_for']} ({r['n_mistaken']:,})" if r["mistaken_for"] else "",
            }
            for r in records[:SHOWN]
        ]
        least = f"the {SHOWN} of {len(records):,} classes with the least recall"
        what = least if len(records) > SHOWN else "all classes, least recall first"
        print_records(shown, format_, title=f"{row.dataset}, {row.model} ({row.pretrained}): {what}")
    if written := write_per_class(out, found):
        progress.say(f"classes and confusion in {written[0].parent}")


def _share(value: float | str) -> str:
    return "" if value == "" else f"{value:.3f}"
