"""The pictures of a finished run, from where its data lie; nothing is fetched."""

from __future__ import annotations

import base64
import io
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

from clipib.data.dataset import Dataset
from clipib.data.fetch import data_home
from clipib.data.load import load_datasets, runnable
from clipib.data.manifest import Manifest
from clipib.data.specs import Spec, parse_specs
from clipib.errors import UserError
from clipib.files import default_cache_dir
from clipib.tasks.results import Row
from clipib.tasks.runs import Run
from clipib.tasks.sheet import SIDE, fit

NEEDS = {"zeroshot": "label", "retrieve": "caption"}
COLUMNS = ("image_column", "caption_column", "label_column", "separator")


class Pictures:
    """Opens the data sets that rows were computed on, each once.

    Args:
        data_root: folder of local copies by name; left out, that of the run.
    """

    def __init__(self, data_root: str | Path | None = None) -> None:
        self.data_root = data_root
        self._loaded: dict[tuple, list[Dataset] | UserError] = {}
        self._places: dict[tuple, dict[str, int]] = {}
        self._found: dict[tuple, Dataset | UserError] = {}

    def dataset_of(self, run: Run, row: Row) -> Dataset:
        """The data set of a row, with the images and labels or captions that were evaluated.

        Raises:
            UserError: when it does not lie here any more, or is other data now.
        """
        key = (str(run.path), row.command, row.dataset, row.split, row.limit, row.data_sha256)
        return _once(self._found, key, lambda: self._reopen(run, row))

    def jpeg(self, dataset: Dataset, sample_id: str) -> tuple[str, int, int] | None:
        """A picture at 96 px of its longer side as a data URL, its width and height; None where it cannot be read."""
        key = (dataset.name, dataset.split, dataset.sha256)
        if key not in self._places:
            self._places[key] = {id_: i for i, id_ in enumerate(dataset.images.ids)}
        try:
            small = fit(dataset.images.open(self._places[key][sample_id]), SIDE)
        except (OSError, KeyError):
            return None
        out = io.BytesIO()
        small.save(out, "JPEG", quality=82, optimize=True)
        return f"data:image/jpeg;base64,{base64.b64encode(out.getvalue()).decode()}", *small.size

    def _reopen(self, run: Run, row: Row) -> Dataset:
        asked = run.settings.get("datasets")
        if not asked:
            raise UserError(f"'{run.path}' does not say where '{row.dataset}' lay.")
        specs = runnable(parse_specs(asked, NEEDS.get(row.command, "")))
        errors = []
        for spec in sorted(specs, key=lambda s: s.argument != row.dataset):
            try:
                candidates = self._load(run, row, spec)
            except UserError as error:
                errors.append(error)
                continue
            for dataset in candidates:
                if (dataset.name, dataset.split) == (row.dataset, row.split):
                    return _unchanged(run, row, dataset)
        if errors:
            raise errors[0]
        raise UserError(f"'{row.dataset}' ({row.split}) does not lie here.")

    def _load(self, run: Run, row: Row, spec: Spec) -> list[Dataset]:
        settings, need = run.settings, NEEDS.get(row.command, "")
        root = data_home(self.data_root or settings.get("data_root"), settings.get("cache_dir"))
        options = {"need": need, "name": settings.get("name") or "", "data_root": root}
        options["columns"] = {c: settings[c] for c in COLUMNS if settings.get(c)}
        # A dry run leaves out what would have to be fetched.
        load = partial(load_datasets, [spec], **options, dry_run=True)
        return _once(self._loaded, (str(run.path), spec.text, spec.argument, need), load)


def _once(known: dict[tuple, Any], key: tuple, make: Callable[[], Any]) -> Any:
    """What `make` gives, or the error that it raises, asked for only once."""
    if key not in known:
        try:
            known[key] = make()
        except UserError as error:
            known[key] = error
    if isinstance(known[key], UserError):
        raise known[key]
    return known[key]


def _unchanged(run: Run, row: Row, dataset: Dataset) -> Dataset:
    """The data set, cut to the sample that was evaluated; an error where its hash is another one."""
    dataset = dataset.changed(manifest=Manifest(run.settings.get("cache_dir") or default_cache_dir()))
    if row.limit:
        dataset = dataset.sample(row.limit, seed=row.seed)
    if dataset.sha256 != row.data_sha256:
        raise UserError(f"'{row.dataset}' is not the data that was evaluated: {dataset.sha256[:12]} now.")
    return dataset
