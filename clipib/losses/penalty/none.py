"""The control: no penalty."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from clipib.losses.penalty.channel import check_sigma
from clipib.losses.terms import LossTerms, Paired
from clipib.scoring.features import at_least_float32


class NoPenalty:
    """Zero, for losses that are a contrast alone; `sigma` and `seed` are not used."""

    term_names = ()

    def __init__(self, sigma: float | None = None, seed: int = 0) -> None:
        check_sigma(sigma)

    def __call__(self, paired: Paired, *, logit_scale: Tensor, training: bool = True) -> LossTerms:
        return LossTerms(at_least_float32(paired.image.new_zeros(())), {})

    def state_dict(self) -> dict[str, Any]:
        return {}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Nothing is remembered."""
