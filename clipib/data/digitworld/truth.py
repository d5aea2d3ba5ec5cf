"""What is known about digitworld: pointwise mutual information, shared and private information, all in nats.

Three finite alphabets carry everything, each flattened in the order digit, colour, place:

    latent   10 x 8 x 4 = 320   the attributes of an object
    shown    10 x 9 x 4 = 360   what the picture tells of it; the ninth colour is grey
    meaning  11 x 9 x 5 = 495   what a caption says; the first of each is "not mentioned"

The sample, the tint and the noise of a picture are independent of its caption given what is shown, and the frame and
the synonyms of a text are independent of its picture given which attributes it mentions. So all of them cancel, and

    PMI(picture, text) = log p(meaning | shown) - log p(meaning).
"""

from collections.abc import Sequence
from functools import cache, reduce
from typing import NamedTuple

import numpy as np
from scipy.spatial.distance import cdist
from scipy.special import entr, logsumexp, rel_entr

from clipib.data.digitworld.render import GREY, derive_captions
from clipib.data.digitworld.scene import (
    ATTRIBUTES,
    FRAME_PRIOR,
    GREY_PROBABILITY,
    MENTION_PROBABILITY,
    PRIOR,
    SENSOR_NOISE,
    SENSOR_WIDTH,
    SYNONYM_PRIOR,
    TINT_PRIOR,
    WRONG_PROBABILITY,
    Scenes,
    draw_sensors,
    sample_scenes,
    second_place_prior,
    sensor_map,
    split_samples,
)


class Entropies(NamedTuple):
    """Entropies in nats of what the views have to do with each other."""

    attributes: float  # the true digits, colours and places of all objects
    shown: float  # what the picture tells of them, which objects are grey included
    meaning: float  # what the caption says
    attributes_given_caption: float
    shown_given_caption: float
    meaning_given_image: float


class NuisanceEntropies(NamedTuple):
    """Entropies in nats of what belongs to one view alone; the noise of pixels is not counted."""

    tint: float
    sample: float  # which sample of its digit, all objects together
    frame: float  # given which attributes are mentioned
    synonym: float  # given which attributes are mentioned

    @property
    def image(self) -> float:
        return self.tint + self.sample

    @property
    def text(self) -> float:
        return self.frame + self.synonym


class Estimate(NamedTuple):
    """A Monte Carlo mean in nats, and its standard error."""

    value: float
    standard_error: float


def true_pmi(scenes: Scenes, captions: Sequence[str]) -> np.ndarray:
    """PMI of every picture with every caption: log p(caption | what is shown) - log p(caption), exactly.

    A grey object may have any colour, so p sums over them. Of two objects the caption is about either: p is the mean.
    E over captions of exp(PMI) is 1 for every picture.

    Args:
        scenes: N scenes
        captions: M texts of the grammar

    Returns:
        (N, M) float64, in nats.

    Raises:
        ValueError: a text is not in the grammar; the message names it.

    Example:
        >>> from clipib.data.digitworld.scene import sample_scenes
        >>> scene = sample_scenes([0], split="test")
        >>> float(true_pmi(scene, ["here is the thing"]).round(12)[0, 0])  # says nothing, tells nothing
        0.0
    """
    meanings, column = np.unique(index_meanings(captions), return_inverse=True)
    shown, row = np.unique(index_shown(scenes), axis=0, return_inverse=True)  # (R, O), (N,)
    table = meaning_given_shown()[:, meanings]  # (360, U)
    likelihood = sum(table[state] for state in shown.T) / shown.shape[1]  # (R, U)
    pmi = np.log(likelihood) - np.log(meaning_prior(shown.shape[1])[meanings])
    return pmi[row.reshape(-1, 1), column]


def index_shown(scenes: Scenes) -> np.ndarray:
    """(N, O) index of what is shown of every object, below 360."""
    color = np.where(scenes.grey, GREY, scenes.color)
    return np.ravel_multi_index((scenes.digit, color, scenes.place), (10, 9, 4))


def index_meanings(captions: Sequence[str]) -> np.ndarray:
    """(M,) index of the meaning of every text, below 495."""
    stated = derive_captions(captions)[1]  # (M, 3), -1 where not mentioned
    return np.ravel_multi_index(tuple(stated.T + 1), (11, 9, 5))


def statement_given_value(attribute: str) -> np.ndarray:
    """(K, K + 1): what a caption says of an attribute given its true value; the first column is "not mentioned"."""
    count = len(PRIOR[attribute])
    mention, wrong = MENTION_PROBABILITY[attribute], WRONG_PROBABILITY[attribute]
    stated = np.where(np.eye(count, dtype=bool), 1 - wrong, wrong / (count - 1))
    return np.hstack([np.full((count, 1), 1 - mention), mention * stated])


def meaning_given_latent() -> np.ndarray:
    """(320, 495): what a caption says given the true attributes of the object that it is about."""
    return _product(*(statement_given_value(name) for name in ATTRIBUTES))


