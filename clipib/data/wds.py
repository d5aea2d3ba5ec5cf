"""`wds:PATH|URL|ORG/NAME`: webdataset shards in CLIP_benchmark's layout, read in any order.

    PATH/test/0.tar ...    s0000001.jpg (.png, .webp) with s0000001.cls (a whole number), .npy (0 and 1 per class) or
                           .txt (captions, one a line)
    PATH/test/nshards.txt  the number of shards
    PATH/classnames.txt    one a line, blank lines count; zeroshot_classification_templates.txt; dataset_type.txt

A shard is read by the places of its members, so any number of decoding threads goes with any number of shards.
"""

from __future__ import annotations

import io
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from itertools import islice
from pathlib import Path
from typing import NamedTuple

import numpy as np
from PIL import Image

from clipib.data import SPLITS
from clipib.data.dataset import Dataset
from clipib.data.folder import SPLIT_FOLDERS
from clipib.data.images import decode_rgb, file_stamps
from clipib.data.prompts import DEFAULT_TEMPLATES
from clipib.data.tar import Member, list_members, read_span
from clipib.errors import UserError

IMAGE_SUFFIXES = ("jpg", "jpeg", "png", "webp")
MOST_DIGITS = 15  # of a number in a text file
LABELS, MANY_LABELS, CAPTIONS = "cls", "npy", "txt"
METADATA = ("npy", "metadata.npy")  # beside a label: a row of codes, as DataComp stores region or income


class Sample(NamedTuple):
    """The files of one sample by their suffix, and its name `split/shard/key`."""

    name: str
    shard: int
    files: dict[str, Member]


class TarImages:
    """Images inside uncompressed tar shards; `shard` (N,) says in which, `start` and `size` (N,) where."""

    def __init__(self, shards: list[Path], ids: list[str], shard, start, size) -> None:
        self.shards = shards
        self.ids = ids
        self.shard, self.start, self.size = (np.asarray(a, dtype=np.int64) for a in (shard, start, size))

    def content(self, index: int) -> bytes:
        return read_span(self.shards[self.shard[index]], int(self.start[index]), int(self.size[index]))

    def open(self, index: int) -> Image.Image:
        return decode_rgb(self.content(index))

    @property
    def root(self) -> Path:
        return self.shards[0].parent

    def stamps(self) -> np.ndarray:
        return np.column_stack([file_stamps(self.shards)[self.shard], self.start, self.size])

    def take(self, indices: np.ndarray) -> TarImages:
        ids = [self.ids[i] for i in indices]
        return TarImages(self.shards, ids, self.shard[indices], self.start[indices], self.size[indices])


def load_wds(path: str | Path, *, split: str, name: str = "", need: str = "") -> Dataset:
    """Read a folder of webdataset shards.

    Args:
        split: the folder of shards below `path`; a folder that itself holds shards is taken as it is.
        need: "label" or "caption" where the task cannot do without.

    Raises:
        UserError: for missing or damaged shards, a sample without image, label or caption, a label beyond the class
            names.
    """
    root = Path(path).expanduser()
    folder, root, found_split = _shard_folder(root, split)
    shards = _shards(folder)
    with ThreadPoolExecutor(4) as pool:
        per_shard = list(pool.map(lambda job: _samples(*job), ((s, i, found_split) for i, s in enumerate(shards))))
    samples = [sample for found in per_shard for sample in found]
    if empty := [shard for shard, found in zip(shards, per_shard, strict=True) if not found]:
        raise UserError(f"The shard '{empty[0]}' holds no sample.", hint="Fetch or export it again.")
    name = name or "/".join(root.resolve().parts[-2:]).strip("/")
    suffix = [next((s for s in IMAGE_SUFFIXES if s in sample.files), "") for sample in samples]
    if without := [s.name for s, found in zip(samples, suffix, strict=True) if not found]:
        raise UserError(
            f"{len(without):,} of {len(samples):,} samples in '{folder}' have no image; the first is {without[0]}.",
            hint="Images are read as " + " ".join(IMAGE_SUFFIXES) + ".",
        )
    members = [s.files[f] for s, f in zip(samples, suffix, strict=True)]
    images = TarImages(
        shards,
        [s.name for s in samples],
        [s.shard for s in samples],
        [m.start for m in members],
        [m.size for m in members],
    )
    dataset = Dataset(name, found_split, images, notes=(f"{len(samples):,} samples in {len(shards)} shards",))
    kind = _kind(root, samples, need)
    if kind in (LABELS, MANY_LABELS):
        dataset = _with_labels(dataset, samples, shards, root, kind)
    if kind == CAPTIONS or (kind and all(CAPTIONS in sample.files for sample in samples)):
        dataset = _with_captions(dataset, samples, shards)
    return dataset


def split_names(root: Path) -> list[str]:
    """The splits that a folder of shards has."""
    return sorted(p.name for p in root.iterdir() if p.is_dir() and any(p.glob("*.tar"))) if root.is_dir() else []


