"""The rows that every evaluation gives, and the folder that keeps them.

`results.csv` is tidy, one row per metric. A row's key is everything that its value depends on; a later run with the
same folder keeps the rows whose key still holds and computes what is missing.
"""

from __future__ import annotations

import csv
import io
import json
import math
import platform
import re
import shutil
import sys
import time
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, fields, replace
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TYPE_CHECKING, Any

import filelock

from clipib import __version__
from clipib.errors import UserError
from clipib.files import write_aside

if TYPE_CHECKING:
    import pandas as pd

SCHEMA = "clipib.results/1"
CSV_FILE, JSON_FILE, SAMPLES, LOCK_FILE = "results.csv", "results.json", "samples", ".lock"
GATES_FILE = "gates.csv"  # of the last call, where it had gates


@dataclass(frozen=True)
class Row:
    """One metric of one checkpoint on one data set; empty means unknown or not applicable.

    params holds what else the number depends on, `key=value` joined by `;` in sorted order.
    value is a proportion in [0, 1] for accuracies and recalls. n counts what the mean is over.
    limit is the `--limit` in force: such a row is partial and not comparable.
    """

    command: str
    model: str
    pretrained: str
    checkpoint_sha256: str
    loss: str
    similarity: str
    dataset: str
    split: str
    protocol: str
    metric: str
    params: str
    value: float | None
    ci_low: float | None
    ci_high: float | None
    n: int | None
    n_bad: int
    n_ties: int | None
    is_main: bool
    precision: str
    device: str
    seed: int
    data_sha256: str
    prompts_sha256: str
    limit: int | None
    clipib_version: str = __version__


COLUMNS = tuple(f.name for f in fields(Row))
SAMPLE_SCOPE = ("command", "checkpoint_sha256", "dataset", "split", "protocol", "precision", "seed", "limit")
SAMPLE_SCOPE += ("data_sha256", "prompts_sha256")
NOT_IN_KEY = {
    "model",
    "pretrained",
    "loss",
    "device",
    "clipib_version",
    "value",
    "ci_low",
    "ci_high",
    "n",
    "n_bad",
    "n_ties",
}
SCOPE = tuple(c for c in COLUMNS if c not in NOT_IN_KEY | {"metric", "params", "is_main"})


def row_key(row: Row) -> tuple:
    """What a row's value depends on."""
    return tuple(getattr(row, c) for c in COLUMNS if c not in NOT_IN_KEY)


PROBE_PARAMS = ("probe", "probe_seed", "seeds", "shots")  # of which one run may hold several
RUN_PARAMS = ("batch_size", "preprocess", "prompt_pooling", "train", *PROBE_PARAMS)


def join_params(params: dict[str, object]) -> str:
    """`{"k": 5, "a": "b"}` -> "a=b;k=5"."""
    return ";".join(f"{key}={params[key]}" for key in sorted(params))


def run_params_of(row: Row) -> list[str]:
    """Those of a row's params that all rows of its run share; one that is left out has its default."""
    return [p for p in row.params.split(";") if p.partition("=")[0] in RUN_PARAMS]


def to_csv(rows: Iterable[Row]) -> str:
    """Rows as CSV text with a header; unknown is an empty cell."""
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(COLUMNS)
    writer.writerows([_cell(v) for v in asdict(row).values()] for row in rows)
    return out.getvalue()


def read_rows(path: str | Path) -> list[Row]:
    """Rows from a `results.csv`.

    Raises:
        UserError: when the file has other columns.
    """
    try:
        with Path(path).open(encoding="utf-8", newline="") as file:
            reader = csv.DictReader(file)
            if tuple(reader.fieldnames or ()) != COLUMNS:
                raise UserError(
                    f"'{path}' does not have the columns of clipib {__version__}.",
                    hint="Name another --out, or start over with --fresh.",
                )
            return [_row(cells) for cells in reader]
    except (ValueError, TypeError, OSError, csv.Error) as error:
        raise UserError(f"'{path}' cannot be read: {error}.", hint="Start over with --fresh.") from error


