"""Evaluation sets known by name, and suites of them.

What is known of each set stands in `catalog.json` with its sources; class names and templates in `names.json` are
those of CLIP_benchmark (MIT licence, (c) 2022 Mehdi Cherti, see NAMES_LICENSE.txt). Two protocols publish numbers
under one name and differ in splits, class names or prompts, so DataComp's sets are entries of their own: `svhn` is
CLIP_benchmark's, `datacomp/svhn` DataComp's. Names without `vtab/` mean the VTAB splits wherever CLIP_benchmark's
webdatasets have them.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterable, Mapping
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

from clipib.registry import unknown_name

LABEL_TASKS = ("classification", "multilabel", "selection")


class Entry(NamedTuple):
    """One evaluation set.

    task: "classification", "multilabel", "retrieval" or "selection" (which pictures go with a cue).
    about: half a line.
    counts: images by split; captions: texts by split; only numbers that a reading must reach.
    protocol: "clip_benchmark" or "datacomp", whose files and prompts these are.
    hub: id of the hub's data set; revision: the full commit, or "".
    split: the split that is evaluated.
    listed_as: its key in the protocol's own list of tasks.
    classes: number of classes, 0 where there are none or their number is not fixed.
    size_bytes: bytes to download by split, {} where unknown; to three digits.
    main_metric: the metric that represents the set in an average, "" where there is none.
    group: for worst-group metrics the name of the group's column, which is one of `metadata`.
    metadata: names of the columns of each sample's .npy member, in order.
    names_key, templates_key: where `names.json` has the class names and templates; "" where they come with the data.
    note: what one must know to trust a number.
    not_runnable: why it cannot be evaluated, "" where it can.
    """

    task: str
    about: str
    counts: Mapping[str, int]
    captions: Mapping[str, int]
    protocol: str
    hub: str
    revision: str
    split: str
    classes: int
    size_bytes: Mapping[str, int]
    main_metric: str
    group: str
    metadata: tuple[str, ...]
    names_key: str
    templates_key: str
    note: str
    not_runnable: str
    name: str
    listed_as: str

    @property
    def classnames(self) -> tuple[str, ...]:
        """The class names by label, () where they come with the data."""
        return tuple(_names()["classnames"].get(self.names_key, ()))

    @property
    def templates(self) -> tuple[str, ...]:
        """The prompts with `{c}` for the class name, () where they come with the data."""
        return tuple(_names()["templates"].get(self.templates_key, ()))


class Suite(NamedTuple):
    """A frozen list of entries under one name."""

    name: str
    about: str
    entries: tuple[str, ...]


def find_entry(name: str) -> str | None:
    """The catalogue key that `name` means, or None.

    Understood beside the key: case and separators (CIFAR-10), CLIP_benchmark's spellings (`vtab/cifar10`,
    `wds/vtab/cifar10`), hub ids (`clip-benchmark/wds_vtab-cifar10`), DataComp's task keys (`wilds/fmow`), and a few
    everyday names. A bare name means CLIP_benchmark's set where both protocols have one.

    Example:
        >>> find_entry("wds/vtab/cifar10"), find_entry("djghosh/wds_vtab-svhn_test"), find_entry("coco")
        ('cifar10', 'datacomp/svhn', 'mscoco_captions')
    """
    return name if name in CATALOG else _aliases().get(_plain(name))


def suite_entries(suite: str, need: str = "") -> tuple[str, ...]:
    """The keys of a suite that a task can use; those that are not runnable are among them, for the caller to name.

    Args:
        suite: a name of SUITES; `_` is read as `-`.
        need: "label" for classification, "caption" for retrieval, "" for all.

    Raises:
        UserError: for an unknown suite, with the nearest.
    """
    keys = SUITES[check_suite(suite)].entries
    if not need:
        return keys
    return tuple(k for k in keys if (CATALOG[k].task in LABEL_TASKS) == (need == "label"))


def check_suite(suite: str) -> str:
    """The name of a suite as SUITES has it.

    Raises:
        UserError: for an unknown suite, with the nearest.
    """
    name = suite.strip().lower().replace("_", "-")
    if name not in SUITES:
        raise unknown_name("suite", suite, SUITES, hint="`clipib list suites` shows what is in each.")
    return name


def suite_sha256(names: Iterable[str]) -> str:
    """Hash of a list of keys, whatever their order: two runs with one hash evaluated the same list.

    Example:
        >>> suite_sha256(["mnist", "cifar10"]) == suite_sha256(["cifar10", "mnist"])
        True
    """
    return hashlib.sha256("\n".join(sorted(names)).encode()).hexdigest()


def download_size(names: Iterable[str]) -> tuple[int, int]:
    """(bytes of the evaluated splits as far as they are known, number of entries of unknown size)."""
    sizes = [CATALOG[n].size_bytes.get(CATALOG[n].split) for n in names]
    return sum(s for s in sizes if s), sum(s is None for s in sizes)


EVERYDAY_NAMES = {
    "imagenet": "imagenet1k",
    "imagenet1000": "imagenet1k",
    "coco": "mscoco_captions",
    "mscoco": "mscoco_captions",
    "cococaptions": "mscoco_captions",
    "aircraft": "fgvc_aircraft",
    "sst2": "renderedsst2",
}


def _plain(name: str) -> str:
    """A name without case, blanks and separators; `/` stays, it tells protocols and data sets apart."""
    return re.sub(r"[-_\s]", "", name.lower())


@cache
def _aliases() -> dict[str, str]:
    """Every spelling of every entry, plain; where two share one, the first wins: CLIP_benchmark's sets stand first."""
    found: dict[str, str] = {}
    for key, entry in CATALOG.items():
        short, dashed = entry.listed_as.removeprefix("wds/"), entry.listed_as.replace("vtab/", "vtab-")
        spellings = [key, key.removeprefix("datacomp/"), entry.listed_as, dashed, short]
        spellings.append(f"{entry.protocol}/{entry.listed_as}")
        for spelling in (*spellings, entry.hub, entry.hub.partition("/")[2]):
            found.setdefault(_plain(spelling), key)
    return {**EVERYDAY_NAMES, **found}


@cache
def _names() -> dict[str, dict[str, list[str]]]:
    return json.loads((Path(__file__).parent / "names.json").read_text("utf-8"))


def _read_entry(facts: dict[str, Any]) -> Entry:
    blank = {"captions": {}, "group": "", "metadata": (), "names_key": "", "templates_key": "", "note": ""}
    blank |= {"main_metric": "", "not_runnable": ""}
    return Entry(**{**blank, **facts, "metadata": tuple(facts.get("metadata", ()))})


def _read() -> tuple[dict[str, Entry], dict[str, Suite]]:
    facts = json.loads((Path(__file__).parent / "catalog.json").read_text("utf-8"))
    entries = {f["name"]: _read_entry(f) for f in facts["entries"]}
    suites = {n: Suite(n, s["about"], tuple(s["entries"])) for n, s in facts["suites"].items()}
    return entries, suites


CATALOG, SUITES = _read()
