"""`csv:PATH`: a table of images with captions or labels, as csv, tsv, parquet, json or json lines."""

from __future__ import annotations

import ast
import csv
import io
import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from clipib.data.contrasts import KIND_NAMES, NEGATIVE_NAMES, Contrasts, find_name, read_contrasts, unfold_pairs
from clipib.data.dataset import Dataset
from clipib.data.folder import SPLIT_FOLDERS
from clipib.data.images import EXTENSIONS, BytesImages, FileImages, content_key
from clipib.data.json_table import json_files, read_json_folder, read_json_table, rows_as_columns
from clipib.data.prompts import DEFAULT_TEMPLATES
from clipib.errors import UserError

COLUMN_NAMES = {
    "image": [
        "image",
        "filepath",
        "file_path",
        "image_path",
        "img_path",
        "filename",
        "file_name",
        "image_name",
        "image_file",
        "path",
        "file",
        "img",
    ],
    "caption": [
        "caption",
        "captions",
        "text",
        "texts",
        "title",
        "sentence",
        "sentences",
        "description",
        "raw",
        "raw_caption",
    ],
    "label": ["label", "class", "classname", "class_name", "label_name", "category", "target"],
    "split": ["split", "subset", "fold", "partition"],
    "group": ["group", "group_name"],
}
SEPARATORS = ",\t;|"
# Where the images of published tables lie that name the files alone, and what their names leave out.
IMAGE_PLACES = ("images/", "val2017/", "../images/", "../val2017/", "")
IMAGE_ENDINGS = ("", ".png", ".jpg")


def load_table(
    path: str | Path,
    *,
    split: str,
    name: str = "",
    image_column: str = "",
    caption_column: str = "",
    label_column: str = "",
    separator: str = "",
    need: str = "",
) -> Dataset:
    """Read a table of images.

    Columns are found by their names, the image column also by its content; what was found stands in `notes`. Image
    paths are relative to the file. Several captions of one image are repeated rows, list cells, or both. Where the
    table has a split column, the rows of `split` are taken.

    A column of wrong captions (`negative_caption`), or the four columns `image_0`, `image_1`, `caption_0`, `caption_1`,
    make the data set one of `contrasts`; a column `kind` then says what the captions differ in, and classes are read
    only where they are needed. SugarCrepe's JSON files are such tables, and a folder of them is one with their names as
    the kinds.

    Args:
        separator: of a text table; sniffed when empty.
        need: "caption" or "label" where the task cannot do without; what is missing is then an error.

    Raises:
        UserError: for a missing file or column, an empty table, or a split that the table does not have.
    """
    file = Path(path).expanduser()
    columns, form = _read_columns(file, separator)
    pairs = unfold_pairs(columns) if need != "label" else None
    columns = pairs or columns
    negative = "" if pairs or need == "label" else find_name(columns, NEGATIVE_NAMES)
    asked = {"image": image_column, "caption": caption_column, "label": label_column}
    chosen = {role: _find_column(role, columns, asked.get(role, ""), file) for role in COLUMN_NAMES}
    if (pairs or negative) and not label_column:
        chosen["label"] = ""
    doubled = next((c for c in chosen.values() if c and list(chosen.values()).count(c) > 1), "")
    if doubled:
        raise UserError(f"The column '{doubled}' of '{path}' cannot play two roles.")
    if not chosen["image"]:
        raise _missing_column("image", columns, file)
    if need and not chosen[need]:
        raise _missing_column(need, columns, file)
    rows = _rows_of_split(columns, chosen["split"], split, file)
    if not rows:
        raise UserError(f"'{path}' has no rows.")
    notes = [f"{form}; " + ", ".join(f"{role} column '{c}'" for role, c in chosen.items() if c)]
    images, image_of_row = _collect_images([columns[chosen["image"]][r] for r in rows], file)
    name = name or "/".join(file.resolve().parts[-2:]).strip("/")
    labels, classnames = None, ()
    if chosen["label"]:
        labels, classnames = _labels([columns[chosen["label"]][r] for r in rows], image_of_row, images.ids, file)
    groups = None
    if chosen["label"] and chosen["group"]:
        groups, names = _labels([columns[chosen["group"]][r] for r in rows], image_of_row, images.ids, file)
        notes.append(f"{len(names)} groups: " + ", ".join(names[:8]))
    captions, image_of_caption = None, None
    if chosen["caption"]:
        captions, image_of_caption = caption_pairs([columns[chosen["caption"]][r] for r in rows], image_of_row, file)
        without = sorted(set(range(len(images.ids))) - set(image_of_caption.tolist()))
        if without:
            message = f"{len(without)} of {len(images.ids)} images in '{path}' have no caption; the first is"
            raise UserError(f"{message} '{images.ids[without[0]]}'.", hint="Give it one, or remove its row.")
        notes.append(f"{len(images.ids):,} images, {len(captions):,} captions")
    contrasts = None
    if chosen["caption"] and (pairs or negative):
        contrasts = _contrasts(columns, rows, chosen["caption"], negative, image_of_row, file)
        kinds = dict.fromkeys(filter(None, contrasts.kinds))
        by = "pairs of images with crossed captions" if pairs else f"captions against column '{negative}'"
        notes.append(f"{len(contrasts.captions):,} {by}" + (f", {len(kinds)} kinds" if kinds else ""))
    return Dataset(
        name=name,
        split=split if chosen["split"] else "",
        images=images,
        labels=labels,
        classnames=classnames,
        templates=DEFAULT_TEMPLATES if classnames else (),
        captions=captions,
        image_of_caption=image_of_caption,
        contrasts=contrasts,
        groups=groups,
        notes=tuple(notes),
    )


