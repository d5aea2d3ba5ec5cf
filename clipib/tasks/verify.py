"""Look a data set over before its numbers are believed: counts, classes, damaged files, copies."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path
from typing import NamedTuple, TypeAlias

import numpy as np

from clipib.data.catalog import CATALOG, Entry
from clipib.data.dataset import Dataset
from clipib.data.entries import check_entry_counts, with_entry_facts, with_entry_names
from clipib.data.fetch import data_home
from clipib.data.folder import empty_classes
from clipib.data.images import content_key, why
from clipib.data.lock import folder_name, hash_again, read_lock
from clipib.data.phash import BITS, MAX_DISTANCE, Fingerprint, find_lookalikes, fingerprint, is_blank
from clipib.data.specs import Spec, parse_specs, repository_of
from clipib.data.splits import find_splits, read_split
from clipib.data.wds import TarImages
from clipib.errors import UserError
from clipib.files import write_aside
from clipib.progress import SILENT, Progress, counted
from clipib.tasks.sheet import Tile, draw_sheet

SIMPLE = 0.05  # pairs that look alike, per image, from which on most will be no copies
TINY = 16  # px of the shorter side, below which a picture is noted
SHEET_PAIRS, SHEET_CLASSES, SHEET_PER_CLASS = 24, 1000, 3
NOT_SEEN = (
    "images under a wrong label, unless a copy of them bears another",
    "a wrong order of the class names that fits the counts",
    "copies that were cropped, mirrored, turned or recoloured, and two photographs of one scene",
)


class Finding(NamedTuple):
    """The outcome of one check on one split, or on two that were compared.

    severity: "error" spoils numbers, "warning" may do so, "note" is worth a look, "ok" found nothing.
    found: how many images, classes, groups of copies or pairs. examples: all of them, as text.
    """

    severity: str
    check: str
    split: str
    found: int
    about: str
    examples: tuple[str, ...] = ()


class Report(NamedTuple):
    """All findings, the worst first, the number of images looked at, and the contact sheet where one was saved."""

    findings: list[Finding]
    n_images: int
    sheet: Path | None

    @property
    def errors(self) -> list[Finding]:
        return [f for f in self.findings if f.severity == "error"]


Place: TypeAlias = tuple[int, int]  # which of the parts, which of its images
Pair: TypeAlias = tuple[Place, Place]


@dataclass
class _Part:
    """One split with what a reading of all its images gave.

    spec: which argument it belongs to. label: how the findings name it.
    keys: (N,) sha256. bad: the reason of each image that cannot be decoded. prints: (N,) None for those.
    odd: what is odd about images that are tiny or blank; blank: those that show nothing.
    """

    spec: int
    label: str
    dataset: Dataset
    entry: Entry | None
    keys: list[bytes]
    bad: dict[int, str]
    prints: list[Fingerprint | None]
    odd: dict[int, str]
    blank: set[int]

    def name(self, index: int, *, among_others: bool = False) -> str:
        """An image as the findings name it: below its split, or below its label among images of other parts."""
        head, own = self.label if among_others else self.dataset.split, self.dataset.images.ids[index]
        return f"{head}/{own}" if head and not own.startswith(f"{head}/") else own

    def class_of(self, index: int) -> str:
        """The class of an image, or "" where it has none or several."""
        labels = self.dataset.labels
        return self.dataset.classnames[labels[index]] if labels is not None and labels.ndim == 1 else ""


def verify(
    datasets: str | Sequence[str],
    *,
    save: str | Path | None = None,
    data_root: str | Path | None = None,
    columns: dict[str, str] | None = None,
    workers: int = 2,
    progress: Progress = SILENT,
) -> Report:
    """Check every split of the data sets and look for copies within and across them.

    Errors are counts and classes that are not the catalogue's, classes that differ between the splits of a set or are
    empty, files that cannot be decoded, the same file in two splits, and the same file under two classes. Warnings are
    the same file twice in a split, and pairs that look alike (see `clipib.data.phash.find_lookalikes`). Data sets of
    one call are compared with each other unless they are the same split, as two test sets.
    What it cannot see stands in `NOT_SEEN`.

    Args:
        save: a PNG or JPEG file for a contact sheet: suspicious pairs, then a few images of each class.

    Raises:
        UserError: when the data cannot be read at all.
    """
    if save and Path(save).suffix.lower() not in (".png", ".jpg", ".jpeg"):
        raise UserError(f"'{save}' is no picture file.", hint="End its name in .png or .jpg.")
    specs = parse_specs(list(datasets) if not isinstance(datasets, str) else datasets)
    read = [
        (number, spec, read_split(spec, split, data_root=data_root, columns=columns))
        for number, spec in enumerate(specs)
        for split in find_splits(spec, data_root=data_root, columns=columns)
    ]
    parts = [_look(number, spec, d, len(specs) > 1, workers, progress) for number, spec, d in read]
    findings: list[Finding] = [f for spec in specs for f in _check_lock(spec, data_root)]
    pairs: list[Pair] = []  # for the contact sheet, the worst first
    for part in parts:
        findings += [*_check_counts(part), *_check_classes(part), *_check_files(part)]
    for number in range(len(specs)):
        findings += _compare_classes([p for p in parts if p.spec == number])
    findings += _find_copies(parts, pairs)
    findings += _find_lookalikes(parts, pairs)
    rank = {severity: i for i, severity in enumerate(("error", "warning", "note", "ok"))}
    findings.sort(key=lambda f: rank[f.severity])
    if save:
        sheet = draw_sheet(_sheet_rows(parts, pairs))
        Path(save).parent.mkdir(parents=True, exist_ok=True)
        form = "PNG" if Path(save).suffix.lower() == ".png" else "JPEG"
        write_aside(Path(save), lambda file: sheet.save(file, form))
    return Report(findings, sum(len(p.dataset) for p in parts), Path(save) if save else None)


def _check_lock(spec: Spec, data_root: str | Path | None) -> Iterator[Finding]:
    """Every file that was fetched is hashed again and held against data.lock."""
    repository = repository_of(spec.argument) if spec.kind == "wds" else None
    name = folder_name("@".join(filter(None, repository))) if repository else spec.argument
    root = data_home(data_root)
    if spec.kind not in ("name", "wds") or name not in read_lock(root):
        return
    try:
        n = hash_again(root, name)
    except UserError as error:
        yield Finding("error", "lock", "", 1, error.message)
    else:
        yield Finding("ok", "lock", "", n, f"{counted(n, 'file')} as data.lock names them")


def _look(number: int, spec: Spec, dataset: Dataset, several: bool, workers: int, progress: Progress) -> _Part:
    """Read and decode every image of one split once."""

    def look(index: int) -> tuple[bytes, str, Fingerprint | None, int]:
        try:
            key = content_key(dataset.images.content(index))
        except OSError as error:
            return content_key(f"unreadable {number} {dataset.split} {index}".encode()), why(error), None, 0
        try:
            picture = dataset.images.open(index)
        except OSError as error:
            return key, why(error), None, 0
        return key, "", fingerprint(picture), min(picture.size)

    label = "/".join(filter(None, (dataset.name, dataset.split))) if several else dataset.split
    if several and dataset.name.endswith(f"/{dataset.split}"):
        label = dataset.name
    entry = CATALOG[spec.argument] if spec.kind == "name" else None
    part = _Part(number, label, dataset, entry, [], {}, [], {}, set())
    with (
        progress.track(f"reading {label or dataset.name}", len(dataset)) as advance,
        ThreadPoolExecutor(max(1, workers)) as pool,
    ):
        for start in range(0, len(dataset), 256):
            for i, (key, reason, printed, side) in enumerate(
                pool.map(look, range(start, min(start + 256, len(dataset)))), start
            ):
                part.keys.append(key)
                part.prints.append(printed)
                if printed is None:
                    part.bad[i] = reason
                elif is_blank(printed.small):
                    part.odd[i] = "blank"
                    part.blank.add(i)
                elif side < TINY:
                    part.odd[i] = f"{side} px"
                advance()
    return part


def _check_counts(part: _Part) -> Iterator[Finding]:
    """Images, captions and classes against the catalogue, where it knows the set."""
    dataset, n = part.dataset, len(part.dataset)
    about = counted(n, "image")
    if dataset.captions is not None:
        about += f", {counted(len(dataset.captions), 'caption')}"
    if dataset.classnames:
        about += f", {len(dataset.classnames):,} class" + "es" * (len(dataset.classnames) != 1)
    names = with_entry_facts if isinstance(dataset.images, TarImages) else with_entry_names
    holds = (("classes", names), ("counts", check_entry_counts)) if part.entry else ()
    refused = {}
    for check, hold in holds:
        try:
            hold(dataset, dataset.name, part.entry)
        except UserError as error:
            refused[check] = error.message
    if "classes" in refused:
        yield Finding("error", "classes", part.label, len(dataset.classnames), refused["classes"])
    if "counts" in refused:
        yield Finding("error", "counts", part.label, n, refused["counts"])
        return
    if part.entry:
        known = dataset.split in part.entry.counts
        about += ", as the catalogue says" if known else ", a number that the catalogue does not know"
    yield Finding("ok", "counts", part.label, n, about)


def _check_classes(part: _Part) -> Iterator[Finding]:
    """Empty classes and the label histogram."""
    dataset = part.dataset
    if dataset.labels is None or dataset.labels.ndim != 1:
        return
    empty = empty_classes(dataset)
    about = "no image bears them" if empty else ""
    yield Finding("error" if empty else "ok", "empty classes", part.label, len(empty), about, tuple(empty))
    sizes = np.bincount(dataset.labels, minlength=len(dataset.classnames))
    low, high = int(sizes.argmin()), int(sizes.argmax())
    names = dataset.classnames
    about = f"smallest '{names[low]}' {sizes[low]:,}, largest '{names[high]}' {sizes[high]:,}"
    if sizes[low] == sizes[high]:
        about = f"{sizes[low]:,} of each"
    lopsided = sizes[sizes > 0].min() * 10 < sizes.max()
    yield Finding("note" if lopsided else "ok", "class sizes", part.label, len(sizes), about)


def _check_files(part: _Part) -> Iterator[Finding]:
    """Images that cannot be decoded; those that are tiny or blank."""
    names = tuple(f"{part.name(i)}: {reason}" for i, reason in part.bad.items())
    yield Finding("error" if names else "ok", "damaged files", part.label, len(names), "", names)
    names = tuple(f"{part.name(i)}: {reason}" for i, reason in part.odd.items())
    yield Finding("note" if names else "ok", "blank or tiny", part.label, len(names), "", names)


def _compare_classes(parts: list[_Part]) -> Iterator[Finding]:
    """Splits of one set whose class lists differ: a label then means another class in each."""
    labelled = [p for p in parts if p.dataset.labels is not None]
    for a, b in combinations(labelled, 2):
        ours, theirs = a.dataset.classnames, b.dataset.classnames
        if ours == theirs:
            continue
        examples = [f"only in {a.label}: {c}" for c in ours if c not in theirs]
        examples += [f"only in {b.label}: {c}" for c in theirs if c not in ours]
        about = f"{len(ours):,} and {len(theirs):,} classes; a label means another class in each"
        yield Finding("error", "classes", f"{a.label}, {b.label}", max(1, len(examples)), about, tuple(examples))


def _comparable(a: _Part, b: _Part) -> bool:
    """Whether copies across two parts matter: not where both are test sets, say, of two data sets."""
    return a.dataset.split != b.dataset.split or not a.dataset.split


def _find_copies(parts: list[_Part], pairs: list[Pair]) -> Iterator[Finding]:
    """The same file in two splits, twice in one, or under two classes."""
    places = defaultdict(list)  # content -> [(part, index)]
    for p, part in enumerate(parts):
        for i, key in enumerate(part.keys):
            places[key].append((p, i))
    across, within, torn = defaultdict(list), defaultdict(list), defaultdict(list)
    for group in (g for g in places.values() if len(g) > 1):
        of_part = defaultdict(list)
        for p, i in group:
            of_part[p].append(i)
        for a, b in combinations(of_part, 2):
            if _comparable(parts[a], parts[b]):
                across[a, b].append(((a, of_part[a][0]), (b, of_part[b][0])))
        for p, indices in of_part.items():
            if len(indices) > 1:
                within[p].append(((p, indices[0]), (p, indices[1])))
        for spec in {parts[p].spec for p in of_part}:
            own = [(p, i) for p, i in group if parts[p].spec == spec]
            classes = {parts[p].class_of(i): (p, i) for p, i in reversed(own)}
            if len(classes) > 1:
                torn[spec].append(tuple(sorted(classes.values())[:2]))
    pairs += [pair for found in (*across.values(), *torn.values(), *within.values()) for pair in found]
    for a, b in combinations(range(len(parts)), 2):
        if _comparable(parts[a], parts[b]):
            label, found = f"{parts[a].label}, {parts[b].label}", across[a, b]
            yield _pairs_finding("error", "copies", label, "groups of the same file", parts, found)
    for p, part in enumerate(parts):
        yield _pairs_finding("warning", "copies", part.label, "groups of the same file", parts, within[p])
    for spec, found in torn.items():
        label = ", ".join(p.label for p in parts if p.spec == spec)
        yield _pairs_finding("error", "two classes", label, "groups of the same file", parts, found)


def _find_lookalikes(parts: list[_Part], pairs: list[Pair]) -> Iterator[Finding]:
    """Pairs that look alike though their files differ; across splits first."""
    chosen = [
        (p, i)
        for p, part in enumerate(parts)
        for i in dict(zip(reversed(part.keys), reversed(range(len(part.keys))), strict=True)).values()
        if part.prints[i] is not None and i not in part.blank
    ]
    chosen.sort()
    if len(chosen) < 2:
        return
    prints = [parts[p].prints[i] for p, i in chosen]
    alike = find_lookalikes(np.stack([f.hash for f in prints]), np.stack([f.small for f in prints]))
    found = defaultdict(list)
    for j, k in zip(alike.first, alike.second, strict=True):
        (a, i), (b, m) = chosen[j], chosen[k]
        if (a == b or _comparable(parts[a], parts[b])) and parts[a].keys[i] != parts[b].keys[m]:
            found[a, b].append(((a, i), (b, m)))
    pairs += [pair for (a, b), some in found.items() if a != b for pair in some]
    pairs += [pair for (a, b), some in found.items() if a == b for pair in some]
    about = f"pairs of at most {MAX_DISTANCE} of {BITS} bits"
    if not alike.complete or len(alike.first) > SIMPLE * len(chosen):
        about += "; pictures as simple as these look alike without being copies"
    if not alike.complete:
        about += ", and the search was given up"
    for a, b in combinations(range(len(parts)), 2):
        if _comparable(parts[a], parts[b]):
            label = f"{parts[a].label}, {parts[b].label}"
            yield _pairs_finding("warning", "lookalikes", label, about, parts, found[a, b])
    for p, part in enumerate(parts):
        yield _pairs_finding("warning", "lookalikes", part.label, about, parts, found[p, p])


def _pairs_finding(severity: str, check: str, label: str, about: str, parts: list[_Part], found: list[Pair]) -> Finding:
    """A finding that lists pairs of images, with their classes where these differ."""

    def say(a: Place, b: Place) -> str:
        names = [parts[p].name(i, among_others=a[0] != b[0]) for p, i in (a, b)]
        classes = [parts[p].class_of(i) for p, i in (a, b)]
        if classes[0] != classes[1] and parts[a[0]].spec == parts[b[0]].spec:
            names = [f"{name} ({c})" for name, c in zip(names, classes, strict=True)]
        return f"{names[0]} = {names[1]}"

    return Finding(
        severity if found else "ok", check, label, len(found), about * bool(found), tuple(say(a, b) for a, b in found)
    )


def _sheet_rows(parts: list[_Part], pairs: list[Pair]) -> Iterator[tuple[str, list[list[Tile]]]]:
    """The sections of the contact sheet: suspicious pairs, then a few images of each class, split by split."""

    def tile(p: int, i: int, text: str) -> Tile:
        return Tile(lambda: parts[p].dataset.images.open(i), text)

    shown = [pair for pair in pairs if all(i not in parts[p].bad for p, i in pair)]
    if shown:
        title = f"{len(shown):,} suspicious pairs" + f", the first {SHEET_PAIRS}" * (len(shown) > SHEET_PAIRS)
        yield (
            title,
            [
                [tile(*a, f"{parts[a[0]].name(a[1])}\n{parts[b[0]].name(b[1])}"), tile(*b, "")]
                for a, b in shown[:SHEET_PAIRS]
            ],
        )
    for p, part in enumerate(parts):
        dataset, good = part.dataset, [i for i in range(len(part.dataset)) if i not in part.bad]
        title = f"{part.label or dataset.name}: {counted(len(dataset), 'image')}"
        if dataset.labels is None or dataset.labels.ndim != 1:
            some = [good[k] for k in np.linspace(0, len(good) - 1, min(30, len(good))).round().astype(int)]
            first = {}
            for text, image in zip(dataset.captions or (), _images_of(dataset), strict=True):
                first.setdefault(int(image), text)
            yield title, [[tile(p, i, first.get(i, dataset.images.ids[i]))] for i in some]
            continue
        of_class = defaultdict(list)
        for i in good:
            of_class[int(dataset.labels[i])].append(i)
        classes = sorted(of_class)[:SHEET_CLASSES]
        left = f", the first {SHEET_CLASSES:,} classes" * (len(of_class) > SHEET_CLASSES)
        yield (
            title + left,
            [
                [
                    tile(p, i, f"{k}: {dataset.classnames[k]}" * (n == 0))
                    for n, i in enumerate(of_class[k][:SHEET_PER_CLASS])
                ]
                for k in classes
            ],
        )


def _images_of(dataset: Dataset) -> np.ndarray:
    return dataset.image_of_caption if dataset.captions is not None else np.empty(0, dtype=np.int64)
