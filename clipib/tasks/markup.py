"""HTML as plain function calls: every text is escaped unless it is markup already."""

from __future__ import annotations

import html
import re
from collections.abc import Iterable, Sequence

VOID = ("meta", "img", "br", "hr", "link", "wbr")  # elements that have no end


class Html(str):
    """Markup, as opposed to text that is to be shown as it is."""


def tag(name: str, /, *content: object, **attributes: object) -> Html:
    """One element.

    Args:
        content: text, which is escaped, markup, and iterables of both; None is left out.
        attributes: `class_` stands for class, `_` for `-`; those that are None or False are left out.

    Example:
        >>> tag("p", "a < b ", tag("b", "c"), class_="note")
        '<p class="note">a &lt; b <b>c</b></p>'
    """
    shown = "".join(
        f' {key.rstrip("_").replace("_", "-")}="{html.escape(str(value))}"'
        for key, value in attributes.items()
        if value is not None and value is not False
    )
    if name in VOID:
        return Html(f"<{name}{shown}>")
    return Html(f"<{name}{shown}>{join(content)}</{name}>")


def join(content: Iterable[object]) -> Html:
    """Pieces of content behind each other, text escaped.

    Example:
        >>> join(["1 < 2", [Html("<br>"), None]])
        '1 &lt; 2<br>'
    """
    parts = []
    for piece in content:
        if piece is None:
            continue
        if isinstance(piece, Html):
            parts.append(piece)
        elif isinstance(piece, Iterable) and not isinstance(piece, str):
            parts.append(join(piece))
        else:
            parts.append(html.escape(str(piece)))
    return Html("".join(parts))


def breakable(text: str) -> Html:
    """Text whose lines may end behind each slash, as those of paths do.

    Example:
        >>> breakable("a/b")
        'a/<wbr>b'
    """
    return join([part, tag("wbr")] if part.endswith("/") else part for part in re.split(r"(?<=/)", text))


def table(header: Sequence[object], rows: Iterable[Sequence[object]], *, caption: str = "", left: int = 1) -> Html:
    """A table in a box of its own that scrolls where the page is too narrow.

    Args:
        caption: what the table shows, above it.
        left: that many columns hold names; the others hold numbers and stand at the right.
    """

    def kind(i: int) -> str | None:
        return None if i < left else "num"

    head = tag("tr", (tag("th", cell, scope="col", class_=kind(i)) for i, cell in enumerate(header)))
    body = (
        tag(
            "tr",
            (tag("th", cell, scope="row") if i == 0 else tag("td", cell, class_=kind(i)) for i, cell in enumerate(row)),
        )
        for row in rows
    )
    inside = tag("table", tag("thead", head), tag("tbody", body))
    box = tag("div", inside, class_="scroll", tabindex="0", role="region", aria_label=caption or "table")
    # Not a caption element, which would scroll with the table.
    return join([tag("p", caption, class_="caption") if caption else None, box])


def details(summary: object, *content: object, open_: bool = False) -> Html:
    """What is shown on demand."""
    return tag("details", tag("summary", summary), content, open="" if open_ else None)
