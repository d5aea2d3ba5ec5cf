"""The figures of `pmi-probe` and `ib-analyze`, drawn from plain arrays.

Every figure is one print column wide and says the same in grey: what differs in colour also differs in marker, line or
hatch. Dashed and dotted black lines are references, such as the diagonal, log N and the truth.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from clipib.files import write_aside
from clipib.tasks.figure_style import (
    Look,
    equal_limits,
    finish_figure,
    house_style,
    log_ticks,
    look_of,
    plain,
    start_figure,
)

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure


class PlanePoint(NamedTuple):
    """One checkpoint in the information plane, in nats; an end of an interval is None where there is no interval."""

    name: str
    private: float
    private_low: float | None
    private_high: float | None
    shared: float
    shared_low: float | None
    shared_high: float | None


class Bar(NamedTuple):
    """What one checkpoint tells about one attribute, in nats.

    group: "image nuisance", "text nuisance" or "unmentioned".
    low, high: the interval, None where there is none.
    floor: H(attribute | other side), what an embedding that tells the attribute holds beyond the other side.
    entropy: H(attribute), the most that can be told.
    """

    attribute: str
    group: str
    checkpoint: str
    value: float
    low: float | None
    high: float | None
    floor: float | None = None
    entropy: float | None = None


@house_style()
def score_against_pmi(
    scores_p: np.ndarray, pmi_p: np.ndarray, scores_q: np.ndarray, pmi_q: np.ndarray, *, slope: float, title: str
) -> Figure:
    """Scores against the true PMI, above of true pairs and below of mismatched ones, as log counts in hexagons.

    Args:
        scores_p, pmi_p: (n,) of true pairs; scores less their free constant, nats.
        scores_q, pmi_q: (m,) of mismatched pairs. A few hundred thousand are plenty.
        slope: Cov_Q(s, PMI) / Var_Q(PMI), drawn through the mean of the mismatched pairs.

    Raises:
        ValueError: for empty, unequal or infinite arrays.
    """
    from matplotlib.patheffects import withStroke

    p = _finite(pmi_p=pmi_p, scores_p=scores_p)
    q = _finite(pmi_q=pmi_q, scores_q=scores_q)
    figure, panels = start_figure(title, height=5.2, panels=2)
    for panel, heading, (x, y) in zip(panels, ("true pairs, P", "mismatched pairs, Q"), (p, q)):
        _hexagons(panel, x, y)
        panel.set_title(f"{heading} (n = {len(x):,})")
        panel.set_ylabel("score less constant (nats)")
        rim = {"path_effects": [withStroke(linewidth=2.4, foreground="white")]}  # seen on dark cells too
        ideal = panel.axline((0, 0), slope=1, color="black", linestyle="--", linewidth=1, **rim)
        fitted = panel.axline((q[0].mean(), q[1].mean()), slope=slope, color=look_of(1).colour, **rim)
    panels[-1].set_xlabel("true PMI (nats)")
    finish_figure(figure, [(ideal, "slope 1"), (fitted, f"fitted under Q, slope {slope:.2f}")])
    return figure


@house_style()
def ratio_calibration(
    score: np.ndarray,
    predicted: np.ndarray,
    empirical: np.ndarray,
    error: np.ndarray,
    weight: np.ndarray,
    *,
    nats: float,
    title: str,
) -> Figure:
    """The log ratio of true to mismatched pairs in bins of the score, against the one that the score predicts.

    A bin without true or without mismatched pairs has no log ratio; it is left out, and the figure says so.

    Args:
        score, predicted: (B,) mean of s - c, and log mean of exp(s - c), of the bin's mismatched pairs.
        empirical, error: (B,) log ratio and its standard error; infinite or NaN in an empty bin.
        weight: (B,) share of the true pairs.
        nats: mean over true pairs of |empirical - predicted|.

    Raises:
        ValueError: for unequal arrays, or where no bin is left.
    """
    bins = np.stack(_columns(score=score, predicted=predicted, empirical=empirical, error=error, weight=weight))
    kept = np.isfinite(bins).all(0)
    if not kept.any():
        raise ValueError(f"expected a bin with true and mismatched pairs, got {len(kept)} bins without")
    score, predicted, empirical, error, weight = bins[:, kept]
    figure, (panel,) = start_figure(title, height=3.5)
    panel.axline((0, 0), slope=1, color="black", linestyle="--", linewidth=1)
    panel.errorbar(predicted, empirical, 2 * error, fmt="none", ecolor=look_of(0).colour, elinewidth=0.8)
    areas = 8 + 60 * weight / weight.max() if weight.max() > 0 else np.full(len(weight), 8)
    dots = panel.scatter(predicted, empirical, areas, look_of(0).colour, edgecolors="white", linewidths=0.4, zorder=3)
    (means,) = panel.plot(score, empirical, "o", color="0.4", markerfacecolor="none", markersize=3)
    low, high = equal_limits(predicted, empirical - 2 * error, empirical + 2 * error)
    panel.set(
        xlim=(low, high),
        ylim=(low, high),
        xlabel="predicted: log mean exp(s - c) (nats)",
        ylabel="log ratio found (nats)",
    )
    missing = int((~kept).sum())
    panel.set_title(f"mean distance {nats:.3f} nats" + (f"; empty bins: {missing}" if missing else ""))
    finish_figure(figure, [(dots, "bin, ±2 s.e.; area: share of true pairs"), (means, "the same at its mean of s - c")])
    return figure


@house_style()
def log_norms(
    images: np.ndarray,
    image_band: np.ndarray | float,
    texts: np.ndarray,
    text_band: np.ndarray | float,
    *,
    testable: tuple[bool, bool],
    title: str,
) -> Figure:
    """How log mean exp(s - c) spreads over images and over texts, beside the spread that sampling alone gives.

    Args:
        images, texts: (N,), (M,) log means, nats.
        image_band, text_band: their standard errors, (N,) and (M,), or one number for all; the band is twice as wide.
        testable: whether the means of images and of texts rest on enough draws; where not, the panel says so.

    Raises:
        ValueError: for empty or infinite arrays and for bands of another length.
    """
    figure, panels = start_figure(title, height=4.3, panels=2)
    sides = (("images", "texts", images, image_band), ("texts", "images", texts, text_band))
    for panel, (name, others, values, band), sound in zip(panels, sides, testable):
        values, band = _finite(values=values, band=np.broadcast_to(band, np.shape(values)))
        width = math.sqrt(float((band**2).mean()))
        inside = float((abs(values) <= 2 * band).mean())
        look = {"color": look_of(4).colour} if sound else {"color": "0.85", "edgecolor": "0.4", "hatch": "////"}
        span = panel.axvspan(-2 * width, 2 * width, color="0.9", linewidth=0, zorder=0)
        line = panel.axvline(0, color="black", linestyle="--", linewidth=1)
        panel.hist(values, _bins(values), **look)
        panel.margins(y=0.25)
        panel.locator_params(axis="y", integer=True)
        panel.set_ylabel(name)
        panel.set_title(
            f"{inside:.0%} of {name} within ±2 s.e. (95% by chance)\n"
            f"spread {values.std():.2g} nats, by sampling alone {width:.2g}"
        )
        if not sound:
            box = {"facecolor": "white", "edgecolor": "none", "pad": 1}
            place = {"ha": "center", "va": "top", "transform": panel.transAxes}
            panel.text(0.5, 0.97, "not testable: too few draws count", bbox=box, **place)
        panel.set_xlabel(f"log mean of exp(s - c) over {others} (nats)")
    finish_figure(figure, [(span, "±2 s.e. of sampling"), (line, "normalised")])
    return figure


@house_style()
def scale_gain(
    alphas: np.ndarray, values: np.ndarray, *, best: float, truth: float | None = None, title: str
) -> Figure:
    """The Donsker-Varadhan value of alpha s over the factor alpha.

    Values far below the one at alpha = 1 run out of the frame.

    Args:
        alphas: (K,) in increasing order, above 0. values: (K,) DV(alpha s), nats.
        best: the alpha of the largest value.
        truth: the true information, nats, where it is known.

    Raises:
        ValueError: for empty, unequal or infinite arrays, and for alphas that do not increase from above 0, or do not
            reach 1 and the best.
    """
    alphas, values = _finite(alphas=alphas, values=values)
    if alphas[0] <= 0 or (np.diff(alphas) <= 0).any():
        raise ValueError(f"expected alphas above 0 in increasing order, got {alphas[:5]}")
    if not alphas[0] <= min(best, 1) <= max(best, 1) <= alphas[-1]:
        raise ValueError(f"expected alphas around 1 and {best}, got {alphas[0]} to {alphas[-1]}")
    figure, (panel,) = start_figure(title, height=3.0)
    at_one, at_best = np.interp([1, best], alphas, values)
    (curve,) = panel.plot(alphas, values, color=look_of(0).colour, marker="o" if len(alphas) == 1 else "")
    one = panel.axvline(1, color="black", linestyle="--", linewidth=1)
    (top,) = panel.plot([best], [at_best], linestyle="-.", color=look_of(1).colour, marker="D", zorder=3)
    panel.axvline(best, color=look_of(1).colour, linestyle="-.", linewidth=1)
    entries = [
        (curve, "Donsker-Varadhan value"),
        (one, "factor 1, the score as it is"),
        (top, f"best factor, {best:.2f}"),
    ]
    if truth is not None:
        entries.append((panel.axhline(truth, color="black", linestyle=":"), f"true information {truth:.2f}"))
    if alphas[-1] >= 10 * alphas[0]:
        panel.set_xscale("log")
        log_ticks(panel.xaxis)
    high = max(values.max(), at_best if truth is None else truth)
    low = max(values.min(), at_one - max(high - at_one, abs(at_one)))  # down to 0, DV of a constant, in good cases
    room = 0.06 * (high - low) or 0.5
    panel.set(ylim=(low - room, high + room), xlabel="factor on the score", ylabel="DV value (nats)")
    finish_figure(figure, entries)
    return figure


@house_style()
def spectra(curves: dict[str, np.ndarray], *, title: str) -> Figure:
    """Singular values over their rank, both on log axes.

    What is below a millionth of the largest value runs out of the frame: it is rounding error.

    Args:
        curves: name -> (K,) values of at least 0.

    Raises:
        ValueError: for no curve, an empty one, and values that are infinite, negative or all 0.
    """
    if not curves:
        raise ValueError("expected at least one curve, got none")
    drawn = {name: np.sort(_finite(**{name: values})[0])[::-1] for name, values in curves.items()}
    for name, values in drawn.items():
        if values[-1] < 0 or values[0] <= 0:
            raise ValueError(f"expected singular values of '{name}', got {values[-1]} to {values[0]}")
    figure, (panel,) = start_figure(title, height=2.8)
    entries = []
    for i, (name, values) in enumerate(drawn.items()):
        look, n = look_of(i), len(values)
        marks = sorted({round(n ** (k / 6)) - 1 for k in range(7)})  # evenly spread on the log axis
        (line,) = panel.plot(
            np.arange(1, n + 1), values, color=look.colour, linestyle=look.line, marker=look.marker, markevery=marks
        )
        entries.append((line, name))
    panel.loglog()
    panel.margins(x=0.03)
    largest = max(values[0] for values in drawn.values())
    smallest = min(values[values > 1e-6 * largest].min(initial=largest) for values in drawn.values())
    panel.set(ylim=(smallest / 1.6, largest * 1.6), xlabel="rank", ylabel="singular value")
    log_ticks(panel.xaxis)
    log_ticks(panel.yaxis)
    finish_figure(figure, entries)
    return figure


@house_style()
def information_plane(
    points: Sequence[PlanePoint],
    *,
    ceiling: float | None = None,
    truth: float | None = None,
    arrows: Sequence[tuple[int, int]] = (),
    x_label: str,
    title: str,
) -> Figure:
    """Shared against private information, one point for each checkpoint, with their intervals.

    Args:
        points: the checkpoints, in the order of the legend.
        ceiling: log N, the most that the estimate can show; where it is far above all points the legend says it alone.
        truth: the true shared information, nats, where it is known.
        arrows: (parent, fine-tuned) by index.
        x_label: what `private` is, with its unit.

    Raises:
        ValueError: for no point, and for values that are infinite or NaN.
    """
    if not points:
        raise ValueError("expected at least one point, got none")
    _finite(numbers=[number for point in points for number in point[1:] if number is not None])
    figure, (panel,) = start_figure(title, height=2.9)
    for parent, child in arrows:
        start, end = ((points[k].private, points[k].shared) for k in (parent, child))
        panel.annotate(
            "", end, start, arrowprops={"arrowstyle": "-|>", "color": "0.35", "linewidth": 0.8, "shrinkB": 4}
        )
    entries = []
    for i, point in enumerate(points):
        look = look_of(i)
        entries.append((_cross(panel, point, look), point.name))
    entries += _levels(panel, ceiling, truth)
    panel.margins(0.12)
    panel.set(xlabel=x_label, ylabel="shared, at least (nats)")
    finish_figure(figure, entries)
    return figure


@house_style()
def nuisance_bars(rows: Sequence[Bar], *, title: str) -> Figure:
    """What the checkpoints tell about each attribute: one panel for each group, one bar for each checkpoint.

    Values below 0, a probe that did worse than none, are drawn as they are.

    Raises:
        ValueError: for no bar, two bars in one place, and values that are infinite or NaN.
    """
    if not rows:
        raise ValueError("expected at least one bar, got none")
    _finite(numbers=[number for row in rows for number in row[3:] if number is not None])
    places = [(row.group, row.attribute, row.checkpoint) for row in rows]
    if twice := [place for place in places if places.count(place) > 1]:
        raise ValueError(f"expected one bar for each attribute and checkpoint, got two for {twice[0]}")
    groups = list(dict.fromkeys(row.group for row in rows))
    checkpoints = list(dict.fromkeys(row.checkpoint for row in rows))
    names = [list(dict.fromkeys(row.attribute for row in rows if row.group == group)) for group in groups]
    inches = [0.35 + len(each) * (0.14 * len(checkpoints) + 0.12) for each in names]
    figure, panels = start_figure(title, height=0.5 + sum(inches), panels=len(groups), sharex=True, heights=inches)
    entries = {}
    for panel, group, attributes in zip(panels, groups, names):
        own = [row for row in rows if row.group == group]
        entries |= _bars(panel, own, attributes, checkpoints)
        panel.set_title(group)
        panel.set_yticks(range(len(attributes)), [plain(name, 16) for name in attributes])
        panel.set_ylim(len(attributes) - 0.5, -0.5)
        panel.tick_params(axis="y", length=0)
        panel.spines["left"].set_visible(False)
        panel.axvline(0, color="black", linewidth=0.8)
    panels[-1].set_xlabel("information about the attribute (nats)")
    order = [*checkpoints, "H(attribute)", "H(attribute | other side)"]
    finish_figure(figure, [(entries[name], name) for name in order if name in entries])
    return figure


def save_figure(figure: Figure, folder: Path, name: str) -> list[Path]:
    """Write `name`.png (200 dpi) and `name`.svg; the same figure gives the same bytes.

    Returns:
        Both paths.
    """
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    paths = []
    for kind, unsaid in (("png", "Software"), ("svg", "Date")):
        path = folder / f"{name}.{kind}"
        with house_style():
            write_aside(path, lambda file, k=kind, u=unsaid: figure.savefig(file, format=k, metadata={u: None}))
        paths.append(path)
    return paths


def _columns(**arrays: np.ndarray) -> list[np.ndarray]:
    """The arrays in float64, if they are lists of one length."""
    found = [np.asarray(values, np.float64) for values in arrays.values()]
    shapes = [values.shape for values in found]
    if found[0].ndim != 1 or not found[0].size or len(set(shapes)) > 1:
        raise ValueError(f"expected {', '.join(arrays)} of one shape (n,) with n >= 1, got {shapes}")
    return found


def _finite(**arrays: np.ndarray) -> list[np.ndarray]:
    """The same, if they hold numbers only."""
    found = _columns(**arrays)
    for name, values in zip(arrays, found):
        if bad := int((~np.isfinite(values)).sum()):
            raise ValueError(f"expected finite {name}, got {bad} of {len(values)} that are infinite or NaN")
    return found


def _hexagons(panel: Axes, x: np.ndarray, y: np.ndarray) -> None:
    from matplotlib.colors import LogNorm

    low, high = equal_limits(x, y)
    cells = panel.hexbin(x, y, gridsize=(34, 14), extent=(low, high, low, high), mincnt=1, linewidths=0.2)
    cells.set_norm(LogNorm(1, max(10, cells.get_array().max())))
    panel.set(xlim=(low, high), ylim=(low, high))
    bar = panel.figure.colorbar(cells, ax=panel, label="pairs per cell", pad=0.02, aspect=25)
    bar.outline.set_visible(False)
    log_ticks(bar.ax.yaxis)


def _bins(values: np.ndarray) -> np.ndarray:
    return np.histogram_bin_edges(values, min(max(math.isqrt(len(values)), 10), 40))


def _cross(panel: Axes, point: PlanePoint, look: Look) -> object:
    """A marker with its two intervals; gives what the legend shows."""
    bars = {"color": look.colour, "linewidth": 0.8, "zorder": 2}
    if None not in (point.private_low, point.private_high):
        panel.plot([point.private_low, point.private_high], [point.shared] * 2, **bars)
    if None not in (point.shared_low, point.shared_high):
        panel.plot([point.private] * 2, [point.shared_low, point.shared_high], **bars)
    dot = {"color": look.colour, "markeredgecolor": "black", "markeredgewidth": 0.5, "markersize": 6}
    return panel.plot([point.private], [point.shared], look.marker, **dot, zorder=3)[0]


def _levels(panel: Axes, ceiling: float | None, truth: float | None) -> list[tuple[object, str]]:
    """Lines across the panel, with their legend."""
    from matplotlib.lines import Line2D

    entries = []
    if truth is not None:
        entries.append((panel.axhline(truth, color="black", linestyle=":"), f"truth {truth:.2f}"))
    if ceiling is not None:
        look = {"color": "black", "linestyle": "--", "linewidth": 1}
        low, high = panel.dataLim.intervaly
        near = ceiling <= high + max(high - low, 0.5 * high)
        line = panel.axhline(ceiling, **look) if near else Line2D([], [], **look)
        entries.append((line, f"log N = {ceiling:.2f}" + ("" if near else " (above)")))
    return entries


def _bars(panel: Axes, rows: Sequence[Bar], attributes: list[str], checkpoints: list[str]) -> dict[str, object]:
    """The bars of one group; gives name -> what the legend shows."""
    entries = {}
    thick = 0.8 / len(checkpoints)
    for row in rows:
        i = checkpoints.index(row.checkpoint)
        look, y = look_of(i), attributes.index(row.attribute) + (i + 0.5) * thick - 0.4
        (entries[row.checkpoint],) = panel.barh(
            y, row.value, 0.9 * thick, color=look.colour, hatch=look.hatch, edgecolor="white"
        )
        if None not in (row.low, row.high):
            panel.plot([row.low, row.high], [y, y], color="black", linewidth=0.9)
        marks = (("H(attribute)", row.entropy, "-"), ("H(attribute | other side)", row.floor, ":"))
        for name, at, line in marks:
            if at is not None:
                (entries[name],) = panel.plot([at, at], [y - thick / 2, y + thick / 2], color="black", linestyle=line)
    return entries
