"""The distribution of digitworld: every probability is a constant here, and every scene follows from seed and index.

A scene has one or two objects. An object is a digit in a colour at a place, washed out to grey now and then. A caption
is about one object: it mentions some attributes, states some of those wrongly, and picks a sentence frame and synonyms
that depend only on which attributes are mentioned.
"""

import zlib
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import NamedTuple

import numpy as np
from scipy.special import ndtri

ATTRIBUTES = ("digit", "color", "place")
SPLITS = ("train", "val", "test")

# Every value's synonyms, the canonical word first. All values of one attribute have equally many, with the same
# probabilities (SYNONYM_PRIOR), so that the choice among them says nothing about the picture.
WORDS = {
    "digit": (
        ("zero", "0"),
        ("one", "1"),
        ("two", "2"),
        ("three", "3"),
        ("four", "4"),
        ("five", "5"),
        ("six", "6"),
        ("seven", "7"),
        ("eight", "8"),
        ("nine", "9"),
    ),
    "color": (
        ("red", "crimson", "scarlet"),
        ("orange", "amber", "tangerine"),
        ("yellow", "golden", "lemon"),
        ("green", "emerald", "jade"),
        ("turquoise", "teal", "aqua"),
        ("blue", "azure", "cobalt"),
        ("purple", "violet", "plum"),
        ("pink", "rose", "magenta"),
    ),
    "place": (("northwest", "nw"), ("northeast", "ne"), ("southwest", "sw"), ("southeast", "se")),
}
VALUES = {attribute: tuple(words[0] for words in WORDS[attribute]) for attribute in ATTRIBUTES}

# {thing} becomes "the red seven", "the red thing", "the seven" or "the thing"; {where} " in the northwest" or nothing.
FRAMES = (
    "{thing}{where}",
    "a photo of {thing}{where}",
    "here is {thing}{where}",
    "this is {thing}{where}",
    "a picture of {thing}{where}",
    "there is {thing}{where}",
    "we see {thing}{where}",
    "look at {thing}{where}",
    "a scene with {thing}{where}",
    "somebody drew {thing}{where}",
    "you can see {thing}{where}",
    "this picture shows {thing}{where}",
)
# Zero-shot prompts that mention one attribute: captions of the grammar, with the canonical word.
TEMPLATES = {
    "digit": ("a photo of the {c}", "here is the {c}", "this is the {c}", "a picture of the {c}"),
    "color": ("a photo of the {c} thing", "here is the {c} thing", "this is the {c} thing"),
    "place": ("a photo of the thing in the {c}", "here is the thing in the {c}", "this is the thing in the {c}"),
}

PRIOR = {
    "digit": np.array([0.14, 0.12, 0.12, 0.11, 0.10, 0.10, 0.09, 0.08, 0.07, 0.07]),
    "color": np.array([0.20, 0.17, 0.15, 0.13, 0.11, 0.10, 0.08, 0.06]),
    "place": np.array([0.31, 0.27, 0.23, 0.19]),
}
GREY_PROBABILITY = 0.15  # an object is washed out to grey, whatever its colour
TINT_PRIOR = np.array([0.25, 0.21, 0.17, 0.15, 0.12, 0.10])  # background

MENTION_PROBABILITY = {"digit": 0.93, "color": 0.70, "place": 0.65}
WRONG_PROBABILITY = {"digit": 0.03, "color": 0.04, "place": 0.05}  # of a mentioned value; spread evenly over the others
SYNONYM_PRIOR = {
    "digit": np.array([0.85, 0.15]),
    "color": np.array([0.60, 0.25, 0.15]),
    "place": np.array([0.70, 0.30]),
}
# (4, F) by the number of attributes mentioned: the more there is to say, the longer the frame tends to be.
FRAME_PRIOR = 1.0 / (1.0 + 0.5 * np.abs(np.arange(len(FRAMES)) - 3.0 * np.arange(4)[:, None]))
FRAME_PRIOR /= FRAME_PRIOR.sum(1, keepdims=True)

SPLIT_ENDS = (0.7, 0.8, 1.0)  # contiguous parts of the 1797 handwritten digits: train, val, test

SENSOR_WIDTH = 16
SENSOR_NOISE = 2.0  # standard deviation of each of the numbers

GOLDEN = np.uint64(0x9E3779B97F4A7C15)
DRAWS = 32  # random numbers set aside for each scene; more than it uses, so that one more moves no other


