"""The benchmark's tasks have the information they claim: against the package they come from, and against densities."""

import importlib.util
import math
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from scipy.integrate import trapezoid
from scipy.special import ndtri
from scipy.stats import kstest, multivariate_normal, multivariate_t, norm

SPEC = importlib.util.spec_from_file_location("mi_tasks", Path(__file__).parents[1] / "benchmarks" / "mi_tasks.py")
mi_tasks = sys.modules["mi_tasks"] = importlib.util.module_from_spec(SPEC)
SPEC.loader.exec_module(mi_tasks)
TASKS = mi_tasks.TASKS
POINT = np.array([[0.5, -1.2, 2.0]])

# benchmark-mi 0.1.3, BENCHMARK_TASKS[...].mutual_information()
BMI = {
    "normal": 0.4133392866,
    "additive-0.1": 1.7094379,  # float32 there
    "additive-0.75": 0.3333333333,
    "student-1-df1": 0.2241714275,
    "dense-2": 0.2938933325,
    "dense-3": 0.4133392866,
    "dense-5": 0.5928118328,
    "dense-25": 1.2921837217,
    "dense-50": 1.6242653743,
    "2pair-2": 1.0216512475,
    "2pair-3": 1.0216512475,
    "2pair-5": 1.0216512475,
    "2pair-25": 1.0216512475,
    "student-2-df1": 0.4319456220,
    "student-2-df2": 0.1931471806,
    "student-3-df2": 0.2909219227,
    "student-3-df3": 0.1787118531,
    "student-5-df2": 0.4481506769,
    "student-5-df3": 0.2985436227,
}
# and its maps at POINT
BMI_MAPS = {
    "half_cube": (mi_tasks.half_cube, [0.353553390593, -1.314534138012, 2.828427124746]),
    "wiggle_x": (mi_tasks.wiggle_x, [0.861486843883, -1.750573324619, 2.14885024262]),
    "wiggle_y": (mi_tasks.wiggle_y, [0.26985708235, -0.876368667121, 1.678446687828]),
    "spiral_x": (mi_tasks.spiral(0), [0.976780230922, 0.857846361815, 2.0]),
    "spiral_y": (mi_tasks.spiral(1), [0.5, -1.510584789094, -1.777113838492]),
    "bimodal_x": (mi_tasks.bimodal(0.3, 0, 5), [5.149022710449, -0.296129928483, 6.845255523938]),
    "bimodal_y": (mi_tasks.bimodal(0.5, -1, 3), [2.702471894815, -1.738391585027, 4.690143444433]),
}


def test_all_forty_have_the_information_of_the_package():
    assert len(TASKS) == 40
    for name, task in TASKS.items():
        base = name if name in BMI else next(base for base in BMI if name.endswith(f"-{base}"))
        assert task.name == name and task.mi_nats == pytest.approx(BMI[base], abs=1e-7), name


@pytest.mark.parametrize("name", BMI_MAPS)
def test_maps_are_those_of_the_package(name):
    ours, theirs = BMI_MAPS[name]
    # its bisection of a distribution function runs in float32
    np.testing.assert_allclose(ours(POINT)[0], theirs, atol=1e-5 if "bimodal" in name else 1e-11)


def test_swiss_roll_is_that_of_the_package_and_an_injection():
    np.testing.assert_allclose(mi_tasks.swiss_roll(np.array([[0.3]])), [[0.110949202213, 0.341466533113]], atol=1e-12)
    u = np.linspace(0, 1, 101)[:, None]
    radius = np.linalg.norm(mi_tasks.swiss_roll(u), axis=1, keepdims=True)  # t / 21
    np.testing.assert_allclose((radius * 21 / (1.5 * math.pi) - 1) / 2, u, atol=1e-12)


@pytest.mark.parametrize(
    "name", [name for name in TASKS if name in BMI and name.startswith(("normal", "dense", "2pair"))]
)
def test_gaussian_information_is_that_of_log_determinants(name):
    task = TASKS[name]
    matrix = gaussian_matrix(task)
    d, log_det = task.dim_x, lambda block: np.linalg.slogdet(block)[1]
    found = (log_det(matrix[:d, :d]) + log_det(matrix[d:, d:]) - log_det(matrix)) / 2
    assert task.mi_nats == pytest.approx(found, abs=1e-12)


def gaussian_matrix(task):
    """Written out entry by entry, apart from the module."""
    d = task.dim_x
    matrix = np.eye(2 * d)
    for i in range(2 * d):
        for j in range(2 * d):
            if "dense" in task.name and i != j:
                matrix[i, j] = 0.5
            if "2pair" in task.name and abs(i - j) == d and min(i, j) < 2:
                matrix[i, j] = 0.8
            if task.name == "normal" and i != j:
                matrix[i, j] = 0.75
    return matrix


def test_student_information_by_integration():
    # In asinh coordinates the Cauchy law falls like e^-|u|, so the trapezoid on a fine grid is exact to rounding
    # but for e^-30 cut off; the joint density in closed form is (1 + x^2 + y^2)^(-3/2) / (2 pi).
    u = np.linspace(-30, 30, 1501)
    x, slope = np.sinh(u), np.cosh(u)
    joint = (1 + x[:, None] ** 2 + x**2) ** -1.5 / (2 * math.pi)
    alone = 1 / (math.pi * (1 + x**2))
    weight = joint * slope[:, None] * slope * (u[1] - u[0]) ** 2
    assert weight.sum() == pytest.approx(1, abs=1e-9)
    found = (weight * np.log(joint / (alone[:, None] * alone))).sum()
    assert TASKS["student-1-df1"].mi_nats == pytest.approx(found, abs=1e-9)