@cache
def meaning_given_shown() -> np.ndarray:
    """(360, 495): what a caption says given what the picture shows of the object that it is about."""
    digit, color, place = (statement_given_value(name) for name in ATTRIBUTES)
    grey = PRIOR["color"] @ color  # the colours that it may have
    return _product(digit, np.vstack([color, grey]), place)


def shown_given_latent() -> np.ndarray:
    """(320, 360): what the picture shows of an object given its true attributes."""
    color = np.hstack([(1 - GREY_PROBABILITY) * np.eye(8), np.full((8, 1), GREY_PROBABILITY)])
    return _product(np.eye(10), color, np.eye(4))


@cache
def place_sets(objects: int) -> dict[tuple[int, ...], float]:
    """The probability of every increasing tuple of places; of two, either may have been drawn first."""
    if objects == 1:
        return {(place,): float(p) for place, p in enumerate(PRIOR["place"])}
    pair = PRIOR["place"][:, None] * second_place_prior()
    return {(a, b): float(pair[a, b] + pair[b, a]) for a in range(4) for b in range(a + 1, 4)}


@cache
def meaning_prior(objects: int) -> np.ndarray:
    """(495,): what a caption says when nothing is known; it is about each object with equal probability."""
    place = np.zeros(4)
    for places, weight in place_sets(objects).items():
        place[list(places)] += weight / objects
    priors = PRIOR["digit"], PRIOR["color"], place
    return _product(*(prior @ statement_given_value(name) for name, prior in zip(ATTRIBUTES, priors, strict=True)))


def latent_prior(objects: int) -> np.ndarray:
    """(320,): the true attributes of the first object, the one at the lowest place."""
    place = np.zeros(4)
    for places, weight in place_sets(objects).items():
        place[places[0]] += weight
    return _product(PRIOR["digit"], PRIOR["color"], place)


@cache
def shared_information(objects: int = 1) -> float:
    """I(image; caption) in nats: the mean of true_pmi over pairs, as a sum over all that can be shown and said."""
    color = np.append((1 - GREY_PROBABILITY) * PRIOR["color"], GREY_PROBABILITY)
    return _information(meaning_given_shown(), _product(PRIOR["digit"], color), objects)


@cache
def attribute_information(objects: int = 1) -> float:
    """I(true attributes of all objects; caption) in nats: the shared information if nothing were ever grey."""
    return _information(meaning_given_latent(), _product(PRIOR["digit"], PRIOR["color"]), objects)


def _information(meaning_given_object: np.ndarray, weights: np.ndarray, objects: int) -> float:
    """I(objects; meaning): table (A * 4, 495) with the place last, and the probability (A,) of all but the place."""
    table = meaning_given_object.reshape(len(weights), 4, -1)
    prior, total = meaning_prior(objects), 0.0
    for places, place_weight in place_sets(objects).items():
        if objects == 1:
            likelihood, weight = table[:, places[0]], weights
        else:
            likelihood = (table[:, None, places[0]] + table[None, :, places[1]]) / 2  # (A, A, 495)
            weight = np.multiply.outer(weights, weights)
        total += place_weight * float((weight * rel_entr(likelihood, prior).sum(-1)).sum())
    return total


def entropies(objects: int = 1) -> Entropies:
    """What each view holds of the attributes, and what the other leaves open.

    Which objects are grey counts as something shown, not as nuisance: it says nothing about the caption by itself, but
    what the picture tells depends on it. Its share of `shown` is the binary entropy of GREY_PROBABILITY per object.
    """
    place = entr(list(place_sets(objects).values())).sum()
    digit, color = entr(PRIOR["digit"]).sum(), entr(PRIOR["color"]).sum()
    grey = entr([GREY_PROBABILITY, 1 - GREY_PROBABILITY]).sum()
    attributes = place + objects * (digit + color)
    shown = place + objects * (digit + grey + (1 - GREY_PROBABILITY) * color)
    meaning = entr(meaning_prior(objects)).sum()
    shared = shared_information(objects)
    given = attributes - attribute_information(objects), shown - shared, meaning - shared
    return Entropies(*map(float, (attributes, shown, meaning, *given)))


def nuisance_entropies(objects: int = 1, *, split: str = "test") -> NuisanceEntropies:
    """What is private to one view and tells nothing of the other; the number of samples depends on the split.

    With `entropies`: H(picture without noise) = shown + tint + sample, and H(caption) = meaning + frame + synonym.
    """
    sample = objects * PRIOR["digit"] @ np.log([len(pool) for pool in split_samples(split)])
    chances = [[1 - MENTION_PROBABILITY[name], MENTION_PROBABILITY[name]] for name in ATTRIBUTES]
    mentioned = reduce(np.convolve, chances)  # (4,), by the number of attributes mentioned
    frame = mentioned @ entr(FRAME_PRIOR).sum(1)
    synonym = sum(MENTION_PROBABILITY[name] * entr(SYNONYM_PRIOR[name]).sum() for name in ATTRIBUTES)
    return NuisanceEntropies(*map(float, (entr(TINT_PRIOR).sum(), sample, frame, synonym)))


