"""Thumbnails of the samples of finished runs, as data URLs; nothing is fetched for them."""

from __future__ import annotations

import base64
import io
from pathlib import Path
from typing import Any, NamedTuple

from clipib.data.dataset import Dataset
from clipib.errors import UserError
from clipib.tasks.results import Row
from clipib.tasks.run_data import open_run_data
from clipib.tasks.runs import Run
from clipib.tasks.sheet import SIDE, fit

QUALITY = 82  # of JPEG: a thumbnail takes some 3 kB


class Thumbnail(NamedTuple):
    """A small picture as a data URL, and its size in px."""

    url: str
    width: int
    height: int


class Pictures:
    """Opens the data sets that rows were computed on, each once.

    Args:
        data_root: folder of local copies by name; left out, that of the run.
    """

    def __init__(self, data_root: str | Path | None = None) -> None:
        self.data_root = data_root
        self._found: dict[tuple, tuple[Dataset, dict[str, int]] | UserError] = {}

    def why_missing(self, run: Run, row: Row) -> str:
        """Why there are no pictures of a row's samples, or "" where there are."""
        found = self._open(run, row)
        return found.message if isinstance(found, UserError) else ""

    def thumbnail(self, run: Run, row: Row, sample_id: str) -> Thumbnail | None:
        """A sample at 96 px of its longer side; None where it cannot be read."""
        found = self._open(run, row)
        if isinstance(found, UserError) or sample_id not in found[1]:
            return None
        dataset, place = found
        try:
            small = fit(dataset.images.open(place[sample_id]), SIDE)
        except OSError:
            return None
        out = io.BytesIO()
        small.save(out, "JPEG", quality=QUALITY, optimize=True)
        return Thumbnail(f"data:image/jpeg;base64,{base64.b64encode(out.getvalue()).decode()}", *small.size)

    def _open(self, run: Run, row: Row) -> tuple[Dataset, dict[str, int]] | UserError:
        """The data set of a row with the place of each sample, or why it cannot be opened."""
        key = (str(run.path), row.command, row.dataset, row.split, row.limit, row.data_sha256)
        if key not in self._found:
            run = run._replace(settings=_readable(run.settings))
            options = {"data_root": self.data_root, "cache_dir": run.settings.get("cache_dir"), "fetch": False}
            try:
                (dataset,) = open_run_data(run, [row], **options).values()
                self._found[key] = dataset, {sample_id: i for i, sample_id in enumerate(dataset.images.ids)}
            except UserError as error:
                self._found[key] = error
        return self._found[key]


def _readable(settings: object) -> dict[str, Any]:
    """Of what a run was asked for what may say where its data lie; anything else may have been changed by hand."""
    given = settings if isinstance(settings, dict) else {}
    texts = {name: value for name, value in given.items() if isinstance(value, str)}
    datasets = given.get("datasets")
    several = isinstance(datasets, list) and all(isinstance(name, str) for name in datasets)
    return texts | ({"datasets": datasets} if several else {})
