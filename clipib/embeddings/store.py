"""A content-addressed store of features: what was encoded once is never encoded again.

A *space* is one way of encoding: weights, transform or tokenizer, precision, encoder version. In a space lie immutable
*blocks* of rows; a row's key is the sha256 of what was encoded. A block is two files named by the hash of their
content, written aside and renamed, the keys last: a block with keys is whole.

    CACHE/features/<space>/space.json                 what the space is, for people
    CACHE/features/<space>/<block>.features.npy       (n, D) float32, memory-mapped
    CACHE/features/<space>/<block>.keys.npy           (n, 32) uint8
"""

from __future__ import annotations

import errno
import hashlib
import json
import os
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from clipib.files import default_cache_dir, write_aside

FEATURES, KEYS, MANIFEST = ".features.npy", ".keys.npy", "space.json"


class SpaceInfo(NamedTuple):
    """One line of `clipib cache ls`."""

    name: str
    about: dict[str, Any]
    rows: int
    blocks: int
    size_bytes: int
    last_used: float  # seconds since the epoch


class Store:
    """All spaces below one cache folder."""

    def __init__(self, cache_dir: str | Path | None = None) -> None:
        self.root = Path(cache_dir or default_cache_dir()).expanduser() / "features"

    def space(self, encoding: dict[str, Any], *, about: dict[str, Any] | None = None) -> Space:
        """The space of one way of encoding.

        Args:
            encoding: everything that the features depend on beside the item itself.
            about: names for people; it does not enter the key.
        """
        text = json.dumps(encoding, sort_keys=True)
        name = hashlib.sha256(text.encode()).hexdigest()[:32]
        return Space(self.root / name, {**(about or {}), "encoding": encoding})

    def spaces(self) -> list[SpaceInfo]:
        """What lies in the store, the last used first."""
        infos = [_describe(folder) for folder in self._folders()]
        return sorted(infos, key=lambda info: -info.last_used)

    def verify(self) -> list[Path]:
        """Hash every block again and return the feature files of those that are damaged."""
        return [path for folder in self._folders() for path in sorted(folder.glob("*" + FEATURES)) if _is_damaged(path)]

    def gc(self, *, older_than_days: float | None = None) -> int:
        """Remove damaged blocks, leftovers of writers that were killed, and spaces that were not used for long.

        Returns:
            The number of bytes freed.
        """
        now, freed = time.time(), 0
        for folder in self._folders():
            if older_than_days is not None and now - _describe(folder).last_used > older_than_days * 86_400:
                freed += _remove(folder.iterdir())
                folder.rmdir()
                continue
            leftovers = [p for p in folder.glob("*.partial") if now - p.stat().st_mtime > 3_600]
            lonely = [
                p for p in folder.glob("*" + FEATURES) if not _keys_of(p).exists() and now - p.stat().st_mtime > 3_600
            ]
            damaged = [p for p in folder.glob("*" + FEATURES) if _keys_of(p).exists() and _is_damaged(p)]
            freed += _remove([*leftovers, *lonely, *(_keys_of(p) for p in damaged), *damaged])
        return freed

    def _folders(self) -> list[Path]:
        return sorted(p.parent for p in self.root.glob(f"*/{MANIFEST}"))


