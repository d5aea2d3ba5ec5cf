"""Look after the store: what lies there, what is damaged, and what can go.

All of it may run while others read and write. Whoever misses a block that was removed here looks for its rows in the
blocks that came since, and encodes again what is nowhere; whoever has one mapped reads on.
"""

from __future__ import annotations

import contextlib
import json
import os
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from clipib.data.manifest import FOLDER as MANIFESTS
from clipib.data.manifest import SUFFIX as MANIFEST_SUFFIX
from clipib.embeddings.blocks import (
    FEATURES,
    KEYS,
    DamagedBlock,
    block_names,
    item_shape,
    read_block,
    remove_block,
    split_keys,
    write_block,
)
from clipib.embeddings.store import ABOUT, CLAIMS, Store

DAY, HOUR = 86_400.0, 3_600.0
HEADER_BYTES = 128  # of the keys file
SMALL_BYTES = 8 << 20  # a block below this is merged with others ...
MERGED_BYTES = 64 << 20  # ... up to this: small enough to be hashed for the sake of a few rows
MANY = 8  # small blocks in one space, from which on they are merged


class SpaceInfo(NamedTuple):
    """One line of `clipib cache ls`; damaged blocks count as well."""

    name: str
    about: dict[str, Any]
    item_shape: tuple[int, ...]
    rows: int
    blocks: int
    size_bytes: int
    last_used: float  # seconds since the epoch


class Collected(NamedTuple):
    """What `collect_garbage` did: bytes freed, blocks removed, blocks merged into others, bytes that are left."""

    freed_bytes: int
    removed: int
    merged: int
    left_bytes: int


class _File(NamedTuple):
    """A block (or a manifest of file hashes), which can be removed."""

    folder: Path
    name: str
    size_bytes: int
    last_used: float


def list_spaces(store: Store) -> list[SpaceInfo]:
    """What lies in the store, the last used first."""
    return sorted((_describe(folder) for folder in _folders(store)), key=lambda info: -info.last_used)


def cache_size(store: Store) -> int:
    """Bytes of all features and manifests."""
    return sum(_size(path) for top in (store.root, store.cache_dir / MANIFESTS) for path in top.rglob("*"))


def find_damaged(store: Store) -> list[Path]:
    """Hash every block and return the feature files of those that are not what was written."""
    return [folder / (name + FEATURES) for folder in _folders(store) for name in _damaged(folder)]


def collect_garbage(store: Store, *, older_than_days: float | None = None, max_bytes: int | None = None) -> Collected:
    """Remove what is of no use, merge many small blocks of a space into few, and make the store fit.

    Damaged blocks and leftovers of killed writers go always; blocks that were not used for `older_than_days`, and the
    least recently used ones until all fits into `max_bytes`, where that is asked for. A merged block is written before
    its parts are removed.

    Raises:
        OSError: when the store cannot be written.
    """
    before = cache_size(store)
    removed = 0
    for folder in (*_folders(store), store.cache_dir / MANIFESTS):
        for path in _leftovers(folder):
            path.unlink(missing_ok=True)
        for name in _damaged(folder):
            remove_block(folder, name)
            removed += 1
    for file in _evicted(store, older_than_days, max_bytes):
        removed += _remove(file)
    merged = sum(_merge_small(folder) for folder in _folders(store))
    for folder in _folders(store):
        _remove_if_empty(folder)
    after = cache_size(store)
    return Collected(max(0, before - after), removed, merged, after)


def _folders(store: Store) -> list[Path]:
    return sorted(path for path in store.root.glob("*") if path.is_dir())


