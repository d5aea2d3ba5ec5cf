"""Registry entries from their local copies, held against what the registry says of them."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np

from clipib.data.catalog import CATALOG, Entry
from clipib.data.dataset import Dataset
from clipib.data.fetch import data_home
from clipib.data.folder import load_folder
from clipib.data.prompts import DEFAULT_TEMPLATES
from clipib.data.table import load_table
from clipib.data.wds import load_wds, split_names
from clipib.errors import UserError
from clipib.progress import counted

TABLE_SUFFIXES = (".csv", ".tsv", ".parquet", ".jsonl")


def entry_home(key: str, data_root: str | Path | None) -> Path:
    """The folder of a registry entry's local copy.

    Raises:
        UserError: when there is none.
    """
    root = data_home(data_root)
    home = root / key
    if not home.is_dir():
        raise UserError(
            f"'{key}' is not in '{root}': there is no folder '{home}'.",
            hint=f"Type: clipib data fetch {key}; or put a copy of your own there, as {key}/{_layout(key)}.",
        )
    return home


def entry_table(home: Path, split: str) -> Path | None:
    """The table of a local copy that holds this split, if there is one: SPLIT.csv, captions.csv or index.csv."""
    tables = [home / f"{stem}{s}" for stem in (split, "captions", "index") for s in TABLE_SUFFIXES]
    return next((t for t in tables if t.is_file()), None)


def _layout(key: str) -> str:
    labelled = CATALOG[key].task == "classification"
    return "SPLIT/CLASS/image.jpg" if labelled else "SPLIT.csv with columns image, caption"


def load_entry(key: str, split: str, need: str, root: Path) -> Dataset:
    """A registry entry from its local copy: webdataset shards, class folders, or a table of captions."""
    entry, home = CATALOG[key], entry_home(key, root)
    if split_names(home):
        dataset = with_entry_facts(load_wds(home, split=split, name=key, need=need), key, entry)
        check_entry_counts(dataset, key, entry)
        return dataset
    table = entry_table(home, split)
    if table:
        dataset = load_table(table, split=split, name=key, need=need)
        if table.stem == split:
            dataset = replace(dataset, split=split)
    elif entry.task == "classification":
        dataset = load_folder(home, split=split, name=key)
    else:
        raise UserError(f"'{home}' holds no table of captions for '{split}'.", hint=f"Expected: {key}/{_layout(key)}.")
    if dataset.split != split:  # else training might be given what is the test set
        raise UserError(
            f"Nothing says that '{table or home}' is the {split} part of '{key}'.",
            hint=f"Expected: {key}/{_layout(key)}; a table of all parts has a column split.",
        )
    dataset = with_entry_facts(with_entry_names(dataset, key, entry), key, entry)
    check_entry_counts(dataset, key, entry)
    return dataset


def with_entry_names(dataset: Dataset, key: str, entry: Entry) -> Dataset:
    """A reading of folders or tables with the entry's class names, their order and its templates.

    Raises:
        UserError: when its classes are not those of the entry.
    """
    if not entry.classnames:
        own = dataset.templates != DEFAULT_TEMPLATES or not entry.templates or dataset.labels is None
        return dataset if own else replace(dataset, templates=entry.templates)
    index = {n.lower(): i for i, n in enumerate(entry.classnames)}
    places = [index.get(c.lower(), int(c) if c.isdecimal() else -1) for c in dataset.classnames]
    if sorted(places) != list(range(len(entry.classnames))):
        expected = ", ".join(entry.classnames[:4])
        raise UserError(
            f"The {len(dataset.classnames)} classes of '{key}' as read ({', '.join(dataset.classnames[:4])}, ...) "
            f"are not its {len(entry.classnames)} classes ({expected}, ...).",
            hint="Class folders bear the class names, or their indices from 0.",
        )
    labels = np.array(places)[dataset.labels]
    return replace(dataset, labels=labels, classnames=entry.classnames, templates=entry.templates)


def with_entry_facts(dataset: Dataset, key: str, entry: Entry) -> Dataset:
    """Hold a reading against the entry's classes, and give it the entry's main metric and groups.

    Words that differ from the entry's are told in its `differences`.
    """
    names, differences = dataset.classnames, {}
    if entry.classes and len(names) != entry.classes:
        raise UserError(f"'{key}' has {len(names)} classes as read, {entry.classes} are expected.")
    if entry.classnames and names != entry.classnames:
        if sorted(names) == sorted(entry.classnames):
            raise UserError(
                f"The classes of '{key}' as read stand in another order than the registry's: "
                f"{', '.join(names[:4])}, ... instead of {', '.join(entry.classnames[:4])}, ...",
                hint="Labels would mean other classes. Fetch the data again, or name the path to use it as it is.",
            )
        differ = [f"'{a}' for '{b}'" for a, b in zip(names, entry.classnames) if a != b]
        found = f"{counted(len(differ), 'class name')} of the data differ from the registry's: {differ[0]}"
        differences["classnames"] = found
    if entry.templates and dataset.templates != entry.templates:
        differences["templates"] = "the data's own templates are used; they differ from the registry's"
    facts = {"main_metric": entry.main_metric, "groups": _group_of(dataset, key, entry)}
    return replace(dataset, **facts, differences=differences, notes=(*dataset.notes, *differences.values()))


def check_entry_counts(dataset: Dataset, key: str, entry: Entry) -> None:
    """Hold a reading against the entry's counts.

    Raises:
        UserError: when images or captions are missing or too many.
    """
    for what, found, counts in (
        ("images", len(dataset), entry.counts),
        ("captions", len(dataset.captions or ()), entry.captions),
    ):
        expected = counts.get(dataset.split)
        if expected is not None and found != expected:
            raise UserError(
                f"'{key}' ({dataset.split}) has {found:,} {what} as read, {expected:,} are expected.",
                hint="A part is missing or doubled. To evaluate it as it is, name the path: folder:PATH or csv:PATH.",
            )


def _group_of(dataset: Dataset, key: str, entry: Entry) -> np.ndarray | None:
    """The column of the metadata that the entry's main metric groups by."""
    if not entry.group:
        return None
    if dataset.groups is None:
        raise UserError(f"'{key}' as read has no '{entry.group}' of each image, which its main metric needs.")
    if dataset.groups.ndim == 1:
        return dataset.groups
    if dataset.groups.shape[1] != len(entry.metadata):
        raise UserError(
            f"The metadata of '{key}' has {dataset.groups.shape[1]} columns as read, {len(entry.metadata)} are "
            f"expected ({', '.join(entry.metadata)})."
        )
    return dataset.groups[:, entry.metadata.index(entry.group)]
