"""Checkpoint folders: what plain open_clip can open, and the record of how they came about."""

from __future__ import annotations

import json
import os
import shutil
import uuid
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from clipib import __version__
from clipib.errors import UserError
from clipib.models.sources import CONFIG_FILE, RECORD_FILE, SEEN_FILE, WEIGHTS_FILE

if TYPE_CHECKING:
    from clipib.models.model import Model

SCHEMA = "clipib.checkpoint/1"


class Seen(NamedTuple):
    """The images that a training run saw, by the first 8 bytes of the sha256 of their content.

    train, val: sorted (n,) uint64.
    """

    train: np.ndarray
    val: np.ndarray


def short_keys(keys: list[bytes]) -> np.ndarray:
    """Sorted distinct (n,) uint64 from 32-byte content keys."""
    return np.unique(np.frombuffer(b"".join(k[:8] for k in keys), dtype="<u8"))


def save_checkpoint(model: Model, folder: str | Path, record: dict[str, Any], *, seen: Seen | None = None) -> str:
    """Write a checkpoint folder, replacing an older one in a single step.

    `open_clip_config.json` and `open_clip_model.safetensors` open in open_clip as `local-dir:FOLDER`; of a model of
    transformers `config.json`, `model.safetensors` and the processor's files open in transformers. `clipib.json`
    holds the record, `seen.safetensors` what the run saw, `head.safetensors` point head or bias where there is one.

    Args:
        model: its weights are saved as they are now, in float32.
        record: loss, similarity, settings, data and so on; architecture, activation and hash are added here.

    Returns:
        The sha256 of the weights.
    """
    from safetensors.numpy import save_file as save_arrays
    from safetensors.torch import save_file

    from clipib.models.head import save_head
    from clipib.models.hf_text import save_text_config
    from clipib.models.model import fingerprint_of

    folder = Path(folder)
    folder.parent.mkdir(parents=True, exist_ok=True)
    state = {name: t.detach().cpu().contiguous() for name, t in model.module.state_dict().items()}
    fingerprint = fingerprint_of(model.module, model.head, model.config, model.preprocess)
    record = {
        "schema": SCHEMA,
        "name": model.name,
        "activation": "quick_gelu" if model.config["quick_gelu"] else "gelu",
        "checkpoint_sha256": fingerprint,
        "clipib_version": __version__,
        **record,
    }
    if model.head is not None:
        record["head"] = model.head.config
    partial = folder.with_name(f".{folder.name}.{uuid.uuid4().hex[:8]}.partial")
    partial.mkdir()
    try:
        if model.backend == "transformers":
            from clipib.models.transformers_backend import save_transformers

            save_transformers(model, partial)
        else:
            save_file(state, partial / WEIGHTS_FILE, metadata={"format": "pt"})
            config = {"model_cfg": model.config, "preprocess_cfg": model.preprocess}
            (partial / CONFIG_FILE).write_text(json.dumps(config, indent=2, default=list) + "\n")
        (partial / RECORD_FILE).write_text(json.dumps(record, indent=2) + "\n")
        if model.head is not None:
            save_head(model.head, partial)
        if seen is not None:
            arrays = {name: keys.view("<i8") for name, keys in seen._asdict().items()}
            save_arrays(arrays, partial / SEEN_FILE)
        if hasattr(model.tokenizer, "save_pretrained"):
            model.tokenizer.save_pretrained(str(partial))
        save_text_config(model.module, model.config, partial)
        for file in partial.iterdir():  # safetensors writes files that none but their owner may read
            if file.is_file():
                shutil.copymode(partial / RECORD_FILE, file)
        _replace_folder(partial, folder)
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    return fingerprint


def load_seen(folder: str | Path) -> Seen | None:
    """What the run of a checkpoint folder saw, or None where nothing is recorded.

    Raises:
        UserError: when the record is damaged.
    """
    from safetensors import SafetensorError
    from safetensors.numpy import load_file

    path = Path(folder) / SEEN_FILE
    if not path.is_file():
        return None
    try:
        arrays = load_file(path)
        return Seen(arrays["train"].view("<u8"), arrays["val"].view("<u8"))
    except (SafetensorError, KeyError, OSError) as error:
        hint = "Without it nobody can tell whether images were trained on; restore the file."
        raise UserError(f"The record of seen images '{path}' is damaged: {error}.", hint=hint) from error


def _replace_folder(new: Path, target: Path) -> None:
    """Put `new` in the place of `target`; a kill in between leaves the old one under a name that `recover` knows."""
    old = _old_name(target)
    if target.exists():
        shutil.rmtree(old, ignore_errors=True)
        os.replace(target, old)
    os.replace(new, target)
    shutil.rmtree(old, ignore_errors=True)


def recover(folder: str | Path) -> None:
    """Bring back a checkpoint whose replacement was cut short, and clear half-written ones."""
    folder = Path(folder)
    if _old_name(folder).is_dir() and not folder.exists():
        os.replace(_old_name(folder), folder)
    for partial in folder.parent.glob(f".{folder.name}.*.partial"):
        shutil.rmtree(partial, ignore_errors=True)


def remove_checkpoint(folder: str | Path) -> None:
    """Delete a checkpoint folder and what a cut-short replacement left of it."""
    recover(folder)
    shutil.rmtree(folder, ignore_errors=True)


def _old_name(folder: Path) -> Path:
    return folder.with_name(f".{folder.name}.old")
