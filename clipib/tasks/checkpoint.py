"""The model of an evaluating task: remembered where it can be, built where it must be."""

from __future__ import annotations

import glob
from itertools import product
from pathlib import Path
from typing import TYPE_CHECKING

from clipib.embeddings.encode import seconds_per_image
from clipib.errors import UserError
from clipib.models.cards import RememberedModel, Request, recall, remember, source_of
from clipib.models.sources import Source, find_model
from clipib.progress import Progress

if TYPE_CHECKING:
    from clipib.models.model import Model


def named_checkpoints(models: str | list[str], pretrained: str | None) -> list[tuple[str, str | None]]:
    """Every (model, pretrained) that the arguments name, each once and in their order.

    Both are comma lists of names, of patterns with * ? [ ], and of .txt files with one name a line; several models and
    several weights are combined with each other.

    Raises:
        UserError: when nothing is named, a pattern fits nothing, or a list cannot be read.
    """
    specs = [name for text in ([models] if isinstance(models, str) else models) for name in _names(text, "--model")]
    weights = [None] if pretrained is None else _names(pretrained, "--pretrained")
    if not specs:
        raise UserError("--model is empty.", hint="Try ViT-B-32, hf:ORG/NAME, tiny, or a checkpoint folder.")
    return list(dict.fromkeys(product(specs, weights)))


def _names(text: str, flag: str) -> list[str]:
    """The names that a comma list stands for; what exists as a path is taken whole."""
    if Path(text).expanduser().exists() and not text.endswith(".txt"):
        return [text]
    return [name for part in text.split(",") if part.strip() for name in _expand(part.strip(), flag)]


def _expand(part: str, flag: str) -> list[str]:
    """One name as it is, a pattern as the paths that fit it, a list file as its lines."""
    path = Path(part).expanduser()
    if path.suffix == ".txt" and not path.is_dir():
        try:
            lines = path.read_text(encoding="utf-8").splitlines()
        except (OSError, UnicodeDecodeError) as error:
            raise UserError(f"The list '{part}' of {flag} cannot be read: {error}.") from error
        return [name for line in lines if (name := line.partition("#")[0].strip())]
    if path.exists() or not glob.has_magic(part):
        return [part]
    found = sorted(glob.glob(str(path)))
    if not found:
        raise UserError(f"Nothing fits {flag} '{part}'.", hint=f"Look at what is there: ls {path.parent}")
    return found


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

    def close(self) -> None:
        """Let the built model go; it is built anew when it is asked for again."""
        self._built = None

    def seconds_per_image(self) -> float | None:
        """How long encoding takes, from an earlier run or measured now; None where there is no such model."""
        if self.known_seconds is None:
            try:
                self.known_seconds = seconds_per_image(self.build())
            except UserError:
                return None
            remember(self.request, self._built, self.source(), self.cache_dir, seconds_per_image=self.known_seconds)
        return self.known_seconds