def _contrasts(
    columns: dict[str, list[Any]], rows: list[int], caption: str, negative: str, image_of_row: list[int], file: Path
) -> Contrasts:
    def texts(column: str) -> list[list[str]]:
        return [[str(t).strip() for t in _texts(columns[column][r])] for r in rows]

    kind = find_name(columns, KIND_NAMES)
    kinds = ["" if not kind or _is_missing(columns[kind][r]) else str(columns[kind][r]).strip() for r in rows]
    return read_contrasts(texts(caption), texts(negative) if negative else None, image_of_row, kinds, file)


class TableRows(NamedTuple):
    """Rows of a table as `load_table` reads them, with all of their columns.

    image_ids: (R,) the id of each row's image. captions: (R,) the texts of each row, none where no column has any.
    cells: column -> (R,) what stands there; `values` gives it as texts.
    """

    image_ids: list[str]
    captions: list[tuple[str, ...]]
    cells: dict[str, list[Any]]

    def values(self, column: str) -> list[str]:
        """(R,) the cells of one column, "" where they are blank."""
        return ["" if _is_missing(cell) else str(cell).strip() for cell in self.cells[column]]


def read_rows(
    path: str | Path, *, split: str = "", image_column: str = "", caption_column: str = "", separator: str = ""
) -> TableRows:
    """What a table says of its images and captions beyond what a `Dataset` has room for.

    Args:
        split: the rows to take where the table has a split column; "" takes all.
        image_column, caption_column, separator: as they were given to `load_table`.

    Raises:
        UserError: as `load_table`.
    """
    file = Path(path).expanduser()
    columns, _ = _read_columns(file, separator)
    image = _find_column("image", columns, image_column, file)
    if not image:
        raise _missing_column("image", columns, file)
    caption = _find_column("caption", columns, caption_column, file)
    rows = _rows_of_split(columns, _find_column("split", columns, "", file) if split else "", split, file)
    if not rows:
        raise UserError(f"'{path}' has no rows.")
    images, image_of_row = _collect_images([columns[image][r] for r in rows], file)
    captions = [tuple(str(t).strip() for t in _texts(columns[caption][r])) if caption else () for r in rows]
    cells = {name: [column[r] for r in rows] for name, column in columns.items()}
    return TableRows([images.ids[i] for i in image_of_row], captions, cells)


