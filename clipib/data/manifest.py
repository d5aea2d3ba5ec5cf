"""Content keys of image files, remembered by what the file system says of the files.

A file that still has the size, times (mtime, ctime), inode and place that it had when it was hashed is taken to hold
what it held then: a `stat` in place of reading and hashing. An edit that keeps size and mtime moves the ctime, which no
program can set back short of turning the clock. A file that had changed within two seconds before it was looked at is
not remembered, since a second change within one tick of the file system's clock would leave no trace. What remains
unseen: a writer through a shared memory map whose pages the system has not yet written, and decay of the disk itself;
`--verify-cache` reads and hashes everything again.

    CACHE/manifests/<hash of the root folder>.keys      sha256 of the rest, then an npz of names, stamps and keys

Several writers at once: the last one wins. A manifest that is damaged, or cannot be written, only costs hashing.
"""

from __future__ import annotations

import contextlib
import hashlib
import io
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import numpy as np

from clipib.data.images import StampedImages
from clipib.files import write_aside

FOLDER, SUFFIX = "manifests", ".keys"
RACY_NS = 2_000_000_000


class Entries(NamedTuple):
    """names: n of them below one root. stamps: (n, 6) int64. keys: (n, 32) uint8."""

    names: list[str]
    stamps: np.ndarray
    keys: np.ndarray


NOTHING = Entries([], np.empty((0, 6), dtype=np.int64), np.empty((0, 32), dtype=np.uint8))


class Manifest:
    """The remembered keys below one cache folder.

    Args:
        verify: hash every file again, count those whose key was wrongly remembered, and mend it.

    n_hashed and n_stale count over all calls of `keys`.
    """

    def __init__(self, cache_dir: str | Path, *, verify: bool = False) -> None:
        self.folder = Path(cache_dir).expanduser() / FOLDER
        self.verify = verify
        self.n_hashed = self.n_stale = 0

    def keys(self, images: StampedImages, read_key: Callable[[int], bytes | None]) -> list[bytes | None]:
        """The sha256 of every image.

        Args:
            read_key: hashes one image; None where it cannot be read.
        """
        path = self.folder / (hashlib.sha256(os.fsencode(images.root.resolve())).hexdigest()[:32] + SUFFIX)
        known = load_entries(path)
        looked = time.time_ns()
        stamps = images.stamps()
        place = {name: row for row, name in enumerate(known.names)}
        rows = np.array([place.get(name, -1) for name in images.ids], dtype=np.int64)
        same = rows >= 0
        same[same] = (known.stamps[rows[same]] == stamps[same]).all(axis=1) & (stamps[same, 0] >= 0)
        remembered = {int(i): known.keys[rows[i]].tobytes() for i in np.flatnonzero(same)}
        keys = [remembered[i] if i in remembered and not self.verify else read_key(i) for i in range(len(images.ids))]
        stale = sum(keys[i] != key for i, key in remembered.items())
        self.n_stale += stale
        self.n_hashed += len(keys) if self.verify else len(keys) - len(remembered)
        settled = looked - stamps[:, [1, 3]].max(axis=1, initial=0) > RACY_NS
        lasting = [i for i, key in enumerate(keys) if key and stamps[i, 0] >= 0 and settled[i]]
        if stale or not same[lasting].all():
            _save(path, _joined(known, images.ids, stamps, keys, lasting))
        else:
            _touch(path)
        return keys


def load_entries(path: Path) -> Entries:
    """What a manifest holds; nothing where it is missing or not whole."""
    try:
        data = path.read_bytes()
    except OSError:
        return NOTHING
    if hashlib.sha256(data[32:]).digest() != data[:32]:
        return NOTHING
    with np.load(io.BytesIO(data[32:])) as arrays:
        names = os.fsdecode(arrays["names"].tobytes()).split("\0")[: len(arrays["keys"])]
        return Entries(names, arrays["stamps"], arrays["keys"])


def save_entries(path: Path, entries: Entries) -> None:
    """Write a manifest.

    Raises:
        OSError: when the folder cannot be written or the disk is full.
    """
    out = io.BytesIO()
    names = np.frombuffer(os.fsencode("\0".join(entries.names)), dtype=np.uint8)
    np.savez(out, names=names, stamps=entries.stamps, keys=entries.keys)
    path.parent.mkdir(parents=True, exist_ok=True)
    write_aside(path, lambda file: file.write(hashlib.sha256(out.getvalue()).digest() + out.getvalue()))


def _joined(
    known: Entries, ids: list[str], stamps: np.ndarray, keys: list[bytes | None], lasting: list[int]
) -> Entries:
    """What was known of other files of this root, and what is known now of these."""
    own = set(ids)
    others = [row for row, name in enumerate(known.names) if name not in own]
    digests = np.frombuffer(b"".join(keys[i] for i in lasting), dtype=np.uint8).reshape(-1, 32)
    return Entries(
        [known.names[row] for row in others] + [ids[i] for i in lasting],
        np.concatenate([known.stamps[others], stamps[lasting]]),
        np.concatenate([known.keys[others], digests]),
    )


def _save(path: Path, entries: Entries) -> None:
    """To remember is a favour: a read-only or full disk takes nothing from the run."""
    with contextlib.suppress(OSError):
        save_entries(path, entries)


def _touch(path: Path) -> None:
    """Mark as used, for `clipib cache gc`."""
    with contextlib.suppress(OSError):
        os.utime(path)
