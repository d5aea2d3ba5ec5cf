"""From what the user typed to data sets that were checked."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path

from clipib.data import DATA_KINDS
from clipib.data.catalog import CATALOG
from clipib.data.dataset import Dataset
from clipib.data.entries import load_entry
from clipib.data.fetch import Wanted, data_home, describe_plan, fetch, fetch_url, plan_fetch
from clipib.data.folder import SPLIT_FOLDERS
from clipib.data.lock import folder_name, read_lock
from clipib.data.specs import Spec, is_url, parse_specs, repository_of
from clipib.errors import UserError, try_all
from clipib.progress import SILENT, Progress
from clipib.registry import resolve

ELSEWHERE = "Without network: digitworld, folder:PATH or csv:PATH in its place, or `clipib demo`."


def load_datasets(
    texts: str | list[str] | list[Spec],
    *,
    role: str = "test",
    need: str = "",
    data_root: str | Path | None = None,
    name: str = "",
    columns: Mapping[str, str] | None = None,
    dry_run: bool = False,
    progress: Progress = SILENT,
) -> list[Dataset]:
    """Load every data set that the arguments name; what is to be fetched is listed, and then fetched, together.

    Args:
        texts: specifications, or comma lists of them, or what `parse_specs` made of them.
        role: the split to take where none is written: "train", "val" or "test".
        need: "label" or "caption" where the task cannot do without.
        data_root: folder of local copies by name; left out, the variable CLIPIB_DATA, else a folder in the cache.
        name: the name in the results, for a single data set.
        dry_run: say what would be fetched, and leave those data sets out.
        columns: `image_column`, `caption_column`, `label_column`, `separator` of tables.

    Raises:
        UserError: for anything that is missing or does not fit, before any image is decoded.
    """
    specs = [texts] if isinstance(texts, str) else list(texts)
    specs = specs if specs and isinstance(specs[0], Spec) else parse_specs(specs, need)
    if name and len(specs) > 1:
        raise UserError(f"--name '{name}' is for a single data set, but {len(specs)} are named.")
    root = data_home(data_root)
    reads = [partial(_load, spec, role, need, root, name, dict(columns or {}), dry_run, progress) for spec in specs]
    remote = try_all(partial(wanted_of, spec, role, root) for spec in specs)
    there = [read for read, wanted in zip(reads, remote, strict=True) if not wanted]
    bring = partial(_bring, [w for w in remote if w], root, dry_run, progress)
    missing, *local = try_all([bring, *there])  # all that is missing is told at once
    local = iter(local)
    pairs = [(read, wanted) for read, wanted in zip(reads, remote, strict=True) if wanted not in missing]
    found = try_all(read if wanted else partial(next, local) for read, wanted in pairs)
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


def runnable(specs: list[Spec]) -> list[Spec]:
    """What is to be read: of suites the entries that can be, each once; what is named by itself stays in any case."""
    named = {(s.argument, s.split) for s in specs if not s.suite}
    kept, seen = [], set()
    for spec in specs:
        key = (spec.argument, spec.split)
        if not spec.suite:
            kept.append(spec)
        elif key not in named | seen and not CATALOG[spec.argument].not_runnable:
            seen.add(key)
            kept.append(spec)
    return kept


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
        return Wanted(spec.argument, entry.hub, entry.revision, split, f"suite:{spec.suite}" if spec.suite else "")
    if spec.kind == "wds" and (found := repository_of(spec.argument)):
        repo, revision = found
        typed = f"wds:{repo}" + (f"@{revision}" if revision else "")
        return Wanted(folder_name(typed.removeprefix("wds:")), repo, revision, split, typed)
    return None


def _bring(wanted: list[Wanted], root: Path, dry_run: bool, progress: Progress) -> list[Wanted]:
    """Fetch what is missing; a dry run only says what that would be, and returns it."""
    try:
        if not dry_run:
            fetch(wanted, root, progress=progress)
            return []
        plans = plan_fetch(wanted, root)
    except UserError as error:
        raise UserError(error.message, hint=f"{error.hint}\n{ELSEWHERE}") from error
    for plan in plans:
        progress.say(describe_plan(plan))
    return [plan.wanted for plan in plans]


def _load(
    spec: Spec, role: str, need: str, root: Path, name: str, columns: dict[str, str], dry_run: bool, progress: Progress
) -> list[Dataset]:
    """What one specification names; several only for the label sets of digitworld."""
    split = spec.split or role
    on_disk = not (repository_of(spec.argument) or is_url(spec.argument))
    if dry_run and not on_disk and (spec.kind == "hf" or is_url(spec.argument)):
        progress.say(f"{spec.text}: would be fetched; a dry run does not look into it")
        return []
    datasets = _read(spec, split, need, root, name, columns, progress)
    if spec.kind in ("wds", "hf") and on_disk and spec.split:
        synonym = next((s for s, names in SPLIT_FOLDERS.items() if split in names), split)
        if datasets[0].split not in (split, synonym):
            raise UserError(f"Nothing says that '{spec.argument}' is its {split} part.", hint="Leave the split out.")
    return datasets


def _read(
    spec: Spec, split: str, need: str, root: Path, name: str, columns: dict[str, str], progress: Progress
) -> list[Dataset]:
    if spec.kind == "name":
        return [load_entry(spec.argument, split, need, root)]
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
            place, name = root / wanted_of(spec, split, root).name, name or found[0]
        elif is_url(spec.argument):
            folder = folder_name(spec.argument)
            fetch_url(Wanted(folder, spec.argument, "", split), root, progress=progress)
            place, name = root / folder, name or folder
        return [load(place, split=split, name=name, need=need)]
    return [load(spec.argument, split=split, name=name)]


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
