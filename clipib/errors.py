"""The one exception that a user can cause, and mend."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any


class UserError(Exception):
    """Something that the user can mend: the command line shows it as one panel and ends with 2.

    Args:
        message: what happened, with the offending value and what was found instead.
        hint: what to type or change; may be empty.
    """

    def __init__(self, message: str, *, hint: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint


def try_all(steps: Iterable[Callable[[], Any]]) -> list[Any]:
    """Call every step and give back what they return; all that went wrong is told in one error.

    Raises:
        UserError: that of the one step that failed, or one with the messages and hints of all that did.
    """
    results, errors = [], []
    for step in steps:
        try:
            results.append(step())
        except UserError as error:
            errors.append(error)
    if len(errors) == 1:
        raise errors[0]
    if errors:
        messages = dict.fromkeys(line.removeprefix("- ") for e in errors for line in e.message.splitlines())
        hints = dict.fromkeys(line for e in errors for line in e.hint.splitlines())
        raise UserError("\n".join(f"- {m}" for m in messages), hint="\n".join(hints))
    return results
