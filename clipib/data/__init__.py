"""Data specifications and what they load. A kind is one file here and one line in the table."""

from __future__ import annotations

SPLITS = ("train", "val", "test")

# kind -> the function that loads a specification of that kind
DATA_KINDS = {
    "folder": "clipib.data.folder:load_folder",
    "csv": "clipib.data.table:load_table",
    "wds": "clipib.data.wds:load_wds",
    "hf": "clipib.data.hf:load_hf",
    "digitworld": "clipib.data.digitworld.source:load_digitworld",
}
