"""The model of an evaluating task: remembered where it can be, built where it must be."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from clipib.embeddings.encode import seconds_per_image
from clipib.errors import UserError
from clipib.models.cards import RememberedModel, Request, recall, remember, source_of
from clipib.models.sources import Source, find_model
from clipib.progress import Progress

if TYPE_CHECKING:
    from clipib.models.model import Model


class Checkpoint:
    """A model as it was asked for: known by its card from an earlier run, or by its source, and built when needed.

    Args:
        spec, pretrained, device, precision, preprocess, seed: as for `load_model`.
        cache_dir: where cards lie. verify: pass over what is remembered.
    """

    def __init__(
        self,
        spec: str,
        pretrained: str | None,
        *,
        device: str,
        precision: str,
        preprocess: str,
        seed: int,
        cache_dir: Path,
        verify: bool,
        progress: Progress,
    ) -> None:
        self.words = (spec, pretrained)
        self.options = {"device": device, "precision": precision, "preprocess": preprocess, "seed": seed}
        self.cache_dir = cache_dir
        self.progress = progress
        self.request = Request(spec, pretrained, self.options)
        self.card = None if verify else recall(self.request, cache_dir)
        self._source: Source | None = source_of(self.card) if self.card else None
        self._built: Model | None = None
        self.known_seconds = self.card["seconds_per_image"] if self.card else None

    def source(self) -> Source:
        """Where it comes from.

        Raises:
            UserError: when it cannot be found.
        """
        if self._source is None:
            self._source = find_model(*self.words)
        return self._source

    def open(self) -> Model | RememberedModel:
        """The model; one that is known by its card is built only when something must be encoded."""
        return RememberedModel(self.card, self.build) if self.card and not self._built else self.build()

    def build(self) -> Model:
        """Read the weights, and remember what is known of them."""
        if self._built is None:
            from clipib.models.load import load_model

            source = find_model(*self.words) if self.card else self.source()
            self.progress.say(f"loading {source.name}")
            self._built = load_model(source, **self.options)
            remember(self.request, self._built, source, self.cache_dir, seconds_per_image=self.known_seconds)
        return self._built

    def seconds_per_image(self) -> float | None:
        """How long encoding takes, from an earlier run or measured now; None where there is no such model."""
        if self.known_seconds is None:
            try:
                self.known_seconds = seconds_per_image(self.build())
            except UserError:
                return None
            remember(self.request, self._built, self.source(), self.cache_dir, seconds_per_image=self.known_seconds)
        return self.known_seconds
