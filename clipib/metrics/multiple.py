"""Many tests at once."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np


def benjamini_hochberg(p: Sequence[float]) -> np.ndarray:
    """P values adjusted for being many: those below q hold a share of at most q false alarms, on average.

        adjusted_(i) = min over j >= i of  M p_(j) / j,    at most 1

    Args:
        p: (M,) p values, of independent or positively dependent tests; may be empty.

    Returns:
        (M,) adjusted p values, in the order given.

    Raises:
        ValueError: when a p is not in [0, 1].

    Reference:
        Benjamini and Hochberg, 1995, Controlling the false discovery rate.

    Example:
        >>> benjamini_hochberg([0.01, 0.04, 0.03, 0.5]).round(4).tolist()
        [0.04, 0.0533, 0.0533, 0.5]
    """
    p = np.asarray(p, dtype=float)
    if p.ndim != 1 or not ((p >= 0) & (p <= 1)).all():
        raise ValueError(f"expected p values (M,) in [0, 1], got {p.tolist()}")
    order = np.argsort(p)
    scaled = p[order] * len(p) / np.arange(1, len(p) + 1)
    adjusted = np.empty_like(p)
    adjusted[order] = np.minimum.accumulate(scaled[::-1])[::-1]
    return adjusted