def bayes_accuracy(attribute: str) -> float:
    """The best possible accuracy of an attribute read from a picture of one object, where grey ones keep their label.

    Digit and place are always shown. Of a grey object the best guess is the most frequent colour.
    """
    if attribute not in ATTRIBUTES:
        raise ValueError(f"attribute is one of {', '.join(ATTRIBUTES)}, not {attribute!r}")
    hidden = GREY_PROBABILITY if attribute == "color" else 0.0
    return float(1 - hidden + hidden * PRIOR[attribute].max())


def sensor_caption_pmi(sensors: np.ndarray, captions: Sequence[str], objects: int = 1) -> np.ndarray:
    """PMI of every sensor reading with every caption: log sum_v p(v | reading) p(caption | v) - log p(caption).

    v runs over the attributes of the first object, which the sensor reads. Half of the captions of two objects are
    about the other one, of which v still tells that its place is a later one.

    Args:
        sensors: (N, 16) readings
        captions: M texts of the grammar
        objects: how many objects the scenes have that the sensor looks at

    Returns:
        (N, M) float64, in nats.
    """
    meanings, column = np.unique(index_meanings(captions), return_inverse=True)
    posterior = latent_prior(objects) * np.exp(_sensor_log_ratio(sensors, objects))  # (N, 320)
    likelihood = posterior @ meaning_given_first(objects)[:, meanings]  # (N, U)
    return (np.log(likelihood) - np.log(meaning_prior(objects)[meanings]))[:, column]


def sensor_image_pmi(sensors: np.ndarray, scenes: Scenes) -> np.ndarray:
    """PMI of every sensor reading with every picture: log p(reading | what is shown) - log p(reading).

    Only the first object matters, which the sensor reads: given what is shown of it, the other one tells nothing more.
    Where it is grey, p sums over the colours that it may have.

    Args:
        sensors: (N, 16) readings
        scenes: M scenes

    Returns:
        (N, M) float64, in nats.
    """
    ratio = _sensor_log_ratio(sensors, scenes.digit.shape[1]).reshape(-1, 10, 8, 4)
    grey = logsumexp(ratio, axis=2, b=PRIOR["color"][:, None], keepdims=True)
    shown = np.concatenate([ratio, grey], axis=2).reshape(len(ratio), -1)  # (N, 360)
    return shown[:, index_shown(scenes)[:, 0]]


def sensor_information(view: str, objects: int = 1, *, samples: int = 10_000, seed: int = 0) -> Estimate:
    """I(sensor; caption) or I(sensor; image) in nats, by drawing sensor readings.

    The mean over readings of KL( p(. | reading) || p(.) ), whose sum over what the other view can say is exact.

    Args:
        view: "caption" or "image"
        samples: readings to draw; the standard error falls with the square root
    """
    if view not in ("caption", "image"):
        raise ValueError(f"view is caption or image, not {view!r}")
    channel = meaning_given_first(objects) if view == "caption" else shown_given_latent()  # (320, 495) or (320, 360)
    prior = latent_prior(objects)
    scenes = sample_scenes(np.arange(samples), split="test", objects=objects, seed=seed)
    sensors = draw_sensors(scenes, seed=seed)
    divergences = []
    for block in np.array_split(sensors, -(-samples // 1000)):  # bounds the memory
        posterior = prior * np.exp(_sensor_log_ratio(block, objects))
        divergences.append(rel_entr(posterior @ channel, prior @ channel).sum(1))
    divergences = np.concatenate(divergences)
    return Estimate(float(divergences.mean()), float(divergences.std(ddof=1) / np.sqrt(samples)))


def meaning_given_first(objects: int) -> np.ndarray:
    """(320, 495): what a caption says given the true attributes of the first object alone."""
    own = meaning_given_latent()
    if objects == 1:
        return own
    pair = np.zeros((4, 4))
    for places, weight in place_sets(2).items():
        pair[places] = weight
    pair[-1, -1] = 1  # never happens: the last place is not the lowest of two
    second = pair / pair.sum(1, keepdims=True)  # (4, 4) place of the second object given that of the first
    digit, color, place = (statement_given_value(name) for name in ATTRIBUTES)
    other = _product(PRIOR["digit"] @ digit, PRIOR["color"] @ color, second @ place)  # (4, 495)
    return (own + np.tile(other, (80, 1))) / 2


def _sensor_log_ratio(sensors: np.ndarray, objects: int) -> np.ndarray:
    """(N, 320): log p(reading | attributes of the first object) - log p(reading)."""
    if sensors.ndim != 2 or sensors.shape[1] != SENSOR_WIDTH:
        raise ValueError(f"sensors have shape (N, {SENSOR_WIDTH}), not {sensors.shape}")
    digit, color, place = np.split(sensor_map(), [10, 18])
    mean = (digit[:, None, None] + color[:, None] + place).reshape(-1, SENSOR_WIDTH)  # (320, 16)
    log_likelihood = -cdist(sensors, mean, "sqeuclidean") / (2 * SENSOR_NOISE**2)
    return log_likelihood - logsumexp(log_likelihood, axis=1, b=latent_prior(objects), keepdims=True)


def _product(*factors: np.ndarray) -> np.ndarray:
    """Joint table of independent attributes, the last one fastest."""
    return reduce(np.kron, factors)
