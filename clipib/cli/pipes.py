"""Output whose reader may go, as in `| head`: the work is done all the same, and its exit code told."""

from __future__ import annotations

import io
import os
import sys


class _Outliving(io.FileIO):
    """A stream that goes on into nowhere once nobody reads it."""

    def write(self, data) -> int:
        try:
            return super().write(data)
        except BrokenPipeError:
            nowhere = os.open(os.devnull, os.O_WRONLY)
            os.dup2(nowhere, self.fileno())
            os.close(nowhere)
            return len(data)


def outlive_readers() -> None:
    """From now on a closed pipe behind stdout or stderr is no error."""
    for name in ("stdout", "stderr"):
        stream = getattr(sys, name)
        buffer = getattr(stream, "buffer", None)
        if not isinstance(getattr(buffer, "raw", buffer), io.FileIO):
            continue  # no file of the system
        stream.flush()
        raw = _Outliving(stream.fileno(), "w", closefd=False)
        settings = {"encoding": stream.encoding, "errors": stream.errors, "line_buffering": stream.line_buffering}
        if isinstance(buffer, io.FileIO):  # as with PYTHONUNBUFFERED
            found = io.TextIOWrapper(raw, **settings, write_through=True)
        else:
            found = io.TextIOWrapper(io.BufferedWriter(raw), **settings)
        setattr(sys, name, found)
