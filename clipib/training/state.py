"""What a killed run needs to go on as if nothing had happened, in one file that is replaced in one step."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from clipib.errors import UserError
from clipib.files import write_aside

STATE_FILE = "training_state.pt"


def save_state(path: Path, state: dict[str, Any]) -> None:
    """Write tensors and plain values; a kill leaves the older file whole."""
    write_aside(path, lambda file: torch.save(state, file))


def load_state(path: Path) -> dict[str, Any]:
    """Read a training state on the CPU, executing nothing.

    Raises:
        UserError: when the file is damaged.
    """
    try:
        return torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:
        hint = "Start over with --fresh."
        raise UserError(f"The training state '{path}' cannot be read: {type(error).__name__}.", hint=hint) from error


def check_same_run(saved: dict[str, Any], now: dict[str, Any]) -> None:
    """Refuse to resume a run with other settings, naming those that differ.

    Raises:
        UserError: when anything that the weights depend on was changed.
    """
    different = [k for k in now if saved.get(k) != now[k]]
    if different:
        shown = "; ".join(f"{k}: {saved.get(k)} before, {now[k]} now" for k in different[:4])
        raise UserError(
            f"The unfinished run had other settings ({shown}).",
            hint="Resume with the same settings, or start over with --fresh.",
        )
