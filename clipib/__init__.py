"""clipib: evaluate, fine-tune and explain CLIP checkpoints.

The function behind every command prints nothing and can be called from a notebook:

    import clipib

    outcome = clipib.zeroshot("runs/a/best", "folder:photos/test", out="runs/b")
    for row in outcome.rows:
        ...
"""

from __future__ import annotations

import importlib
import os

__version__ = "0.1.0"

# Two habits of the hub's clients that nobody asked for: counting downloads, and having pickled weights converted.
os.environ.setdefault("HF_UPDATE_DOWNLOAD_COUNTS", "0")
os.environ.setdefault("DISABLE_SAFETENSORS_CONVERSION", "1")

_TASKS = ("finetune", "zeroshot", "retrieve", "pmi_probe", "ib_analyze", "embed", "search", "compare")
__all__ = ["__version__", "compare", "embed", "finetune", "ib_analyze", "pmi_probe", "retrieve", "search", "zeroshot"]


def __getattr__(name: str):
    """Import a task when it is first asked for, so that `import clipib` alone loads no torch."""
    if name in _TASKS:
        return getattr(importlib.import_module(f"clipib.tasks.{name}"), name)
    raise AttributeError(f"module 'clipib' has no attribute '{name}'")
