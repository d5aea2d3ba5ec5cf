"""From what the user typed to data sets that were checked."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np

from clipib.data import DATA_KINDS
from clipib.data.catalog import CATALOG, Entry
from clipib.data.dataset import Dataset
from clipib.data.fetch import Wanted, data_home, fetch, fetch_url, read_lock
from clipib.data.folder import load_folder
from clipib.data.prompts import DEFAULT_TEMPLATES
from clipib.data.specs import Spec, is_url, parse_specs, repository_of
from clipib.data.table import load_table
from clipib.data.wds import load_wds, split_names
from clipib.errors import UserError, try_all
from clipib.progress import SILENT, Progress, counted
from clipib.registry import resolve

ELSEWHERE = "Without network: digitworld, folder:PATH or csv:PATH in its place, or `clipib demo`."
TABLE_SUFFIXES = (".csv", ".tsv", ".parquet", ".jsonl")


def load_datasets(
    texts: str | list[str] | list[Spec],
    *,
    role: str = "test",
    need: str = "",
    data_root: str | Path | None = None,
    name: str = "",
    columns: Mapping[str, str] | None = None,
    progress: Progress = SILENT,
) -> list[Dataset]:
    """Load every data set that the arguments name; what is to be fetched is listed, and then fetched, together.

    Args:
        texts: specifications, or comma lists of them, or what `parse_specs` made of them.
        role: the split to take where none is written: "train", "val" or "test".
        need: "label" or "caption" where the task cannot do without.
        data_root: folder of local copies by name; left out, the variable CLIPIB_DATA, else a folder in the cache.
        name: the name in the results, for a single data set.
        columns: `image_column`, `caption_column`, `label_column`, `separator` of tables.

    Raises:
        UserError: for anything that is missing or does not fit, before any image is decoded.
    """
    specs = [texts] if isinstance(texts, str) else list(texts)
    specs = specs if specs and isinstance(specs[0], Spec) else parse_specs(specs, need)
    if name and len(specs) > 1:
        raise UserError(f"--name '{name}' is for a single data set, but {len(specs)} are named.")
    root = data_home(data_root)
    reads = [partial(_load, spec, role, need, root, name, dict(columns or {}), progress) for spec in specs]
    remote = try_all(partial(wanted_of, spec, role, root) for spec in specs)
    there = [read for read, wanted in zip(reads, remote, strict=True) if not wanted]
    bring = partial(_bring, [w for w in remote if w], root, progress)
    _, *local = try_all([bring, *there])  # all that is missing is told at once
    local = iter(local)
    found = try_all(read if wanted else partial(next, local) for read, wanted in zip(reads, remote, strict=True))
    datasets = [d for group in found for d in group]
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


def wanted_of(spec: Spec, role: str, root: Path) -> Wanted | None:
    """The files of the hub that a specification stands on, or None for what lies here or is made here."""
    split = spec.split or role
    if spec.kind == "name":
        entry = CATALOG[spec.argument]
        own_copy = (root / spec.argument).is_dir() and spec.argument not in read_lock(root)
        if own_copy:
            return None
        if entry.not_runnable:
            raise UserError(f"'{spec.argument}' cannot be read: {entry.not_runnable}")
        return Wanted(spec.argument, entry.hub, entry.revision, split)
    if spec.kind == "wds" and (found := repository_of(spec.argument)):
        repo, revision = found
        return Wanted(repo.replace("/", "--"), repo, revision, split)
    return None


def _bring(wanted: list[Wanted], root: Path, progress: Progress) -> None:
    try:
        fetch(wanted, root, progress=progress)
    except UserError as error:
        raise UserError(error.message, hint=f"{error.hint}\n{ELSEWHERE}") from error


def _load(
    spec: Spec, role: str, need: str, root: Path, name: str, columns: dict[str, str], progress: Progress
) -> list[Dataset]:
    split = spec.split or role
    if spec.kind == "name":
        return [_load_entry(spec.argument, split, need, root)]
    load = resolve("data kind", DATA_KINDS, spec.kind)
    if spec.kind == "digitworld":
        from clipib.data.digitworld.source import LABEL_VIEWS

        views = LABEL_VIEWS if need == "label" and not spec.argument else (spec.argument,)
        return [load(view, split=split, options=spec.options, name=name) for view in views]
    if spec.kind == "csv":
        return [load(spec.argument, split=split, name=name, need=need, **columns)]
    if spec.kind == "hf":
        columns.pop("separator", "")
        options = {"config": spec.options.get("config", ""), "stream": "stream" in spec.options}
        return [load(spec.argument, split=split, name=name, need=need, **options, **columns)]
    if spec.kind == "wds":
        place, found = spec.argument, repository_of(spec.argument)
        if found:
            place, name = root / found[0].replace("/", "--"), name or found[0]
        elif is_url(spec.argument):
            folder = re.sub(r"[^A-Za-z0-9._-]+", "-", spec.argument.partition("://")[2]).strip("-")
            fetch_url(spec.argument, split, folder, root, progress=progress)
            place, name = root / folder, name or folder
        return [load(place, split=split, name=name, need=need)]
    return [load(spec.argument, split=split, name=name)]


def _load_entry(key: str, split: str, need: str, root: Path) -> Dataset:
    """A registry entry from its local copy: webdataset shards, class folders, or a table of captions."""
    entry = CATALOG[key]
    layout = "SPLIT/CLASS/image.jpg" if entry.task == "classification" else "SPLIT.csv with columns image, caption"
    home = root / key
    if split_names(home):
        return _as_entry(load_wds(home, split=split, name=key, need=need), key, entry)
    tables = [home / f"{stem}{s}" for stem in (split, "captions", "index") for s in TABLE_SUFFIXES]
    table = next((t for t in tables if t.is_file()), None)
    if table:
        dataset = load_table(table, split=split, name=key, need=need)
        if table.stem == split:
            dataset = replace(dataset, split=split)
    elif entry.task == "classification":
        dataset = load_folder(home, split=split, name=key)
    else:
        raise UserError(f"'{home}' holds no table of captions for '{split}'.", hint=f"Expected: {key}/{layout}.")
    if dataset.split != split:  # else training might be given what is the test set
        raise UserError(
            f"Nothing says that '{table or home}' is the {split} part of '{key}'.",
            hint=f"Expected: {key}/{layout}; a table of all parts has a column split.",
        )
    return _as_entry(_in_order_of(entry, dataset, key), key, entry)


def _in_order_of(entry: Entry, dataset: Dataset, key: str) -> Dataset:
    """Class folders under the entry's class names, whatever order the file system gives them."""
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