def _shard_folder(root: Path, split: str) -> tuple[Path, Path, str]:
    """Where the shards lie, the folder with the class names, and the name of the split."""
    if not root.is_dir():
        what = "is a file" if root.exists() else "does not exist"
        raise UserError(f"The folder of shards '{root}' {what}.", hint="Check the path after wds:.")
    if any(root.glob("*.tar")):
        own = root.resolve().name
        if own in SPLITS and split and own != split:
            raise UserError(f"'{root}' holds the {own} shards, '{split}' is asked for.", hint=f"Name {root.parent}.")
        return root, root.parent if own in SPLITS else root, own if own in SPLITS else ""
    names = dict.fromkeys((split, *SPLIT_FOLDERS.get(split, ())))
    folder = next((root / n for n in names if any((root / n).glob("*.tar"))), None)
    if folder is None:
        found = split_names(root)
        has = f"it has {', '.join(found)}" if found else "it holds no folder with .tar files"
        raise UserError(f"'{root}' has no split '{split}': {has}.", hint="Expected PATH/SPLIT/0.tar.")
    return folder, root, split


def _shards(folder: Path) -> list[Path]:
    """All shards in order of their numbers; as many as nshards.txt says."""
    shards = sorted(folder.glob("*.tar"), key=lambda p: (int(p.stem) if p.stem.isdecimal() else -1, p.stem))
    listed = folder / "nshards.txt"
    if listed.is_file():
        text = listed.read_text(errors="replace").strip()
        if not text.isdecimal() or len(text) > MOST_DIGITS:
            raise UserError(f"'{listed}' holds '{text[:20]}', not a number of shards.")
        there = {int(p.stem): p for p in shards if p.stem.isdecimal() and p.name == f"{int(p.stem[:MOST_DIGITS])}.tar"}
        named = [p for number, p in sorted(there.items()) if number < int(text)]
        if len(named) < int(text):
            first = (f"{i}.tar" for i in range(int(text)) if i not in there)
            raise UserError(
                f"'{folder}' lacks {int(text) - len(named):,} of {text} shards: {', '.join(islice(first, 5))}.",
                hint="Fetch them again; a part of a data set gives a wrong number.",
            )
        shards = named
    if strange := [p for p in shards if not p.is_file()]:
        raise UserError(f"The shard '{strange[0]}' is no file, or a link to one that is not there.")
    return shards


def _samples(shard: Path, number: int, split: str) -> list[Sample]:
    """The samples of one shard in order: neighbouring members whose names agree up to the first dot."""
    samples: list[Sample] = []
    last = None
    for member in list_members(shard):
        key, suffix = _key_and_suffix(member.name)
        if not suffix:
            continue
        if key != last:
            samples.append(Sample("/".join(filter(None, (split, shard.stem, key))), number, {}))
            last = key
        samples[-1].files[suffix] = member
    return samples


def _key_and_suffix(name: str) -> tuple[str, str]:
    """`a/s0001.metadata.npy` -> ("a/s0001", "metadata.npy"), the rule of the webdataset library."""
    folder, slash, base = name.removeprefix("./").rpartition("/")
    stem, _, suffix = base.partition(".")
    return folder + slash + stem, suffix.lower()


def _kind(root: Path, samples: list[Sample], need: str) -> str:
    """Which member holds what is to be known of each image: by dataset_type.txt, else by what is there."""
    listed = root / "dataset_type.txt"
    declared = listed.read_text(encoding="utf-8-sig", errors="replace").strip().lower() if listed.is_file() else ""
    known = {"retrieval": CAPTIONS, "multilabel": MANY_LABELS, "classification": LABELS}
    if declared and declared not in known:
        raise UserError(f"'{listed}' says '{declared}'; known are {', '.join(known)}.")
    if declared:
        return known[declared]
    present = [kind for kind in (LABELS, MANY_LABELS, CAPTIONS) if kind in samples[0].files]
    if need == "caption" and CAPTIONS in present:
        return CAPTIONS
    return present[0] if present else ""


def _texts_of(samples: list[Sample], shards: list[Path], kind: str) -> list[bytes]:
    """The member of that kind of every sample."""
    if without := [s.name for s in samples if kind not in s.files]:
        raise UserError(
            f"{len(without):,} of {len(samples):,} samples have no .{kind} member; the first is {without[0]}."
        )
    contents = []
    handles = {i: shards[i].open("rb") for i in {s.shard for s in samples}}
    try:
        for sample in samples:
            member = sample.files[kind]
            handles[sample.shard].seek(member.start)
            contents.append(handles[sample.shard].read(member.size))
    finally:
        for handle in handles.values():
            handle.close()
    return contents