def table_splits(path: str | Path, *, separator: str = "") -> tuple[str, ...]:
    """The splits that a table's split column names; "" alone where it has no such column.

    Raises:
        UserError: for a missing or unreadable file, or a column that names no known split.
    """
    file = Path(path).expanduser()
    columns, _ = _read_columns(file, separator)
    column = _find_column("split", columns, "", file)
    if not column:
        return ("",)
    values = {str(v).strip().lower() for v in columns[column]}
    found = tuple(s for s, words in SPLIT_FOLDERS.items() if values & set(words))
    if not found:
        shown = ", ".join(sorted(values)[:6])
        raise UserError(f"'{file}' has no rows of a known split; its column '{column}' holds {shown}.")
    return found


def _read_columns(file: Path, separator: str) -> tuple[dict[str, list[Any]], str]:
    """The table as lists by column, and what kind of file it was."""
    if json_files(file):
        return read_json_folder(file), f"{len(json_files(file))} JSON tables"
    if not file.is_file():
        what = "is a folder, not a table" if file.is_dir() else "does not exist"
        near = sorted(
            p.name for p in file.parent.glob("*") if p.suffix in (".csv", ".tsv", ".parquet", ".jsonl", ".json")
        )[:5]
        hint = f"Beside it: {', '.join(near)}." if near else "Check the path after csv:."
        raise UserError(f"The table '{file}' {what}.", hint=hint)
    suffix = file.suffix.lower()
    if suffix in (".parquet", ".pq"):
        return _read_parquet(file), "parquet"
    if suffix == ".json":
        return read_json_table(file), "JSON"
    try:
        text = file.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise UserError(f"The table '{file}' is not UTF-8 text: {error}.", hint="Save it as UTF-8.") from error
    if suffix in (".jsonl", ".ndjson"):
        return _read_json_lines(text, file), "json lines"
    separator = separator.replace("\\t", "\t") or _sniff_separator(text)
    if len(separator) != 1:
        raise UserError(f"--separator '{separator}' is not one character.", hint='Try "," or ";" or "\\t".')
    return _read_text(text, separator, file), f"separator {separator!r}"


def _read_parquet(file: Path) -> dict[str, list[Any]]:
    import pyarrow
    import pyarrow.parquet

    try:
        return pyarrow.parquet.read_table(file).to_pydict()
    except (pyarrow.ArrowException, OSError) as error:
        raise UserError(f"'{file}' is no readable parquet file: {str(error).splitlines()[0]}") from error


def _read_json_lines(text: str, file: Path) -> dict[str, list[Any]]:
    rows = []
    for number, line in enumerate(text.splitlines(), start=1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except ValueError as error:
            raise UserError(f"Line {number} of '{file}' is no JSON: {error}.") from error
        if not isinstance(row, dict):
            raise UserError(
                f"Line {number} of '{file}' is no JSON object.", hint='Write {"image": ..., "caption": ...}.'
            )
        rows.append(row)
    return rows_as_columns(rows)


def _read_text(text: str, separator: str, file: Path) -> dict[str, list[Any]]:
    """Cells by column; a row with more or fewer cells than the header is an error, not a shift."""
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=separator)
    try:
        header = [cell.strip() for cell in next(reader, [])]
        rows = []
        for row in reader:
            if len(row) > len(header) and not any(row[len(header) :]):
                row = row[: len(header)]
            if any(row) and len(row) != len(header):
                hint = f"A cell that holds {separator!r} is put in double quotes; or name another --separator."
                message = f"Line {reader.line_num} of '{file}' has {len(row)} cells, the header has {len(header)}."
                raise UserError(message, hint=hint)
            if any(row):
                rows.append(row)
    except csv.Error as error:
        raise UserError(f"'{file}' is no text table: {error}.") from error
    if doubled := [name for name in header if name and header.count(name) > 1]:
        raise UserError(f"'{file}' has the column '{doubled[0]}' twice.", hint="Rename one of them.")
    return {name: [row[i] for row in rows] for i, name in enumerate(header)}


