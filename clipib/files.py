"""Files that are never seen half-written, and what is in them."""

from __future__ import annotations

import hashlib
import os
import uuid
from collections.abc import Callable
from pathlib import Path
from typing import BinaryIO


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


def file_sha256(path: Path) -> str:
    """sha256 of a file's content, in hexadecimal digits."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while chunk := file.read(1 << 20):
            digest.update(chunk)
    return digest.hexdigest()