class ResultsFolder:
    """An `--out` folder, held by one run at a time; use it as a context manager.

    Args:
        out: the folder, made where it is missing.
        command: the command that writes.
        settings: what the run was asked for, enough to repeat it with `--config`.
        fresh: forget what an earlier run left, once work begins.

    Raises:
        UserError: when another run holds the folder or it cannot be written.
    """

    def __init__(self, out: str | Path, *, command: str, settings: dict[str, Any], fresh: bool = False) -> None:
        self.out = Path(out)
        self.command = command
        self.settings = settings
        self.fresh = fresh
        self.failures: Sequence[Any] = ()  # each with model, dataset and error
        self._rows: list[Row] = []
        self._begun = False
        self._started = time.time()

    def __enter__(self) -> ResultsFolder:
        try:
            self.out.mkdir(parents=True, exist_ok=True)
            self._lock = filelock.FileLock(self.out / LOCK_FILE)
            self._lock.acquire(timeout=0)
        except filelock.Timeout as error:
            raise UserError(
                f"Another run is writing to '{self.out}'.", hint="Wait for it, or name another --out."
            ) from error
        except (FileExistsError, NotADirectoryError) as error:
            raise UserError(f"--out '{self.out}' is a file, not a folder.") from error
        except PermissionError as error:
            raise UserError(f"--out '{self.out}' cannot be written: {error.strerror}.") from error
        try:
            path = self.out / CSV_FILE
            if path.exists() and not self.fresh:
                self._rows = read_rows(path)
            for partial in self.out.glob(".*.partial"):
                if partial.is_file():  # half-written folders are `recover`'s
                    partial.unlink()
        except BaseException:
            self._lock.release()
            raise
        return self

    def begin(self) -> None:
        """Say in `results.json` that work has begun, once; before that, a mistake leaves the folder as it was."""
        if self._begun:
            return
        if self.fresh:
            (self.out / CSV_FILE).unlink(missing_ok=True)
            shutil.rmtree(self.out / SAMPLES, ignore_errors=True)
        self._begun = True
        self._write_json("running")

    def __exit__(self, kind, *_) -> None:
        try:
            if kind is None and self._begun:
                self._write_json("partial" if self.failures else "complete")
        finally:
            self._lock.release()

    def rows(self) -> list[Row]:
        """All rows of the folder."""
        return list(self._rows)

    def kept(self, like: Row, metrics: Iterable[str], *, max_bad: int = 0) -> list[Row]:
        """Earlier rows of this version in the scope of `like` (its checkpoint, data, protocol, ...).

        Args:
            metrics: names, each with the params that tell its row from others: `nll;temperature=fit`.
            max_bad: rows that left out more images are computed again.

        Returns:
            All rows of those metrics, or none unless every metric and the per-sample table are there.
        """
        asked, params = {m.partition(";")[0]: set(m.split(";")[1:]) for m in metrics}, run_params_of(like)
        scope = [getattr(like, c) for c in SCOPE]
        rows = [
            r
            for r in self._rows
            if asked.get(r.metric, {None}) <= set(r.params.split(";"))
            and r.clipib_version == __version__
            and run_params_of(r) == params
            and [getattr(r, c) for c in SCOPE] == scope
        ]
        complete = (
            {r.metric for r in rows} == set(asked)
            and self._samples_path(like).exists()
            and all(r.n_bad <= max_bad for r in rows)
        )
        names = {c: getattr(like, c) for c in ("model", "pretrained", "loss")}  # those of this call
        return [replace(r, **names) for r in rows] if complete else []

    def add(self, rows: list[Row], samples: dict[str, Any] | pd.DataFrame | None = None) -> None:
        """Write finished rows, all of them or none, and the per-sample table (columns of equal length)."""
        if samples is not None:
            self._write_samples(rows[0], samples)
        new = {row_key(r) for r in rows}
        self._rows = [r for r in self._rows if row_key(r) not in new] + rows
        write_aside(self.out / CSV_FILE, lambda file: file.write(to_csv(self._rows).encode()))

    def _samples_path(self, like: Row) -> Path:
        return self.out / SAMPLES / f"{slug(like.dataset)}.parquet"

    def _write_samples(self, like: Row, samples: dict[str, Any] | pd.DataFrame) -> None:
        """Per-sample predictions; those of other checkpoints, settings or commands in the same table stay."""
        import pandas as pd

        path = self._samples_path(like)
        frame = pd.DataFrame(samples)
        scope = {column: getattr(like, column) for column in SAMPLE_SCOPE} | {"params": ";".join(run_params_of(like))}
        for place, (column, value) in enumerate(scope.items()):
            kind = "Int64" if column in ("seed", "limit") else "string"
            frame.insert(place, column, pd.array([value] * len(frame), dtype=kind))
        frame = frame.convert_dtypes()
        if path.exists() and (old := _read_parquet(path)) is not None:
            same = pd.Series(set(scope) <= set(old.columns), index=old.index)
            for column, value in scope.items() if same.all() else ():
                same &= old[column].isna() if value is None else (old[column] == value).fillna(False).astype(bool)
            if not same.all():
                frame = pd.concat([old[~same], frame], ignore_index=True)
        path.parent.mkdir(exist_ok=True)
        write_aside(path, lambda file: frame.to_parquet(file, index=False))

    def _write_json(self, status: str) -> None:
        content = {
            "schema": SCHEMA,
            "command": self.command,
            "status": status,
            "clipib_version": __version__,
            "settings": self.settings,
            "failures": [{"model": f.model, "dataset": f.dataset, "error": str(f.error)} for f in self.failures],
            "started": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(self._started)),
            "seconds": round(time.time() - self._started, 3),
            "environment": environment(),
        }
        text = json.dumps(content, indent=2, default=str) + "\n"
        write_aside(self.out / JSON_FILE, lambda file: file.write(text.encode()))


