"""Write a data set as webdataset shards in the layout that CLIP_benchmark reads."""

from __future__ import annotations

import io
import os
import shutil
import time
import uuid
from collections import Counter
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import numpy as np
from PIL import Image

from clipib.data import SPLITS
from clipib.data.dataset import Dataset
from clipib.data.images import why
from clipib.data.load import load_dataset
from clipib.data.specs import parse_specs
from clipib.data.splits import find_splits
from clipib.errors import UserError, try_all
from clipib.progress import SILENT, Progress, counted
from clipib.registry import check_name
from clipib.tasks.results import slug

SHARD_SIZE = 1000  # images
MIN_SHARDS = 4  # CLIP_benchmark starts four workers, and a worker without a shard fails
TASKS = ("classification", "retrieval")
KEPT_FORMATS = {"JPEG": "jpg", "MPO": "jpg", "PNG": "png", "WEBP": "webp"}  # Pillow's format -> member
MARK_FILE, DAY = ".clipib-export", 86_400.0  # seconds
TYPE_FILE, NAMES_FILE, TEMPLATES_FILE = "dataset_type.txt", "classnames.txt", "zeroshot_classification_templates.txt"


class Shards(NamedTuple):
    """One exported split: its folder, images, shards, and how many images had to be encoded anew."""

    name: str
    task: str
    folder: Path
    n: int
    n_shards: int
    n_encoded: int


class _Member(NamedTuple):
    """An image as it is stored. encoded: whether its bytes are not the source's."""

    extension: str
    content: bytes
    encoded: bool


def export(
    datasets: str | Sequence[str],
    to: str | Path,
    *,
    task: str = "",
    shard_size: int = SHARD_SIZE,
    overwrite: bool = False,
    data_root: str | Path | None = None,
    columns: dict[str, str] | None = None,
    workers: int = 2,
    dry_run: bool = False,
    progress: Progress = SILENT,
) -> list[Shards]:
    """Write every split of the data sets as `TO/SPLIT/N.tar`, with what CLIP_benchmark wants beside them.

    A set that has no splits becomes `test`. Several sets go into a folder each, `TO/NAME/SPLIT/N.tar`. JPEG, PNG and
    WebP keep their bytes; other formats, and greys of 16 bits, which that reader would clip, become PNG. Line breaks
    in captions become spaces, as they separate captions. The same input gives the same bytes. All is written beside
    TO and then renamed, so TO is whole or not there.

    Args:
        task: "classification" or "retrieval", for sets that have labels and captions.
        shard_size: images per shard at most; a split of four images or more has at least four shards.
        overwrite: replace what an earlier export left in TO.
        dry_run: check everything but the images, write nothing.

    Raises:
        UserError: when an image cannot be read, TO holds something, or the set cannot be said in this layout.
    """
    if task:
        check_name("task", task, TASKS)
    if shard_size < 1:
        raise UserError(f"--shard-size {shard_size} is not a number of images.")
    typed = Path(to).expanduser()
    to = typed.resolve()
    _check_target(to, overwrite)
    specs = parse_specs(list(datasets) if not isinstance(datasets, str) else datasets)
    options = {"data_root": data_root, "columns": columns}
    sets = try_all(
        lambda spec=spec: [load_dataset(spec.text, role=s or "test", **options) for s in find_splits(spec, **options)]
        for spec in specs
    )
    planned = [_planned(splits, task) for splits in sets]
    names = [slug(splits[0].name) if len(sets) > 1 else "" for splits, _ in planned]
    if doubled := [n for n, count in Counter(names).items() if count > 1]:
        raise UserError(f"Two of the data sets would share the folder '{doubled[0]}'.", hint="Export them apart.")
    for splits, task_of_set in planned:
        for d in splits:
            progress.say(f"export: {d.name} ({d.split}), {counted(len(d), 'image')}, {task_of_set}")
    _check_apart(to, [d for splits, _ in planned for d in splits])
    if dry_run:
        return []
    to.parent.mkdir(parents=True, exist_ok=True)
    for left in to.parent.glob(f".{to.name}.*.partial"):
        if time.time() - left.stat().st_mtime > DAY:  # of an export that was killed
            shutil.rmtree(left, ignore_errors=True)
    aside = to.with_name(f".{to.name}.{uuid.uuid4().hex[:8]}.partial")
    try:
        written = []
        for (splits, task_of_set), name in zip(planned, names, strict=True):
            _write_about(aside / name, splits, task_of_set)
            for dataset in splits:
                folder = aside / name / dataset.split
                n_shards, n_encoded = _write_split(folder, dataset, task_of_set, shard_size, workers, progress)
                where = typed / name / dataset.split
                written.append(Shards(dataset.name, task_of_set, where, len(dataset), n_shards, n_encoded))
        (aside / MARK_FILE).write_text("written by clipib data export\n")
        _check_target(to, overwrite)
        _put_in_place(aside, to)
    finally:
        shutil.rmtree(aside, ignore_errors=True)
    return written


