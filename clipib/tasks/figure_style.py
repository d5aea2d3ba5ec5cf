"""How every figure looks: one print column wide, the same in grey, and the same bytes for the same figure."""

from __future__ import annotations

import math
import textwrap
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.axis import Axis
    from matplotlib.figure import Figure

STYLE = Path(__file__).with_name("figures.mplstyle")
WIDTH = 3.35  # inches, 85 mm
LETTERS = 46  # that fit into this width
MARKERS = "osD^vPX*"  # with 6 colours, 24 pairs before one comes again
LINES = ("-", (0, (5, 1)), (0, (3, 1, 1, 1)), (0, (1, 1)), (0, (5, 1, 1, 1, 1, 1)))
HATCHES = ("", "////", "...", "xxxx", "----", "||||", "\\\\\\\\")


@contextmanager
def house_style() -> Iterator[None]:
    """The style of all figures, whatever the user's own settings of matplotlib are; they come back afterwards."""
    from matplotlib import style

    with style.context(STYLE, after_reset=True):
        yield


class Look(NamedTuple):
    """Of one series, in any kind of figure."""

    colour: str
    marker: str
    line: str | tuple
    hatch: str


def look_of(i: int) -> Look:
    """How the i-th series looks; two of them differ in colour and, up to the length of the list, in each other way."""
    from matplotlib import rcParams

    colours = rcParams["axes.prop_cycle"].by_key()["color"]
    return Look(colours[i % len(colours)], MARKERS[i % len(MARKERS)], LINES[i % len(LINES)], HATCHES[i % len(HATCHES)])


def start_figure(
    title: str, *, height: float, panels: int = 1, sharex: bool = False, heights: Sequence[float] | None = None
) -> tuple[Figure, list[Axes]]:
    """Panels below each other; side by side they would be too small in one column."""
    from matplotlib.figure import Figure

    figure = Figure((WIDTH, height))
    axes = figure.subplots(panels, sharex=sharex, squeeze=False, height_ratios=heights)[:, 0]
    figure.suptitle(plain(title, LETTERS))
    for panel in axes:
        panel.locator_params(axis="x", nbins=6)
    return figure, list(axes)


def finish_figure(figure: Figure, entries: Sequence[tuple[object, str]]) -> None:
    """A legend of (artist, name) under the panels, where it hides nothing; the figure grows by its height.

    The layout is settled here: solved anew at every drawing it would move things by parts of a pixel.
    """
    handles, names = zip(*((handle, plain(name, LETTERS)) for handle, name in entries))
    half = math.ceil(len(names) / 2)  # matplotlib fills the first column first
    widths = [max((len(name) for name in part), default=0) for part in (names[:half], names[half:])]
    columns = 2 if sum(widths) < 0.8 * LETTERS else 1
    lines = math.ceil(sum(name.count("\n") + 1 for name in names) / columns)
    figure.set_figheight(figure.get_figheight() + 0.16 * lines)
    figure.align_ylabels()
    figure.legend(handles, names, loc="outside lower center", ncols=columns)
    figure.draw_without_rendering()
    figure.set_layout_engine("none")


def plain(text: str, width: int) -> str:
    """A name of the user's as it is, broken into lines: no mathematics, and no entry that legends leave out."""
    lines = textwrap.fill(text.replace("_", "_ "), width).replace("_ ", "_").replace("$", r"\$")
    return f" {lines}" if lines.startswith("_") else lines


def equal_limits(*values: np.ndarray) -> tuple[float, float]:
    """One range for both axes, so that the diagonal runs from corner to corner."""
    low, high = min(map(np.min, values)), max(map(np.max, values))
    room = 0.05 * (high - low) or 0.5
    return low - room, high + room


def log_ticks(axis: Axis) -> None:
    """Written as 0.1, 1, 10, since the powers in 10^1 would be too small to read; more ticks where decades are few."""
    from matplotlib.ticker import LogLocator, NullFormatter

    low, high = axis.get_view_interval()
    axis.set_major_locator(LogLocator(subs=(1, 2, 5) if high < 200 * low else (1,)))
    axis.set_major_formatter("{x:g}")
    axis.set_minor_formatter(NullFormatter())
