"""How small a difference a paired comparison can find."""

from __future__ import annotations

import math
from statistics import NormalDist


def detectable_difference(n: int, discordant: float, *, alpha: float = 0.05, power: float = 0.8) -> float:
    """The smallest difference of two paired proportions that McNemar's test finds with the given power.

        sqrt(n) d = z_{1 - alpha/2} sqrt(s) + z_power sqrt(s - d^2),    s = max(discordant, d)

    A difference cannot be larger than the share of samples that flip, so that a larger one raises that share.

    Args:
        n: pairs.
        discordant: share of pairs in which one hits and the other misses, in [0, 1].

    Returns:
        The difference, in (0, 1]; inf where n pairs are too few for any.

    Reference:
        Connor, 1987, Sample size for testing differences in proportions for the paired-sample design.

    Example:
        >>> round(detectable_difference(10_000, 0.05), 4)
        0.0063
    """
    if n < 1 or not 0 <= discordant <= 1:
        raise ValueError(f"expected n >= 1 and a share of discordant pairs in [0, 1], got {n} and {discordant}")
    z, z_power = NormalDist().inv_cdf(1 - alpha / 2), NormalDist().inv_cdf(power)
    a, b, c = n + z_power**2, z * math.sqrt(n), z**2 - z_power**2
    if b * b < a * c:
        return math.inf
    unit = (b + math.sqrt(b * b - a * c)) / a  # d / sqrt(s) that solves the equation
    d = unit * max(math.sqrt(discordant), unit)
    return d if d <= 1 else math.inf


def detectable_mean_difference(n: int, deviation: float, *, alpha: float = 0.05, power: float = 0.8) -> float:
    """The smallest difference of two paired means that a test finds with the given power.

        d = (z_{1 - alpha/2} + z_power) deviation / sqrt(n)

    Args:
        n: pairs.
        deviation: standard deviation of the differences of pairs.

    Example:
        >>> round(detectable_mean_difference(1000, 0.5), 4)
        0.0443
    """
    if n < 1 or deviation < 0:
        raise ValueError(f"expected n >= 1 and a deviation from 0, got {n} and {deviation}")
    z, z_power = NormalDist().inv_cdf(1 - alpha / 2), NormalDist().inv_cdf(power)
    return (z + z_power) * deviation / math.sqrt(n)
