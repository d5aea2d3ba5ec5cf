"""Intervals for reported numbers."""

from __future__ import annotations

import math
from typing import NamedTuple

Z_95 = 1.959963984540054  # the 97.5 % point of the standard normal


class Interval(NamedTuple):
    low: float
    high: float


def wilson_interval(proportion: float, n: int, *, z: float = Z_95) -> Interval:
    """Wilson score interval of a proportion of `n` independent trials.

        (p + z^2/2n -+ z sqrt(p(1-p)/n + z^2/4n^2)) / (1 + z^2/n)

    Args:
        proportion: successes / n, in [0, 1].
        n: number of independent trials, at least 1.
        z: normal quantile; the default gives a 95 % interval.

    Returns:
        The interval, within [0, 1].

    Reference:
        Wilson, 1927, Probable inference, the law of succession, and statistical inference.

    Example:
        >>> tuple(round(x, 4) for x in wilson_interval(0.9, 100))
        (0.8256, 0.9448)
    """
    if n < 1:
        raise ValueError(f"expected at least one trial, got n={n}")
    centre = proportion + z * z / (2 * n)
    half = z * math.sqrt(proportion * (1 - proportion) / n + z * z / (4 * n * n))
    scale = 1 + z * z / n
    low = 0.0 if proportion <= 0 else (centre - half) / scale
    high = 1.0 if proportion >= 1 else (centre + half) / scale
    return Interval(low, high)
