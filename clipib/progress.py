"""How long work tells of itself. Tasks talk to this small interface; only `clipib.cli` draws bars or prints."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Protocol


class Advance(Protocol):
    def __call__(self, n: int = 1, /, note: str = "") -> None: ...


class Progress:
    """Says nothing. The command line passes one that prints; a notebook may pass its own.

    `say` takes one line of news, `warn` one that must not be overlooked, `track` frames `total` units of one job.
    """

    def say(self, text: str) -> None:
        """One line of news."""

    def warn(self, text: str) -> None:
        """One line that must not be overlooked."""

    @contextmanager
    def track(self, what: str, total: int, *, unit: str = "images") -> Iterator[Advance]:
        """Frame a job of `total` units; call what it yields with the units done since the last call."""
        yield lambda n=1, /, note="": None


SILENT = Progress()


def counted(n: int, noun: str) -> str:
    """A number with its noun.

    Example:
        >>> counted(1, "image"), counted(1010, "image")
        ('1 image', '1,010 images')
    """
    return f"{n:,} {noun}" + ("" if n == 1 else "s")
