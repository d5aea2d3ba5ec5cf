"""The grammar of data specifications: `name`, `name:split`, `suite:NAME`, `kind:argument`, comma lists of them."""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import NamedTuple

from clipib.data import DATA_KINDS, SPLITS
from clipib.data.catalog import CATALOG, SUITES, check_suite, find_entry, suite_entries
from clipib.errors import UserError
from clipib.registry import nearest

DIGITWORLD_LABELS = tuple(f"digitworld/{a}" for a in ("digit", "color", "place"))
PATH_KINDS = ("folder", "csv")
REPOSITORY_KINDS = ("wds", "hf")  # a path, or a repository with revision and split
HF_OPTIONS = ("config", "split", "stream")


REPOSITORY = re.compile(r"(\w[\w.-]*/[\w.-]+)(?:@([\w./-]+))?")
HUB_PAGE = re.compile(r"https://huggingface\.co/datasets/([\w.-]+/[\w.-]+)(?:/(?:tree|resolve)/([^/]+))?/?")
SPLIT_NAME = re.compile(r"[A-Za-z][\w.-]*")


class Spec(NamedTuple):
    """One data set as the user named it.

    kind: a key of DATA_KINDS, or "name" for an entry of the catalogue.
    argument: the path or repository, the catalogue name, or digitworld's view ("", "digit", "color", "place").
    split: "" where it was left out.
    options: those of digitworld and of hf.
    text: the specification as written.
    suite: the suite it came from, "" where it was named by itself.
    """

    kind: str
    argument: str
    split: str
    options: dict[str, str]
    text: str
    suite: str = ""


def known_names() -> list[str]:
    """Every name that may stand alone: the built-in world with its label sets, catalogue entries, and `all`."""
    return ["digitworld", *DIGITWORLD_LABELS, *CATALOG, "all"]


def split_specs(text: str) -> list[str]:
    """Cut a comma list of specifications.

    A cut is made only at a comma that a known kind, name or suite follows; an argument that exists as a path is taken
    whole; double quotes protect any character.

    Example:
        >>> split_specs('folder:a,b/c, csv:x.csv,digitworld:objects=2')
        ['folder:a,b/c', 'csv:x.csv', 'digitworld:objects=2']
    """
    cuts, quoted = [], False
    for i, character in enumerate(text):
        quoted ^= character == '"'
        if character == "," and not quoted and _starts_spec(text[i + 1 :]):
            cuts.append(i)
    ends, pieces, start = [*cuts, len(text)], [], 0
    while start <= len(text):
        later = [e for e in ends if e >= start]
        whole = [e for e in later if _path_exists(text[start:e])]
        end = max(whole) if whole else later[0]
        if piece := text[start:end].strip().strip(",").strip():
            pieces.append(piece)
        start = end + 1
    return pieces


def parse_spec(text: str) -> Spec:
    """Read one specification; a suite is several, and is read by `parse_specs`.

    Raises:
        UserError: for an unknown kind or name, naming the nearest, or a malformed option.
    """
    text = text.strip()
    head, colon, rest = text.partition(":")
    if head in PATH_KINDS and colon:
        argument = rest.replace('"', "").strip() if '"' in rest and not _exists(rest) else rest.strip()
        if not argument:
            raise UserError(f"'{text}' names no path.", hint=f"Write {head}:PATH.")
        return Spec(head, argument, "", {}, text)
    if head in REPOSITORY_KINDS and colon:
        return _parse_repository(head, rest.replace('"', "").strip(), text)
    if head == "digitworld" or head in DIGITWORLD_LABELS:
        if "," in rest:
            raise _unknown_spec(rest.partition(",")[2])
        options = _parse_options(text, rest)
        split = options.pop("split", "")
        return Spec("digitworld", head.partition("/")[2], _check_split(text, split), options, text)
    if key := find_entry(head.strip()):
        return Spec("name", key, _check_split(text, rest), {}, text)
    raise _unknown_spec(text)


def parse_specs(texts: str | list[str], need: str = "") -> list[Spec]:
    """Read one or several arguments, each a specification or a comma list of them.

    A suite stands for all of its entries, also those that are named by themselves or by another suite.

    Args:
        texts: what the user typed.
        need: "label" or "caption": of a suite, only the entries that the task can use.

    Raises:
        UserError: when nothing is named, a piece cannot be read, or a suite has nothing for the task.
    """
    texts = [texts] if isinstance(texts, str) else texts
    specs = [spec for text in texts for piece in split_specs(text) for spec in _expand(piece, need)]
    if not specs:
        raise UserError("No data set is named.", hint="Try digitworld, suite:vtab+, folder:PATH or csv:PATH.")
    return specs


def is_url(argument: str) -> bool:
    """Whether the argument of `wds:` is a web address."""
    return argument.startswith(("http://", "https://"))


def repository_of(argument: str) -> tuple[str, str] | None:
    """Repository and revision ("" for the main branch) that the argument of `wds:` names, or None for a path or URL.

    Example:
        >>> repository_of("clip-benchmark/wds_cars@abc"), repository_of("https://huggingface.co/datasets/a/b/tree/main")
        (('clip-benchmark/wds_cars', 'abc'), ('a/b', 'main'))
    """
    if _exists(argument):
        return None
    if page := HUB_PAGE.fullmatch(argument):
        return page[1], page[2] or ""
    named = REPOSITORY.fullmatch(argument)
    return (named[1], named[2] or "") if named else None


