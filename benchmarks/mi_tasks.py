"""Forty pairs of continuous variables with known mutual information: the task list of `bmi`, from its definitions.

A base law, Gaussian, Student or uniform, has a closed form; a bijection of one side leaves it as it is. So an estimator
that grades well on the base and badly on its image has been misled by the shape of the marginals alone.

Reference: Czyz, Grabowski, Vogt, Beerenwinkel and Marx, 2023, Beyond Normal: On the Evaluation of Mutual Information
Estimators, 2306.11078. Names follow the package's task ids, less the constants that never vary.

Example:
    >>> task = TASKS["half_cube-2pair-3"]
    >>> x, y = task.sample(5, seed=0)
    >>> tuple(x.shape), tuple(y.shape), round(task.mi_nats, 4)
    ((5, 3), (5, 3), 1.0217)
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import torch
from scipy.special import digamma, gammaln, ndtr
from torch import Tensor

Array = np.ndarray
Draw = Callable[[int, np.random.Generator], tuple[Array, Array]]
CORRELATION = 0.75  # of the one-dimensional Gaussian
DENSE_CORRELATION = 0.5  # between any two of the coordinates
PAIR_CORRELATION = 0.8  # lambda^2 / (1 + lambda^2) with the package's strength lambda = 2


class Task(NamedTuple):
    """x (n, dim_x) and y (n, dim_y), drawn jointly; mi_nats is exact."""

    name: str
    dim_x: int
    dim_y: int
    mi_nats: float
    draw: Draw

    def sample(self, n: int, seed: int) -> tuple[Tensor, Tensor]:
        """n independent pairs: float64 tensors (n, dim_x) and (n, dim_y)."""
        x, y = self.draw(n, np.random.default_rng(seed))
        return torch.from_numpy(np.ascontiguousarray(x)), torch.from_numpy(np.ascontiguousarray(y))


def normal() -> Task:
    """Two standard normals: I = -1/2 log(1 - rho^2)."""
    mi = -math.log1p(-(CORRELATION**2)) / 2
    return Task("normal", 1, 1, mi, gaussian_draw(pair_correlations(1, 1, CORRELATION)))


def dense(dim: int) -> Task:
    """All 2 dim coordinates correlated alike.

        I = log(1 + (dim - 1) rho) - 1/2 log(1 - rho) - 1/2 log(1 + (2 dim - 1) rho)

    since d of them have d - 1 eigenvalues 1 - rho and one of 1 + (d - 1) rho.
    """
    rho = DENSE_CORRELATION
    mi = math.log1p((dim - 1) * rho) - math.log1p(-rho) / 2 - math.log1p((2 * dim - 1) * rho) / 2
    return Task(
        f"dense-{dim}", dim, dim, mi, gaussian_draw(np.full((2 * dim, 2 * dim), rho) + np.eye(2 * dim) * (1 - rho))
    )


def two_pair(dim: int) -> Task:
    """The first two coordinates of x and y are correlated one to one, all else is noise: I = -log(1 - rho^2)."""
    mi = -math.log1p(-(PAIR_CORRELATION**2))
    return Task(f"2pair-{dim}", dim, dim, mi, gaussian_draw(pair_correlations(dim, 2, PAIR_CORRELATION)))


def student(dim: int, df: int) -> Task:
    """Uncorrelated multivariate Student: all that x tells of y is the scale both share.

        I = h(dim) + h(dim) - h(2 dim)

    h is the differential entropy of the standard Student law, eq. 7 of Arellano-Valle, Contreras-Reyes and Genton, 2013
    (the authors of `bmi` note that the closed form of the information printed there, p. 47, has a slip).
    """
    mi = 2 * student_entropy(dim, df) - student_entropy(2 * dim, df)
    return Task(f"student-{dim}-df{df}", dim, dim, mi, student_draw(dim, df))


def additive_noise(half_width: float) -> Task:
    """x uniform on (0, 1), y = x + noise uniform on (-e, e): I = 1 / (4 e) for e > 1/2, else e - log(2 e)."""
    mi = 0.25 / half_width if half_width > 0.5 else half_width - math.log(2 * half_width)

    def draw(n: int, rng: np.random.Generator) -> tuple[Array, Array]:
        x = rng.uniform(0, 1, (n, 1))
        return x, x + rng.uniform(-half_width, half_width, (n, 1))

    return Task(f"additive-{half_width}", 1, 1, mi, draw)


def pair_correlations(dim: int, pairs: int, rho: float) -> Array:
    """(2 dim, 2 dim): x_i and y_i correlated by rho for i < pairs."""
    matrix, i = np.eye(2 * dim), np.arange(pairs)
    matrix[i, dim + i] = matrix[dim + i, i] = rho
    return matrix


def gaussian_draw(correlations: Array) -> Draw:
    factor, dim = np.linalg.cholesky(correlations), len(correlations) // 2

    def draw(n: int, rng: np.random.Generator) -> tuple[Array, Array]:
        both = rng.standard_normal((n, 2 * dim)) @ factor.T
        return both[:, :dim], both[:, dim:]

    return draw


def student_draw(dim: int, df: int) -> Draw:
    def draw(n: int, rng: np.random.Generator) -> tuple[Array, Array]:
        both = rng.standard_normal((n, 2 * dim)) / np.sqrt(rng.chisquare(df, (n, 1)) / df)
        return both[:, :dim], both[:, dim:]

    return draw


def student_entropy(dim: int, df: int) -> float:
    """Of the Student law in `dim` dimensions with unit dispersion, in nats.

    h = log Gamma(df/2) - log Gamma((df+dim)/2) + dim/2 log(df pi) + (df+dim)/2 [psi((df+dim)/2) - psi(df/2)]
    """
    half, both = df / 2, (df + dim) / 2
    log_constant = gammaln(half) - gammaln(both) + dim / 2 * math.log(df * math.pi)
    return float(log_constant + both * (digamma(both) - digamma(half)))


def half_cube(x: Array) -> Array:
    """sign(x) |x|^(3/2): heavier tails, no derivative of the inverse at 0."""
    return x * np.sqrt(np.abs(x))


def wiggle_x(x: Array) -> Array:
    return x + 0.4 * np.sin(x) + 0.2 * np.sin(1.7 * x + 1) + 0.03 * np.sin(3.3 * x - 2.5)


def wiggle_y(y: Array) -> Array:
    return y - 0.4 * np.sin(0.4 * y) + 0.17 * np.sin(1.3 * y + 3.5) + 0.02 * np.sin(4.3 * y - 2.5)


def spiral(first: int) -> Callable[[Array], Array]:
    """Turn the plane of coordinates `first` and `first + 1` by the angle |x|^2 / dim, which no turn changes."""

    def turn(x: Array) -> Array:
        angle = np.square(x).mean(1)
        cos, sin, turned = np.cos(angle), np.sin(angle), x.copy()
        turned[:, first] = cos * x[:, first] - sin * x[:, first + 1]
        turned[:, first + 1] = sin * x[:, first] + cos * x[:, first + 1]
        return turned

    return turn


def bimodal(weight: float, low: float, high: float) -> Callable[[Array], Array]:
    """Normal to the mixture weight N(low, 1) + (1 - weight) N(high, 1): its quantile at the normal's level."""

    def quantile(x: Array) -> Array:
        below, above = np.full_like(x, -20.0), np.full_like(x, 20.0)
        for _ in range(60):  # halves 40 to less than the spacing of float64
            middle = (below + above) / 2
            short = weight * ndtr(middle - low) + (1 - weight) * ndtr(middle - high) < ndtr(x)
            below, above = np.where(short, middle, below), np.where(short, above, middle)
        return (below + above) / 2

    return quantile


