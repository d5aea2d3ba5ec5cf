"""What each command computes, as plain functions that print nothing: the Python API.

from clipib.tasks import finetune, zeroshot, retrieve
"""

from __future__ import annotations

import importlib

_TASKS = {
    "finetune": "clipib.tasks.finetune",
    "zeroshot": "clipib.tasks.zeroshot",
    "retrieve": "clipib.tasks.retrieve",
    "embed": "clipib.tasks.embed",
    "search": "clipib.tasks.search",
}

__all__ = list(_TASKS)


def __getattr__(name: str):
    """Import a task when it is first asked for: `import clipib.tasks` alone loads no torch."""
    if name in _TASKS:
        return getattr(importlib.import_module(_TASKS[name]), name)
    raise AttributeError(f"module 'clipib.tasks' has no attribute '{name}'")
