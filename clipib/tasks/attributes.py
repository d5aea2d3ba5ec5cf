"""Labels of images and texts by which to ask what an embedding keeps beyond what both sides share.

A **nuisance** says nothing of the other side: the tint of a background, the sentence frame of a caption. What is
**unmentioned** is content that this pair's other side happens to leave out. An embedding that keeps a nuisance holds
private information for nothing; what is unmentioned may be what the next caption asks for. They are told apart.

Three sources: the known truth of digitworld, columns of the user's own table, and alterations made on purpose. Give
each the data set of what could be read (`ImageFeatures.dataset`): the rows of an attribute then are rows of the
features.
"""

from __future__ import annotations

import hashlib
from collections.abc import Hashable, Iterable, Mapping
from pathlib import Path
from typing import NamedTuple

import numpy as np
from scipy.special import entr

from clipib.data.altered import AlteredImages
from clipib.data.dataset import Dataset
from clipib.data.digitworld.render import TINTS
from clipib.data.digitworld.scene import (
    ATTRIBUTES,
    FRAMES,
    PRIOR,
    SYNONYM_PRIOR,
    VALUES,
    load_samples,
    split_samples,
)
from clipib.data.digitworld.truth import entropies, nuisance_entropies
from clipib.data.images import content_key
from clipib.data.table import TableRows, read_rows, sorted_values
from clipib.errors import UserError
from clipib.progress import counted
from clipib.registry import unknown_name

NONE = np.zeros(0, dtype=np.int64)
NONE.flags.writeable = False
PREFIXES = {"nuisance": "kind", "unmentioned": "kind", "image": "side", "text": "side"}

FLIPS = {"as it is": (), "mirrored": ("mirror",)}
CROPS = {"left": ("crop left 3/4",), "right": ("crop right 3/4",)}
BRIGHTNESSES = {"darker": ("brightness 0.6",), "as it is": (), "brighter": ("brightness 1.4",)}
# All in front of the caption: an end would be lost where a long one is cut at the context length.
PARAPHRASES = ("{c}", "this is what we see: {c}", "in the picture: {c}", "somebody wrote: {c}")


class Attribute(NamedTuple):
    """One label of images or of texts.

    side: "image" or "text". kind: "nuisance" or "unmentioned".
    labels: (n,) int64 indices into classes. rows: (n,) the images or captions that they belong to, by index.
    entropy_floor_nats: entropy of the attribute when the other side and `given` are known: an embedding that tells it
        holds that much beyond the other side, whatever else it holds. None where the truth is not known.
    given: (n, G) float32 of shared content to condition on, where the attribute depends on it; else None.
    more_rows, more_labels: (m,) further rows that follow the same law of embedding and label, for fitting a probe but
        not for judging it, since what the other side says of them is not the case in question.
    """

    name: str
    side: str
    kind: str
    labels: np.ndarray
    rows: np.ndarray
    classes: tuple[str, ...]
    entropy_floor_nats: float | None = None
    given: np.ndarray | None = None
    more_rows: np.ndarray = NONE
    more_labels: np.ndarray = NONE


class DigitworldAttributes(NamedTuple):
    """What digitworld has to probe.

    skipped: name -> why there is no such attribute here.
    attributes_given_caption_nats: H(digits, colours and places of all objects | caption): what an image embedding that
        tells all of them holds beyond its caption, without any nuisance.
    """

    attributes: tuple[Attribute, ...]
    skipped: dict[str, str]
    attributes_given_caption_nats: float


class MadeAttributes(NamedTuple):
    """Alterations, and what they were made on; to be encoded anew, under content keys of their own.

    images: every picture altered, without captions and labels. texts: every caption altered; None where there are none.
    """

    attributes: tuple[Attribute, ...]
    images: Dataset
    texts: Dataset | None