def _sniff_separator(text: str) -> str:
    """The separator that splits the header line into most columns outside quotes; a comma when none does."""
    header = text.split("\n", 1)[0]
    counts = {s: len(next(csv.reader([header], delimiter=s), [])) for s in SEPARATORS}
    return max(SEPARATORS, key=lambda s: counts[s])


def _find_column(role: str, columns: dict[str, list[Any]], asked: str, file: Path) -> str:
    if asked:
        if asked not in columns:
            hint = f"Name one of them with --{role}-column."
            raise UserError(f"'{file}' has no column '{asked}'; it has {_listed(columns)}.", hint=hint)
        return asked
    by_lower = {c.strip().lower(): c for c in reversed(columns)}  # the first of two that differ in case
    for known in COLUMN_NAMES[role]:
        if known in by_lower:
            return by_lower[known]
    if role == "image":
        return next((c for c, values in columns.items() if values and _looks_like_image(values[0])), "")
    return ""


def _looks_like_image(value: Any) -> bool:
    if isinstance(value, dict):
        return "bytes" in value
    return isinstance(value, bytes) or (isinstance(value, str) and value.lower().endswith(EXTENSIONS))


def _missing_column(role: str, columns: dict[str, list[Any]], file: Path) -> UserError:
    flag = f"--{role}-column"
    hint = f"Name it with {flag} COLUMN; names understood are {', '.join(COLUMN_NAMES[role][:5])}, ..."
    return UserError(f"'{file}' has no {role} column: it has {_listed(columns)}.", hint=hint)


def _listed(columns: dict[str, list[Any]]) -> str:
    shown = ", ".join(f"'{c}'" for c in list(columns)[:8])
    return shown + (", ..." if len(columns) > 8 else "") if columns else "no columns"


def _rows_of_split(columns: dict[str, list[Any]], column: str, split: str, file: Path) -> list[int]:
    if not column:
        return list(range(len(next(iter(columns.values()), []))))
    values = [str(v).strip().lower() for v in columns[column]]
    rows = [r for r, v in enumerate(values) if v in SPLIT_FOLDERS[split]]
    if not rows:
        found = ", ".join(sorted(set(values))[:6])
        raise UserError(f"'{file}' has no rows of the split '{split}'; its column '{column}' holds {found}.")
    return rows


def _collect_images(cells: list[Any], file: Path) -> tuple[FileImages | BytesImages, list[int]]:
    """Distinct images in order of first appearance, and the image of each row."""
    if isinstance(cells[0], dict | bytes):
        contents = [c["bytes"] if isinstance(c, dict) else c for c in cells]
        if any(not isinstance(c, bytes) for c in contents):
            raise UserError(f"The image column of '{file}' has cells without bytes.")
        keys = [content_key(c) for c in contents]
        first = {k: r for r, k in reversed(list(enumerate(keys)))}
        place = {k: i for i, k in enumerate(sorted(first, key=first.__getitem__))}
        ids = [k.hex()[:16] for k in place]
        return BytesImages(ids, [contents[first[k]] for k in place]), [place[k] for k in keys]
    if blank := [r for r, cell in enumerate(cells) if _is_missing(cell)]:
        raise UserError(
            f"'{file}' has no image in {len(blank)} rows; the first is row {blank[0] + 1} below the header."
        )
    folder = file if file.is_dir() else file.parent
    paths = _located([str(c).strip() for c in cells], folder)
    place = {p: i for i, p in enumerate(dict.fromkeys(paths))}
    if not any((folder / p).exists() for p in list(place)[:20]):
        first = next(iter(place))
        hint = "Paths in the table are relative to the table's own folder; images/ and val2017/ there or beside it are "
        hint += "looked into."
        if "://" in first:
            hint = "Images are read from files; download them first."
        elif "\\" in first:
            hint = "Write paths with / instead of \\."
        raise UserError(
            f"The images that '{file}' names are not there; the first would be '{folder / first}'.", hint=hint
        )
    return FileImages(folder, list(place)), [place[p] for p in paths]


