"""Files that are never seen half-written, what the file system says of a file, and where the caches lie."""

from __future__ import annotations

import os
import uuid
from collections.abc import Callable
from pathlib import Path
from typing import BinaryIO, NamedTuple

import platformdirs


class Stamp(NamedTuple):
    """What tells, without reading a file, that it is the one seen before. Nobody can set the ctime of a file back."""

    size: int
    mtime_ns: int
    inode: int
    ctime_ns: int


def file_stamp(path: str | Path) -> Stamp:
    """The stamp of a file.

    Raises:
        OSError: when there is none.
    """
    found = os.stat(path)
    return Stamp(found.st_size, found.st_mtime_ns, found.st_ino & (2**63 - 1), found.st_ctime_ns)


def default_cache_dir() -> Path:
    """CLIPIB_CACHE, else the user's cache folder by the platform's custom."""
    return Path(os.environ.get("CLIPIB_CACHE") or platformdirs.user_cache_dir("clipib"))


def write_aside(path: Path, write: Callable[[BinaryIO], object]) -> None:
    """Let `write` fill a file under another name, then rename it: readers see all of it or the older one.

    Raises:
        OSError: when the disk is full or the folder cannot be written; nothing is left behind.
    """
    partial = path.with_name(f".{path.name}.{uuid.uuid4().hex[:8]}.partial")
    try:
        with partial.open("wb") as file:
            write(file)
        os.replace(partial, path)
    except RuntimeError as error:
        # PyTorch's writer covers the error of a full disk with one of its own.
        if isinstance(error.__context__, OSError):
            raise error.__context__ from error
        raise
    finally:
        partial.unlink(missing_ok=True)
