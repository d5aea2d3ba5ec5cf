"""`hf:ORG/NAME@REV` or `hf:PATH`: a data set of the hub, or a local folder of one, through the `datasets` library."""

from __future__ import annotations

import contextlib
import json
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from clipib.data.dataset import Dataset
from clipib.data.folder import SPLIT_FOLDERS
from clipib.data.images import BytesImages, content_key, decode_rgb
from clipib.data.prompts import DEFAULT_TEMPLATES
from clipib.data.table import COLUMN_NAMES, caption_pairs
from clipib.errors import UserError
from clipib.files import default_cache_dir, write_aside
from clipib.hub import hub_errors, is_offline, list_repository

WDS_COLUMNS = {"image": ["jpg", "jpeg", "png", "webp"], "caption": ["txt"], "label": ["cls"]}
COMMITS_FILE = "hf-commits.json"
FULL_COMMIT = re.compile(r"[0-9a-f]{40}")
NUMBERED_CAPTION = re.compile(r"(caption|text|sentence)s?_?\d+$")


class ArrowImages:
    """Images in a column of a `datasets` table on disk; rows (N,) says which row each is."""

    def __init__(self, table: Any, column: str, ids: list[str], rows: np.ndarray) -> None:
        self.table = table
        self.column = column
        self.ids = ids
        self.rows = rows

    def content(self, index: int) -> bytes:
        return _bytes_of(self.table[int(self.rows[index])][self.column])

    def open(self, index: int) -> Image.Image:
        return decode_rgb(self.content(index))

    def take(self, indices: np.ndarray) -> ArrowImages:
        return ArrowImages(self.table, self.column, [self.ids[i] for i in indices], self.rows[indices])


def load_hf(
    place: str,
    *,
    split: str,
    name: str = "",
    need: str = "",
    config: str = "",
    stream: bool = False,
    image_column: str = "",
    caption_column: str = "",
    label_column: str = "",
) -> Dataset:
    """Read a data set of the hub.

    Columns are found by their kind and name; what was found stands in `notes`. Images are decoded by clipib from their
    bytes, so that EXIF rotation is left alone as everywhere. Equal images in several rows with captions are one image.

    Args:
        place: `ORG/NAME`, `ORG/NAME@REVISION`, or a folder.
        split: its name there; "val" also finds "validation".
        config: where a data set has several configurations.
        stream: take only this split and hold it in memory, without the copy on disk that `datasets` makes of all.

    Raises:
        UserError: for what cannot be found or read, loader scripts, missing columns, and labels without names.
    """
    path = Path(place).expanduser()
    repo, _, revision = place.partition("@")
    commit = ""
    if not path.exists():
        commit = _commit_of(repo, revision)
        table, found = _open(repo, commit, split, config, stream)
        if is_offline() and not stream and not all(commit in f["filename"] for f in table.cache_files):
            message = f"Offline, and {repo} at {commit[:12]} is not in the cache of `datasets`; another state is."
            raise UserError(message, hint="Ask for it once with network; `datasets` finds only what it used last.")
    elif (path / "state.json").is_file() or (path / "dataset_dict.json").is_file():
        table, found = _saved(path, split)
    else:
        table, found = _open(str(path), "", split, config, stream)
    chosen = _columns(table.features, place, image_column, caption_column, label_column)
    if not chosen["image"]:
        raise _no_column("image", table.features, place)
    if need and not chosen[need]:
        raise _no_column(need, table.features, place)
    name = name or (repo if commit or not path.exists() else "/".join(path.resolve().parts[-2:]))
    rows = _Rows(table, chosen, found, stream)
    parts = [f"{role} column {', '.join(map(repr, c))}" for role, c in chosen.items() if c]
    notes = (f"{place}{f' at {commit[:12]}' if commit else ''}; " + ", ".join(parts),)
    if stream:
        held = sum(map(len, rows.images.contents)) / 1e6
        notes = (*notes, f"streamed: {len(rows.images.ids):,} images, {held:.0f} MB held in memory")
    dataset = Dataset(name, "val" if found in SPLIT_FOLDERS["val"] else found, rows.images, notes=notes)
    return rows.described(dataset, place, need)


def _commit_of(repo: str, revision: str) -> str:
    """The commit that a revision stands for; offline the one that it stood for last.

    `datasets` itself takes whatever state of a repository was used last when it is offline.
    """
    known = default_cache_dir() / COMMITS_FILE
    try:
        commits = json.loads(known.read_text())
    except (OSError, ValueError):
        commits = {}
    asked = f"{repo}@{revision or 'main'}"
    if is_offline():
        if FULL_COMMIT.fullmatch(revision):
            return revision
        if asked not in commits:
            raise UserError(f"Offline, and not in the local cache: hf:{asked}.")
        return commits[asked]
    commit = list_repository(repo, revision).commit
    if commits.get(asked) != commit:
        with contextlib.suppress(OSError):
            known.parent.mkdir(parents=True, exist_ok=True)
            write_aside(known, lambda f: f.write(json.dumps({**commits, asked: commit}, indent=1).encode()))
    return commit