def _located(paths: list[str], folder: Path) -> list[str]:
    """The paths as they lie there, where the table names files alone and keeps them in a folder of its own."""
    some = list(dict.fromkeys(paths))[:20]
    for before, after in [("", ""), *((b, a) for a in IMAGE_ENDINGS for b in IMAGE_PLACES)]:
        if any((folder / f"{before}{p}{after}").is_file() for p in some):
            return [f"{before}{p}{after}" for p in paths]
    return paths


def _is_missing(cell: Any) -> bool:
    return cell is None or cell != cell or (isinstance(cell, str) and not cell.strip())


def _labels(
    cells: list[Any], image_of_row: list[int], ids: list[str], file: Path
) -> tuple[np.ndarray, tuple[str, ...]]:
    """Class of each image and the sorted class names; an image with two labels is an error."""
    if blank := [r for r, cell in enumerate(cells) if _is_missing(cell)]:
        raise UserError(
            f"'{file}' has no label in {len(blank)} rows; the first is row {blank[0] + 1} below the header.",
            hint="Give each image a label, or remove the rows.",
        )
    names = [str(c).strip() for c in cells]
    distinct = sorted_values(names)
    label_of = {}
    for image, label in zip(image_of_row, names, strict=True):
        if label_of.setdefault(image, label) != label:
            raise UserError(f"'{ids[image]}' in '{file}' has two labels: '{label_of[image]}' and '{label}'.")
    index = {c: i for i, c in enumerate(distinct)}
    labels = np.array([index[label_of[i]] for i in range(len(ids))])
    return labels, tuple(c.replace("_", " ") for c in distinct)


def sorted_values(values: Iterable[str]) -> list[str]:
    """The distinct ones in order, whole numbers as numbers."""
    distinct = set(values)
    return sorted(distinct, key=lambda v: (int(v), v)) if all(v.isdecimal() for v in distinct) else sorted(distinct)


def caption_pairs(cells: list[Any], image_of_row: list[int], source: object) -> tuple[tuple[str, ...], np.ndarray]:
    """The captions of all rows, those of one image side by side, and the image of each.

    Args:
        cells: a text, a list of texts, or a list written as text; blank ones are left out.

    Raises:
        UserError: for a cell that is no text.
    """
    pairs = []
    for row, (cell, image) in enumerate(zip(cells, image_of_row, strict=True), start=1):
        for text in _texts(cell):
            if not isinstance(text, str | int | float) or isinstance(text, bool):
                raise UserError(f"Row {row} of '{source}' has a caption that is no text: {text!r:.60}.")
            pairs.append((str(text).strip(), image))
    pairs.sort(key=lambda pair: pair[1])  # in the order of the table
    return tuple(text for text, _ in pairs), np.array([image for _, image in pairs], dtype=np.int64)


def _texts(cell: Any) -> list[Any]:
    """The captions of one cell: a list, a list written as JSON or Python, or a plain text; blank ones are left out."""
    if isinstance(cell, str) and cell.lstrip().startswith("[") and cell.rstrip().endswith("]"):
        for read in (json.loads, ast.literal_eval):
            try:
                parsed = read(cell)
            except (ValueError, SyntaxError):
                continue
            if isinstance(parsed, list) and all(isinstance(t, str) for t in parsed):
                cell = parsed
                break
    if isinstance(cell, list) and any(isinstance(t, list) for t in cell):
        return [t for part in cell for t in _texts(part)]
    return [t for t in (cell if isinstance(cell, list) else [cell]) if not _is_missing(t)]