class Scenes(NamedTuple):
    """N scenes of O objects, objects in the order of their place, each scene with what its caption says."""

    digit: np.ndarray  # (N, O) int8
    color: np.ndarray  # (N, O) int8, the true colour also where the object is grey
    place: np.ndarray  # (N, O) int8, increasing along each row
    grey: np.ndarray  # (N, O) bool
    sample: np.ndarray  # (N, O) int32, index into the 1797 handwritten digits
    tint: np.ndarray  # (N,) int8, background
    noise_key: np.ndarray  # (N,) uint64, from which the noise of the picture and of the sensor follow
    described: np.ndarray  # (N,) int8, the object that the caption is about
    mention: np.ndarray  # (N, 3) bool, attributes in the order of ATTRIBUTES
    stated: np.ndarray  # (N, 3) int8, -1 where not mentioned
    frame: np.ndarray  # (N,) int8
    synonym: np.ndarray  # (N, 3) int8, -1 where not mentioned


def random_words(keys: np.ndarray, count: int) -> np.ndarray:
    """(N,) uint64 keys -> (N, count) uint64: SplitMix64 (Steele, Lea, Flood 2014), counted up from every key.

    Integer arithmetic only, so the numbers are the same on every platform and with every numpy.
    """
    z = np.asarray(keys, np.uint64)[:, None] + np.arange(1, count + 1, dtype=np.uint64) * GOLDEN
    z ^= z >> np.uint64(30)
    z *= np.uint64(0xBF58476D1CE4E5B9)
    z ^= z >> np.uint64(27)
    z *= np.uint64(0x94D049BB133111EB)
    z ^= z >> np.uint64(31)
    return z


def uniforms(words: np.ndarray) -> np.ndarray:
    """Random words as float64 strictly between 0 and 1, of the same shape."""
    return ((words >> np.uint64(12)).astype(np.float64) + 0.5) * 2.0**-52


def stream_key(name: str, seed: int) -> np.uint64:
    """Where the random numbers of one purpose start: the same name and seed give the same key everywhere."""
    start = np.array([zlib.crc32(name.encode()) << 32 ^ seed % 2**64], np.uint64)
    return random_words(random_words(start, 1)[0], 1)[0, 0]


def draw_from(probabilities: np.ndarray, uniform: np.ndarray) -> np.ndarray:
    """Categorical draws: (..., K) probabilities and (...) uniforms -> (...) int8."""
    edges = np.cumsum(probabilities[..., :-1], axis=-1)
    return (np.asarray(uniform)[..., None] >= edges).sum(-1).astype(np.int8)


@cache
def load_samples() -> tuple[np.ndarray, np.ndarray]:
    """The handwritten digits of scikit-learn: ink (1797, 8, 8) uint8 from 0 to 16, and their digits (1797,) int8."""
    table = Path(find_spec("sklearn").origin).parent / "datasets" / "data" / "digits.csv.gz"
    if table.exists():  # importing the package takes longer than all else of a warm run
        digits = np.loadtxt(table, delimiter=",", dtype=np.int64)
        return digits[:, :-1].reshape(-1, 8, 8).astype(np.uint8), digits[:, -1].astype(np.int8)
    from sklearn.datasets import load_digits

    digits = load_digits()
    return digits.images.astype(np.uint8), digits.target.astype(np.int8)


@cache
def split_samples(split: str) -> tuple[np.ndarray, ...]:
    """For each of the ten digits, the samples (n_digit,) int32 that belong to a split."""
    if split not in SPLITS:
        raise ValueError(f"split is one of {', '.join(SPLITS)}, not {split!r}")
    labels = load_samples()[1]
    ends = [0, *(round(end * len(labels)) for end in SPLIT_ENDS)]
    part = range(*ends[SPLITS.index(split) :][:2])
    return tuple(np.flatnonzero(labels[part] == digit).astype(np.int32) + part.start for digit in range(10))


def second_place_prior() -> np.ndarray:
    """(4, 4): the place drawn second given the one drawn first, the prior renormalised over the rest."""
    prior = np.where(np.eye(len(PRIOR["place"]), dtype=bool), 0.0, PRIOR["place"])
    return prior / prior.sum(1, keepdims=True)


