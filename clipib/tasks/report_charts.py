"""Small charts as inline SVG: recall by class, and the confusion matrix. They take their colours from the page."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from clipib.tasks.markup import Html, tag

MOST_SERIES = 5  # as many colours and shapes as are told apart at a glance
MOST_BARS, MOST_CELLS = 30, 40  # classes
NAME_WIDTH, PLOT_WIDTH, COUNT_WIDTH, LINE = 190, 380, 60, 22  # px
TOP = 26  # px above the first bar
LETTER = 6.6  # px of a letter, on average


def recall_chart(
    names: Sequence[str],
    n: Sequence[int],
    recalls: Sequence[Sequence[float]],
    letters: Sequence[str],
    looks: Sequence[int],
) -> Html:
    """One line per class: a bar where one checkpoint is shown, a mark for each where there are several.

    Args:
        names: of K classes, in the order in which they are shown. n: (K,) images of each.
        recalls: for each of at most five checkpoints (K,) in [0, 1]. letters: what the checkpoints are called.
        looks: the mark of each, see `mark`.
    """
    width, height = NAME_WIDTH + PLOT_WIDTH + COUNT_WIDTH, TOP + LINE * len(names) + 4

    def x(recall: float) -> float:
        return round(NAME_WIDTH + PLOT_WIDTH * recall, 1)

    grid = [
        [
            tag("line", x1=x(t), x2=x(t), y1=TOP - 6, y2=height, class_="grid"),
            tag("text", f"{t:.2f}".rstrip("0").rstrip(".") or "0", x=x(t), y=TOP - 12, text_anchor="middle"),
        ]
        for t in (0, 0.25, 0.5, 0.75, 1)
    ]
    head = tag("text", "n", x=width - 4, y=TOP - 12, text_anchor="end")
    lines = []
    for k, name in enumerate(names):
        y, values = TOP + LINE * k + LINE / 2, [series[k] for series in recalls]
        told = ", ".join(f"{letter} {value:.4f}" for letter, value in zip(letters, values, strict=True))
        if len(recalls) == 1:
            marks = tag(
                "rect",
                x=x(0),
                y=y - 6,
                width=max(0.5, PLOT_WIDTH * values[0]),
                height=12,
                class_=f"s{looks[0] % MOST_SERIES} bar",
            )
        else:
            span = tag("line", x1=x(min(values)), x2=x(max(values)), y1=y, y2=y, class_="span")
            middle = (len(values) - 1) / 2  # marks of one value stand a little apart, so that none hides another
            marks = [span, [mark(looks[i], x(value), y + 3 * (i - middle)) for i, value in enumerate(values)]]
        label = tag("text", _short(name, NAME_WIDTH - 12), x=NAME_WIDTH - 10, y=y + 4, text_anchor="end")
        count = tag("text", f"{n[k]:,}", x=width - 4, y=y + 4, text_anchor="end", class_="quiet")
        lines.append(tag("g", tag("title", f"{name}: {told}, n = {n[k]:,}"), label, marks, count))
    return _svg(width, height, f"Recall of {len(names)} classes", grid, head, lines)


def mark(i: int, x: float, y: float) -> Html:
    """The shape of the i-th checkpoint, which differs from the others also without colour."""
    i %= MOST_SERIES
    common = {"class_": f"s{i} mark"}
    if i == 0:
        return tag("circle", cx=x, cy=y, r=5, **common)
    shapes = {
        1: f"M{x - 6} {y}L{x} {y - 6}L{x + 6} {y}L{x} {y + 6}Z",
        2: f"M{x - 4.5} {y - 4.5}h9v9h-9Z",
        3: f"M{x - 5.5} {y + 4.5}L{x} {y - 5.5}L{x + 5.5} {y + 4.5}Z",
        4: f"M{x - 5.5} {y - 4.5}L{x} {y + 5.5}L{x + 5.5} {y - 4.5}Z",
    }
    return tag("path", d=shapes[i], **common)


def confusion_chart(names: Sequence[str], confusion: np.ndarray) -> Html:
    """The confusion matrix of up to 40 classes: rows are true classes, the ink of a cell is its share of the row.

    Args:
        names: of K classes. confusion: (K, K) counts.
    """
    k = len(names)
    cell = 30 if k <= 12 else 22 if k <= 20 else 16
    left = top = 24 + min(130, LETTER * max(map(len, names)))
    shares = confusion / np.maximum(confusion.sum(axis=1, keepdims=True), 1)
    cells, counts = [], []
    for i, j in zip(*np.nonzero(confusion), strict=True):
        x, y, share = left + cell * j, top + cell * i, shares[i, j]
        told = f"{names[i]} taken for {names[j]}: {confusion[i, j]:,} of {confusion[i].sum():,}"
        ink = f"{0.06 + 0.94 * share:.2f}".rstrip("0")
        class_ = "hit" if i == j else "miss"
        shape = tag(
            "rect", tag("title", told), x=x, y=y, width=cell - 1, height=cell - 1, class_=class_, fill_opacity=ink
        )
        cells.append(shape)
        if cell == 30:
            ink_text = "on" if share > 0.55 else None
            text = tag("text", f"{confusion[i, j]}", x=x + 14.5, y=y + 18.5, text_anchor="middle", class_=ink_text)
            counts.append(text)
    rows = [
        tag("text", _short(name, left - 10), x=left - 6, y=top + cell * i + cell / 2 + 4, text_anchor="end")
        for i, name in enumerate(names)
    ]
    short = max(map(len, names)) <= 2
    columns = []
    for j, name in enumerate(names):
        x, y = left + cell * (j + 0.5), top - 6
        place = {"x": x, "y": y, "text_anchor": "middle"}
        turned = {"transform": f"translate({x + 4:g} {y:g}) rotate(-90)"}
        columns.append(tag("text", _short(name, top - 10), **(place if short else turned)))
    frame = tag("rect", x=left - 1, y=top - 1, width=cell * k + 1, height=cell * k + 1, class_="frame")
    size = left + cell * k + 2
    told = f"Confusion matrix of {k} classes; the most frequent mistakes stand in the table"
    return _svg(size, size, told, frame, cells, counts, rows, columns)


def _svg(width: float, height: float, told: str, *content: object) -> Html:
    """A chart in a box of its own that scrolls where the page is narrower."""
    drawn = tag(
        "svg",
        content,
        viewBox=f"0 0 {round(width)} {round(height)}",
        width=round(width),
        height=round(height),
        role="img",
        aria_label=told,
    )
    return tag("div", drawn, class_="scroll")


def _short(text: str, width: float) -> str:
    """The beginning of a name that is too long."""
    letters = int(width / LETTER)
    return text if len(text) <= letters else text[: letters - 1] + "…"
