"""A finished run as others read it: its rows, its settings, its checkpoints, its per-sample predictions."""

from __future__ import annotations

import json
from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from clipib.errors import UserError
from clipib.files import Stamp, file_stamp
from clipib.registry import nearest
from clipib.tasks.results import CSV_FILE, JSON_FILE, SAMPLE_SCOPE, SAMPLES, Row, read_rows, run_params_of, slug

if TYPE_CHECKING:
    import pandas as pd

AGAIN = "Evaluate again with this version, into another --out."
WRITTEN = ("datasets", "data_root", "cache_dir", "name")  # settings that name what a run has read
WRITTEN += ("image_column", "caption_column", "label_column", "separator")
STAGE = "stage=best"  # of a training run: what it hands over


class Run(NamedTuple):
    """What lies in an `--out` folder.

    path: the folder, or the `results.csv` that was named by itself.
    rows: all rows, of one or of several checkpoints.
    settings: what the run was asked for; empty where no `results.json` tells.
    status: "complete", "running" for one that is not finished or was cut off, or "" where that is not known.
    samples: the folder of per-sample predictions; it need not exist.
    """

    path: Path
    rows: list[Row]
    settings: dict[str, Any]
    status: str
    samples: Path


class CheckpointName(NamedTuple):
    """What tells the checkpoints of one run apart."""

    model: str
    pretrained: str
    sha256: str

    def __str__(self) -> str:
        return f"{self.model}{f' ({self.pretrained})' * bool(self.pretrained)} {self.sha256[:8]}".rstrip()


def read_run(path: str | Path) -> Run:
    """Read the folder that `--out` of an evaluation named, or the `results.csv` in it.

    Raises:
        UserError: when there is nothing, no `results.csv`, one of another version, or one without rows.
    """
    path = Path(path)
    folder = path if path.is_dir() else path.parent
    table = path / CSV_FILE if path.is_dir() else path
    if not table.is_file():
        raise _no_run(path)
    try:
        rows = read_rows(table)
    except UserError as error:
        raise UserError(error.message, hint=AGAIN) from error
    if not rows:
        raise UserError(f"'{table}' has no rows: nothing was finished.", hint="Run the evaluation again.")
    about = _read_about(folder / JSON_FILE) if table.name == CSV_FILE else {}
    return Run(path, rows, about.get("settings") or {}, about.get("status") or "", folder / SAMPLES)


def checkpoints_of(rows: Sequence[Row]) -> list[CheckpointName]:
    """The checkpoints that rows speak of, in their order."""
    return list(dict.fromkeys(CheckpointName(r.model, r.pretrained, r.checkpoint_sha256) for r in rows))


def rows_of_checkpoint(run: Run, text: str | None, *, flag: str) -> list[Row]:
    """The rows of one checkpoint of a run.

    Args:
        text: a part of its model or of its pretrained weights, or the beginning of its hash; None where the run has
            but one. Of a training run that is the best one, where nothing is named.
        flag: the option that `text` came with, for messages.

    Raises:
        UserError: when not exactly one checkpoint is meant; it lists them.
    """
    found = checkpoints_of(run.rows)
    if text is not None:
        low = text.lower()
        exact = [c for c in found if low in (c.model.lower(), c.pretrained.lower(), c.sha256)]
        meant = exact or [c for c in found if low in f"{c.model} ({c.pretrained})".lower() or c.sha256.startswith(low)]
    else:
        meant = found
        if len(found) > 1 and all(r.params.startswith("stage=") or ";stage=" in r.params for r in run.rows):
            meant = checkpoints_of([r for r in run.rows if STAGE in r.params.split(";")])
    if len(meant) == 1:
        return [r for r in run.rows if CheckpointName(r.model, r.pretrained, r.checkpoint_sha256) == meant[0]]
    shown = "\n".join(f"- {c}" for c in (meant or found))
    last = (meant or found)[-1]
    sure = last.sha256[:8] if [c.sha256 for c in found].count(last.sha256) == 1 else f"'{last.pretrained}'"
    hint = f"Pick one by a part of its name or the beginning of its hash: {flag} {sure}."
    if text is None:
        raise UserError(f"'{run.path}' has rows of {len(found)} checkpoints:\n{shown}", hint=hint)
    if meant:
        raise UserError(f"{flag} '{text}' fits {len(meant)} checkpoints of '{run.path}':\n{shown}", hint=hint)
    raise UserError(f"{flag} '{text}' fits no checkpoint of '{run.path}', which has:\n{shown}", hint=hint)


def samples_file(run: Run, row: Row) -> Path:
    """Where the per-sample lines of a row's data set lie, if there are any."""
    return run.samples / f"{slug(row.dataset)}.parquet"


def samples_of(run: Run, row: Row) -> pd.DataFrame | None:
    """The per-sample lines that a row was computed from, or None where there are none.

    A column that is empty in all of them, as those of other commands are, is left out.

    Raises:
        UserError: when the file is damaged.
    """
    path = samples_file(run, row)
    try:
        frame = _read_samples(path, file_stamp(path))
    except FileNotFoundError:
        return None
    scope = {column: getattr(row, column) for column in SAMPLE_SCOPE} | {"params": ";".join(run_params_of(row))}
    if not set(scope) <= set(frame.columns):
        return None
    for column, value in scope.items():
        if value is None:
            same = frame[column].isna()
        elif frame[column].dtype == object:  # lists, or nothing at all
            return None
        else:
            same = (frame[column] == value).fillna(False).astype(bool)
        frame = frame[same]
    return frame.drop(columns=list(scope)).dropna(axis=1, how="all") if len(frame) else None


@lru_cache(maxsize=4)
def _read_samples(path: Path, _stamp: Stamp) -> pd.DataFrame:
    """The table of one data set; a file that changed is read again."""
    import pandas as pd

    try:
        return pd.read_parquet(path, dtype_backend="numpy_nullable")
    except (OSError, ValueError, TypeError, KeyError, NotImplementedError) as error:  # pyarrow's own are among these
        hint = "Delete it to compare without intervals, or evaluate again with --fresh."
        raise UserError(f"'{path}' is damaged: {str(error).splitlines()[0]}", hint=hint) from error


def _read_about(path: Path) -> dict[str, Any]:
    """`results.json`, as far as it can be read: what is not of the kind that a run writes is left out."""
    try:
        about = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    about = about if isinstance(about, dict) else {}
    settings, status = about.get("settings"), about.get("status")
    settings = settings if isinstance(settings, dict) else {}
    known = {k: v for k, v in settings.items() if k not in WRITTEN or _is_text(v)}
    return about | {"settings": known, "status": status if isinstance(status, str) else ""}


def _is_text(value: Any) -> bool:
    """A text, or a list of some."""
    return isinstance(value, str) or (isinstance(value, list) and all(isinstance(v, str) for v in value))


def _no_run(path: Path) -> UserError:
    if path.is_dir():
        inside = sorted(p.parent.name for p in path.glob(f"*/{CSV_FILE}"))
        hint = f"Runs lie below it: {', '.join(inside[:5])}." if inside else "Name a folder that --out has written."
        return UserError(f"'{path}' is no run: it has no {CSV_FILE}.", hint=hint)
    beside = [p.parent.name for p in path.absolute().parent.glob(f"*/{CSV_FILE}")]
    close = nearest(path.name, beside)
    hint = f"Did you mean '{path.parent / close[0]}'?" if close else "Name a folder that --out has written."
    return UserError(f"There is no run '{path}'.", hint=hint)
