"""All splits of one data set, read as they lie there."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

from clipib.data import SPLITS
from clipib.data.dataset import Dataset
from clipib.data.entries import entry_home, entry_table
from clipib.data.fetch import data_home
from clipib.data.folder import folder_splits, read_folder
from clipib.data.load import load_dataset
from clipib.data.lock import folder_name
from clipib.data.specs import Spec, repository_of
from clipib.data.table import load_table, table_splits
from clipib.data.wds import load_wds, split_names


def find_splits(
    spec: Spec, *, data_root: str | Path | None = None, columns: Mapping[str, str] | None = None
) -> tuple[str, ...]:
    """The splits that a specification has: the one it names, else all that are there; "" where it is not cut.

    Raises:
        UserError: when nothing is there.
    """
    if spec.split:
        return (spec.split,)
    separator = (columns or {}).get("separator", "")
    if spec.kind == "folder":
        return folder_splits(spec.argument)
    if spec.kind == "csv":
        return table_splits(spec.argument, separator=separator)
    if spec.kind == "wds" and (names := split_names(Path(spec.argument).expanduser())):
        return tuple(names)
    if spec.kind == "wds" and (repository := repository_of(spec.argument)):
        folder = data_home(data_root) / folder_name("@".join(filter(None, repository)))
        return tuple(split_names(folder)) or ("test",)
    if spec.kind in ("wds", "hf"):
        return ("test",)
    if spec.kind != "name":
        return SPLITS
    home = entry_home(spec.argument, data_root)
    if names := split_names(home):
        return tuple(names)
    tables = {s: table for s in SPLITS if (table := entry_table(home, s))}
    if any(table.stem == s for s, table in tables.items()):
        return tuple(s for s, table in tables.items() if table.stem == s)
    return table_splits(tables["test"]) if tables else folder_splits(home)


def read_split(
    spec: Spec, split: str, *, data_root: str | Path | None = None, columns: Mapping[str, str] | None = None
) -> Dataset:
    """One split as it lies there: empty classes are kept, and nothing is held against the catalogue.

    Raises:
        UserError: when it cannot be read.
    """
    if spec.kind == "folder":
        return read_folder(spec.argument, split=split)
    if spec.kind == "csv":
        return load_table(spec.argument, split=split, **(columns or {}))
    if spec.kind != "name":
        return load_dataset(spec.text, role=split, data_root=data_root)
    home = entry_home(spec.argument, data_root)
    if split_names(home):
        return load_wds(home, split=split, name=spec.argument)
    table = entry_table(home, split)
    if table:
        return replace(load_table(table, split=split, name=spec.argument), split=split)
    return read_folder(home, split=split, name=spec.argument)