class _Rows:
    """A table's images, and its label and caption cells row by row."""

    def __init__(self, table: Any, chosen: dict[str, list[str]], split: str, stream: bool) -> None:
        self.label_feature = table.features[chosen["label"][0]] if chosen["label"] else None
        image = chosen["image"][0]
        beside = chosen["label"] + chosen["caption"]
        table = _undecoded(table, image)
        if stream:
            cells = list(table.select_columns([image, *beside]))
            if not cells:
                raise UserError(f"The split '{split}' is empty.")
            ids = [f"{split}/{i:07d}" for i in range(len(cells))]
            self.images: Any = BytesImages(ids, [_streamed(c[image], i) for i, c in zip(ids, cells, strict=True)])
            self.cells = {c: [row[c] for row in cells] for c in beside}
        else:
            ids = [f"{split}/{i:07d}" for i in range(len(table))]
            self.images = ArrowImages(table.select_columns([image]), image, ids, np.arange(len(table)))
            self.cells = {c: list(table[c]) for c in beside}
        self.chosen = chosen

    def described(self, dataset: Dataset, place: str, need: str) -> Dataset:
        """The data set with its labels, else its captions; with both, what the task needs."""
        if self.chosen["caption"] and need != "label":
            texts = [list(row) for row in zip(*(self.cells[c] for c in self.chosen["caption"]), strict=True)]
            kept, image_of_row = self._distinct(dataset)
            captions, owner = caption_pairs(texts, image_of_row, place)
            if without := set(range(len(kept))) - set(owner.tolist()):
                first = dataset.images.ids[kept[min(without)]]
                raise UserError(f"{len(without)} images of '{place}' have no caption; the first is {first}.")
            dataset = replace(dataset.take(kept), captions=captions, image_of_caption=owner)
            return replace(dataset, notes=(*dataset.notes, f"{len(kept):,} images, {len(captions):,} captions"))
        if self.chosen["label"]:
            labels, classnames = _labels(self.cells[self.chosen["label"][0]], self.label_feature, place, need)
            if classnames:
                return replace(dataset, labels=labels, classnames=classnames, templates=DEFAULT_TEMPLATES)
        return dataset

    def _distinct(self, dataset: Dataset) -> tuple[np.ndarray, list[int]]:
        """The first row of each different image, and for every row which of those it shows."""
        place: dict[bytes, int] = {}
        first, image_of_row = [], []
        for row in range(len(dataset)):
            try:
                key = content_key(dataset.images.content(row))
            except OSError as error:
                raise UserError(f"Row {row} of '{dataset.name}' has no image: {error}.") from error
            if key not in place:
                place[key] = len(first)
                first.append(row)
            image_of_row.append(place[key])
        return np.array(first), image_of_row


def _open(place: str, revision: str, split: str, config: str, stream: bool) -> tuple[Any, str]:
    """The table of one split through the library's own loader, and the split's name there."""
    import datasets

    datasets.disable_progress_bars()
    datasets.logging.set_verbosity_error()
    options = {"name": config or None, "revision": revision or None}
    with _loading_errors(place):
        builder = datasets.load_dataset_builder(place, **options)
        known = [str(s) for s in (getattr(builder.config, "data_files", None) or builder.info.splits or {})]
        found = _split_called(split, known, place)
        return datasets.load_dataset(place, split=found, streaming=stream, **options), found


def _saved(path: Path, split: str) -> tuple[Any, str]:
    """A folder that `save_to_disk` wrote."""
    import datasets

    with _loading_errors(str(path)):
        loaded = datasets.load_from_disk(str(path))
    if isinstance(loaded, datasets.Dataset):
        own = str(loaded.split or "")
        return loaded, _split_called(split, [own], str(path)) if own else ""
    found = _split_called(split, list(loaded), str(path))
    return loaded[found], found


def _split_called(split: str, known: list[str], place: str) -> str:
    names = (split, *SPLIT_FOLDERS.get(split, ()))
    found = next((n for n in names if n in known), "")
    if known and not found:
        hint = f"Write hf:{place}:{known[0]}." if split == "test" else ""  # a test set is never suggested to train on
        raise UserError(f"'{place}' has no split '{split}'; it has {', '.join(known)}.", hint=hint)
    return found or split


