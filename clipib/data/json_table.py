"""Tables written as JSON: a list of rows, rows by number as SugarCrepe has them, or a folder of such files."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from clipib.errors import UserError

OTHER_TABLES = (".csv", ".tsv", ".parquet", ".jsonl")


def rows_as_columns(rows: list[dict[str, Any]]) -> dict[str, list[Any]]:
    """Rows with their own names as lists by column; None where a row lacks one."""
    names = dict.fromkeys(name for row in rows for name in row)
    return {name: [row.get(name) for row in rows] for name in names}


def read_json_table(file: Path) -> dict[str, list[Any]]:
    """`[{"image": ...}, ...]` or `{"0": {"filename": ...}, ...}` as lists by column.

    Raises:
        UserError: for what is neither.
    """
    try:
        content = json.loads(file.read_text(encoding="utf-8-sig"))
    except ValueError as error:
        raise UserError(f"The table '{file}' is no JSON: {error}.") from error
    rows = list(content.values()) if isinstance(content, dict) else content
    if not isinstance(rows, list) or not all(isinstance(row, dict) for row in rows):
        hint = 'Write [{"image": ..., "caption": ...}, ...], or SugarCrepe\'s {"0": {"filename": ..., "caption": ...}}.'
        raise UserError(f"'{file}' is JSON, but no table.", hint=hint)
    return rows_as_columns(rows)


def json_files(folder: Path) -> list[Path]:
    """The tables of a folder that stands for all of them; none where other tables lie there as well."""
    if not folder.is_dir() or any(p.suffix in OTHER_TABLES for p in folder.iterdir()):
        return []
    return sorted(folder.glob("*.json"))


def read_json_folder(folder: Path) -> dict[str, list[Any]]:
    """All tables of a folder as one, with the name of the file as the kind of its rows.

    Raises:
        UserError: where one of them is no table.
    """
    rows = []
    for file in json_files(folder):
        columns = read_json_table(file)
        rows += [{"kind": file.stem, **dict(zip(columns, cells))} for cells in zip(*columns.values())]
    return rows_as_columns(rows)
