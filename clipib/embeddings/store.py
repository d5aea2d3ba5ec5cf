"""A content-addressed store of features: what was encoded once is never encoded again.

A *space* is one way of encoding: weights, transform or tokenizer, precision, encoder version. In a space lie immutable
*blocks* of rows (`clipib.embeddings.blocks`); a row's key is the sha256 of what was encoded.

    CACHE/features/<space>/space.json       what the space is, for people; its time is that of the last use
    CACHE/features/<space>/<block>.*.npy    features and keys; the time of the keys is that of the last use
    CACHE/features/<space>/claims           an empty file to lock (`clipib.embeddings.claims`)

Any number of processes may read, write and clean up at once, without a lock: a block appears whole or not at all, a
reader holds every block against its hash before it uses it, and what is missing, damaged or gone is encoded again.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import json
import os
from collections.abc import Set
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from clipib.embeddings.blocks import (
    KEYS,
    Block,
    DamagedBlock,
    block_names,
    read_block,
    read_keys,
    remove_block,
    split_keys,
    write_block,
)
from clipib.files import default_cache_dir, write_aside

ABOUT, CLAIMS = "space.json", "claims"
UNWRITABLE = (errno.EACCES, errno.EROFS, errno.EPERM)
ROUNDS = 5  # a block that went away while it was looked for may have been merged into another, and that one too


class Found(NamedTuple):
    """has: (N,) which of the keys were found. features: (N, ...) float32, NaN where not; None where nothing was."""

    has: np.ndarray
    features: np.ndarray | None


class Store:
    """All spaces below one cache folder."""

    def __init__(self, cache_dir: str | Path | None = None) -> None:
        self.cache_dir = Path(cache_dir or default_cache_dir()).expanduser()
        self.root = self.cache_dir / "features"

    def space(self, encoding: dict[str, Any], *, about: dict[str, Any] | None = None) -> Space:
        """The space of one way of encoding.

        Args:
            encoding: everything that the features depend on beside the item itself.
            about: names for people; it does not enter the key.
        """
        text = json.dumps(encoding, sort_keys=True)
        name = hashlib.sha256(text.encode()).hexdigest()[:32]
        return Space(self.root / name, {**(about or {}), "encoding": encoding})


class Space:
    """The features of one way of encoding; all items have one shape, (D,) or (m, D)."""

    def __init__(self, folder: Path, about: dict[str, Any]) -> None:
        self.folder = folder
        self.about = about
        self.writable = True
        self.item_shape: tuple[int, ...] | None = None  # known from the first block that is read or written
        self._place: dict[bytes, tuple[str, int]] = {}  # key -> block and row
        self._seen: set[str] = set()
        self.damaged: set[str] = set()  # blocks that were passed over
        self._touched: set[str] = set()

    def find(self, keys: list[bytes]) -> Found:
        """Copy the features of those of N keys that are here, from blocks that proved whole.

        Damaged blocks are removed on the way, if the folder can be written; gone ones are looked for in what has
        come since.
        """
        found, gone = Found(np.zeros(len(keys), dtype=bool), None), set()
        for _ in range(ROUNDS):
            self.refresh(gone)
            found, failed = self._fill(keys, found)
            if not failed:
                break
            gone |= failed
            self._place.clear()
            self._seen.clear()
        if found.features is not None:
            found.features[~found.has] = np.nan
        return found

    def get(self, keys: list[bytes]) -> np.ndarray:
        """(N, ...) float32 features of N keys.

        Raises:
            KeyError: when some are not here.
        """
        has, features = self.find(keys)
        if features is None or not has.all():
            raise KeyError(f"{int((~has).sum())} of {len(keys)} items are not in {self.folder.name}")
        return features

    def refresh(self, passing_over: Set[str] = frozenset()) -> None:
        """Look which blocks have come since the last look."""
        for name in block_names(self.folder):
            if name in self._seen or name in self.damaged or name in passing_over:
                continue
            try:
                self._index(name, read_keys(self.folder, name))
            except DamagedBlock:
                self._drop(name)
            except OSError:
                continue

    def append(self, keys: list[bytes], features: np.ndarray) -> None:
        """Add one block of rows; where the folder cannot be written, nothing is kept.

        Args:
            keys: n sha256 digests.
            features: (n, D) or (n, m, D) finite numbers, kept as float32.

        Raises:
            ValueError: when the items of this space have another shape.
            OSError: when the disk is full.
        """
        features = np.ascontiguousarray(features, dtype=np.float32)
        self.item_shape = self.item_shape or self._stored_shape()
        self._check_shape(features.shape[1:])
        if not self.writable:
            return
        key_rows = np.frombuffer(b"".join(keys), dtype=np.uint8).reshape(len(keys), 32)
        try:
            name = self._write(key_rows, features)
        except OSError as error:
            if error.errno not in UNWRITABLE:
                raise
            self.writable = False
            return
        self.damaged.discard(name)
        self._touched.add(name)
        self._index(name, key_rows)

    def _fill(self, keys: list[bytes], found: Found) -> tuple[Found, set[str]]:
        """Copy rows block by block, and tell which blocks failed: another look may find their rows elsewhere."""
        has, features = found
        by_block: dict[str, tuple[list[int], list[int]]] = {}
        for i, key in enumerate(keys):
            if not has[i] and (place := self._place.get(key)):
                wanted, rows = by_block.setdefault(place[0], ([], []))
                wanted.append(i)
                rows.append(place[1])
        failed = set()
        for name, (wanted, rows) in by_block.items():
            block = self._read(name)
            own = np.frombuffer(b"".join(keys[i] for i in wanted), dtype=np.uint8).reshape(-1, 32)
            if block is None or max(rows) >= len(block.keys) or not np.array_equal(block.keys[rows], own):
                failed.add(name)
                continue
            self._check_shape(block.features.shape[1:])
            if features is None:
                features = np.empty((len(keys), *self.item_shape), dtype=np.float32)
            features[wanted] = block.features[rows]
            has[wanted] = True
        return Found(has, features), failed

    def _read(self, name: str) -> Block | None:
        try:
            block = read_block(self.folder, name)
        except DamagedBlock:
            self._drop(name)
            return None
        except OSError:
            return None
        self._touch(name)
        return block

    def _drop(self, name: str) -> None:
        """Pass over a damaged block from now on, and take it out of everybody's way where that is allowed."""
        self.damaged.add(name)
        try:
            remove_block(self.folder, name)
        except OSError as error:
            if error.errno not in UNWRITABLE:
                raise

    def _write(self, key_rows: np.ndarray, features: np.ndarray) -> str:
        for last in (False, False, True):
            try:
                self.folder.mkdir(parents=True, exist_ok=True)
                about = self.folder / ABOUT
                if not about.exists():
                    write_aside(about, lambda file: file.write(json.dumps(self.about, indent=2).encode()))
                return write_block(self.folder, key_rows, features)
            except FileNotFoundError:  # `gc` removed the empty folder under us
                if last:
                    raise
        raise AssertionError("not reached")

    def _index(self, name: str, key_rows: np.ndarray) -> None:
        self._seen.add(name)
        for row, key in enumerate(split_keys(key_rows)):
            self._place[key] = (name, row)

    def _check_shape(self, shape: tuple[int, ...]) -> None:
        if len(shape) not in (1, 2):
            raise ValueError(f"expected features of shape (n, D) or (n, m, D), got items of shape {shape}")
        self.item_shape = self.item_shape or shape
        if shape != self.item_shape:
            raise ValueError(f"the items of {self.folder.name} have shape {self.item_shape}, got {shape}")

    def _stored_shape(self) -> tuple[int, ...] | None:
        """The shape of the items that others have put here, or None where there are none."""
        for name in block_names(self.folder):
            try:
                return read_block(self.folder, name).features.shape[1:]
            except (DamagedBlock, OSError):
                continue
        return None

    def _touch(self, name: str) -> None:
        """Mark the space and one of its blocks as used, once."""
        if name in self._touched:
            return
        self._touched.add(name)
        for path in (self.folder / (name + KEYS), self.folder / ABOUT):
            with contextlib.suppress(OSError):
                os.utime(path)