class _loading_errors:
    """What `datasets` raises, in our words."""

    def __init__(self, place: str) -> None:
        self.place = place
        self.hub = hub_errors(place)

    def __enter__(self) -> None:
        self.hub.__enter__()

    def __exit__(self, kind, error, trace) -> bool:
        from datasets import exceptions

        if error is None or isinstance(error, UserError):
            return bool(self.hub.__exit__(kind, error, trace))
        first = str(error).splitlines()[0] if str(error) else type(error).__name__
        if "scripts are no longer supported" in first:
            raise UserError(
                f"'{self.place}' is a loader script, which clipib and `datasets` do not run: it is code of a stranger.",
                hint="Use a copy of it in parquet or webdataset form; many have one under the revision "
                f"refs/convert/parquet: hf:{self.place}@refs/convert/parquet.",
            ) from error
        if isinstance(error, exceptions.DatasetNotFoundError):
            hint = "Check the spelling; a gated one wants `hf auth login` or HF_TOKEN."
            raise UserError(f"{first:.200}", hint=hint) from error
        if isinstance(error, exceptions.DatasetsError | FileNotFoundError):
            cause = f" ({error.__cause__})" if error.__cause__ else ""
            raise UserError(f"'{self.place}' cannot be read: {first:.200}{cause:.200}") from error
        if type(error).__module__.partition(".")[0] == "yaml":
            raise UserError(f"The README.md of '{self.place}' begins with no valid YAML: {first:.200}") from error
        if isinstance(error, ValueError):
            raise UserError(
                f"'{self.place}': {first:.300}", hint="A configuration is named with +config=NAME."
            ) from error
        return bool(self.hub.__exit__(kind, error, trace))


def _columns(features: Any, place: str, image: str, caption: str, label: str) -> dict[str, list[str]]:
    """role -> its columns: as asked, else by kind (Image, ClassLabel), else by name."""
    import datasets

    found: dict[str, list[str]] = {}
    for role, asked in (("image", image), ("caption", caption), ("label", label)):
        if asked:
            if asked not in features:
                raise UserError(f"'{place}' has no column '{asked}'; it has {', '.join(features)}.")
            found[role] = [asked]
            continue
        kind = {"image": datasets.Image, "label": datasets.ClassLabel}.get(role)
        by_kind = [c for c, f in features.items() if kind and isinstance(f, kind)]
        by_lower = {c.lower(): c for c in features}
        by_name = [by_lower[n] for n in (*COLUMN_NAMES[role], *WDS_COLUMNS[role]) if n in by_lower]
        if len(by_kind) > 1 and not set(by_kind) & set(by_name):
            hint = f"Name one with --{role}-column."
            raise UserError(f"'{place}' has {len(by_kind)} {role} columns: {', '.join(by_kind)}.", hint=hint)
        found[role] = (by_kind or by_name)[:1]
        if by_kind and (both := [c for c in by_name if c in by_kind]):
            found[role] = both[:1]
        if role == "caption" and not found[role]:
            found[role] = sorted(c for c in features if NUMBERED_CAPTION.match(c.lower()))
    return found


def _undecoded(table: Any, column: str) -> Any:
    import datasets

    if isinstance(table.features[column], datasets.Image):
        return table.cast_column(column, datasets.Image(decode=False))
    return table


def _bytes_of(cell: Any) -> bytes:
    """Raises OSError for a cell that holds no bytes, as an unreadable image does."""
    if isinstance(cell, dict):
        if cell.get("bytes") is None and cell.get("path"):
            return Path(cell["path"]).read_bytes()
        cell = cell.get("bytes")
    if not isinstance(cell, bytes):
        raise OSError("a cell without bytes of an image")
    return cell


def _streamed(cell: Any, sample_id: str) -> bytes:
    try:
        return _bytes_of(cell)
    except OSError as error:
        hint = "Take away +stream: image files of a repository are read from a copy on disk."
        raise UserError(f"The image of {sample_id} did not come with the stream: {error}.", hint=hint) from error


def _labels(cells: list[Any], feature: Any, place: str, need: str) -> tuple[np.ndarray, tuple[str, ...]]:
    """Class indices and names: those of the ClassLabel, or the sorted texts."""
    names = getattr(feature, "names", None)
    if names:
        labels = np.array(cells)
        if labels.dtype.kind not in "iu" or labels.min() < 0:
            raise UserError(f"'{place}' has rows without a label in this split.", hint="Name a labelled split.")
        if labels.max() >= len(names):
            row = int(labels.argmax())
            raise UserError(f"Row {row} of '{place}' has the label {labels[row]}, but {len(names)} classes have names.")
        return labels.astype(np.int64), tuple(n.replace("_", " ") for n in names)
    if all(isinstance(c, str) for c in cells):
        distinct = sorted(set(cells))
        index = {c: i for i, c in enumerate(distinct)}
        return np.array([index[c] for c in cells]), tuple(c.replace("_", " ") for c in distinct)
    if any(c is None for c in cells):
        raise UserError(f"'{place}' has rows without a label in this split.", hint="Name a labelled split.")
    if need == "label":
        raise UserError(
            f"The labels of '{place}' are numbers without names ({cells[0]!r}, ...): no prompt can be made of them.",
            hint=f"A repository in CLIP_benchmark's layout is read with its names as wds:{place}.",
        )
    return np.array([]), ()


def _no_column(role: str, features: Any, place: str) -> UserError:
    hint = f"Name it with --{role}-column COLUMN."
    return UserError(f"'{place}' has no {role} column: it has {', '.join(features)}.", hint=hint)
