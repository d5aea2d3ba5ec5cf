"""Who encodes what, among processes that share a store: it saves work, and nothing else depends on it."""

from __future__ import annotations

import errno
import os
from pathlib import Path

try:
    import fcntl
except ImportError:  # Windows: every process encodes all that it misses
    fcntl = None

HELD = (errno.EACCES, errno.EAGAIN)


class Claims:
    """The items that this process has in hand: locks on single bytes of one file, each where an item's key says.

    The system drops the locks of a process that ends, however it ends, so nothing is ever left behind by a kill, and no
    clock is compared. Where locks cannot be had (a read-only folder, some network disks) everything counts as claimed.
    """

    def __init__(self, path: Path) -> None:
        self._file: int | None = None
        if fcntl is None:
            return
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            self._file = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
        except OSError:
            return

    def take(self, key: bytes) -> bool:
        """Claim an item; False where another process has it in hand."""
        if self._file is None:
            return True
        try:
            fcntl.lockf(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB, 1, _place(key))
        except OSError as error:
            if error.errno in HELD:
                return False
            self.close()
        return True

    def release(self, keys: list[bytes]) -> None:
        """Let go of items, once they are stored."""
        try:
            for key in keys if self._file is not None else ():
                fcntl.lockf(self._file, fcntl.LOCK_UN, 1, _place(key))
        except OSError:
            self.close()

    def close(self) -> None:
        """Let go of everything; from now on every item is free to take."""
        if self._file is not None:
            os.close(self._file)
            self._file = None


def _place(key: bytes) -> int:
    return int.from_bytes(key[:7], "big")