def settings_of(arguments: dict[str, Any]) -> dict[str, Any]:
    """A task's arguments as `results.json` records them, the same names as the command's options."""
    beside = ("progress", "settings", "dry_run", "fresh", "resume", "columns", "verify_cache")
    return {k: v for k, v in arguments.items() if k not in beside} | (arguments.get("columns") or {})


def _read_parquet(path: Path):
    """A table of earlier samples; None where it is damaged, it is then written anew."""
    import pandas as pd

    try:
        return pd.read_parquet(path, dtype_backend="numpy_nullable")
    except Exception:  # pyarrow raises several kinds
        return None


def environment() -> dict[str, str]:
    """Versions that a number may depend on."""
    found = {"python": platform.python_version(), "platform": platform.platform(), "argv": " ".join(sys.argv[1:])}
    for package in ("torch", "torchvision", "open_clip_torch", "numpy", "pillow"):
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            found[package] = ""
    return found


def slug(name: str) -> str:
    """A data set's name as a file name.

    Example:
        >>> slug("digitworld:objects=2")
        'digitworld-objects=2'
    """
    return re.sub(r"[^A-Za-z0-9._=+-]+", "-", name).strip("-.") or "data"


def _cell(value: object) -> object:
    if value is None:
        return ""
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, float):
        return repr(value)
    return value


def _row(cells: dict[str, str]) -> Row:
    whole = {"n", "n_bad", "n_ties", "seed", "limit"}
    real = {"value", "ci_low", "ci_high"}

    def read(column: str, text: str | None):
        if text is None:
            raise ValueError("a line is cut short")
        if column == "is_main":
            return text == "true"
        if column not in whole | real:
            return text
        if text == "" or column in whole:
            return int(text) if text else None
        if math.isnan(number := float(text)):
            raise ValueError(f"'{text}' in the column {column}")
        return number

    return Row(**{column: read(column, cells[column]) for column in COLUMNS})
