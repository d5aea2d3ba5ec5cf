"""Pictures that differ in their encoding alone: a perceptual hash proposes pairs, a small copy confirms them."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from PIL import Image

SIDE, BITS, SMALL = 32, 64, 16  # px of the hashed picture, bits of the hash, px of the small copy
MAX_DISTANCE, MIN_CORRELATION = 6, 0.95
MAX_PAIRS = 100_000  # a set with more pairs is made of pictures too simple for this
BLOCK, CHUNK = 256, 16_384  # queries and candidate pairs at once

# The lowest frequencies but the constant, from low to high.
_ORDER = sorted(((u, v) for u in range(SIDE) for v in range(SIDE) if u + v), key=lambda p: (p[0] + p[1], p[0]))[:BITS]
_ROWS, _COLUMNS = (list(axis) for axis in zip(*_ORDER, strict=True))


class Fingerprint(NamedTuple):
    """hash: (8,) uint8, 64 bits. small: (768,) uint8, the picture in 16 x 16 pixels of RGB."""

    hash: np.ndarray
    small: np.ndarray


class Lookalikes(NamedTuple):
    """first < second: (P,) indices of the pairs, distance: (P,) differing bits, the nearest first.

    complete: False when the search was given up after MAX_PAIRS pairs.
    """

    first: np.ndarray
    second: np.ndarray
    distance: np.ndarray
    complete: bool


def fingerprint(picture: Image.Image) -> Fingerprint:
    """The perceptual hash of an RGB picture and its small copy.

    The picture is shrunk to 32 x 32 grey pixels; of its cosine transform the 64 lowest frequencies are kept, the
    constant left out, and bit i says whether coefficient i is above their median.

    Reference:
        Zauner, Implementation and benchmarking of perceptual image hash functions, 2010, section 3.2.1 (which takes
        a square of frequencies instead).
    """
    from scipy.fft import dctn

    grey = picture.convert("L").resize((SIDE, SIDE), Image.Resampling.LANCZOS)
    low = dctn(np.asarray(grey, dtype=np.float64), norm="ortho")[_ROWS, _COLUMNS]
    small = picture.resize((SMALL, SMALL), Image.Resampling.BOX)
    return Fingerprint(np.packbits(low > np.median(low)), np.asarray(small, dtype=np.uint8).ravel())


def find_lookalikes(hashes: np.ndarray, smalls: np.ndarray) -> Lookalikes:
    """Pairs whose hashes differ in at most 6 of 64 bits and whose small copies correlate by 0.95 or more.

    What the two bounds do on the 2,020 photographs of a Caltech-101 sample: every photograph is found again after
    JPEG at quality 20 and after halving with JPEG at 75 (at most 6 bits, correlation 0.985 or more). Among the
    untouched photographs the hash alone proposes 23 pairs, 3 of which are different objects or crops; the 20 that
    the correlation leaves are all the same photograph or drawing. At 12 bits most of 84 pairs are false.
    Copies in grey, mirrored, turned or cropped by more than a hair are not found. Simple pictures look alike without
    being copies: of the 10,000 digits in MNIST's test set 3,890 pairs pass both bounds.

    Args:
        hashes: (N, 8) uint8. smalls: (N, 768) uint8.
    """
    import faiss

    index = faiss.IndexBinaryFlat(BITS)
    index.add(np.ascontiguousarray(hashes))
    found: list[np.ndarray] = []
    n_found = 0
    for start in range(0, len(hashes), BLOCK):
        queries = np.ascontiguousarray(hashes[start : start + BLOCK])
        limits, distances, second = index.range_search(queries, MAX_DISTANCE + 1)
        first = start + np.repeat(np.arange(len(queries)), np.diff(limits.astype(np.int64)))
        pairs = np.stack([first, second, distances.astype(np.int64)])[:, first < second]  # (3, P)
        for at in range(0, pairs.shape[1], CHUNK):
            chunk = pairs[:, at : at + CHUNK]
            chunk = chunk[:, _correlation(smalls[chunk[0]], smalls[chunk[1]]) >= MIN_CORRELATION]
            found.append(chunk)
            n_found += chunk.shape[1]
            if n_found > MAX_PAIRS:
                return Lookalikes(*_nearest_first(found), complete=False)
    return Lookalikes(*_nearest_first(found), complete=True)


def is_blank(small: np.ndarray) -> bool:
    """Whether a picture is of one colour: no channel of its small copy varies by 2 of 255 levels or more."""
    return bool(small.reshape(-1, 3).std(axis=0).max() < 2.0)


def _correlation(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """(P,) correlation of the rows of (P, C) and (P, C)."""
    a, b = a.astype(np.float32), b.astype(np.float32)
    a -= a.mean(axis=1, keepdims=True)
    b -= b.mean(axis=1, keepdims=True)
    norms = np.linalg.norm(a, axis=1) * np.linalg.norm(b, axis=1)
    return (a * b).sum(axis=1) / np.maximum(norms, 1e-6)


def _nearest_first(found: list[np.ndarray]) -> np.ndarray:
    """(3, P) first, second, distance, sorted by distance, then by place."""
    pairs = np.concatenate(found, axis=1) if found else np.empty((3, 0), dtype=np.int64)
    return pairs[:, np.lexsort(pairs)]