def _check_target(to: Path, overwrite: bool) -> None:
    """Make sure that nothing but an earlier export could be lost."""
    if to.exists() and not to.is_dir():
        raise UserError(f"'{to}' is a file, not a folder.", hint="Name another --to.")
    if not to.is_dir() or not any(to.iterdir()):
        return
    if not overwrite:
        hint = "Name another --to, or add --overwrite to replace an earlier export."
        raise UserError(f"'{to}' is not empty.", hint=hint)
    if not (to / MARK_FILE).is_file():
        raise UserError(f"'{to}' was not written by an export; it is left as it is.", hint="Name another --to.")
    if strange := next(_not_exported(to), None):
        hint = "Name another --to, or remove the folder yourself."
        raise UserError(f"'{to}' holds '{strange}', which no export wrote; it is left as it is.", hint=hint)


def _check_apart(to: Path, datasets: list[Dataset]) -> None:
    """Refuse to replace a folder that the images themselves lie in, or to write into theirs."""
    for root in {Path(d.images.root).resolve() for d in datasets if hasattr(d.images, "root")}:
        if to.is_dir() and (root.is_relative_to(to) or to.is_relative_to(root)):
            raise UserError(f"The images lie in '{root}', which '{to}' would replace.", hint="Name another --to.")


def _not_exported(folder: Path, *, depth: int = 0) -> Iterator[Path]:
    """What lies below a folder that `export` does not write."""
    for path in sorted(folder.iterdir()):
        inside = path.relative_to(folder)
        if path.is_dir() and path.name in SPLITS and (path / "nshards.txt").is_file():
            yield from (inside / p.name for p in path.iterdir() if p.suffix != ".tar" and p.name != "nshards.txt")
        elif path.is_dir() and depth == 0 and any(path.glob("*/nshards.txt")):
            yield from (inside / p for p in _not_exported(path, depth=1))
        elif path.name not in (TYPE_FILE, NAMES_FILE, TEMPLATES_FILE, MARK_FILE):
            yield inside


def _planned(splits: list[Dataset], task: str) -> tuple[list[Dataset], str]:
    """The splits with their names, and the task of the set, after a check that the layout can hold them."""
    splits = [replace(d, split=d.split or "test") for d in splits]
    first = splits[0]
    labelled, captioned = first.labels is not None, first.captions is not None
    if not labelled and not captioned:
        raise UserError(f"'{first.name}' has neither labels nor captions.", hint="There is nothing to evaluate on it.")
    if labelled and captioned and not task:
        hint = "Add --task classification or --task retrieval; captions are stored in both cases."
        raise UserError(f"'{first.name}' has labels and captions, and CLIP_benchmark reads one of them.", hint=hint)
    task = task or ("classification" if labelled else "retrieval")
    if (task == "classification" and not labelled) or (task == "retrieval" and not captioned):
        raise UserError(f"'{first.name}' has no {'labels' if task == 'classification' else 'captions'} for {task}.")
    if task == "classification":
        for other in splits[1:]:
            if (other.classnames, other.templates) != (first.classnames, first.templates):
                raise UserError(
                    f"The classes of '{first.name}' differ between {first.split} and {other.split}.",
                    hint="`clipib data verify` names them; or export one split at a time.",
                )
        _check_lines("class name", first.classnames)
        _check_lines("template", first.templates)
    return splits, task


def _check_lines(what: str, lines: Sequence[str]) -> None:
    """Names and templates are read as stripped lines, templates through Python's `format`."""
    for line in lines:
        if "".join(line.splitlines()).strip() != line:
            raise UserError(f"The {what} {line!r} cannot be a line of a text file.", hint="Take its white space away.")
        if what == "template":
            try:
                fits = line.format(c="x") == line.replace("{c}", "x")
            except (KeyError, IndexError, ValueError):
                fits = False
            if not fits:
                hint = "Write no other braces than {c}."
                raise UserError(f"The template '{line}' cannot be read by CLIP_benchmark.", hint=hint)


def _write_about(folder: Path, splits: list[Dataset], task: str) -> None:
    """The text files beside the splits; an empty class name keeps its line."""
    folder.mkdir(parents=True)
    first = splits[0]
    if task == "retrieval":
        _write_lines(folder / TYPE_FILE, ["retrieval"])
        return
    if first.labels.ndim > 1:
        _write_lines(folder / TYPE_FILE, ["multilabel"])
    _write_lines(folder / NAMES_FILE, first.classnames)
    _write_lines(folder / TEMPLATES_FILE, first.templates)


