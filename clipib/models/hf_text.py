"""Hugging Face text towers in open_clip models: their padding, and the configuration that open_clip leaves to a hub.

open_clip's own configuration only names such a tower (`hf_model_name`). To build it, open_clip asks transformers for
that name, which looks below the current directory first and on the hub then. So a checkpoint folder of ours carries
the tower's configuration under the very name: FOLDER/ORG/NAME/config.json. clipib finds it there from anywhere;
plain open_clip finds it when FOLDER is the current directory, and asks the hub for that one file otherwise.
"""

from __future__ import annotations

from pathlib import Path, PurePosixPath
from typing import Any

from torch import Tensor, nn

TEXT_CONFIG_FILE = "config.json"
FORMULA_SETTINGS = ("model_type", "hidden_act", "num_attention_heads", "layer_norm_eps", "pad_token_id")


def is_hf_text(module: nn.Module) -> bool:
    """Whether the text tower is a transformers model behind open_clip's adapter, which masks what is padding."""
    from open_clip.hf_model import HFTextEncoder

    return isinstance(getattr(module, "text", None), HFTextEncoder)


def cut_padding(module: nn.Module, tokens: Tensor) -> Tensor:
    """(n, L) token ids without the columns that are padding in every row, at least one column.

    The adapter masks padding in attention and pooling, so the features change by rounding alone.
    """
    used = (tokens != module.text.config.pad_token_id).any(dim=0).nonzero()
    return tokens[:, : max(1, int(used.max()) + 1 if len(used) else 1)]


def formula_settings(module: nn.Module) -> dict[str, Any]:
    """What the tower computes beyond what the shapes of its weights tell, for the fingerprint; empty for others."""
    if not is_hf_text(module):
        return {}
    return {"hf_text": {name: getattr(module.text.config, name, None) for name in FORMULA_SETTINGS}}


def save_text_config(module: nn.Module, config: dict[str, Any], folder: Path) -> None:
    """Write the tower's configuration below a checkpoint folder, under the name that open_clip will ask for.

    Args:
        config: open_clip's model_cfg. A name that would lead out of the folder is left to the hub.
    """
    name = config["text_cfg"].get("hf_model_name", "")
    if is_hf_text(module) and _is_inside(name):
        module.text.config.save_pretrained(folder / name)


def local_text_cfg(config: dict[str, Any], folder: Path | None) -> dict[str, Any]:
    """open_clip's text_cfg with the tower's name replaced by the place of its configuration in a checkpoint folder.

    Returns:
        {"text_cfg": ...} for `open_clip.create_model`, or {} where the folder holds no such configuration.
    """
    text = config["text_cfg"]
    name = text.get("hf_model_name", "")
    if not (folder and _is_inside(name) and (folder / name / TEXT_CONFIG_FILE).is_file()):
        return {}
    return {"text_cfg": text | {"hf_model_name": str(folder / name), "hf_model_pretrained": False}}


def _is_inside(name: str) -> bool:
    return bool(name) and not PurePosixPath(name).is_absolute() and ".." not in PurePosixPath(name).parts