def _describe(folder: Path) -> SpaceInfo:
    try:
        about = json.loads((folder / ABOUT).read_text())
    except (OSError, ValueError):
        about = {}
    names = block_names(folder)
    rows = sum(max(0, _size(folder / (name + KEYS)) - HEADER_BYTES) // 32 for name in names)
    size = sum(_size(path) for path in folder.glob("*"))
    last_used = max(_time(folder / file) for file in (ABOUT, *(name + KEYS for name in names)))
    return SpaceInfo(folder.name, about, _item_shape(folder, names), rows, len(names), size, last_used)


def _item_shape(folder: Path, names: list[str]) -> tuple[int, ...]:
    for name in names:
        try:
            return item_shape(folder, name)
        except (DamagedBlock, OSError):
            continue
    return ()


def _damaged(folder: Path) -> Iterator[str]:
    for name in block_names(folder):
        try:
            read_block(folder, name)
        except DamagedBlock:
            yield name
        except OSError:
            continue


def _leftovers(folder: Path) -> list[Path]:
    """Files of writers that were killed: an hour old, and still not part of a block."""
    whole = {name + FEATURES for name in block_names(folder)}
    unfinished = [*folder.glob(".*.partial")] + [p for p in folder.glob("*" + FEATURES) if p.name not in whole]
    return [path for path in unfinished if time.time() - _time(path) > HOUR]


def _evicted(store: Store, older_than_days: float | None, max_bytes: int | None) -> Iterator[_File]:
    """What must go, the least recently used first."""
    files = sorted(_files(store), key=lambda file: file.last_used)
    oldest = 0.0 if older_than_days is None else time.time() - older_than_days * DAY
    excess = 0 if max_bytes is None else cache_size(store) - max_bytes
    for file in files:
        if file.last_used >= oldest and excess <= 0:
            return
        excess -= file.size_bytes
        yield file


def _files(store: Store) -> Iterator[_File]:
    for folder in _folders(store):
        for name in block_names(folder):
            size = _size(folder / (name + KEYS)) + _size(folder / (name + FEATURES))
            yield _File(folder, name, size, _time(folder / (name + KEYS)))
    for path in (store.cache_dir / MANIFESTS).glob("*" + MANIFEST_SUFFIX):
        yield _File(path.parent, path.name, _size(path), _time(path))


def _remove(file: _File) -> bool:
    """True where it was a block."""
    if file.name.endswith(MANIFEST_SUFFIX):
        (file.folder / file.name).unlink(missing_ok=True)
        return False
    remove_block(file.folder, file.name)
    return True


def _merge_small(folder: Path) -> int:
    """Merge the small blocks of a space, in the order of their last use, and return how many went into larger ones."""
    small = [name for name in block_names(folder) if _size(folder / (name + FEATURES)) < SMALL_BYTES]
    if len(small) < MANY:
        return 0
    small.sort(key=lambda name: _time(folder / (name + KEYS)))
    merged, group, size = 0, [], 0
    for name in small:
        group.append(name)
        size += _size(folder / (name + FEATURES))
        if size >= MERGED_BYTES:
            merged += _merge(folder, group)
            group, size = [], 0
    return merged + _merge(folder, group)


def _merge(folder: Path, names: list[str]) -> int:
    """Write one block of the rows of several, each key once, then remove the several."""
    parts, rows = [], {}
    for name in names:
        try:
            block = read_block(folder, name)
        except (DamagedBlock, OSError):
            continue
        if parts and block.features.shape[1:] != parts[0][1].shape[1:]:
            continue
        new = [row for row, key in enumerate(split_keys(block.keys)) if rows.setdefault(key, name) == name]
        parts.append((block.keys[new], block.features[new], name))
    if len(parts) < 2:
        return 0
    keys, features = (np.concatenate([part[i] for part in parts]) for i in (0, 1))
    last_used = max(_time(folder / (name + KEYS)) for *_, name in parts)
    whole = write_block(folder, keys, features)
    _set_time(folder / (whole + KEYS), last_used)
    for *_, name in parts:
        if name != whole:
            remove_block(folder, name)
    return len(parts)


def _remove_if_empty(folder: Path) -> None:
    """Remove a space without blocks, unless someone is writing there."""
    try:
        if {path.name for path in folder.iterdir()} <= {ABOUT, CLAIMS}:
            for name in (CLAIMS, ABOUT):
                (folder / name).unlink(missing_ok=True)
            folder.rmdir()
    except FileNotFoundError:
        return
    except OSError:  # a writer was faster
        return


def _size(path: Path) -> int:
    """Bytes of a file; 0 where it has gone meanwhile."""
    try:
        return path.stat().st_size if path.is_file() else 0
    except OSError:
        return 0


def _time(path: Path) -> float:
    try:
        return path.stat().st_mtime
    except OSError:
        return 0.0


def _set_time(path: Path, seconds: float) -> None:
    with contextlib.suppress(OSError):
        os.utime(path, (seconds, seconds))
