"""The rows of one job: read from the store where they lie there, and filled in as they are encoded."""

from __future__ import annotations

import time
from collections.abc import Iterator

import numpy as np

from clipib.embeddings.claims import Claims
from clipib.embeddings.store import CLAIMS, Space

FLUSH_ROWS, FLUSH_SECONDS = 1024, 30.0
PATIENCE, POLL = 2 * FLUSH_SECONDS, 0.1  # seconds to wait for others without news, and between looks


class Rows:
    """Features by item: equal keys are one row, what is in the space is there from the start.

        with Rows(space, keys) as rows:
            for todo in rows.passes():
                for batch in rows.claimed(todo, 64):
                    rows.add(batch, encode(batch))
        features = rows.get(range(len(keys)))

    Several processes that miss the same items share them out: each claims a batch before it encodes it, leaves what
    others have claimed, and takes over what they have stored. A claim ends with its process; one whose holder brings
    nothing for a minute is passed over, and the work is then done twice. A kill loses the block in hand at most:
    FLUSH_ROWS rows or FLUSH_SECONDS.

    Args:
        space: None keeps nothing.
        keys: (N,) sha256 of every item.
    """

    def __init__(self, space: Space | None, keys: list[bytes]) -> None:
        self.n_new = 0
        self.space = space
        slots: dict[bytes, int] = {}
        self._slots = np.array([slots.setdefault(key, len(slots)) for key in keys], dtype=np.int64)  # (N,)
        self._keys = list(slots)  # (n,) distinct
        self._first = np.unique(self._slots, return_index=True)[1]  # (n,)
        self._has = np.zeros(len(slots), dtype=bool)  # (n,)
        self._features: np.ndarray | None = None  # (n, ...)
        if space is not None:
            self._has, self._features = space.find(self._keys)
        self._given_up: set[int] = set()
        self._hand: list[int] = []  # slots that are not stored yet
        self._claims: Claims | None = None
        self._flushed = time.monotonic()

    def __enter__(self) -> Rows:
        return self

    def __exit__(self, *_) -> None:
        try:
            self.flush()
        finally:
            if self._claims:
                self._claims.close()

    def missing(self) -> list[int]:
        """The first item of every key that has no features yet and was not given up."""
        return sorted(int(self._first[s]) for s in np.flatnonzero(~self._has) if s not in self._given_up)

    def passes(self) -> Iterator[list[int]]:
        """What is missing, until nothing is; a second pass is for what others had in hand during the first.

        After each pass the rows in hand are stored, and those of others taken over. Where that brings no news, the rest
        is in the hands of others, and is waited for.
        """
        todo, news = self.missing(), time.monotonic()
        while todo:
            yield todo
            self.flush()
            left = self._look(self.missing())
            if len(left) < len(todo):
                news = time.monotonic()
            elif time.monotonic() - news > PATIENCE:
                self._claims.close()
            else:
                time.sleep(POLL)
            todo = left

    def claimed(self, items: list[int], size: int) -> Iterator[list[int]]:
        """Batches of those of these items that no other process has in hand or has stored."""
        if self._claims is None and self.space is not None:
            self._claims = Claims(self.space.folder / CLAIMS)
        batch: list[int] = []
        for item in items:
            if self._claims is None or self._claims.take(self._keys[self._slots[item]]):
                batch.append(item)
            if len(batch) == size:
                batch = self._look(batch)  # stored by another between our first look and our claim?
            if len(batch) == size:
                yield batch
                batch = []
        if batch := self._look(batch):
            yield batch

    def add(self, items: list[int], features: np.ndarray) -> None:
        """Fill in (n, ...) features of n items."""
        slots = self._slots[items]
        self._room(features.shape[1:])
        self._features[slots] = features
        self._has[slots] = True
        self._hand += slots.tolist()
        self.n_new += len(items)
        if len(self._hand) >= FLUSH_ROWS or time.monotonic() - self._flushed > FLUSH_SECONDS:
            self.flush()

    def give_up(self, items: list[int]) -> None:
        """These cannot be encoded."""
        self._given_up |= set(self._slots[items].tolist())

    def flush(self) -> None:
        """Store what is in hand."""
        hand, self._hand = self._hand, []
        if hand and self.space is not None:
            keys = [self._keys[s] for s in hand]
            self.space.append(keys, self._features[hand])
            if self._claims:
                self._claims.release(keys)
        self._flushed = time.monotonic()

    def has(self, item: int) -> bool:
        return bool(self._has[self._slots[item]])

    def get(self, items: np.ndarray) -> np.ndarray:
        """(n, ...) float32 features of n items, all of which are there."""
        slots = self._slots[np.asarray(items)]
        if not self._has[slots].all():
            raise KeyError(f"{int((~self._has[slots]).sum())} of {len(slots)} items have no features")
        if np.array_equal(slots, np.arange(len(self._keys))):
            return self._features
        return self._features[slots]

    def _look(self, items: list[int]) -> list[int]:
        """Take over what others have stored of these, and return the rest."""
        if self.space is None or not items:
            return items
        slots = self._slots[items]
        has, features = self.space.find([self._keys[s] for s in slots])
        if features is not None:
            self._room(features.shape[1:])
            self._features[slots[has]] = features[has]
            self._has[slots[has]] = True
        return [item for item, found in zip(items, has, strict=True) if not found]

    def _room(self, shape: tuple[int, ...]) -> None:
        """Make room for items of this shape; NaN until they are filled in."""
        if self._features is None:
            self._features = np.full((len(self._keys), *shape), np.nan, dtype=np.float32)
        if self._features.shape[1:] != shape:
            raise ValueError(f"expected items of shape {self._features.shape[1:]}, got {shape}")