def digitworld_attributes(dataset: Dataset) -> DigitworldAttributes:
    """Nuisance and unmentioned content of digitworld, with their exact entropies.

    Image nuisance: `tint`, and `stroke`, whether the first object is drawn with more ink than the median of its digit,
    given the digit. Text nuisance: `frame`, given how many attributes are mentioned, and `synonym` of the digit, of
    captions that mention it. Unmentioned: digit, colour and place of the first object where it is not grey and its
    caption does not tell them; the other ones that are not grey are in `more_rows`. The first object is the one at the
    lowest place, so it can be told from the picture alone; "the one that the caption is not about" cannot.

    Returns:
        Attributes, those left out with the reason, and a floor in nats.

    Raises:
        ValueError: for another data set.

    Example:
        >>> from clipib.data.load import load_dataset
        >>> found = digitworld_attributes(load_dataset("digitworld:n=500"))
        >>> [a.name for a in found.attributes if a.side == "image"], list(found.skipped)
        (['tint', 'stroke', 'digit', 'color', 'place'], ['sample'])
    """
    if dataset.world is None:
        raise ValueError(f"expected a digitworld data set, got '{dataset.name}', whose truth is not known")
    objects = dataset.world.objects
    found = [_tint(dataset), _stroke(dataset), _frame(dataset), _synonym(dataset)]
    samples = sum(map(len, split_samples(dataset.split)))
    skipped = {
        "sample": f"{samples} handwritten digits are too many values for {len(dataset)} images; `stroke` has two"
    }
    if objects > 1:
        skipped["place"] = (
            "no two objects lie at one place, so a caption tells something of the place that it leaves out"
        )
    found += [_unmentioned(dataset, name) for name in ATTRIBUTES if name not in skipped]
    for attribute in found:
        if len(np.unique(attribute.labels)) < 2:
            skipped[attribute.name] = f"fewer than two values in {counted(len(attribute.rows), 'row')}"
    kept = tuple(attribute for attribute in found if attribute.name not in skipped)
    return DigitworldAttributes(kept, skipped, entropies(objects).attributes_given_caption)


def column_attributes(
    dataset: Dataset, path: str | Path, columns: Iterable[str], *, options: Mapping[str, str] | None = None
) -> tuple[Attribute, ...]:
    """Attributes from columns of the table that the data set was read from.

    A column is an image nuisance unless written `text:COLUMN`, `unmentioned:COLUMN` or `unmentioned:text:COLUMN`. Blank
    cells are values that nobody knows: their images or captions are left out.

    Args:
        path: of the table.
        columns: names as above; a column whose own name looks like that is found first.
        options: `image_column`, `caption_column` and `separator`, as the data set was read with; others do not count.

    Raises:
        UserError: for an unknown column, one with a single value, or with another for every row, and for an image or
            caption with two values.
    """
    options = {k: v for k, v in (options or {}).items() if k in ("image_column", "caption_column", "separator")}
    table = read_rows(path, split=dataset.split, **options)
    return tuple(_column_attribute(dataset, table, path, text) for text in dict.fromkeys(columns))


def made_attributes(dataset: Dataset, seed: int) -> MadeAttributes:
    """Nuisances of any images and texts, made by altering them.

    Every picture is mirrored or not (`flip`), cut down to three quarters at the left or at the right (`crop`), and made
    darker, brighter or neither (`brightness`): one encoding of each image for three attributes. Every caption is put
    into one of four sentence frames (`paraphrase`). Values are uniform and independent of each other; they follow from
    the seed and the item's content, so that an item has the same ones in any sample and any order. A caption that says
    left or right may no longer be true of its picture: the altered pictures are for probing alone.

    Returns:
        Attributes over all rows, floor log(number of values) nats, with the altered data sets.
    """
    keys = dataset.keys
    flip = _drawn("flip", "image", keys, tuple(FLIPS), seed)
    crop = _drawn("crop", "image", keys, tuple(CROPS), seed)
    brightness = _drawn("brightness", "image", keys, tuple(BRIGHTNESSES), seed)
    # The flip comes first: after the cut it would hide at which edge the picture ends too early.
    steps = zip(_steps(flip, FLIPS), _steps(crop, CROPS), _steps(brightness, BRIGHTNESSES), strict=True)
    altered = AlteredImages(dataset.images, [a + b + c for a, b, c in steps])
    bare = {"labels": None, "classnames": (), "captions": None, "image_of_caption": None, "groups": None, "world": None}
    name = f"{dataset.name} (altered)"
    images = dataset.changed(name=name, images=altered, **bare)
    if dataset.captions is None:
        return MadeAttributes((flip, crop, brightness), images, None)
    pairs = zip(dataset.image_of_caption, dataset.captions, strict=True)
    paraphrase = _drawn("paraphrase", "text", [keys[i] + content_key(c.encode()) for i, c in pairs], PARAPHRASES, seed)
    captions = tuple(PARAPHRASES[k].format(c=c) for k, c in zip(paraphrase.labels, dataset.captions, strict=True))
    texts = dataset.changed(name=name, captions=captions, world=None)
    return MadeAttributes((flip, crop, brightness, paraphrase), images, texts)


