"""From what the user typed to data sets that were checked."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np

from clipib.data import DATA_KINDS
from clipib.data.catalog import CATALOG, Entry
from clipib.data.dataset import Dataset
from clipib.data.folder import load_folder
from clipib.data.specs import Spec, parse_specs
from clipib.data.table import load_table
from clipib.errors import UserError, try_all
from clipib.registry import resolve

ELSEWHERE = "Without it: digitworld, folder:PATH or csv:PATH in its place, or `clipib demo`."
TABLE_SUFFIXES = (".csv", ".tsv", ".parquet", ".jsonl")


def load_datasets(
    texts: str | list[str],
    *,
    role: str = "test",
    need: str = "",
    data_root: str | Path | None = None,
    name: str = "",
    columns: Mapping[str, str] | None = None,
) -> list[Dataset]:
    """Load every data set that the arguments name.

    Args:
        texts: specifications, or comma lists of them.
        role: the split to take where none is written: "train", "val" or "test".
        need: "label" or "caption" where the task cannot do without.
        data_root: folder of local copies by name, for catalogue entries; left out, the variable CLIPIB_DATA.
        name: the name in the results, for a single data set.
        columns: `image_column`, `caption_column`, `label_column`, `separator` of tables.

    Raises:
        UserError: for anything that is missing or does not fit, before any image is decoded.
    """
    specs = parse_specs(texts)
    if name and len(specs) > 1:
        raise UserError(f"--name '{name}' is for a single data set, but {len(specs)} are named.")
    loads = [partial(_load, spec, role, need, data_root, name, dict(columns or {})) for spec in specs]
    datasets = [d for found in try_all(loads) for d in found]
    doubled = [n for n, count in Counter((d.name, d.split) for d in datasets).items() if count > 1]
    if doubled:
        shown = ", ".join("/".join(filter(None, d)) for d in doubled)
        raise UserError(f"Two data sets in one call bear the name {shown}.", hint="Evaluate them apart, with --name.")
    return [_checked(d, need) for d in datasets]


def load_dataset(text: str, **options) -> Dataset:
    """Load the one data set that `text` names; options as for `load_datasets`."""
    return load_datasets(one_spec(text), **options)[0]


def one_spec(text: str) -> str:
    """`text`, where it names a single data set.

    Raises:
        UserError: when it names several.
    """
    specs = parse_specs(text)
    if len(specs) != 1:
        raise UserError(f"'{text}' names {len(specs)} data sets where one is wanted.")
    return text


def _load(spec: Spec, role: str, need: str, data_root, name: str, columns: dict[str, str]) -> list[Dataset]:
    split = spec.split or role
    if spec.kind == "name":
        return [_load_entry(spec.argument, split, need, data_root)]
    load = resolve("data kind", DATA_KINDS, spec.kind)
    if spec.kind == "digitworld":
        from clipib.data.digitworld.source import LABEL_VIEWS

        views = LABEL_VIEWS if need == "label" and not spec.argument else (spec.argument,)
        return [load(view, split=split, options=spec.options, name=name) for view in views]
    if spec.kind == "csv":
        return [load(spec.argument, split=split, name=name, need=need, **columns)]
    return [load(spec.argument, split=split, name=name)]


def entry_home(key: str, data_root: str | Path | None) -> Path:
    """The folder of a catalogue entry's local copy.

    Raises:
        UserError: when no folder of local copies is named, or it does not hold the entry.
    """
    root = data_root or os.environ.get("CLIPIB_DATA")
    if not root:
        raise UserError(
            f"'{key}' is read from a local copy, and no folder of local copies is named.",
            hint=f"Put it at DIR/{key}/{_layout(key)} and add --data-root DIR.\n{ELSEWHERE}",
        )
    home = Path(root).expanduser() / key
    if not home.is_dir():
        hint = f"Expected there: {key}/{_layout(key)}.\n{ELSEWHERE}"
        raise UserError(f"'{key}' is not in '{root}': there is no folder '{home}'.", hint=hint)
    return home


def entry_table(home: Path, split: str) -> Path | None:
    """The table of a local copy that holds this split, if there is one: SPLIT.csv, captions.csv or index.csv."""
    tables = [home / f"{stem}{s}" for stem in (split, "captions", "index") for s in TABLE_SUFFIXES]
    return next((t for t in tables if t.is_file()), None)


def _layout(key: str) -> str:
    labelled = CATALOG[key].task == "classification"
    return "SPLIT/CLASS/image.jpg" if labelled else "SPLIT.csv with columns image, caption"


def _load_entry(key: str, split: str, need: str, data_root: str | Path | None) -> Dataset:
    """A catalogue entry from its local copy: class folders, or a table of captions."""
    entry, home = CATALOG[key], entry_home(key, data_root)
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
    dataset = with_entry_names(dataset, key, entry)
    check_entry_counts(dataset, key, entry)
    return dataset


def with_entry_names(dataset: Dataset, key: str, entry: Entry) -> Dataset:
    """A reading with the entry's class names, their order and its templates.

    Raises:
        UserError: when its classes are not those of the entry.
    """
    if not entry.classnames:
        return dataset
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


def _checked(dataset: Dataset, need: str) -> Dataset:
    if need == "label" and dataset.labels is None:
        raise UserError(
            f"'{dataset.name}' has no labels, which classification needs.", hint="Use retrieve for captions."
        )
    if need == "caption" and dataset.captions is None:
        hint = "Retrieval wants a table with a caption column: csv:PATH."
        raise UserError(f"'{dataset.name}' has no captions, which retrieval needs.", hint=hint)
    return dataset
