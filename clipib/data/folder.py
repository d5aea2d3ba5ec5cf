"""`folder:PATH`: images in class folders, with or without train, val and test above them."""

from __future__ import annotations

import os
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
    """Read a folder of images, every class of which must hold some.

    A folder that holds train, val or test folders gives the one asked for; a folder of class folders gives labels; a
    folder of plain images gives images alone. `classnames.txt` and `templates.txt` beside the class folders (or
    beside the split folders) are used.

    Args:
        split: "train", "val" or "test": which of the split folders to take, where there are some.
        name: the data set's name; left out, the last two parts of the path.

    Raises:
        UserError: when there is no such folder, an empty class, or no image.
    """
    dataset = read_folder(path, split=split, name=name)
    if empty := empty_classes(dataset):
        root = dataset.images.root
        shown = ", ".join(f"'{c}'" for c in empty[:5]) + (", ..." if len(empty) > 5 else "")
        hint = "Remove the empty folders, or put images there; known are " + " ".join(EXTENSIONS[:5]) + " and others."
        raise UserError(
            f"{len(empty)} of {len(dataset.classnames)} class folders in '{root}' hold no image: {shown}.", hint=hint
        )
    return dataset


def read_folder(path: str | Path, *, split: str, name: str = "") -> Dataset:
    """A folder of images as it lies there, as `load_folder` reads it; classes without images are kept.

    Raises:
        UserError: when there is no such folder or no image.
    """
    root = _existing_folder(path)
    base, root, found_split = root, *_split_folder(root, split)
    classes = _subfolders(root)
    if closed := [c for c in classes if not os.access(root / c, os.R_OK | os.X_OK)]:
        raise UserError(
            f"You may not read the folder '{root / closed[0]}'.", hint=f"Try: chmod u+rx '{root / closed[0]}'"
        )
    name = name or "/".join(root.resolve().parts[-2:]).strip("/")
    files = [_image_files(root, root / c) for c in classes] if classes else [_image_files(root, root)]
    paths = [f for of_class in files for f in of_class]
    if not paths:
        raise UserError(_nothing_found(root), hint="Expected PATH/CLASS/image.jpg or PATH/image.jpg.")
    if not classes:
        return Dataset(name, found_split, FileImages(root, paths), notes=(f"{len(paths):,} images without classes",))
    loose = sum(p.suffix.lower() in EXTENSIONS for p in root.iterdir() if p.is_file())
    notes = (f"{loose:,} images beside the class folders are ignored",) if loose else ()
    labels = np.repeat(np.arange(len(classes)), [len(of_class) for of_class in files])
    classnames = _beside(root, base, "classnames.txt", read_classnames) or tuple(c.replace("_", " ") for c in classes)
    if len(classnames) != len(classes):
        raise UserError(f"classnames.txt has {len(classnames)} names, '{root}' has {len(classes)} class folders.")
    templates = _beside(root, base, "templates.txt", read_templates) or DEFAULT_TEMPLATES
    return Dataset(name, found_split, FileImages(root, paths), labels, classnames, templates, notes=notes)


def empty_classes(dataset: Dataset) -> list[str]:
    """Names of the classes that no image bears."""
    if dataset.labels is None:
        return []
    seen = np.bincount(dataset.labels, minlength=len(dataset.classnames))
    return [dataset.classnames[k] for k in np.flatnonzero(seen == 0)]


def folder_splits(path: str | Path) -> tuple[str, ...]:
    """The splits that a folder has folders for; its own, or "", where it has none.

    Raises:
        UserError: when there is no such folder.
    """
    root = _existing_folder(path)
    return tuple(_split_folders(root)) or (_split_folder(root, "")[1],)


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


def _split_folders(root: Path) -> dict[str, Path]:
    """The folders of the splits by name; none where `root` is not cut into splits."""
    present = {s: root / f for s in SPLITS for f in SPLIT_FOLDERS[s] if (root / f).is_dir()}
    only_splits = set(_subfolders(root)) == {p.name for p in present.values()}
    if not only_splits and not any(_subfolders(p) for p in present.values()):
        return {}  # classes that happen to be called train or test
    return present


def _split_folder(root: Path, split: str) -> tuple[Path, str]:
    """The folder of the split and its name; `root` itself where it has no split folders."""
    present = _split_folders(root)
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
