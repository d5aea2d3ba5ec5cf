"""`metrics.csv`: one line per logged step, wide, with every term of the loss."""

from __future__ import annotations

import csv
from pathlib import Path

from clipib.errors import UserError

LOG_FILE = "metrics.csv"


class MetricsLog:
    """Append rows to a CSV file whose columns are fixed when it is made.

    Args:
        columns: the first is `step`.
        after_step: keep the rows of an earlier run up to this step and drop the later ones, which will be done again;
            None starts over.

    Raises:
        UserError: when those rows cannot be read.
    """

    def __init__(self, path: str | Path, columns: list[str], *, after_step: int | None = None) -> None:
        self.path, self.columns = Path(path), columns
        kept = [] if after_step is None or not self.path.exists() else self._rows_until(after_step)
        self._file = self.path.open("w", encoding="utf-8", newline="")
        self._writer = csv.DictWriter(self._file, columns, restval="", extrasaction="ignore", lineterminator="\n")
        self._writer.writeheader()
        self._writer.writerows(kept)
        self._file.flush()

    def _rows_until(self, step: int) -> list[dict[str, str]]:
        try:
            with self.path.open(encoding="utf-8", newline="") as file:
                return [r for r in csv.DictReader(file) if (r["step"] or "").isdecimal() and int(r["step"]) <= step]
        except (KeyError, ValueError, csv.Error) as error:
            raise UserError(
                f"'{self.path}' is damaged: its first line names no step.",
                hint="Remove it to resume without the lines of earlier steps, or start over with --fresh.",
            ) from error

    def add(self, **values: float | int) -> None:
        self._writer.writerow(values)
        self._file.flush()

    def close(self) -> None:
        self._file.close()