def sample_scenes(indices: np.ndarray, *, split: str, objects: int = 1, seed: int = 0) -> Scenes:
    """The scenes with these indices: scene i is the same whichever others are asked for, in any order and any process.

    Scene i of a split takes its numbers from position DRAWS * i of the stream keyed by (seed, split, objects).

    Args:
        indices: (N,) integers, 0 or more
        split: which of the handwritten digits may appear; the probabilities are the same in every split
        objects: 1 or 2
        seed: another seed is another draw of the whole data set
    """
    if objects not in (1, 2):
        raise ValueError(f"objects is 1 or 2, not {objects}")
    pools = split_samples(split)
    first = stream_key(f"digitworld scenes, {split}, {objects}", seed)
    words = random_words(first + np.asarray(indices).astype(np.uint64) * np.uint64(DRAWS) * GOLDEN, DRAWS)
    draws = iter(uniforms(words).T)  # each next() is one number per scene, (N,)

    digit, color = (_draw_objects(PRIOR[name], draws, objects) for name in ("digit", "color"))
    grey = _draw_objects(np.array([1 - GREY_PROBABILITY, GREY_PROBABILITY]), draws, objects).astype(bool)
    sample = _draw_samples(pools, digit, np.stack([next(draws) for _ in range(2)][:objects], 1))
    place = _draw_places(draws, objects)
    tint = draw_from(TINT_PRIOR, next(draws))
    described = (next(draws) * objects).astype(np.int8)
    noise_key = words[:, -1]

    about = np.arange(len(words)), described
    truth = np.stack([digit[about], color[about], place[about]], 1)  # (N, 3)
    mention, stated, synonym = _draw_statement(truth, draws)
    frame = draw_from(FRAME_PRIOR[mention.sum(1)], next(draws))
    return Scenes(digit, color, place, grey, sample, tint, noise_key, described, mention, stated, frame, synonym)


def sensor_map() -> np.ndarray:
    """(22, 16): what each value of each attribute adds to the sensor's mean; fixed once and for all."""
    values = sum(len(VALUES[name]) for name in ATTRIBUTES)
    key = stream_key("digitworld sensor map", 0)
    return ndtri(uniforms(random_words(np.array([key]), values * SENSOR_WIDTH))).reshape(values, SENSOR_WIDTH)


def draw_sensors(scenes: Scenes, *, seed: int = 0) -> np.ndarray:
    """The third view: (N, 16) float64, a linear map of the attributes plus Gaussian noise of deviation SENSOR_NOISE.

    It reads the first object (the one at the lowest place) and knows its true colour also where the picture is grey.
    """
    values = np.stack([scenes.digit[:, 0], scenes.color[:, 0], scenes.place[:, 0]], 1)
    offsets = np.cumsum([0, *(len(VALUES[name]) for name in ATTRIBUTES[:-1])])
    mean = sensor_map()[values + offsets].sum(1)  # (N, 16)
    keys = random_words(scenes.noise_key ^ stream_key("digitworld sensor noise", seed), 1)[:, 0]
    return mean + SENSOR_NOISE * ndtri(uniforms(random_words(keys, SENSOR_WIDTH)))


def _draw_objects(prior: np.ndarray, draws, objects: int) -> np.ndarray:
    """(N, O) int8. Always takes two numbers, so that scenes of one and of two objects have one layout."""
    return np.stack([draw_from(prior, next(draws)) for _ in range(2)][:objects], 1)


def _draw_samples(pools: tuple[np.ndarray, ...], digit: np.ndarray, uniform: np.ndarray) -> np.ndarray:
    """(N, O) int32: one of the split's samples of each digit, all equally likely."""
    counts = np.array([len(pool) for pool in pools])
    starts = np.cumsum(counts) - counts
    return np.concatenate(pools)[starts[digit] + (uniform * counts[digit]).astype(np.int64)]


def _draw_places(draws, objects: int) -> np.ndarray:
    """(N, O) int8, sorted. The digits, colours and samples are independent of the order in which places were drawn."""
    first = draw_from(PRIOR["place"], next(draws))
    second = draw_from(second_place_prior()[first], next(draws))
    return np.sort(np.stack([first, second][:objects], 1), axis=1)


def _draw_statement(truth: np.ndarray, draws) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """What a caption says of an object with attributes (N, 3): mentioned or not, the value stated, the synonym."""
    columns = []
    for name, value in zip(ATTRIBUTES, truth.T, strict=True):
        mention = next(draws) < MENTION_PROBABILITY[name]
        wrong = next(draws) < WRONG_PROBABILITY[name]
        count = len(VALUES[name])
        # The other values in a circle: adding 1 to count - 1 reaches each of them with equal probability.
        shift = np.where(wrong, 1 + (next(draws) * (count - 1)).astype(np.int64), 0)
        stated = np.where(mention, (value + shift) % count, -1)
        synonym = np.where(mention, draw_from(SYNONYM_PRIOR[name], next(draws)), -1)
        columns.append((mention, stated.astype(np.int8), synonym.astype(np.int8)))
    return tuple(np.stack(column, 1) for column in zip(*columns, strict=True))