def swiss_roll(u: Array) -> Array:
    """(n, 1) in (0, 1) to a curve (n, 2) that winds out from the origin."""
    t = 1.5 * math.pi * (1 + 2 * u)
    return np.hstack([t * np.cos(t), t * np.sin(t)]) / 21


def mapped(name: str, task: Task, of_x: Callable[[Array], Array], of_y: Callable[[Array], Array] | None = None) -> Task:
    """The task with x and y sent through injections, which leave the information as it is."""

    def draw(n: int, rng: np.random.Generator) -> tuple[Array, Array]:
        x, y = task.draw(n, rng)
        return of_x(x), (of_y or of_x)(y)

    return task._replace(name=f"{name}-{task.name}", draw=draw)


def make_tasks() -> dict[str, Task]:
    """All forty by name."""
    cauchy, pairs = student(1, 1), [two_pair(dim) for dim in (3, 5, 25)]
    uniform_pairs = [mapped("normal_cdf", task, ndtr) for task in pairs]
    tasks = [normal(), mapped("normal_cdf", normal(), ndtr), additive_noise(0.1), additive_noise(0.75)]
    tasks += [mapped("bimodal", normal(), bimodal(0.3, 0, 5), bimodal(0.5, -1, 3))]
    tasks += [mapped("wiggly", normal(), wiggle_x, wiggle_y), mapped("half_cube", normal(), half_cube)]
    tasks += [cauchy, mapped("asinh", cauchy, np.arcsinh)]
    roll = mapped("swiss_roll", mapped("normal_cdf", normal(), ndtr), swiss_roll, lambda y: y)
    tasks += [roll._replace(dim_x=2)]
    tasks += [dense(dim) for dim in (2, 3, 5, 25, 50)] + [two_pair(2), *pairs]
    tasks += [student(dim, df) for dim, df in ((2, 1), (2, 2), (3, 2), (3, 3), (5, 2), (5, 3))]
    tasks += uniform_pairs + [mapped("half_cube", task, half_cube) for task in pairs]
    tasks += [mapped("spiral", task, spiral(0), spiral(1)) for task in (*pairs, *uniform_pairs)]
    tasks += [mapped("asinh", student(dim, df), np.arcsinh) for dim, df in ((2, 1), (3, 2), (5, 2))]
    return {task.name: task for task in tasks}


TASKS = make_tasks()
