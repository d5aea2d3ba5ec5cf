"""Pictures and sentences of digitworld scenes, and the exact way back from either.

A handwritten digit of 8 x 8 cells is enlarged to 15 x 15 pixels, so that every second pixel is one of its cells, and
fills one quadrant of the canvas. Pixels are whole numbers throughout: ink is counted in 64ths, and a table holds what
each colour looks like at each ink on each ground.
"""

from collections.abc import Sequence
from functools import cache, reduce
from typing import NamedTuple

import numpy as np
from scipy.spatial.distance import cdist

from clipib.data.digitworld.scene import ATTRIBUTES, FRAMES, WORDS, Scenes, load_samples, random_words

SIZE = 32
QUADRANT = SIZE // 2
GREY = 8  # row of the palette
PALETTE = np.array(
    [
        (235, 45, 45),  # red
        (240, 135, 25),  # orange
        (235, 225, 50),  # yellow
        (45, 205, 60),  # green
        (50, 215, 215),  # turquoise
        (55, 95, 240),  # blue
        (150, 60, 235),  # purple
        (245, 110, 190),  # pink
        (165, 165, 165),  # grey
    ]
)
TINTS = np.array([(16, 16, 16), (38, 16, 16), (16, 38, 16), (16, 16, 38), (38, 38, 16), (38, 16, 38)])
# Light that always falls on the four quadrants, yellow in the south and blue in the east. It says nothing by itself,
# but on an even ground a small model does not find out within minutes that it matters where an object lies.
LIGHT = np.array([(0, 0, 0), (0, 0, 56), (56, 56, 0), (56, 56, 56)])
GROUND = TINTS[:, None] + LIGHT  # (6, 4, 3)

# No 8-bit channel moves by more. Below half the smallest distance between pictures that show different things (22, the
# distance of two tints), and so small that no channel of PALETTE or GROUND ever reaches 0 or 255.
NOISE_BOUND = 8

INK = 64  # full ink; a cell's 0 to 16 times four, so that the pixels between cells are whole numbers too


class Meaning(NamedTuple):
    """What a caption says: an index into VALUES for each attribute, or None where it is not mentioned."""

    digit: int | None
    color: int | None
    place: int | None


class Derivation(NamedTuple):
    """The one way in which a text arises."""

    meaning: Meaning
    frame: int
    synonyms: tuple[int | None, int | None, int | None]  # in the order of ATTRIBUTES


class Shown(NamedTuple):
    """What a picture shows: (digit, color or None where grey, place) of each object by place, and the tint."""

    objects: tuple[tuple[int, int | None, int], ...]
    tint: int


def draw_pictures(scenes: Scenes) -> np.ndarray:
    """(N, 32, 32, 3) uint8, with noise of at most NOISE_BOUND in every channel."""
    pictures = np.empty((len(scenes.tint), SIZE, SIZE, 3), np.uint8)
    for start in range(0, len(pictures), 256):  # what lies in between stays in the processor's cache: twice as fast
        block = Scenes(*(array[start : start + 256] for array in scenes))
        pictures[start : start + 256] = draw_clean_pictures(block) + draw_noise(block.noise_key)
    return pictures