def _write_lines(path: Path, lines: Sequence[str]) -> None:
    path.write_text("".join(f"{line}\n" for line in lines), encoding="utf-8", newline="\n")


def _write_split(
    folder: Path, dataset: Dataset, task: str, shard_size: int, workers: int, progress: Progress
) -> tuple[int, int]:
    """The shards of one split, `nshards.txt` last; returns the number of shards and of images encoded anew."""
    from webdataset import TarWriter

    folder.mkdir()
    n_shards = max(-(-len(dataset) // shard_size), min(MIN_SHARDS, len(dataset)))
    texts, n_broken = _captions_of(dataset)
    if n_broken:
        progress.warn(f"{dataset.name}: line breaks in {counted(n_broken, 'caption')} became spaces")
    n_encoded = 0
    with (
        progress.track(f"writing {dataset.split}", len(dataset)) as advance,
        ThreadPoolExecutor(max(1, workers)) as pool,
    ):
        for number, indices in enumerate(np.array_split(np.arange(len(dataset)), n_shards)):
            with (
                (folder / f"{number}.tar").open("wb") as file,
                TarWriter(file, user="", group="", mtime=0, encoder=False) as writer,
            ):
                for start in range(0, len(indices), 64):
                    some = indices[start : start + 64]
                    for i, member in zip(some, pool.map(lambda i: _member(dataset, int(i)), some), strict=True):
                        sample = {"__key__": f"s{i:07d}", member.extension: member.content}
                        writer.write(sample | _label(dataset, i) | ({"txt": texts[i]} if texts else {}))
                        n_encoded += member.encoded
                        advance()
    _write_lines(folder / "nshards.txt", [str(n_shards)])
    return n_shards, n_encoded


def _member(dataset: Dataset, index: int) -> _Member:
    """The source's own bytes where they are decoded to the same pixels there as here; else a PNG of the pixels.

    Raises:
        UserError: when the image cannot be read.
    """
    try:
        picture, content = dataset.images.open(index), dataset.images.content(index)
    except OSError as error:
        raise UserError(
            f"'{dataset.images.ids[index]}' of '{dataset.name}' ({dataset.split}) cannot be read: {why(error)}.",
            hint="`clipib data verify` lists all files that are damaged; mend or remove them first.",
        ) from error
    if extension := _kept_extension(content):
        return _Member(extension, content, False)
    file = io.BytesIO()
    picture.save(file, "PNG")
    return _Member("png", file.getvalue(), True)


def _kept_extension(content: bytes) -> str:
    """The member name for bytes that stay as they are, or "" where they must be encoded anew."""
    try:
        with Image.open(io.BytesIO(content)) as picture:
            if picture.mode.startswith(("I", "F")):
                return ""
            return KEPT_FORMATS.get(picture.format or "", "")
    except (OSError, SyntaxError, ValueError):  # pixels of pictures that are drawn, not read
        return ""


def _label(dataset: Dataset, index: int) -> dict[str, bytes]:
    """The class as text, or the row of a multi-label matrix as an array file."""
    if dataset.labels is None:
        return {}
    label = dataset.labels[index]
    if np.ndim(label) == 0:
        return {"cls": str(int(label)).encode()}
    file = io.BytesIO()
    np.save(file, np.asarray(label))
    return {"npy": file.getvalue()}


def _captions_of(dataset: Dataset) -> tuple[list[bytes], int]:
    """The captions of each image as lines, and how many captions had line breaks of their own.

    Raises:
        UserError: for a caption without a word; as an empty line it would get lost.
    """
    if dataset.captions is None:
        return [], 0
    lines: list[list[str]] = [[] for _ in range(len(dataset))]
    n_broken = 0
    for text, image in zip(dataset.captions, dataset.image_of_caption, strict=True):
        parts = [part.strip() for part in text.splitlines()]
        n_broken += len(parts) > 1
        if not any(parts):
            raise UserError(f"'{dataset.images.ids[image]}' of '{dataset.name}' has a caption without a word.")
        lines[image].append(" ".join(filter(None, parts)) if len(parts) > 1 else text)
    return ["\n".join(own).encode() for own in lines], n_broken


def _put_in_place(aside: Path, to: Path) -> None:
    """Rename the finished folder to its place; what lies there goes once the new one is in its stead.

    Raises:
        UserError: when the place cannot be renamed, as where a disk is mounted.
    """
    old = aside.with_suffix(".old")
    try:
        if to.is_dir():
            os.replace(to, old)
        os.replace(aside, to)
    except OSError as error:
        if old.is_dir():
            os.replace(old, to)
        hint = "Name a folder that is not there yet."
        raise UserError(f"'{to}' cannot be put in place: {error.strerror}.", hint=hint) from error
    shutil.rmtree(old, ignore_errors=True)
