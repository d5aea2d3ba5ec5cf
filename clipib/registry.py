"""Tables of names: look a name up, import what it stands for, suggest the nearest one.

A table is a plain dict of "module:Name" strings in a module that imports nothing heavy, so that help texts and
completion can list names without importing torch.
"""

from __future__ import annotations

import difflib
import importlib
from collections.abc import Iterable, Mapping
from typing import Any

from clipib.errors import UserError


def nearest(name: str, known: Iterable[str], *, most: int = 3) -> list[str]:
    """The known names most like `name`, best first; case does not count."""
    by_lower = {k.lower(): k for k in known}
    close = difflib.get_close_matches(name.lower(), by_lower, n=most, cutoff=0.5)
    inside = [low for low in by_lower if len(name) >= 3 and name.lower() in low and low not in close]
    return [by_lower[low] for low in (close + inside)[:most]]


def unknown_name(kind: str, name: str, known: Iterable[str], *, hint: str = "") -> UserError:
    """The error for a name that is in no table, naming the nearest known ones."""
    known = list(known)
    close = nearest(name, known)
    if close:
        found = "Did you mean " + " or ".join(f"'{c}'" for c in close) + "?"
    elif len(known) <= 12:
        found = f"Known: {', '.join(known)}."
    else:
        found = f"{len(known)} are known."
    return UserError(f"Unknown {kind} '{name}'. {found}", hint=hint)


def check_name(kind: str, name: str, known: Iterable[str]) -> str:
    """`name` itself where it is known.

    Raises:
        UserError: with the nearest known names.
    """
    known = list(known)
    if name not in known:
        raise unknown_name(kind, name, known)
    return name


def resolve(kind: str, table: Mapping[str, str], name: str) -> Any:
    """Import what `name` stands for in a table of "module:Name" strings.

    Raises:
        UserError: when the table has no such name.
    """
    module, _, attribute = table[check_name(kind, name, table)].partition(":")
    return getattr(importlib.import_module(module), attribute)
