"""The architectures and pretrained tags of open_clip, read without importing torch."""

from __future__ import annotations

import importlib
import importlib.util
import json
import re
import sys
import types
from pathlib import Path

from clipib.errors import UserError


def list_architectures() -> dict[str, list[str]]:
    """Every architecture of the installed open_clip with its pretrained tags, in open_clip's order.

    Only two of its files are run, those that hold the tables; importing the package would take seconds.

    Raises:
        UserError: when open_clip is not installed.
    """
    spec = importlib.util.find_spec("open_clip")
    if spec is None or not spec.submodule_search_locations:
        raise UserError("open_clip is not installed.", hint="pip install open_clip_torch")
    if "open_clip" in sys.modules:
        import open_clip

        return {name: open_clip.list_pretrained_tags_by_model(name) for name in open_clip.list_models()}
    folder = Path(spec.submodule_search_locations[0])
    tags = _pretrained_table(folder)
    found = {}
    for path in sorted(folder.glob("model_configs/*.json"), key=_natural_order):
        if {"embed_dim", "vision_cfg", "text_cfg"} <= set(json.loads(path.read_text(encoding="utf-8"))):
            found[path.stem] = list(tags.get(path.stem, ()))
    return found


def _pretrained_table(folder: Path) -> dict[str, dict[str, dict]]:
    """architecture -> tag -> details, as `open_clip.pretrained` holds them."""
    name = "_open_clip_tables"
    package = types.ModuleType(name)
    package.__path__ = [str(folder)]
    sys.modules[name] = package
    hide = "safetensors.torch" not in sys.modules  # it would import torch; open_clip does without
    if hide:
        sys.modules["safetensors.torch"] = None
    try:
        return importlib.import_module(f"{name}.pretrained")._PRETRAINED
    finally:
        for module in [m for m in sys.modules if m.partition(".")[0] == name]:
            del sys.modules[module]
        if hide:
            del sys.modules["safetensors.torch"]


def _natural_order(path: Path) -> list[int | str]:
    """Numbers within names sort by their value."""
    return [int(part) if part.isdigit() else part for part in re.split(r"(\d+)", path.stem.lower())]
