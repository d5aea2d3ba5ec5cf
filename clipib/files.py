"""Files that are never seen half-written, what is in them and on their disk, and where the caches lie."""

from __future__ import annotations

import hashlib
import os
import shutil
import uuid
from collections.abc import Callable
from pathlib import Path
from typing import BinaryIO, NamedTuple

import platformdirs

from clipib.errors import UserError


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


def check_disk(folder: Path, needed_bytes: int, what: str) -> None:
    """Make sure that what is about to be written has room.

    Raises:
        UserError: when the disk below `folder` has too little free space.
    """
    place = Path(folder).absolute()
    while not place.exists():
        place = place.parent
    if not place.is_dir():
        raise UserError(f"'{place}' is a file where a folder is wanted, for {what}.", hint="Name another folder.")
    free = shutil.disk_usage(place).free
    if free < needed_bytes:
        raise UserError(
            f"The disk of '{place}' has {size_text(free)} free; {what} needs about {size_text(needed_bytes)}.",
            hint="Free some space, or name another folder.",
        )


def size_text(n_bytes: float) -> str:
    """A size for people.

    Example:
        >>> size_text(1_234), size_text(5_600_000), size_text(7.8e9)
        ('1 kB', '5.6 MB', '7.8 GB')
    """
    for unit, scale in (("GB", 1e9), ("MB", 1e6)):
        if n_bytes >= scale:
            return f"{n_bytes / scale:.1f} {unit}"
    return f"{n_bytes / 1e3:.0f} kB"


def file_sha256(path: Path) -> str:
    """sha256 of a file's content, in hexadecimal digits."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while chunk := file.read(1 << 20):
            digest.update(chunk)
    return digest.hexdigest()
