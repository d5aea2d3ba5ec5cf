"""One data set, whatever its source: images with labels, captions, or both."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

import numpy as np

from clipib.data.contrasts import Contrasts
from clipib.data.images import Images, StampedImages, content_key, why
from clipib.data.manifest import Manifest
from clipib.data.prompts import class_prompts, prompts_sha256


@dataclass(frozen=True)
class Dataset:
    """Images with what is known of them.

    name, split: as they stand in the results.
    images: N of them.
    labels: (N,) class indices, (N, K) zeros and ones where an image may belong to several classes, or None.
    classnames: K names; templates: prompts with `{c}`. class_prompts: K lists of whole prompts in place of templates.
    differences: "classnames" and "templates" -> how they differ from those that the registry has for it.
    captions: M texts; image_of_caption: (M,) the image that each describes. Both None where there are none.
    contrasts: questions which caption belongs to which image, or None.
    groups: (N,) the group of each image for worst-group metrics, (N, F) codes of which nothing chose one, or None.
    main_metric: the metric that speaks for the data set, "" where the task's own default does.
    augment: whether training may crop the images at random.
    notes: what was found and assumed while reading, for the user to see.
    limit: the size of the sample that this is of a larger set, or None where it is whole.
    world: digitworld's scenes (`DigitworldView`), where the truth is known.
    manifest: what remembers the keys of image files; None reads and hashes all of them.
    """

    name: str
    split: str
    images: Images
    labels: np.ndarray | None = None
    classnames: tuple[str, ...] = ()
    templates: tuple[str, ...] = ()
    class_prompts: tuple[tuple[str, ...], ...] | None = None
    differences: Mapping[str, str] = field(default_factory=dict, compare=False)
    captions: tuple[str, ...] | None = None
    image_of_caption: np.ndarray | None = None
    contrasts: Contrasts | None = None
    groups: np.ndarray | None = None
    main_metric: str = ""
    augment: bool = True
    notes: tuple[str, ...] = ()
    limit: int | None = None
    world: Any = field(default=None, compare=False)
    manifest: Manifest | None = field(default=None, compare=False, repr=False)

    def __len__(self) -> int:
        return len(self.images.ids)

    @cached_property
    def keys(self) -> list[bytes]:
        """The sha256 of every image's content, hashed once or remembered. A file that cannot be read goes by its id."""
        if self.manifest and isinstance(self.images, StampedImages):
            keys = self.manifest.keys(self.images, self._read_key)
        else:
            keys = [self._read_key(i) for i in range(len(self))]
        return [
            key or content_key(b"unreadable " + id_.encode()) for key, id_ in zip(keys, self.images.ids, strict=True)
        ]

    def _read_key(self, index: int) -> bytes | None:
        try:
            return content_key(self.images.content(index))
        except OSError:  # it counts as an unreadable image where images are decoded
            return None

    @property
    def prompts(self) -> list[list[str]]:
        """The prompts of every class."""
        if self.class_prompts is not None:
            return [list(own) for own in self.class_prompts]
        return [class_prompts([name], self.templates) for name in self.classnames]

    @property
    def prompts_sha256(self) -> str:
        """Hash of class names and prompts, in order."""
        return prompts_sha256(self.classnames, self.templates if self.class_prompts is None else self.class_prompts)

    def changed(self, **fields: Any) -> Dataset:
        """A copy with other fields; images that stay keep their keys."""
        copy = replace(self, **fields)
        if "keys" in self.__dict__ and "images" not in fields:
            copy.__dict__["keys"] = self.keys
        return copy

    @cached_property
    def sha256(self) -> str:
        """Hash of the images in order, their labels or captions: what a number of this data set depends on."""
        digest = hashlib.sha256(b"".join(self.keys))
        if self.labels is not None:
            digest.update(np.asarray(self.labels, dtype="<i8").tobytes())
        if self.groups is not None:
            digest.update(np.asarray(self.groups, dtype="<i8").tobytes())
        if self.captions is not None:
            digest.update(np.asarray(self.image_of_caption, dtype="<i8").tobytes())
            digest.update(b"".join(content_key(c.encode()) for c in self.captions))
        if self.contrasts is not None:
            digest.update(self.contrasts.digest())
        return digest.hexdigest()

    def take(self, indices: np.ndarray) -> Dataset:
        """The images at these distinct indices, in this order, with their labels and captions."""
        indices = np.asarray(indices)
        taken = self.changed(images=self.images.take(indices))
        if "keys" in self.__dict__:
            taken.__dict__["keys"] = [self.keys[i] for i in indices]
        if self.labels is not None:
            taken = taken.changed(labels=self.labels[indices])
        if self.groups is not None:
            taken = taken.changed(groups=self.groups[indices])
        place = np.full(len(self), -1)
        place[indices] = np.arange(len(indices))
        if self.contrasts is not None:
            taken = taken.changed(contrasts=self.contrasts.among(place))
        if self.captions is not None:
            kept = np.flatnonzero(place[self.image_of_caption] >= 0)
            kept = kept[np.argsort(place[self.image_of_caption[kept]], kind="stable")]
            captions = tuple(self.captions[j] for j in kept)
            taken = taken.changed(captions=captions, image_of_caption=place[self.image_of_caption[kept]])
        if self.world is not None:
            taken = taken.changed(world=self.world.take(indices))
        return taken

    def unreadable(self, indices: Iterable[int], *, workers: int = 2) -> Iterator[tuple[int, str]]:
        """Decode these images and tell of each, in order, why that failed; "" where it did not."""

        def fails(index: int) -> str:
            try:
                self.images.open(index)
            except OSError as error:
                return why(error)
            return ""

        indices = list(indices)
        with ThreadPoolExecutor(max(1, workers)) as pool:
            for start in range(0, len(indices), 256):
                chunk = indices[start : start + 256]
                yield from zip(chunk, pool.map(fails, chunk), strict=True)

    def ids_like(self, indices: Iterable[int]) -> list[str]:
        """The ids of these images and of all with the same content."""
        keys = {self.keys[i] for i in indices}
        return [self.images.ids[i] for i, key in enumerate(self.keys) if key in keys] if keys else []

    def sample(self, n: int, *, seed: int) -> Dataset:
        """At most n images drawn without replacement, in their old order; labelled sets class by class in turn.

        Of a set of contrasts it is n of these, kind by kind in turn, with their images.
        """
        if self.contrasts is not None:
            return self._sample_contrasts(n, seed)
        if n >= len(self):
            return self
        codes = self.labels if self.labels is not None and self.labels.ndim == 1 else None
        return self.take(_draw(len(self), n, codes, seed)).changed(limit=n)

    def _sample_contrasts(self, n: int, seed: int) -> Dataset:
        if n >= len(self.contrasts.captions):
            return self
        kinds = np.unique(self.contrasts.kinds, return_inverse=True)[1]
        drawn = self.contrasts.rows(_draw(len(kinds), n, kinds, seed))
        return self.changed(contrasts=drawn).take(np.unique(drawn.images)).changed(limit=n)


def _draw(total: int, n: int, codes: np.ndarray | None, seed: int) -> np.ndarray:
    """(n,) of `total` indices in ascending order; with codes (total,), one of every code in turn."""
    order = np.random.default_rng(seed).permutation(total)
    if codes is not None:
        turn = np.empty(total, dtype=np.int64)  # how many of its code were drawn before each
        seen = np.zeros(int(codes.max()) + 1, dtype=np.int64)
        for i in order:
            turn[i] = seen[codes[i]]
            seen[codes[i]] += 1
        order = order[np.argsort(turn[order], kind="stable")]
    return np.sort(order[:n])
