"""A contact sheet: sections of titled blocks of small pictures."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import NamedTuple

from PIL import Image, ImageDraw

SIDE, GAP, LINE = 96, 6, 14  # px of a picture, between pictures, of a line of text
WIDTH = 1284  # px of the sheet: four blocks of three
LETTER = 6.2  # px of a letter, on average
MAX_HEIGHT = 60_000  # px; JPEG ends at 65,535


class Tile(NamedTuple):
    """A picture that is opened when it is drawn, and the lines of text below it."""

    open: Callable[[], Image.Image]
    text: str


def draw_sheet(sections: Iterable[tuple[str, list[list[Tile]]]], *, side: int = SIDE) -> Image.Image:
    """Draw titled sections of blocks, pictures `side` px wide; the tiles of one block stand side by side.

    Where only the first tile of a block has text, that runs below all of them. Blocks of a section have the width of
    its widest; what would make the sheet higher than 60,000 px is left out, and the last line says so.
    """
    bands, height = [], GAP
    for title, blocks in sections:
        if height > MAX_HEIGHT:
            bands.append(_band("more is left out", [], side))
            break
        room = (MAX_HEIGHT - height) // (side + 2 * LINE + GAP) + 1
        bands.append(_band(title, blocks, side, rows=room))
        height += bands[-1].height
    sheet = Image.new("RGB", (WIDTH, sum(band.height for band in bands) + GAP), "white")
    top = GAP
    for band in bands:
        sheet.paste(band, (0, top))
        top += band.height
    return sheet


def _band(title: str, blocks: list[list[Tile]], side: int, rows: int = 10_000) -> Image.Image:
    """One section: its title, then its blocks in rows."""
    width = max((len(block) for block in blocks), default=1) * (side + GAP) + 2 * GAP
    across = max(1, (WIDTH - GAP) // width)
    blocks = blocks[: rows * across]
    lines = max((tile.text.count("\n") + 1 for block in blocks for tile in block), default=1)
    step = side + lines * LINE + GAP
    band = Image.new("RGB", (WIDTH, 2 * LINE + -(-len(blocks) // across) * step), "white")
    draw = ImageDraw.Draw(band)
    draw.text((GAP, LINE // 2), _latin(title), fill="black")
    for place, block in enumerate(blocks):
        left, top = GAP + place % across * width, 2 * LINE + place // across * step
        shared = not any(tile.text for tile in block[1:])
        letters = int((width - 2 * GAP if shared else side) / LETTER)
        for n, tile in enumerate(block):
            x, small = left + n * (side + GAP), fit(tile.open(), side)
            band.paste(small, (x + (side - small.width) // 2, top + (side - small.height) // 2))
            for k, line in enumerate(tile.text.split("\n")):
                draw.text((x, top + side + k * LINE), _latin(_short(line, letters)), fill="black")
    return band


def fit(picture: Image.Image, side: int) -> Image.Image:
    """The picture with `side` px as its longer side; small pixel art keeps its pixels."""
    scale = side / max(picture.size)
    size = tuple(max(1, round(length * scale)) for length in picture.size)
    return picture.resize(size, Image.Resampling.NEAREST if scale > 2 else Image.Resampling.BICUBIC)


def _short(text: str, letters: int) -> str:
    """The end of a path or the beginning of other text, where it is too long."""
    text = " ".join(text.split())
    if len(text) <= letters:
        return text
    return ".." + text[-(letters - 2) :] if "/" in text else text[: letters - 2] + ".."


def _latin(text: str) -> str:
    """Pillow's built-in letters end at Latin-1."""
    return text.encode("latin-1", "replace").decode("latin-1")
