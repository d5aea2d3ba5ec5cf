"""An embed folder: features with what they belong to, in files that other programs read too.

OUT/images.npy        (N, D) float32, unit norm         OUT/images.parquet   sample_id, sha256, label, class
OUT/texts.npy         (M, D), where there are texts     OUT/texts.parquet    text, and image or class
OUT/features.json     checkpoint, data, and the hash of each of these files; written last

Where `layout` in features.json is "points" and not "embeddings", arrays are (N, m, D + 1): m unit points an item, and
their weights in the last column. `similarity` says how such sets compare.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from clipib import __version__
from clipib.errors import UserError
from clipib.files import file_sha256, write_aside

SCHEMA = "clipib.features/1"
ABOUT_FILE = "features.json"


class Embedded(NamedTuple):
    """The content of an embed folder.

    folder: where it lies. about: the content of `features.json`. features: "images" and maybe "texts", (N, D) or
    (N, m, D + 1), memory-mapped. tables: the pandas tables of the same names.
    """

    folder: Path
    about: dict[str, Any]
    features: dict[str, np.ndarray]
    tables: dict[str, Any]


def write_embedded(folder: Path, features: dict[str, np.ndarray], tables: dict[str, Any], about: dict[str, Any]) -> str:
    """Write features and pandas tables by name, and `features.json` last; what an earlier run left of others goes.

    Returns:
        sha256 of `images.npy`.
    """
    hashes = {}
    for what in ("images", "texts"):
        npy, parquet = folder / f"{what}.npy", folder / f"{what}.parquet"
        if what not in features:
            npy.unlink(missing_ok=True)
            parquet.unlink(missing_ok=True)
            continue
        write_aside(npy, lambda file, what=what: np.save(file, features[what]))
        write_aside(parquet, lambda file, what=what: tables[what].to_parquet(file, index=False))
        hashes |= {path.name: file_sha256(path) for path in (npy, parquet)}
    content = {"schema": SCHEMA, **about, "files": hashes, "clipib_version": __version__}
    text = json.dumps(content, indent=2, default=str) + "\n"
    write_aside(folder / ABOUT_FILE, lambda file: file.write(text.encode()))
    return hashes["images.npy"]


def read_embedded(folder: str | Path) -> Embedded:
    """Read an embed folder; every file is held against its hash.

    Raises:
        UserError: when it is none, or a file is not the one that was written.
    """
    import pandas as pd

    folder = Path(folder)
    about = _read_about(folder)
    for name, written in about["files"].items():
        if not (folder / name).is_file() or file_sha256(folder / name) != written:
            raise UserError(
                f"'{folder / name}' is missing, damaged, or not what {ABOUT_FILE} describes: perhaps a run was stopped "
                "between them.",
                hint="Run the `clipib embed` that wrote the folder once more, or copy it again.",
            )
    names = [Path(name).stem for name in about["files"] if name.endswith(".npy")]
    return Embedded(
        folder,
        about,
        {name: np.load(folder / f"{name}.npy", mmap_mode="r") for name in names},
        {name: pd.read_parquet(folder / f"{name}.parquet") for name in names},
    )


def _read_about(folder: Path) -> dict[str, Any]:
    path = folder / ABOUT_FILE
    if not path.is_file():
        if not folder.is_dir():
            raise UserError(f"There is no folder '{folder}'.", hint="Name the --out of a `clipib embed`.")
        found = ", ".join(sorted(p.name for p in folder.iterdir())[:5]) or "nothing"
        hint = "Name the --out of a `clipib embed`."
        if (folder / "shards").is_dir():
            hint = f"Its shards are not joined yet: type the `clipib embed --out {folder}` once more without --shard."
        raise UserError(f"'{folder}' is no embed folder: it holds no {ABOUT_FILE} (found: {found}).", hint=hint)
    try:
        about = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise UserError(f"'{path}' cannot be read: {error}.") from error
    if not isinstance(about, dict) or about.get("schema") != SCHEMA:
        hint = "It is of another version of clipib; write the folder anew with `clipib embed`."
        raise UserError(f"'{path}' is not of the form {SCHEMA}.", hint=hint)
    return about
