"""Blocks: immutable files of features, named by the hash of their content.

    <block>.features.npy       (n, D) float32, or (n, m, D) where an item is a set of m points; memory-mapped
    <block>.keys.npy           (n, 32) uint8: the sha256 of each item

Both are written aside and renamed, the keys last, and removed the keys first: a block is there when its keys are. Every
read hashes the block and holds the hash against the name (some 0.6 s per gigabyte, next to which a record of what was
hashed before would save little and promise less). So what is read is what was written, whatever happened to the files
in between: a flipped bit, a truncation, a decaying disk. Only a file that is cut off in place in the very moment of
reading gives no rows and no error, but ends the process (a bus error of the memory map).
"""

from __future__ import annotations

import hashlib
import os
import tokenize
from pathlib import Path
from typing import NamedTuple

import numpy as np

from clipib.files import write_aside

FEATURES, KEYS = ".features.npy", ".keys.npy"
# What numpy raises on the header of a file that is none of ours, or no longer.
MALFORMED = (ValueError, EOFError, SyntaxError, TypeError, OverflowError, MemoryError, tokenize.TokenError)


class Block(NamedTuple):
    """keys: (n, 32) uint8. features: (n, D) or (n, m, D) float32, memory-mapped."""

    keys: np.ndarray
    features: np.ndarray


class DamagedBlock(Exception):
    """The files of a block are not what was written."""


def write_block(folder: Path, keys: np.ndarray, features: np.ndarray) -> str:
    """Write a block and return its name; the same content again is the same block.

    Raises:
        OSError: when the disk is full or the folder cannot be written.
    """
    name = _name(keys, features)
    write_aside(folder / (name + FEATURES), lambda file: np.save(file, features))
    write_aside(folder / (name + KEYS), lambda file: np.save(file, keys))
    return name


def read_block(folder: Path, name: str) -> Block:
    """A block that is whole, as its hash says.

    Raises:
        DamagedBlock: when it is not.
        OSError: when it has gone, or cannot be read.
    """
    keys = read_keys(folder, name)
    try:
        features = _load(folder / (name + FEATURES), mmap_mode="r")
    except FileNotFoundError as error:
        if (folder / (name + KEYS)).exists():  # else it was removed in this moment, as a whole
            raise DamagedBlock(name) from error
        raise
    plain = features.dtype == np.float32 and features.ndim in (2, 3) and features.flags.c_contiguous
    if not plain or len(features) != len(keys) or _name(keys, features) != name:
        raise DamagedBlock(name)
    return Block(keys, features)


def read_keys(folder: Path, name: str) -> np.ndarray:
    """(n, 32) uint8: which items a block claims to hold; only `read_block` makes sure.

    Raises:
        DamagedBlock: when this is no list of keys.
        OSError: when it has gone, or cannot be read.
    """
    keys = _load(folder / (name + KEYS))
    if keys.dtype != np.uint8 or keys.ndim != 2 or keys.shape[1] != 32:
        raise DamagedBlock(name)
    return np.ascontiguousarray(keys)


def item_shape(folder: Path, name: str) -> tuple[int, ...]:
    """(D,) or (m, D), as the header of a block says; only `read_block` makes sure.

    Raises:
        DamagedBlock: when there is no such header.
        OSError: when it has gone, or cannot be read.
    """
    return _load(folder / (name + FEATURES), mmap_mode="r").shape[1:]


def remove_block(folder: Path, name: str) -> None:
    """Remove a block, keys first; one that has gone already is fine."""
    for suffix in (KEYS, FEATURES):
        (folder / (name + suffix)).unlink(missing_ok=True)


def block_names(folder: Path) -> list[str]:
    """The blocks of a space, in a fixed order; none where there is no such folder."""
    try:
        files = os.listdir(folder)
    except FileNotFoundError:
        return []
    return sorted(file[: -len(KEYS)] for file in files if file.endswith(KEYS) and not file.startswith("."))


def split_keys(keys: np.ndarray) -> list[bytes]:
    """(n, 32) uint8 -> n digests."""
    data = keys.tobytes()
    return [data[start : start + 32] for start in range(0, len(data), 32)]


def _load(path: Path, mmap_mode: str | None = None) -> np.ndarray:
    try:
        found = np.load(path, mmap_mode=mmap_mode)
    except MALFORMED as error:
        raise DamagedBlock(path.name) from error
    if not isinstance(found, np.ndarray):
        raise DamagedBlock(path.name)
    return found


def _name(keys: np.ndarray, features: np.ndarray) -> str:
    digest = hashlib.sha256(keys.data)
    digest.update(features.data)
    if features.ndim > 2:  # the bytes alone do not tell (m, D)
        digest.update(repr(features.shape).encode())
    return digest.hexdigest()[:32]
