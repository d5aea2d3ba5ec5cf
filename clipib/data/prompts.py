"""Class names and templates become prompts."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from pathlib import Path

from clipib.errors import UserError

DEFAULT_TEMPLATES = ("a photo of a {c}.",)


def class_prompts(classnames: Sequence[str], templates: Sequence[str]) -> list[str]:
    """All prompts, class by class: K * T texts, those of class k at [k * T, (k + 1) * T).

    Example:
        >>> class_prompts(["cat", "dog"], ["a {c}.", "the {c}."])
        ['a cat.', 'the cat.', 'a dog.', 'the dog.']
    """
    return [template.replace("{c}", name) for name in classnames for template in templates]


def prompts_sha256(classnames: Sequence[str], templates: Sequence[str]) -> str:
    """Hash of class names and templates in order, for the results."""
    return hashlib.sha256(json.dumps([list(classnames), list(templates)]).encode()).hexdigest()


def read_templates(path: str | Path) -> tuple[str, ...]:
    """Templates from a text file, one a line, with `{c}` or `{}` where the class name goes.

    Raises:
        UserError: when the file is missing, empty, or a line has no place for the name.
    """
    try:
        lines = [line.strip() for line in Path(path).read_text(encoding="utf-8").splitlines() if line.strip()]
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"The templates file '{path}' cannot be read: {error}.") from error
    templates = tuple(line if "{c}" in line else line.replace("{}", "{c}") for line in lines)
    for line in templates:
        if "{c}" not in line:
            raise UserError(f"The template '{line}' in '{path}' has no {{c}}.", hint="Write: a photo of a {c}.")
    if not templates:
        raise UserError(f"The templates file '{path}' is empty.", hint="Write one template a line: a photo of a {c}.")
    return templates


def read_classnames(path: str | Path) -> tuple[str, ...]:
    """Class names from a text file, one a line in the order of the class folders; blank lines are kept."""
    try:
        return tuple(line.strip() for line in Path(path).read_text(encoding="utf-8").splitlines())
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"The class names '{path}' cannot be read: {error}.", hint="Save the file as UTF-8.") from error