def _tint(dataset: Dataset) -> Attribute:
    labels = dataset.world.scenes.tint.astype(np.int64)
    classes = tuple(f"rgb {' '.join(map(str, tint))}" for tint in TINTS)
    return Attribute("tint", "image", "nuisance", labels, np.arange(len(labels)), classes, nuisance_entropies().tint)


def _stroke(dataset: Dataset) -> Attribute:
    """About half of a digit's samples have more ink than its median; not exactly, hence the digit as `given`."""
    scenes, ink = dataset.world.scenes, load_samples()[0].sum((1, 2))
    heavy, share = np.zeros(len(ink), dtype=np.int64), []
    for pool in split_samples(dataset.split):
        heavy[pool] = ink[pool] > np.median(ink[pool])
        share.append(heavy[pool].mean())
    floor = float(PRIOR["digit"] @ (entr(share) + entr(1 - np.array(share))))
    labels, rows = heavy[scenes.sample[:, 0]], np.arange(len(scenes.tint))
    given = np.eye(10, dtype=np.float32)[scenes.digit[:, 0]]
    return Attribute("stroke", "image", "nuisance", labels, rows, ("light", "heavy"), floor, given)


def _frame(dataset: Dataset) -> Attribute:
    scenes, scene_of_caption = dataset.world.scenes, dataset.image_of_caption
    labels = scenes.frame[scene_of_caption].astype(np.int64)
    given = np.eye(len(ATTRIBUTES) + 1, dtype=np.float32)[scenes.mention.sum(1)[scene_of_caption]]
    floor = nuisance_entropies().frame
    return Attribute("frame", "text", "nuisance", labels, np.arange(len(labels)), FRAMES, floor, given)


def _synonym(dataset: Dataset) -> Attribute:
    synonym = dataset.world.scenes.synonym[dataset.image_of_caption, ATTRIBUTES.index("digit")].astype(np.int64)
    rows = np.flatnonzero(synonym >= 0)
    floor = float(entr(SYNONYM_PRIOR["digit"]).sum())
    return Attribute("synonym", "text", "nuisance", synonym[rows], rows, ("word", "numeral"), floor)


def _unmentioned(dataset: Dataset, name: str) -> Attribute:
    """A caption that leaves an attribute out says nothing of it, so its entropy is that of its prior."""
    scenes = dataset.world.scenes
    told = (scenes.described == 0) & scenes.mention[:, ATTRIBUTES.index(name)]
    values, plain = getattr(scenes, name)[:, 0].astype(np.int64), ~scenes.grey[:, 0]
    rows, more = np.flatnonzero(plain & ~told), np.flatnonzero(plain & told)
    floor = float(entr(PRIOR[name]).sum())
    return Attribute(
        name,
        "image",
        "unmentioned",
        values[rows],
        rows,
        VALUES[name],
        floor,
        # Whether a caption tells it has nothing to do with the picture.
        more_rows=more,
        more_labels=values[more],
    )