def draw_noise(noise_key: np.ndarray) -> np.ndarray:
    """(N, 32, 32, 3) uint8, -NOISE_BOUND to NOISE_BOUND modulo 256; a sum with a picture stays in a byte."""
    words = random_words(noise_key, SIZE * SIZE * 3 // 8)
    noise = words.astype("<u8", copy=False).view(np.uint8).reshape(-1, SIZE, SIZE, 3).astype(np.uint16)
    return ((noise * (2 * NOISE_BOUND + 1)) >> 8).astype(np.uint8) - np.uint8(NOISE_BOUND)


def draw_clean_pictures(scenes: Scenes) -> np.ndarray:
    """(N, 32, 32, 3) uint8 without noise."""
    count, objects = scenes.digit.shape
    ink = np.zeros((count, 2, 2, QUADRANT, QUADRANT), np.uint8)
    look = np.full((count, 2, 2), GREY)
    rows = np.arange(count)
    for k in range(objects):
        at = rows, scenes.place[:, k] // 2, scenes.place[:, k] % 2
        ink[at] = ink_of_samples()[scenes.sample[:, k]]
        look[at] = np.where(scenes.grey[:, k], GREY, scenes.color[:, k])
    place = np.arange(4).reshape(2, 2)
    row = ((look * len(TINTS) + scenes.tint[:, None, None]) * 4 + place) * (INK + 1)  # (N, 2, 2), in the paint table
    pixels = paint().reshape(-1, 3)[row[..., None, None] + ink]  # (N, 2, 2, 16, 16, 3)
    return pixels.transpose(0, 1, 3, 2, 4, 5).reshape(count, SIZE, SIZE, 3)


@cache
def ink_of_samples() -> np.ndarray:
    """(1797, 16, 16) uint8 from 0 to INK: bilinear, cell (i, j) at pixel (2 i, 2 j), the last row and column empty."""
    cells = load_samples()[0].astype(np.uint8)
    wide = np.zeros((len(cells), QUADRANT, QUADRANT), np.uint8)
    wide[:, ::2, ::2] = 4 * cells
    wide[:, 1:-1:2, ::2] = 2 * (cells[:, :-1] + cells[:, 1:])
    wide[:, :, 1:-1:2] = (wide[:, :, :-2:2] + wide[:, :, 2::2]) // 2
    return wide


@cache
def paint() -> np.ndarray:
    """(9, 6, 4, 65, 3) uint8: a colour on a tint at a place at an ink from 0 to INK, rounded to whole numbers."""
    ink = np.arange(INK + 1)[:, None]
    ground = GROUND[:, :, None]  # (6, 4, 1, 3)
    return ((ground * (INK - ink) + PALETTE[:, None, None, None] * ink + INK // 2) // INK).astype(np.uint8)


def read_scene(picture: np.ndarray) -> Shown:
    """What a (32, 32, 3) uint8 picture shows, exactly, whatever the noise within NOISE_BOUND."""
    return read_scenes(picture[None])[0]


def read_scenes(pictures: np.ndarray) -> list[Shown]:
    """read_scene of each of (N, 32, 32, 3) pictures.

    Three nearest neighbours in the largest difference of any channel: the tint from the margin, which no ink ever
    touches; a quadrant's colour, of which all 64 cells must be a shade; and then its digit from the ink of the cells.
    """
    if pictures.ndim != 4 or pictures.shape[1:] != (SIZE, SIZE, 3):
        raise ValueError(f"pictures have shape (N, {SIZE}, {SIZE}, 3), not {pictures.shape}")
    corner = pictures[:, -1, -1].astype(np.int16)  # (N, 3)
    tints = np.abs(corner[:, None] - GROUND[:, -1]).max(-1).argmin(1)  # (N,)
    cells = pictures[:, ::2, ::2].reshape(-1, 2, 8, 2, 8, 3).transpose(0, 1, 3, 2, 4, 5).reshape(-1, 4, 64, 3)
    cells = cells.astype(np.int16)
    scene, place = (np.abs(cells - GROUND[tints][:, :, None]).max((2, 3)) > NOISE_BOUND).nonzero()  # drawn on, (Q,)
    colors, digits = _read_quadrants(cells[scene, place], tints[scene], place)
    objects = [[] for _ in pictures]
    for k, digit, color, where in zip(*(x.tolist() for x in (scene, digits, colors, place)), strict=True):
        objects[k].append((digit, None if color == GREY else color, where))
    return [Shown(tuple(found), tint) for found, tint in zip(objects, tints.tolist(), strict=True)]


def _read_quadrants(cells: np.ndarray, tints: np.ndarray, places: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(Q, 64, 3) int16 cells on (Q,) tints at (Q,) places -> the colour (Q,), GREY included, and the digit (Q,)."""
    samples, digit_of_sample = load_samples()
    shades = paint()[..., ::4, :].astype(np.int16).transpose(4, 3, 0, 1, 2)  # (3, 17, 9, 6, 4), only whole cells
    colors, digits = [], []
    for rows in np.array_split(np.arange(len(cells)), len(cells) // 64 + 1):  # bounds the memory
        cell, ground = cells[rows], GROUND[tints[rows], places[rows]]  # (B, 64, 3), (B, 3)
        shade = shades[..., tints[rows], places[rows]]  # (3, 17, 9, B)
        # One channel at a time and inks in front: numpy is slow where it reduces over short last axes.
        apart = (np.abs(x - y[..., None]) for x, y in zip(np.moveaxis(cell, 2, 0), shade, strict=True))
        color = reduce(np.maximum, apart).min(0).max(-1).argmin(0)  # from (17, 9, B, 64)
        contrast = PALETTE[color] - ground  # (B, 3)
        channel = np.arange(len(rows)), np.abs(contrast).argmax(1)  # the one that tells most about the ink
        ink = 16 * (cell[channel[0], :, channel[1]] - ground[channel][:, None]) / contrast[channel][:, None]  # (B, 64)
        colors.append(color)
        digits.append(digit_of_sample[cdist(ink, samples.reshape(-1, 64), "chebyshev").argmin(1)])
    return np.concatenate(colors), np.concatenate(digits)


# Each attribute is left out (0) or one of its words (1 + value * synonyms + synonym). With the frame that makes a
# text's number, so the grammar is a table and writing and parsing are its two directions.
GRAMMAR_SHAPE = (len(FRAMES), *(1 + len(WORDS[name]) * len(WORDS[name][0]) for name in ATTRIBUTES))


@cache
def grammar() -> list[str]:
    """Every text that can arise, in the order of GRAMMAR_SHAPE."""
    digits, colors, places = ([None, *(w for words in WORDS[name] for w in words)] for name in ATTRIBUTES)
    return [
        frame.format(
            thing=" ".join(filter(None, ("the", color, digit or "thing"))),
            where=f" in the {place}" if place else "",
        )
        for frame in FRAMES
        for digit in digits
        for color in colors
        for place in places
    ]


@cache
def _numbers_of_texts() -> dict[str, int]:
    return {text: number for number, text in enumerate(grammar())}


def write_captions(scenes: Scenes) -> list[str]:
    """The N captions of N scenes."""
    synonyms = np.array([len(WORDS[name][0]) for name in ATTRIBUTES])
    words = np.where(scenes.mention, 1 + scenes.stated * synonyms + scenes.synonym, 0)  # (N, 3)
    texts = grammar()
    return [texts[number] for number in np.ravel_multi_index((scenes.frame, *words.T), GRAMMAR_SHAPE)]


def derive_captions(captions: Sequence[str]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Frame (M,), value (M, 3) and synonym (M, 3) of each text; value and synonym are -1 where nothing is mentioned.

    Raises:
        ValueError: a text is not in the grammar; the message names it.
    """
    numbers = _numbers_of_texts()
    strange = next((text for text in captions if text not in numbers), None)
    if strange is not None:
        raise ValueError(f"not a digitworld caption: {strange!r}")
    frame, *words = np.unravel_index([numbers[text] for text in captions], GRAMMAR_SHAPE)
    words = np.stack(words, 1) - 1  # (M, 3)
    synonyms = np.array([len(WORDS[name][0]) for name in ATTRIBUTES])
    return frame, np.where(words < 0, -1, words // synonyms), np.where(words < 0, -1, words % synonyms)


def derive_caption(text: str) -> Derivation:
    """How a text arises; ValueError outside the grammar."""
    (frame,), (value,), (synonym,) = (x.tolist() for x in derive_captions([text]))
    value, synonym = ((None if index < 0 else index for index in row) for row in (value, synonym))
    return Derivation(Meaning(*value), frame, tuple(synonym))


def parse_caption(text: str) -> Meaning:
    """What a text says; ValueError outside the grammar."""
    return derive_caption(text).meaning