def _as_entry(dataset: Dataset, key: str, entry: Entry) -> Dataset:
    """Hold a reading against the entry's counts and classes, and give it the entry's main metric."""
    names, notes = dataset.classnames, dataset.notes
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
        notes = (*notes, f"{counted(len(differ), 'class name')} of the data differ from the registry's: {differ[0]}")
    if entry.templates and dataset.templates != entry.templates:
        notes = (*notes, "the data's own templates are used; they differ from the registry's")
    dataset = replace(dataset, main_metric=entry.main_metric, groups=_group_of(dataset, key, entry), notes=notes)
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
    return dataset


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


def _checked(dataset: Dataset, need: str) -> Dataset:
    if dataset.groups is not None and dataset.groups.ndim == 2:
        one = dataset.groups.shape[1] == 1
        note = "groups by its metadata" if one else f"{dataset.groups.shape[1]} columns of metadata are not used"
        dataset = replace(dataset, groups=dataset.groups[:, 0] if one else None, notes=(*dataset.notes, note))
    if need == "label" and dataset.labels is None:
        raise UserError(
            f"'{dataset.name}' has no labels, which classification needs.", hint="Use retrieve for captions."
        )
    if need == "caption" and dataset.captions is None:
        hint = "Retrieval wants a table with a caption column: csv:PATH."
        raise UserError(f"'{dataset.name}' has no captions, which retrieval needs.", hint=hint)
    return dataset
