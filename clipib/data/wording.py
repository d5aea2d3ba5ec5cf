"""The class names and prompts of a labelled data set: its own, or others that the user asks for."""

from __future__ import annotations

import json
from functools import cache
from pathlib import Path
from typing import NamedTuple

from clipib.data.catalog import CATALOG
from clipib.data.dataset import Dataset
from clipib.data.prompts import DEFAULT_TEMPLATES, read_classnames, read_prompts, read_templates
from clipib.errors import UserError
from clipib.registry import check_name, nearest

SIMPLE_7 = (  # open_clip's SIMPLE_IMAGENET_TEMPLATES, which OpenAI's notebook found to be the best seven of its eighty
    "itap of a {c}.",
    "a bad photo of the {c}.",
    "a origami {c}.",
    "a photo of the large {c}.",
    "a {c} in a video game.",
    "art of the {c}.",
    "a photo of the small {c}.",
)
TEMPLATE_SETS = ("openai80", "simple7", "single")
LANGUAGES = ("en", "ar", "cn", "it", "jp")
TRANSLATED = "imagenet1k"


class Wording(NamedTuple):
    """What replaces a data set's own words.

    classnames: a text file, one name a line. templates: a text file, a name of TEMPLATE_SETS, or a JSON file of class
    name -> prompts. language: one of LANGUAGES; others than English are known for ImageNet's thousand classes.
    """

    classnames: str | Path | None = None
    templates: str | Path | None = None
    language: str = "en"

    def check(self) -> Wording:
        """Itself, once its names and files are known to be there.

        Raises:
            UserError: when they are not.
        """
        check_name("language", self.language, LANGUAGES)
        if self.templates is not None:
            _templates(self.templates)
        if self.classnames is not None:
            read_classnames(self.classnames)
        return self


def reword(dataset: Dataset, wording: Wording) -> Dataset:
    """The data set with the class names and prompts that were asked for.

    Raises:
        UserError: when names or prompts do not fit its classes.
    """
    if wording.language != "en":
        dataset = _translated(dataset, wording.language)
    if wording.classnames is not None:
        names = read_classnames(wording.classnames)
        if len(names) != len(dataset.classnames):
            own = f"'{dataset.name}' has {len(dataset.classnames):,} classes"
            raise UserError(f"'{wording.classnames}' names {len(names):,} classes; {own}.")
        dataset = dataset.changed(classnames=names, differences=_without("classnames", dataset))
    if wording.templates is None:
        return dataset
    templates, differences = _templates(wording.templates), _without("templates", dataset)
    if isinstance(templates, tuple):
        return dataset.changed(templates=templates, differences=differences)
    for name in dataset.classnames:
        if name not in templates:
            close = nearest(name, list(templates))
            found = f" The nearest there is '{close[0]}'." if close else ""
            raise UserError(f"'{wording.templates}' has no prompts for '{name}' of '{dataset.name}'.{found}")
    own = tuple(templates[name] for name in dataset.classnames)
    return dataset.changed(class_prompts=own, differences=differences)


def _without(words: str, dataset: Dataset) -> dict[str, str]:
    """What else differs from the registry."""
    return {k: v for k, v in dataset.differences.items() if k != words}


def _templates(asked: str | Path) -> tuple[str, ...] | dict[str, tuple[str, ...]]:
    """Templates, or the prompts of every class."""
    if Path(asked).expanduser().is_file():
        path = Path(asked).expanduser()
        return read_prompts(path) if path.suffix == ".json" else read_templates(path)
    if str(asked) == "openai80":
        return CATALOG[TRANSLATED].templates
    if str(asked) in TEMPLATE_SETS:
        return SIMPLE_7 if str(asked) == "simple7" else DEFAULT_TEMPLATES
    sets = ", ".join(TEMPLATE_SETS)
    raise UserError(f"--templates '{asked}' is no file, nor one of {sets}.", hint="Write one template a line: a {c}.")


def _translated(dataset: Dataset, language: str) -> Dataset:
    entry = CATALOG.get(dataset.name)
    if entry is None or entry.names_key != TRANSLATED:
        raise UserError(
            f"'{dataset.name}' has no class names in '{language}'; {TRANSLATED} has.",
            hint="Give your own with --classnames and --templates.",
        )
    words = _languages()[language]
    return dataset.changed(classnames=tuple(words["classnames"]), templates=tuple(words["templates"]), differences={})


@cache
def _languages() -> dict[str, dict[str, list[str]]]:
    return json.loads((Path(__file__).parent / "names_imagenet1k.json").read_text("utf-8"))
