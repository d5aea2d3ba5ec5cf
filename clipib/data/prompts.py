"""Class names and templates become prompts."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

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
    """Hash of class names and templates in order, for the results; or of the class names and each one's own prompts."""
    return hashlib.sha256(json.dumps([classnames, templates]).encode()).hexdigest()


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


def read_prompts(path: str | Path) -> dict[str, tuple[str, ...]]:
    """Prompts of every class from a JSON object: class name -> list of whole prompts, as many as it likes.

    Raises:
        UserError: when the file cannot be read or a class has no prompt.
    """
    try:
        content = json.loads(Path(path).read_text(encoding="utf-8"), object_pairs_hook=_once_each)
    except (OSError, ValueError) as error:
        raise UserError(f"The prompts '{path}' cannot be read: {error}.") from error
    if not isinstance(content, dict):
        raise UserError(f"The prompts '{path}' are no object.", hint='Write {"cat": ["a cat.", "a small cat."], ...}.')
    for name, prompts in content.items():
        texts = prompts if isinstance(prompts, list) else []
        if not texts or not all(isinstance(t, str) and t.strip() for t in texts):
            raise UserError(f"'{path}' has no list of prompts for the class '{name}'.")
    return {name: tuple(prompts) for name, prompts in content.items()}


def _once_each(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    content = dict(pairs)
    if len(content) < len(pairs):
        twice = next(name for i, (name, _) in enumerate(pairs) if name in dict(pairs[:i]))
        raise ValueError(f"'{twice}' stands there twice")
    return content


def read_classnames(path: str | Path) -> tuple[str, ...]:
    """Class names from a text file, one a line in the order of the class folders; blank lines are kept."""
    try:
        return tuple(line.strip() for line in Path(path).read_text(encoding="utf-8").splitlines())
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"The class names '{path}' cannot be read: {error}.", hint="Save the file as UTF-8.") from error