def _parse_repository(kind: str, rest: str, text: str) -> Spec:
    """`PATH`, `PATH:split`, `ORG/NAME@REV:split`, and of hf also `+stream` and `+config=NAME`."""
    if not rest:
        raise UserError(f"'{text}' names no data.", hint=f"Write {kind}:PATH or {kind}:ORG/NAME@REVISION:SPLIT.")
    options: dict[str, str] = {}
    if not _exists(rest) and kind == "hf":
        rest, *parts = rest.split("+")
        for part in parts:
            key, _, value = part.partition("=")
            if key not in HF_OPTIONS or (value == "") != (key == "stream"):
                hint = "Options of hf are +stream, +config=NAME and +split=NAME."
                raise UserError(f"'{text}' has the option '{part}', which hf does not know.", hint=hint)
            options[key] = value or "yes"
    split = options.pop("split", "")
    place, colon, last = rest.rpartition(":")
    if colon and not _exists(rest) and SPLIT_NAME.fullmatch(last):
        rest, split = place, split or last
    known = _exists(rest) or repository_of(rest) or (kind == "wds" and is_url(rest))
    if not known:
        hint = f"Write {kind}:PATH or {kind}:ORG/NAME@REVISION:SPLIT."
        raise UserError(f"'{rest}' is neither a path that exists nor a repository ORG/NAME.", hint=hint)
    return Spec(kind, rest.rstrip("/") if is_url(rest) else rest, split, options, text)


def _expand(piece: str, need: str) -> list[Spec]:
    """The specifications that a piece stands for: one, or a suite's entries (`suite:NAME`, `suite:NAME:split`)."""
    suite, split = _suite_of(piece)
    if not suite:
        return [parse_spec(piece)]
    name, split = check_suite(suite), _check_split(piece, split)
    keys = suite_entries(name, need)
    if not keys:
        what = "labels" if need == "label" else "captions"
        able = ", ".join(s for s in SUITES if suite_entries(s, need))
        raise UserError(f"No data set of the suite '{name}' has {what}.", hint=f"Suites with {what}: {able}.")
    return [Spec("name", key, split, {}, piece.strip(), name) for key in keys]


def _suite_of(piece: str) -> tuple[str, str]:
    """(suite, split) of `suite:NAME`, `suite:NAME:split`, `all` or `all:split`; ("", "") for anything else."""
    head, _, rest = (p.strip() for p in piece.partition(":"))
    if head == "all":
        return "all", rest
    if head != "suite":
        return "", ""
    if not rest:
        raise UserError(f"'{piece.strip()}' names no suite.", hint=f"Suites: {', '.join(SUITES)}.")
    name, _, split = (p.strip() for p in rest.partition(":"))
    return name, split


def _starts_spec(rest: str) -> bool:
    """Whether the text behind a comma begins with a kind and its colon, or with a name known under any spelling."""
    head, mark = re.match(r"\s*([^,:]*)([,:]?)", rest).groups()
    head = head.strip()
    return (mark == ":" and head in (*DATA_KINDS, "suite")) or head in known_names() or find_entry(head) is not None


def _exists(path: str) -> bool:
    """Whether there is such a path; False also for what cannot be one, as a list too long for a name."""
    return os.path.exists(os.path.expanduser(path))


def _path_exists(piece: str) -> bool:
    kind, colon, argument = piece.strip().partition(":")
    return bool(colon) and kind in PATH_KINDS and _exists(argument.strip())


def _check_split(text: str, split: str) -> str:
    if split and split not in SPLITS:
        raise UserError(f"'{text}' names the split '{split}'; there are {', '.join(SPLITS)}.")
    return split


def _parse_options(text: str, rest: str) -> dict[str, str]:
    """`objects=2+split=test` as a dict; a bare split name is understood too."""
    options = {}
    for part in filter(None, rest.split("+")):
        key, equals, value = (p.strip() for p in part.partition("="))
        if not equals and key in SPLITS:
            key, value = "split", key
        known = ("objects", "split", "n", "seed")
        if key not in known or not value:
            hint = f"Options of digitworld are {', '.join(known)}, joined by +: digitworld:objects=2+split=test."
            raise UserError(f"'{text}' has the option '{part}', which digitworld does not know.", hint=hint)
        options[key] = value
    return options


def _unknown_spec(text: str) -> UserError:
    """Say which piece of a list is unknown and what stands near it; a path without its kind is recognised."""
    hint = "Known: digitworld, cifar10, flickr30k, suite:vtab+, all, ...; `clipib list datasets` shows every name. "
    hint += "Or folder:PATH, csv:PATH."
    for piece in (p.strip() for p in text.split(",")):
        head, colon, rest = piece.partition(":")
        if piece and _exists(piece):
            kind = "folder" if Path(piece).is_dir() else "csv"
            return UserError(f"'{piece}' is a path without its kind.", hint=f"Write {kind}:{piece}.")
        if find_entry(head) or head in (*DATA_KINDS, "suite"):
            continue
        if head.lower().replace("_", "-") in SUITES:
            return UserError(f"'{piece}' is a suite.", hint=f"Write suite:{piece}.")
        close = nearest(head, [*known_names(), *DATA_KINDS, *(f"suite:{s}" for s in SUITES)])
        found = (
            " Did you mean " + " or ".join(f"'{c}{colon + rest if colon else ''}'" for c in close) + "?"
            if close
            else ""
        )
        return UserError(f"Unknown data set '{piece}'.{found}", hint=hint)
    return UserError(f"Unknown data set '{text}'.", hint=hint)