def _with_captions(dataset: Dataset, samples: list[Sample], shards: list[Path]) -> Dataset:
    captions, image_of_caption = [], []
    for i, content in enumerate(_texts_of(samples, shards, CAPTIONS)):
        lines = _decoded(content, samples[i]).splitlines()
        if not any(line.strip() for line in lines):
            raise UserError(f"The sample {samples[i].name} has no caption.")
        captions += lines
        image_of_caption += [i] * len(lines)
    notes = (*dataset.notes, f"{len(dataset):,} images, {len(captions):,} captions")
    return replace(dataset, captions=tuple(captions), image_of_caption=np.array(image_of_caption), notes=notes)


def _with_labels(dataset: Dataset, samples: list[Sample], shards: list[Path], root: Path, kind: str) -> Dataset:
    contents = _texts_of(samples, shards, kind)
    classnames = _lines(root / "classnames.txt")
    templates = tuple(t for t in _lines(root / "zeroshot_classification_templates.txt") if t)
    if bad := [t for t in templates if "{c}" not in t]:
        raise UserError(f"The template '{bad[0]}' in '{root}' has no {{c}}.")
    if kind == LABELS:
        labels = np.array([_whole_number(c, s) for c, s in zip(contents, samples, strict=True)])
        n_classes = int(labels.max()) + 1
        culprit = samples[int(labels.argmax())].name
    else:
        labels = np.stack([_flags(c, s, contents[0]) for c, s in zip(contents, samples, strict=True)])
        n_classes, culprit = labels.shape[1], samples[0].name
    notes = dataset.notes
    if not classnames:
        notes = (*notes, f"no classnames.txt: the {n_classes} classes go by their numbers")
        classnames = tuple(map(str, range(n_classes)))
    if n_classes > len(classnames) or (kind == MANY_LABELS and n_classes != len(classnames)):
        what = f"the label {n_classes - 1}" if kind == LABELS else f"labels for {n_classes} classes"
        raise UserError(
            f"The sample {culprit} has {what}, but '{root / 'classnames.txt'}' names {len(classnames)} classes.",
            hint="Class names stand one a line in the order of the labels, from 0.",
        )
    if doubled := [n for n, times in Counter(classnames).items() if times > 1]:
        notes = (*notes, f"{len(doubled)} class names stand twice, as '{doubled[0]}': equal prompts go to the first")
    groups = _metadata(samples, shards) if kind == LABELS else None
    return replace(
        dataset,
        labels=labels,
        classnames=classnames,
        templates=templates or DEFAULT_TEMPLATES,
        groups=groups,
        notes=notes,
    )


def _metadata(samples: list[Sample], shards: list[Path]) -> np.ndarray | None:
    """The rows of codes of the samples, (N, F) int64, where they have some."""
    kind = next((k for k in METADATA if k in samples[0].files), None)
    if kind is None:
        return None
    rows = [np.atleast_1d(_array(c, s)) for c, s in zip(_texts_of(samples, shards, kind), samples, strict=True)]
    if len({row.shape for row in rows}) > 1 or rows[0].ndim > 1:
        raise UserError(f"The .{kind} members of '{samples[0].name}' and others are no rows of equal length.")
    try:
        codes = np.nan_to_num(np.stack(rows).astype(np.float64), nan=-1, posinf=np.inf, neginf=-np.inf)
    except ValueError as error:
        raise UserError(f"The .{kind} members beside the labels are no numbers: {rows[0][:3]}.") from error
    if not np.isfinite(codes).all():
        raise UserError(f"The .{kind} members beside the labels hold infinite numbers.")
    return codes.astype(np.int64)


def _lines(path: Path) -> tuple[str, ...]:
    """Lines without the blanks around them; blank lines are kept, labels count them."""
    if not path.is_file():
        return ()
    try:
        return tuple(line.strip() for line in path.read_text(encoding="utf-8-sig").splitlines())
    except UnicodeDecodeError as error:
        raise UserError(f"'{path}' is not UTF-8 text: {error}.") from error


def _decoded(content: bytes, sample: Sample) -> str:
    try:
        return content.decode("utf-8")
    except UnicodeDecodeError as error:
        raise UserError(f"The text of {sample.name} is not UTF-8: {error}.") from error


def _whole_number(content: bytes, sample: Sample) -> int:
    text = content.decode("utf-8-sig", errors="replace").strip()
    if not text.isdecimal() or len(text) > MOST_DIGITS:
        raise UserError(f"The label of {sample.name} is '{text[:20]}', not a whole number from 0.")
    return int(text)


def _array(content: bytes, sample: Sample) -> np.ndarray:
    try:
        return np.load(io.BytesIO(content), allow_pickle=False)
    except (ValueError, EOFError, OSError) as error:
        raise UserError(f"The array of {sample.name} cannot be read: {error}.") from error


def _flags(content: bytes, sample: Sample, first: bytes) -> np.ndarray:
    flags = _array(content, sample)
    if flags.ndim != 1 or not np.isin(flags, (0, 1)).all() or len(flags) != len(_array(first, sample)):
        raise UserError(f"The labels of {sample.name} are no row of 0 and 1 per class (shape {flags.shape}).")
    return flags.astype(np.int64)
