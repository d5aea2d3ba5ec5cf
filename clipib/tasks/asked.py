"""What a run was asked for, and what of that failed: its rows cannot tell, its `results.json` does."""

from __future__ import annotations

import json
from collections.abc import Collection, Iterable
from pathlib import Path
from typing import Any, NamedTuple

from clipib.data.folder import SPLIT_FOLDERS
from clipib.data.lock import folder_name
from clipib.data.specs import Spec, is_url, parse_specs, repository_of
from clipib.errors import UserError
from clipib.tasks.gate_words import world_names
from clipib.tasks.results import JSON_FILE

NEEDS = {"zeroshot": "label", "retrieve": "caption"}


class Asked(NamedTuple):
    """The last call of a run's folder.

    settings: its options, {} where nothing tells. datasets: for each data set that it named the names that its rows may
    bear. failed: the same for those that could not be evaluated on some checkpoint. partial: something failed.
    """

    settings: dict[str, Any]
    datasets: tuple[tuple[str, ...], ...] = ()
    failed: tuple[tuple[str, ...], ...] = ()
    partial: bool = False


def read_asked(folder: str | Path) -> Asked:
    """What `results.json` tells, as far as it can be read."""
    try:
        about = json.loads((Path(folder) / JSON_FILE).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        about = {}
    about = about if isinstance(about, dict) else {}
    settings = about.get("settings") if isinstance(about.get("settings"), dict) else {}
    command = str(about.get("command") or "")
    need = NEEDS.get(command, "")
    texts, name = settings.get("datasets"), settings.get("name")
    if command == "finetune":
        texts, name = settings.get("val") or settings.get("train"), "" if settings.get("val") else name
    name = name if isinstance(name, str) else ""
    failures = about.get("failures") if isinstance(about.get("failures"), list) else []
    gone = dict.fromkeys(str(f.get("dataset") or "") for f in failures if isinstance(f, dict))
    failed = [group for text in filter(None, gone) for group in _groups([text], need, name) or [(text,)]]
    return Asked(settings, tuple(_groups(texts, need, name)), tuple(failed), bool(failures))


def possible_names(texts: str | list[str], need: str = "", name: str = "") -> list[tuple[str, ...]]:
    """For each data set that is named the names that its rows may bear, nothing being read.

    Example:
        >>> possible_names("cifar10,digitworld/color"), possible_names("csv:/data/coco/val.csv")
        ([('cifar10',), ('digitworld/color',)], [('coco/val.csv',)])

    Raises:
        UserError: for what names no data.
    """
    if name:
        return [(name,)]
    groups: list[tuple[str, ...]] = []
    for spec in parse_specs(texts, need):
        groups += [(n,) for n in world_names(spec, need)] if spec.kind == "digitworld" else [_spellings(spec, need)]
        groups += [(f"suite:{spec.suite}",)] * bool(spec.suite)
    return list(dict.fromkeys(groups))


def names_of(groups: Iterable[tuple[str, ...]], here: Collection[str]) -> set[str]:
    """The names that a run without rows of them lacks; where one of a group is there, the others were not meant."""
    return {name for group in groups if not set(group) & set(here) for name in group}


def _groups(texts: Any, need: str, name: str) -> list[tuple[str, ...]]:
    listed = texts if isinstance(texts, list) else [texts]
    if not listed or not all(isinstance(text, str) for text in listed):
        return []
    try:
        return possible_names(listed, need, name)
    except UserError:  # data that have moved, or settings written by hand
        return []


def _spellings(spec: Spec, need: str) -> tuple[str, ...]:
    """A folder may hold a folder of each split, and its rows then bear the name of that."""
    if spec.kind == "name":
        return (spec.argument,)
    if spec.kind in ("wds", "hf") and (found := repository_of(spec.argument)):
        return (found[0],)
    if is_url(spec.argument):
        return (folder_name(spec.argument),)
    place = Path(spec.argument).expanduser().resolve()
    places = [place]
    if spec.kind == "folder":
        places += [place / folder for role in (("test",) if need else SPLIT_FOLDERS) for folder in SPLIT_FOLDERS[role]]
    if spec.kind == "wds":
        places.append(place.parent)
    return tuple(dict.fromkeys("/".join(p.parts[-2:]).strip("/") for p in places))
