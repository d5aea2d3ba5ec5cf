"""`folder:PATH`: images in class folders, with or without train, val and test above them."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from clipib.data import SPLITS
from clipib.data.dataset import Dataset
from clipib.data.images import EXTENSIONS, FileImages
from clipib.data.prompts import DEFAULT_TEMPLATES, read_classnames, read_templates
from clipib.errors import UserError

SPLIT_FOLDERS = {
    "train": ("train", "training"),
    "val": ("val", "valid", "validation", "dev"),
    "test": ("test", "testing"),
}


def load_folder(path: str | Path, *, split: str, name: str = "") -> Dataset:
    """Read a folder of images.

    A folder that holds train, val or test folders gives the one asked for; a folder of class folders gives labels; a
    folder of plain images gives images alone. `classnames.txt` and `templates.txt` beside the class folders (or
    beside the split folders) are used.

    Args:
        split: "train", "val" or "test": which of the split folders to take, where there are some.
        name: the data set's name; left out, the last two parts of the path.

    Raises:
        UserError: when there is no such folder, an empty class, or no image.
    """
    root = _existing_folder(path)
    base, root, found_split = root, *_split_folder(root, split)
    classes = _subfolders(root)
    name = name or "/".join(root.resolve().parts[-2:]).strip("/")
    if not classes:
        files = _image_files(root, root)
        if not files:
            raise UserError(_nothing_found(root), hint="Expected PATH/CLASS/image.jpg or PATH/image.jpg.")
        return Dataset(name, found_split, FileImages(root, files), notes=(f"{len(files):,} images without classes",))
    by_class = {c: _image_files(root, root / c) for c in classes}
    if empty := [c for c, files in by_class.items() if not files]:
        shown = ", ".join(f"'{c}'" for c in empty[:5]) + (", ..." if len(empty) > 5 else "")
        hint = "Remove the empty folders, or put images there; known are " + " ".join(EXTENSIONS[:5]) + " and others."
        raise UserError(f"{len(empty)} of {len(classes)} class folders in '{root}' hold no image: {shown}.", hint=hint)
    files = [f for c in classes for f in by_class[c]]
    loose = sum(p.suffix.lower() in EXTENSIONS for p in root.iterdir() if p.is_file())
    notes = (f"{loose:,} images beside the class folders are ignored",) if loose else ()
    labels = np.repeat(np.arange(len(classes)), [len(by_class[c]) for c in classes])
    classnames = _beside(root, base, "classnames.txt", read_classnames) or tuple(c.replace("_", " ") for c in classes)
    if len(classnames) != len(classes):
        raise UserError(f"classnames.txt has {len(classnames)} names, '{root}' has {len(classes)} class folders.")
    templates = _beside(root, base, "templates.txt", read_templates) or DEFAULT_TEMPLATES
    return Dataset(name, found_split, FileImages(root, files), labels, classnames, templates, notes=notes)


def _existing_folder(path: str | Path) -> Path:
    root = Path(path).expanduser()
    if root.is_dir():
        return root
    if root.exists():
        raise UserError(f"'{path}' is a file, not a folder.", hint=f"For a table write csv:{path}.")
    parent = root.parent
    while not parent.exists():
        parent = parent.parent
    inside = sorted(p.name for p in parent.iterdir())[:6] if parent.is_dir() else []
    shown = f"; '{parent}' holds {', '.join(inside)}" if inside else ""
    raise UserError(f"There is no folder '{path}'{shown}.", hint="Check the path after folder:.")


def _split_folder(root: Path, split: str) -> tuple[Path, str]:
    """The folder of the split and its name; `root` itself where it has no split folders."""
    present = {s: root / f for s in SPLITS for f in SPLIT_FOLDERS[s] if (root / f).is_dir()}
    only_splits = set(_subfolders(root)) == {p.name for p in present.values()}
    if not only_splits and not any(_subfolders(p) for p in present.values()):
        present = {}  # classes that happen to be called train or test
    if not present:
        own = next((s for s in SPLITS if root.resolve().name.lower() in SPLIT_FOLDERS[s]), "")
        return root, own
    if split not in present:
        hint = f"Name one: {' or '.join(f'folder:{p}' for p in present.values())}."
        raise UserError(f"'{root}' has no {split} folder, but {', '.join(present)}.", hint=hint)
    return present[split], split


def _subfolders(root: Path) -> list[str]:
    """Class folders in the order of their indices: by number where all are numbers, else by name."""
    names = [p.name for p in root.iterdir() if p.is_dir() and not p.name.startswith(".")]
    if names and all(n.isdecimal() for n in names):
        return sorted(names, key=int)
    return sorted(names)


def _image_files(root: Path, folder: Path) -> list[str]:
    """Images below a folder, relative to `root`, with forward slashes, sorted."""
    return sorted(
        p.relative_to(root).as_posix()
        for p in folder.rglob("*")
        if p.suffix.lower() in EXTENSIONS and not p.name.startswith(".")
    )


def _beside(root: Path, base: Path, file: str, read) -> tuple[str, ...]:
    for folder in dict.fromkeys((root, base)):
        if (folder / file).is_file():
            return read(folder / file)
    return ()


def _nothing_found(root: Path) -> str:
    others = sorted({p.suffix for p in root.iterdir() if p.is_file() and p.suffix})
    return f"'{root}' holds no image" + (f", only {' '.join(others[:5])} files." if others else ".")
