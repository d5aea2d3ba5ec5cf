"""The data that a run was evaluated on, opened once more for its pictures and class names."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

from clipib.data.dataset import Dataset
from clipib.data.fetch import data_home
from clipib.data.load import load_datasets, runnable
from clipib.data.manifest import Manifest
from clipib.data.specs import Spec, parse_specs
from clipib.embeddings.store import Store
from clipib.errors import UserError
from clipib.progress import SILENT, Progress
from clipib.tasks.results import Row
from clipib.tasks.runs import Run

COLUMNS = ("image_column", "caption_column", "label_column", "separator")
ELSEWHERE = "Name where the data lie now: --data SPEC."


def open_run_data(
    run: Run,
    rows: Iterable[Row],
    *,
    data: str | list[str] | None = None,
    data_root: str | Path | None = None,
    cache_dir: str | Path | None = None,
    fetch: bool = True,
    progress: Progress = SILENT,
) -> dict[tuple[str, str], Dataset]:
    """The data sets of these rows, each checked to be what the run saw: the same images with the same labels.

    Args:
        data: where they lie; left out, as the run's own settings say.
        data_root: as for `clipib.tasks.zeroshot`; left out, that of the run.
        fetch: whether data that do not lie here are brought; else they cannot be opened.

    Returns:
        By data set and split. A row with a limit has the sample that was drawn for it.

    Raises:
        UserError: when one cannot be opened, or is not what it was.
    """
    wanted = {(r.dataset, r.split): r for r in rows}
    loaded: dict[str, _Loaded] = {}
    cache = Store(cache_dir).cache_dir
    found = {}
    for key, row in wanted.items():
        need = "caption" if row.command == "retrieve" else "label"
        if need not in loaded:
            names = {r.dataset for r in wanted.values()}
            root = data_home(data_root or run.settings.get("data_root"), cache)
            loaded[need] = _load(run, names, need, data, root, fetch, progress)
        found[key] = _pick(loaded[need], row, Manifest(cache), run)
    return found


class _Loaded(NamedTuple):
    """What could be opened, and why the rest could not."""

    datasets: list[Dataset]
    errors: list[UserError]


def _load(
    run: Run,
    names: set[str],
    need: str,
    data: str | list[str] | None,
    data_root: Path,
    fetch: bool,
    progress: Progress,
) -> _Loaded:
    """What the specifications name, less catalogue entries that no row is of."""
    asked = data or run.settings.get("datasets")
    if not asked:
        raise UserError(f"'{run.path}' does not say where its data lay.", hint=ELSEWHERE)
    columns = {c: run.settings[c] for c in COLUMNS if run.settings.get(c)}
    name = "" if data else run.settings.get("name") or ""
    options = {"need": need, "data_root": data_root, "name": name, "columns": columns, "progress": progress}
    loaded = _Loaded([], [])
    try:
        specs = [s for s in runnable(parse_specs(asked, need)) if _may_hold(s, names)]
    except UserError as error:
        return _Loaded([], [error])
    for spec in specs:
        try:
            loaded.datasets.extend(load_datasets([spec], dry_run=not fetch, **options))
        except UserError as error:
            loaded.errors.append(error)
    return loaded


def _may_hold(spec: Spec, names: set[str]) -> bool:
    return spec.kind != "name" or spec.argument in names


def _pick(loaded: _Loaded, row: Row, manifest: Manifest, run: Run) -> Dataset:
    """The one with the hash that the row has, those that bear its name first."""
    named = [d for d in loaded.datasets if (d.name, d.split) == (row.dataset, row.split)]
    for dataset in (*named, *(d for d in loaded.datasets if d not in named)):
        dataset = dataset.changed(manifest=manifest)
        dataset = dataset.sample(row.limit, seed=row.seed) if row.limit else dataset
        if dataset.sha256 == row.data_sha256:
            return dataset
    if loaded.errors and not named:
        first = loaded.errors[0]
        text = f"The data of '{run.path}' cannot be opened: {first.message}"
        raise UserError(text, hint="\n".join(filter(None, (ELSEWHERE, first.hint)))) from first
    what = "is not what it was when" if named else "is not among the data that are named; it was there when"
    raise UserError(f"'{row.dataset}' {what} '{run.path}' was evaluated.", hint=ELSEWHERE)