@pytest.mark.parametrize("half_width", [0.1, 0.75])
def test_additive_information_by_integration(half_width):
    # I = h(y) - log 2e, with the density of y the overlap of (0, 1) and (y - e, y + e), over 2e.
    y = np.linspace(-half_width, 1 + half_width, 200_001)
    density = (np.minimum(y + half_width, 1) - np.maximum(y - half_width, 0)).clip(1e-300) / (2 * half_width)
    entropy = -trapezoid(density * np.log(density), y)
    found = entropy - math.log(2 * half_width)
    assert TASKS[f"additive-{half_width}"].mi_nats == pytest.approx(found, abs=1e-8)


@pytest.mark.parametrize("name", TASKS)
def test_mean_pmi_of_samples_brought_back_to_the_base(name):
    """The sampler draws what the formula is about: the mean of the exact PMI, after undoing the maps, within 4 s.e."""
    task = TASKS[name]
    x, y = (side.numpy() for side in task.sample(4000, seed=1))
    pmi = base_pmi(name, *undo(name, x, y))
    error = pmi.std(ddof=1) / math.sqrt(len(pmi))
    assert abs(pmi.mean() - task.mi_nats) < 4 * error


def undo(name, x, y):
    """Inverses of the maps, outermost first, none of them from the module."""
    head, _, rest = name.partition("-")
    if head == "spiral":
        return undo(rest, turn_back(x, 0), turn_back(y, 1))
    if head == "normal_cdf":
        return undo(rest, ndtri(x), ndtri(y))
    if head == "half_cube":
        return undo(rest, *(np.sign(side) * np.abs(side) ** (2 / 3) for side in (x, y)))
    if head == "asinh":
        return undo(rest, np.sinh(x), np.sinh(y))
    if head == "swiss_roll":
        return undo(rest, (np.linalg.norm(x, axis=1, keepdims=True) * 14 / math.pi - 1) / 2, y)
    if head == "wiggly":
        return undo(rest, on_grid(mi_tasks.wiggle_x, x), on_grid(mi_tasks.wiggle_y, y))
    if head == "bimodal":
        of_x = ndtri(0.3 * norm.cdf(x) + 0.7 * norm.cdf(x - 5))
        return undo(rest, of_x, ndtri(0.5 * norm.cdf(y + 1) + 0.5 * norm.cdf(y - 3)))
    return x, y


def turn_back(side, first):
    """A turn by minus the angle, as a complex number."""
    back = side.copy()
    plane = (side[:, first] + 1j * side[:, first + 1]) * np.exp(-1j * np.square(side).sum(1) / side.shape[1])
    back[:, first], back[:, first + 1] = plane.real, plane.imag
    return back


def on_grid(increasing, values):
    grid = np.linspace(-8, 8, 100_001)
    images = increasing(grid)
    assert (np.diff(images) > 0).all()
    return np.interp(values, images, grid)


def base_pmi(name, x, y):
    """log p(x, y) - log p(x) - log p(y), (n,), by scipy's densities."""
    task, d, both = TASKS[name], x.shape[1], np.hstack([x, y])
    if "additive" in name:
        half_width = float(name.removeprefix("additive-"))
        overlap = np.minimum(y + half_width, 1) - np.maximum(y - half_width, 0)
        return -np.log(overlap[:, 0])  # p(y given x) / p(y)
    if "student" in name:
        df = int(name.rpartition("df")[2])
        one, two = multivariate_t(np.zeros(d), np.eye(d), df=df), multivariate_t(np.zeros(2 * d), np.eye(2 * d), df=df)
        return two.logpdf(both) - one.logpdf(x) - one.logpdf(y)
    matrix = gaussian_matrix(next(TASKS[base] for base in BMI if task.name.endswith(base)))
    one = multivariate_normal(np.zeros(d), matrix[:d, :d])
    return multivariate_normal(np.zeros(2 * d), matrix).logpdf(both) - one.logpdf(x) - one.logpdf(y)


@pytest.mark.parametrize("name", ["spiral-2pair-5", "spiral-normal_cdf-2pair-3", "wiggly-normal", "bimodal-normal"])
def test_undoing_the_maps_gives_the_draw_of_the_base(name):
    base = next(base for base in BMI if name.endswith(base))
    for found, drawn in zip(undo(name, *(s.numpy() for s in TASKS[name].sample(63, 5))), TASKS[base].sample(63, 5)):
        np.testing.assert_allclose(found, drawn, atol=1e-7)  # 1e-8 is the square of the grid's spacing


def test_marginals():
    for name, law in (("normal_cdf-2pair-3", "uniform"), ("normal", "norm"), ("student-1-df1", "cauchy")):
        for side in TASKS[name].sample(2000, seed=3):
            assert kstest(side[:, 0].numpy(), law).pvalue > 1e-3, name
    x, y = TASKS["additive-0.1"].sample(2000, seed=3)
    assert kstest(x[:, 0].numpy(), "uniform").pvalue > 1e-3
    assert kstest((y - x)[:, 0].numpy() * 5 + 0.5, "uniform").pvalue > 1e-3


def test_samples_are_float64_and_repeat():
    for name, task in TASKS.items():
        (x, y), again, other = task.sample(7, 0), task.sample(7, 0), task.sample(7, 1)
        assert x.dtype == y.dtype == torch.float64, name
        assert x.shape == (7, task.dim_x) and y.shape == (7, task.dim_y), name
        assert torch.equal(x, again[0]) and torch.equal(y, again[1]) and not torch.equal(x, other[0]), name
