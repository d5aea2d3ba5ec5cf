"""Bring data sets of the hub into a local folder, and tell what lies there."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from clipib.data.catalog import CATALOG
from clipib.data.fetch import Wanted, data_home, fetch, is_complete
from clipib.data.load import runnable, wanted_of
from clipib.data.lock import read_lock
from clipib.data.specs import parse_specs
from clipib.data.wds import split_names
from clipib.errors import UserError, try_all
from clipib.progress import SILENT, Progress
from clipib.tasks.suites import announce_suites


def fetch_data(
    names: str | list[str],
    *,
    data_root: str | Path | None = None,
    split: str = "test",
    update: bool = False,
    progress: Progress = SILENT,
) -> list[dict[str, Any]]:
    """Fetch registry entries, suites and `wds:ORG/NAME@REV` repositories; what is complete is not fetched again.

    Args:
        data_root: where to; left out, CLIPIB_DATA, else a folder in the cache.
        split: of the names that say none.
        update: take the newest commit in place of the locked one.

    Returns:
        One record per data set: name, split, files and size as locked, revision, and what was fetched now.

    Raises:
        UserError: for everything that cannot be had, in one message.
    """
    root = data_home(data_root)
    specs = parse_specs(names)
    announce_suites(specs, progress)
    wanted = try_all(lambda s=s: _fetchable(s, split, root) for s in runnable(specs))
    plans = {(p.wanted.name, p.wanted.split): p for p in fetch(wanted, root, update=update, progress=progress)}
    lock = read_lock(root)
    records = []
    for w in dict.fromkeys(wanted):
        plan = plans.get((w.name, w.split))
        files = [f for path, f in lock[w.name]["files"].items() if path.startswith(f"{w.split}/")]
        records.append(
            {
                "name": w.name,
                "split": w.split,
                "files": len(files),
                "MB": round(sum(f["size"] for f in files) / 1e6, 1),
                "fetched MB": round(plan.size_bytes / 1e6, 1) if plan else 0,
                "revision": lock[w.name]["revision"][:12],
            }
        )
    return records


def list_data(data_root: str | Path | None = None) -> list[dict[str, Any]]:
    """What the lock of a data root names: one record per data set and split.

    Raises:
        UserError: when the lock is damaged.
    """
    root, records = data_home(data_root), []
    for name, locked in read_lock(root).items():
        for split in sorted({path.split("/")[0] for path in locked["files"] if "/" in path}):
            files = {path: f for path, f in locked["files"].items() if path.startswith(f"{split}/")}
            state = "whole"
            try:
                if not is_complete(root, Wanted(name, locked["repo"], "", split)):
                    state = "incomplete"
            except UserError:
                state = "changed"
            records.append(
                {
                    "name": name,
                    "split": split,
                    "files": len(files),
                    "MB": round(sum(f["size"] for f in files.values()) / 1e6, 1),
                    "state": state,
                    "revision": locked["revision"][:12],
                }
            )
    known = {r["name"] for r in records}
    for name in CATALOG:
        if (root / name).is_dir() and name not in known:
            shown = ", ".join(split_names(root / name)) or "own copy"
            records.append({"name": name, "split": shown, "files": "", "MB": "", "state": "not locked", "revision": ""})
    return records


def describe_data(name: str, data_root: str | Path | None = None) -> dict[str, Any]:
    """Everything the registry says of one entry, and where its local copy is.

    Raises:
        UserError: for an unknown name.
    """
    specs = parse_specs(name)
    spec = specs[0]
    if len(specs) > 1 or spec.kind != "name":
        raise UserError(f"'{name}' is no name of the registry.", hint="`clipib list datasets` shows all.")
    entry, root = CATALOG[spec.argument], data_home(data_root)
    locked = read_lock(root).get(entry.name)
    local = "not here" if not (root / entry.name).is_dir() else str(root / entry.name)
    size = sum(entry.size_bytes.values())
    return {
        "name": entry.name,
        "task": entry.task,
        "about": entry.about,
        "protocol": entry.protocol,
        "hub": entry.hub,
        "revision": entry.revision or "newest",
        "images": ", ".join(f"{s} {n:,}" for s, n in entry.counts.items()),
        "captions": ", ".join(f"{s} {n:,}" for s, n in entry.captions.items()),
        "classes": entry.classes or "",
        "class names": ", ".join(entry.classnames[:6]) + (", ..." if len(entry.classnames) > 6 else ""),
        "templates": f"{len(entry.templates)}: {entry.templates[0]}" if entry.templates else "",
        "main metric": entry.main_metric,
        "download": f"{size / 1e6:,.0f} MB" if size else "size not known",
        "not runnable": entry.not_runnable,
        "note": entry.note,
        "local copy": local + (f", locked at {locked['revision'][:12]}" if locked else ""),
    }


def _fetchable(spec, split: str, root: Path) -> Wanted:
    wanted = wanted_of(spec, split, root)
    if wanted is None:
        own = spec.kind == "name"
        where = f"has a copy of your own in '{root / spec.argument}'" if own else "is not fetched from the hub"
        raise UserError(f"'{spec.text}' {where}.", hint="Name registry entries, suites, or wds:ORG/NAME@REVISION.")
    return wanted
