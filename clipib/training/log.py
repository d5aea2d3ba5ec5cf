"""`metrics.csv`: one line per logged step, wide, with every term of the loss."""

from __future__ import annotations

import csv
from pathlib import Path

LOG_FILE = "metrics.csv"


class MetricsLog:
    """Append rows to a CSV file whose columns are fixed when it is made.

    Args:
        columns: the first is `step`.
        after_step: keep the rows of an earlier run up to this step and drop the later ones, which will be done again;
            None starts over.
    """

    def __init__(self, path: str | Path, columns: list[str], *, after_step: int | None = None) -> None:
        self.path, self.columns = Path(path), columns
        kept = []
        if after_step is not None and self.path.exists():
            with self.path.open(encoding="utf-8", newline="") as file:
                kept = [
                    r for r in csv.DictReader(file) if (r["step"] or "").isdecimal() and int(r["step"]) <= after_step
                ]
        self._file = self.path.open("w", encoding="utf-8", newline="")
        self._writer = csv.DictWriter(self._file, columns, restval="", extrasaction="ignore", lineterminator="\n")
        self._writer.writeheader()
        self._writer.writerows(kept)
        self._file.flush()

    def add(self, **values: float | int) -> None:
        self._writer.writerow(values)
        self._file.flush()

    def close(self) -> None:
        self._file.close()
