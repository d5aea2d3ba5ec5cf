"""Which of two captions belongs to an image, and which of two images to a caption."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np


class Answers(NamedTuple):
    """What the scores say of each of G questions, all (G,) bool.

    text: every image scores higher with its own caption. image: every caption scores higher with its own image.
    group: both. tied: two of the scores that were compared are equal.
    """

    text: np.ndarray
    image: np.ndarray
    group: np.ndarray
    tied: np.ndarray


def answer(scores: np.ndarray) -> Answers:
    """Match images and captions of each question; of equal scores the lowest index wins, as with CLIP_benchmark.

        text:  argmax_c s(i, c) = i for every image i      image:  argmax_i s(i, c) = c for every caption c = i

    So a tie counts as a hit for the first image or caption and as a miss for the second. Winoground's own script counts
    every tie as a miss; `tied` says how far the two can be apart.

    Args:
        scores: (G, I, 2) of I images, one or two, with two captions; caption i belongs to image i.

    Raises:
        ValueError: for another shape, or scores that are not numbers.

    Reference:
        Hsieh et al., 2023, SugarCrepe, arXiv 2306.14610. Thrush et al., 2022, Winoground, arXiv 2204.03162.

    Example:
        >>> answer(np.array([[[0.3, 0.2], [0.1, 0.25]]])).group
        array([ True])
    """
    if scores.ndim != 3 or scores.shape[1] not in (1, 2) or scores.shape[2] != 2:
        raise ValueError(f"expected scores (G, 1, 2) or (G, 2, 2), got {scores.shape}")
    if np.isnan(scores).any():
        raise ValueError("scores hold NaN")
    own = np.arange(scores.shape[1])
    text = (scores.argmax(axis=2) == own).all(axis=1)
    image = (scores.argmax(axis=1)[:, : len(own)] == own).all(axis=1)
    tied = (scores[..., 0] == scores[..., 1]).any(axis=1)
    if len(own) == 2:
        tied |= (scores[:, 0] == scores[:, 1]).any(axis=1)
    return Answers(text, image, text & image, tied)