class Space:
    """The features of one way of encoding."""

    def __init__(self, folder: Path, manifest: dict[str, Any]) -> None:
        self.folder = folder
        self.manifest = manifest
        self.writable = True
        self._blocks: list[Path | np.ndarray] = []  # a file is opened only while it is read
        self._place: dict[bytes, tuple[int, int]] = {}
        for path in sorted(folder.glob("*" + KEYS)):
            self._open(path)
        if self._blocks:
            self._touch()

    def __contains__(self, key: bytes) -> bool:
        return key in self._place

    def __len__(self) -> int:
        return len(self._place)

    def get(self, keys: list[bytes]) -> np.ndarray:
        """(n, D) float32 features of these keys, all of which are in the space."""
        places = np.array([self._place[k] for k in keys])
        out = None
        for block in np.unique(places[:, 0]):
            features = self._blocks[block]
            if isinstance(features, Path):
                features = np.load(features, mmap_mode="r")
            rows = np.flatnonzero(places[:, 0] == block)
            out = np.empty((len(keys), features.shape[1]), dtype=np.float32) if out is None else out
            out[rows] = features[places[rows, 1]]
        return out

    def append(self, keys: list[bytes], features: np.ndarray) -> None:
        """Add one block of rows; in a folder that cannot be written, for this run only.

        Args:
            keys: n sha256 digests.
            features: (n, D) finite numbers, kept as float32.

        Raises:
            OSError: when the disk is full.
        """
        features = np.ascontiguousarray(features, dtype=np.float32)
        key_rows = np.frombuffer(b"".join(keys), dtype=np.uint8).reshape(len(keys), 32)
        if self.writable:
            try:
                self._write(key_rows, features)
            except OSError as error:
                if error.errno not in (errno.EACCES, errno.EROFS, errno.EPERM):
                    raise
                self.writable = False
        self._add(key_rows, features)

    def _write(self, key_rows: np.ndarray, features: np.ndarray) -> None:
        self.folder.mkdir(parents=True, exist_ok=True)
        manifest = self.folder / MANIFEST
        if not manifest.exists():
            write_aside(manifest, lambda f: f.write(json.dumps(self.manifest, indent=2).encode()))
        name = _block_name(key_rows, features)
        write_aside(self.folder / (name + FEATURES), lambda f: np.save(f, features))
        write_aside(self.folder / (name + KEYS), lambda f: np.save(f, key_rows))

    def _open(self, path: Path) -> None:
        """Take in a block; one that is not whole is passed over, and its rows are encoded again."""
        features = path.with_name(path.name.replace(KEYS, FEATURES))
        try:
            key_rows = np.load(path)
            n_rows = len(np.load(features, mmap_mode="r"))
        except (FileNotFoundError, ValueError, EOFError):
            return
        if len(key_rows) == n_rows:
            self._add(key_rows, features)

    def _add(self, key_rows: np.ndarray, features: Path | np.ndarray) -> None:
        block = len(self._blocks)
        self._blocks.append(features)
        data = key_rows.tobytes()
        for row in range(len(key_rows)):
            self._place[data[32 * row : 32 * row + 32]] = (block, row)

    def _touch(self) -> None:
        try:
            os.utime(self.folder / MANIFEST)
        except OSError:
            self.writable = os.access(self.folder, os.W_OK)


def _block_name(key_rows: np.ndarray, features: np.ndarray) -> str:
    digest = hashlib.sha256(np.ascontiguousarray(key_rows).data)
    digest.update(np.ascontiguousarray(features).data)
    return digest.hexdigest()[:32]


def _keys_of(features: Path) -> Path:
    return features.with_name(features.name.replace(FEATURES, KEYS))


def _is_damaged(features: Path) -> bool:
    try:
        return _block_name(np.load(_keys_of(features)), np.load(features)) != features.name[: -len(FEATURES)]
    except FileNotFoundError:
        return False
    except (OSError, ValueError, EOFError):
        return True


def _describe(folder: Path) -> SpaceInfo:
    try:
        about = json.loads((folder / MANIFEST).read_text())
    except ValueError:
        about = {}
    rows = 0
    for path in folder.glob("*" + KEYS):
        rows += max(0, path.stat().st_size - 128) // 32  # the header of such a file has 128 bytes
    files = list(folder.iterdir())
    size = sum(p.stat().st_size for p in files)
    blocks = sum(p.name.endswith(KEYS) for p in files)
    return SpaceInfo(folder.name, about, rows, blocks, size, (folder / MANIFEST).stat().st_mtime)


def _remove(paths: Iterator[Path] | list[Path]) -> int:
    freed = 0
    for path in list(paths):
        freed += path.stat().st_size
        path.unlink()
    return freed