def _column_attribute(dataset: Dataset, table: TableRows, path: str | Path, text: str) -> Attribute:
    name, kind, side = _read_name(text, table, path)
    values, ids = table.values(name), dataset.images.ids
    if side == "image":
        what, own, pairs = "image", ids, zip(table.image_ids, values, strict=True)
    elif dataset.captions is None:
        raise UserError(f"'{text}' is to describe captions, but '{dataset.name}' has none.")
    else:
        what, own = "caption", [(ids[i], c) for i, c in zip(dataset.image_of_caption, dataset.captions, strict=True)]
        rows = zip(table.image_ids, table.captions, values, strict=True)
        pairs = (((image, c), value) for image, captions, value in rows for c in captions)
    value_of = _value_of(pairs, name, what)
    if strange := [item for item in own if item not in value_of]:
        shown = strange[0] if what == "image" else strange[0][1]
        raise UserError(
            f"{len(strange)} of {len(own)} {what}s of '{dataset.name}' are not in '{path}'; the first is '{shown}'.",
            hint="Name the table that the data set was read from.",
        )
    known = np.array([i for i, item in enumerate(own) if value_of[item]], dtype=np.int64)
    found = [value_of[own[i]] for i in known]
    classes = sorted_values(found)
    _check_classes(classes, len(found), name, what)
    place = {value: k for k, value in enumerate(classes)}
    return Attribute(name, side, kind, np.array([place[v] for v in found], dtype=np.int64), known, tuple(classes))


def _read_name(text: str, table: TableRows, path: str | Path) -> tuple[str, str, str]:
    """Column, kind and side of what the user typed."""
    name, told = text.strip(), {"kind": "nuisance", "side": "image"}
    while name not in table.cells and ":" in name and name.partition(":")[0].strip() in PREFIXES:
        word, _, name = (part.strip() for part in name.partition(":"))
        told[PREFIXES[word]] = word
    if name not in table.cells:
        columns = ", ".join(f"'{column}'" for column in table.cells)
        raise unknown_name("attribute column", name, table.cells, hint=f"'{path}' has {columns}.")
    return name, told["kind"], told["side"]


def _value_of(pairs: Iterable[tuple[Hashable, str]], column: str, what: str) -> dict[Hashable, str]:
    """The one value of each item; rows that leave it blank say nothing against the others."""
    value_of: dict[Hashable, str] = {}
    for item, value in pairs:
        known = value_of.get(item, "")
        if known and value and known != value:
            shown = item if what == "image" else item[1]
            hint = f"Write text:{column} where it describes captions." if what == "image" else ""
            raise UserError(f"The {what} '{shown}' has two values of '{column}': '{known}' and '{value}'.", hint=hint)
        value_of[item] = known or value
    return value_of


def _check_classes(classes: list[str], n: int, column: str, what: str) -> None:
    if not classes:
        raise UserError(f"The column '{column}' is blank for all {what}s.", hint="Name another column.")
    if len(classes) == 1:
        message = f"The column '{column}' has the one value '{classes[0]}' for all {n} {what}s."
        raise UserError(message, hint="Nothing can be asked about it; name a column with two values or more.")
    if len(classes) == n:
        message = f"The column '{column}' has another value for each of {n} {what}s."
        raise UserError(message, hint="Nothing can be learned from such values; write a column with a few classes.")


def _drawn(name: str, side: str, keys: list[bytes], classes: tuple[str, ...], seed: int) -> Attribute:
    """Uniform values that follow from name, seed and content."""
    lead = f"{name} {seed} ".encode()
    words = (int.from_bytes(hashlib.sha256(lead + key).digest()[:8], "big") for key in keys)
    labels = np.array([word % len(classes) for word in words], dtype=np.int64)
    rows = np.arange(len(keys))
    return Attribute(name, side, "nuisance", labels, rows, classes, float(np.log(len(classes))))


def _steps(attribute: Attribute, ways: Mapping[str, tuple[str, ...]]) -> list[tuple[str, ...]]:
    """What is to be done to each item, by the class it drew."""
    return [ways[attribute.classes[label]] for label in attribute.labels]
