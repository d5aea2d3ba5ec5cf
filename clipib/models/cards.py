"""What earlier runs found out of a checkpoint, so that a run whose features are all stored builds no model.

A card names the files that a checkpoint was read from with their sizes and times. While those hold, fingerprint, store
keys and logit scale are taken from the card; as soon as something must be encoded the model is built, and has to have
the fingerprint that the card names. This module imports no torch.

    CACHE/models/<hash of what was asked for>.json
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import threading
from collections.abc import Callable, Mapping
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from clipib import __version__
from clipib.errors import UserError
from clipib.files import file_stamp, write_aside
from clipib.hub import is_offline
from clipib.models import PHOTO, RANDOM_WEIGHTS
from clipib.models.sources import Source

FOLDER = "models"
PACKAGES = ("torch", "torchvision", "open_clip_torch", "transformers", "timm")
FACTS = ("name", "pretrained", "fingerprint", "transform_key", "tokenizer_key", "computes_in", "precision")
FACTS += ("loss", "similarity", "has_points", "is_random", "preprocess_name")
FULL_COMMIT = re.compile(r"@[0-9a-f]{40}$")


class Request:
    """What was asked for: it identifies a card.

    Args:
        spec, pretrained: as typed. beside: precision, preprocess, device, seed, ..., whatever changes the outcome.
    """

    def __init__(self, spec: str, pretrained: str | None, beside: Mapping[str, Any]) -> None:
        place = Path(spec).expanduser()
        self.spec = str(place.resolve()) if place.exists() else spec
        self.typed = spec  # rows bear it
        self.pretrained = pretrained
        self.beside = dict(beside)

    def path(self, cache_dir: Path) -> Path:
        """Where its card lies."""
        asked = [
            self.spec,
            self.typed,
            self.pretrained,
            sorted(self.beside.items()),
            _accelerator(),
            __version__,
            [_version(p) for p in PACKAGES],
        ]
        return cache_dir / FOLDER / (hashlib.sha256(json.dumps(asked).encode()).hexdigest()[:32] + ".json")

    @property
    def is_settled(self) -> bool:
        """Whether the same words mean the same checkpoint tomorrow; a branch on the hub moves."""
        return not self.spec.startswith(("hf:", "hf-hub:")) or bool(FULL_COMMIT.search(self.spec))


class RememberedModel:
    """A checkpoint known by its card; whatever the card does not hold builds the model, once.

    Args:
        build: makes the real `Model`.
    """

    def __init__(self, card: Mapping[str, Any], build: Callable[[], Any]) -> None:
        self._facts = {**card["facts"], "device": SimpleNamespace(type=card["device"])}
        self._facts |= {"folder": Path(card["folder"]) if card["folder"] else None}
        self._build = build
        self._built: Any = None
        self._turn = threading.Lock()  # decoding threads may ask first, and all at once

    @property
    def is_built(self) -> bool:
        return self._built is not None

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        if self._built is None and name in self._facts:
            return self._facts[name]
        return getattr(self.built(), name)

    def built(self) -> Any:
        """The model itself.

        Raises:
            UserError: when the weights are not those of the card.
        """
        with self._turn:
            if self._built is None:
                model = self._build()
                if model.fingerprint != self._facts["fingerprint"]:
                    raise UserError(
                        f"The weights of '{self._facts['pretrained']}' changed, though their size and times did not.",
                        hint="Run again with --verify-cache.",
                    )
                self._built = model
        return self._built


def recall(request: Request, cache_dir: Path) -> dict[str, Any] | None:
    """The card of a request, or None where there is none or its files have changed."""
    if not (request.is_settled or is_offline()):
        return None
    try:
        card = json.loads(request.path(cache_dir).read_text(encoding="utf-8"))
        fresh = all(list(file_stamp(path)) == stamp for path, stamp in card["files"].items())
        folder = card["source"]["folder"]  # where a new file may be the one that is read now
        fresh = fresh and (not folder or {str(p) for p in _files_in(folder)} == set(card["files"]))
    except (OSError, ValueError, KeyError, TypeError):
        return None
    return card if fresh else None


def source_of(card: Mapping[str, Any]) -> Source:
    """Where the model of a card comes from; its training record is left out."""
    source = card["source"]
    return Source(**{**source, "folder": Path(source["folder"]) if source["folder"] else None})


def remember(request: Request, model: Any, source: Source, cache_dir: Path, *, seconds_per_image: float | None) -> None:
    """Write the card of a model that was just built, where the files that it came from are known.

    Args:
        seconds_per_image: what encoding took, where that was measured.
    """
    files = _files_of(source)
    if files is None:
        return
    bias = model.logit_bias
    card = {
        "source": {**source._asdict(), "folder": str(source.folder) if source.folder else None, "record": {}},
        "folder": str(model.folder) if model.folder else None,
        "device": model.device.type,
        "seconds_per_image": seconds_per_image,
        "files": {str(path): list(file_stamp(path)) for path in files},
        "facts": {
            **{name: getattr(model, name) for name in FACTS},
            "logit_scale": model.logit_scale.item(),
            "logit_bias": None if bias is None else bias.item(),
        },
    }
    path = request.path(cache_dir)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        write_aside(path, lambda f: f.write(json.dumps(card, indent=1, default=list).encode()))
    except OSError:
        return  # to remember is a favour


def _files_of(source: Source) -> list[Path] | None:
    """Every file that a checkpoint is read from; None where that is not known."""
    if source.folder:
        return _files_in(source.folder)
    if source.pretrained == RANDOM_WEIGHTS:
        return []
    if source.name == PHOTO:
        from clipib.models.photo import find_parts

        image_weights, text_folder = find_parts()
        return [image_weights, *_files_in(text_folder)]
    if source.weights and Path(source.weights).is_file():
        return [Path(source.weights)]
    found = _cached_files(source)
    return found or None


def _files_in(folder: str | Path) -> list[Path]:
    return sorted(p for p in Path(folder).rglob("*") if p.is_file())


def _cached_files(source: Source) -> list[Path]:
    """The files of a pretrained tag or a repository in the hub's cache."""
    from huggingface_hub import try_to_load_from_cache

    if source.weights:
        import open_clip

        repo, _, file = open_clip.get_pretrained_cfg(source.name, source.weights).get("hf_hub", "").rpartition("/")
        names = (file,) if file else ("open_clip_model.safetensors", "open_clip_pytorch_model.bin")
        paths = [try_to_load_from_cache(repo, name) for name in names] if repo else []
        return [Path(p) for p in paths if isinstance(p, str)]
    repo, _, commit = source.location.removeprefix("hf-hub:").partition("@")
    for config in ("open_clip_config.json", "config.json"):
        path = try_to_load_from_cache(repo, config, revision=commit or None)
        if isinstance(path, str):
            return _files_in(Path(path).parent)
    return []


def _accelerator() -> list[str | None]:
    """What `--device auto` depends on, as far as it can be told without torch."""
    return [str(Path("/dev/nvidiactl").exists()), os.environ.get("CUDA_VISIBLE_DEVICES")]


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return ""
