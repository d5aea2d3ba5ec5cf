"""`data.lock`: what exactly was fetched into a data root, and whether it still lies there.

    ROOT/data.lock                  by name: repository, commit, size and sha256 of each file, which splits are complete
    ROOT/<name>/.clipib.json        size and times of each file when it was last hashed

An entry is written before the first byte of its files arrives, so a folder with an entry is never taken for a copy of
the user's own; a split is read only once it is complete. The lock can be kept under version control: with it another
machine gets the same bytes or an error.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
from pathlib import Path
from typing import Any

import filelock

from clipib.errors import UserError
from clipib.files import file_sha256, file_stamp, write_aside
from clipib.progress import counted

LOCK_FILE, STAMPS_FILE = "data.lock", ".clipib.json"
SCHEMA = "clipib.data-lock/1"
SIDE_FILES = ("classnames.txt", "zeroshot_classification_templates.txt", "dataset_type.txt")


def read_lock(root: Path) -> dict[str, Any]:
    """name -> {"repo", "asked", "revision", "complete": splits, "files": {path: {"sha256", "size"}}}.

    Raises:
        UserError: when the lock file is damaged.
    """
    path = root / LOCK_FILE
    try:
        datasets = json.loads(path.read_text(encoding="utf-8"))["datasets"]
        for entry in datasets.values():
            _ = entry["repo"], entry["revision"], entry["complete"], entry["files"].items()
        return datasets
    except (FileNotFoundError, NotADirectoryError):
        return {}
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise UserError(f"'{path}' is damaged: {error!r}.", hint="Restore it, or remove it to fetch anew.") from error


def belongs(path: str, split: str) -> bool:
    """Whether a file of a repository is read with this split."""
    return path in SIDE_FILES or path.startswith(f"{split}/")


def holds(root: Path, name: str, repo: str, revision: str, split: str) -> bool:
    """Whether a split lies there whole as the lock names it; asks no network.

    Args:
        revision: as asked for, a commit or a name; "" is content with any.

    Raises:
        UserError: when a file is not what was fetched, or the folder belongs to another repository.
    """
    entry = read_lock(root).get(name)
    if not entry:
        return False
    if entry["repo"] != repo:
        raise UserError(
            f"'{root / name}' holds {entry['repo']}, not {repo}.", hint="Use another --data-root, or remove the folder."
        )
    if split not in entry["complete"] or (revision and revision not in (entry["revision"], entry["asked"])):
        return False
    files = {path: f for path, f in entry["files"].items() if belongs(path, split)}
    if not all((root / name / path).is_file() for path in files):
        return False
    check_files(root / name, files)
    return True


def write_entry(root: Path, name: str, entry: dict[str, Any]) -> None:
    """Enter or replace what is known of one data set."""
    root.mkdir(parents=True, exist_ok=True)
    with filelock.FileLock(root / f".{LOCK_FILE}.lock"):
        datasets = {**read_lock(root), name: {**entry, "files": dict(sorted(entry["files"].items()))}}
        content = {"schema": SCHEMA, "datasets": dict(sorted(datasets.items()))}
        text = json.dumps(content, indent=1) + "\n"
        write_aside(root / LOCK_FILE, lambda f: f.write(text.encode()))


def check_files(folder: Path, files: dict[str, Any], *, again: bool = False) -> None:
    """Hold files against the lock; those whose size and times are as when last hashed are not hashed again.

    Args:
        files: path -> {"sha256", "size"}. again: hash all.

    Raises:
        UserError: for a file whose content changed.
    """
    stamps, news = _read_stamps(folder), {}
    for path, known in files.items():
        stamp = list(file_stamp(folder / path))
        if stamps.get(path) == stamp and not again:
            continue
        if stamp[0] != known["size"] or file_sha256(folder / path) != known["sha256"]:
            raise UserError(
                f"'{folder / path}' is not the file that data.lock names: its content changed.",
                hint=f"Remove the file and fetch again, or remove '{folder}' and its entry in data.lock.",
            )
        news[path] = stamp
    if news:
        note_stamps(folder, news)


def note_stamps(folder: Path, stamps: dict[str, list[int]]) -> None:
    """Remember size and times of files that were just hashed."""
    text = json.dumps({**_read_stamps(folder), **stamps})
    with contextlib.suppress(OSError):  # a data root that cannot be written is hashed each time
        write_aside(folder / STAMPS_FILE, lambda f: f.write(text.encode()))


def hash_again(root: Path, name: str) -> int:
    """Hash every locked file of the complete splits, whatever its times say; the number of files.

    Raises:
        UserError: naming what is missing or changed.
    """
    entry = read_lock(root)[name]
    files = {p: f for p, f in entry["files"].items() if any(belongs(p, s) for s in entry["complete"])}
    if missing := [path for path in files if not (root / name / path).is_file()]:
        raise UserError(f"'{name}' lacks {counted(len(missing), 'file')} that the lock names: {missing[0]}, ...")
    check_files(root / name, files, again=True)
    return len(files)


def folder_name(text: str) -> str:
    """A repository with its revision, or a web address, as the name of a folder of its own.

    Example:
        >>> folder_name("org/pets"), folder_name("org/pets@v1"), folder_name("http://host/a b")
        ('org--pets', 'org--pets@v1', 'host-a-b-efe5fb64')
    """
    place = text.partition("://")[2]
    if not place:
        return text.replace("/", "--")
    short = "".join(c if c.isalnum() or c in "._" else "-" for c in place).strip("-")
    return f"{short}-{hashlib.sha256(text.encode()).hexdigest()[:8]}"


def _read_stamps(folder: Path) -> dict[str, list[int]]:
    try:
        return json.loads((folder / STAMPS_FILE).read_text())
    except (OSError, ValueError):
        return {}
