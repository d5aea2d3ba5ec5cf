"""From a model specification to the place its weights come from, before anything is built."""

from __future__ import annotations

import json
import os
import re
import socket
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any, NamedTuple
from urllib.parse import urlparse

from clipib.errors import UserError
from clipib.hub import is_offline
from clipib.models import PHOTO, PHOTO_WEIGHTS, RANDOM_WEIGHTS
from clipib.registry import nearest

BUILT_IN = ("tiny", PHOTO)  # our own architectures, in configs/
CONFIG_FILE, HF_CONFIG_FILE, RECORD_FILE = "open_clip_config.json", "config.json", "clipib.json"
WEIGHTS_FILE, SEEN_FILE = "open_clip_model.safetensors", "seen.safetensors"
WORKS_OFFLINE = "Works without network: --model photo, --model tiny --pretrained none, a folder, or `clipib demo`."


class Source(NamedTuple):
    """Where a model comes from.

    name: architecture for the results. pretrained: tag, file, folder or "random weights" for the results.
    location: what open_clip is asked for: a name, `local-dir:PATH` or `hf-hub:ID`; of a checkpoint in transformers'
    layout the folder, or `ORG/NAME@COMMIT` on the hub.
    weights: tag or file, where `location` is a name; None for random weights.
    quick_gelu: the activation that the weights were trained with, or None where only the architecture says so.
    folder: a local checkpoint folder, or None. record: its training record, where clipib wrote it.
    backend: "open_clip" or "transformers". files: what the commit on the hub holds, where the hub was asked.
    """

    name: str
    pretrained: str
    location: str
    weights: str | None = None
    quick_gelu: bool | None = None
    folder: Path | None = None
    record: Mapping[str, Any] = MappingProxyType({})
    backend: str = "open_clip"
    files: tuple[str, ...] | None = None

    def describe(self) -> str:
        """One phrase for the plan line: architecture, weights, activation."""
        activation = {True: ", QuickGELU", False: ", GELU", None: ""}[self.quick_gelu]
        return f"{self.name} ({self.pretrained}{activation})"


def resolve_model(spec: str, pretrained: str | None = None) -> Source:
    """Find out what a `--model` and `--pretrained` mean; files and names are checked, nothing is built.

    Nothing is fetched but the `config.json` of a checkpoint in transformers' layout on the hub.

    Args:
        spec: an open_clip name, `NAME/TAG`, `hf:ORG/NAME[@REV]`, `local-dir:PATH`, `hf-hub:ORG/NAME`, a folder, or
            `tiny`.
        pretrained: a tag, a weights file, "none" for random weights, or None for the default tag.

    Raises:
        UserError: for what is unknown or missing, naming what exists near it.
    """
    spec = spec.strip()
    if not spec:
        raise UserError("--model is empty.", hint=WORKS_OFFLINE)
    for prefix in ("local-dir:", "hf-hub:", "hf:"):
        if spec.startswith(prefix):
            if pretrained:
                raise UserError(f"'{spec}' has weights of its own; --pretrained {pretrained} does not go with it.")
            return _resolve_schema(spec, prefix)
    if Path(spec).expanduser().exists():
        if pretrained:
            raise UserError(f"'{spec}' has weights of its own; --pretrained {pretrained} does not go with it.")
        return _resolve_path(Path(spec).expanduser(), spec)
    return _resolve_name(spec, pretrained)


def _resolve_schema(spec: str, prefix: str) -> Source:
    place = spec[len(prefix) :]
    if prefix == "hf-hub:":
        require_hub(f"the model '{spec}'", repo=place, files=(CONFIG_FILE,))
        return Source(place, spec, spec)
    if prefix == "hf:":
        return _resolve_hub(place)
    return _resolve_local_dir(Path(place).expanduser(), spec)


def _resolve_hub(place: str) -> Source:
    """A checkpoint in transformers' layout on the hub, at the commit that its name stands for now."""
    from clipib.models.hub import fetch_config, find_commit
    from clipib.models.transformers_backend import check_config, quick_gelu_of

    commit = find_commit(place)
    config = read_json(fetch_config(commit), "configuration")
    label = f"hf:{commit.repo}@{commit.sha}"
    check_config(config, label)
    return Source(
        commit.repo,
        label,
        f"{commit.repo}@{commit.sha}",
        quick_gelu=quick_gelu_of(config),
        backend="transformers",
        files=commit.files,
    )


def _resolve_transformers_dir(folder: Path, label: str) -> Source:
    from clipib.models.transformers_backend import check_config, quick_gelu_of

    config = read_json(folder / HF_CONFIG_FILE, "configuration")
    check_config(config, label)
    name, quick_gelu = folder.resolve().name, quick_gelu_of(config)
    return Source(name, label, str(folder), quick_gelu=quick_gelu, folder=folder, backend="transformers")


def _resolve_local_dir(folder: Path, label: str) -> Source:
    """A folder in open_clip's layout, or where there is none of its configuration in transformers'."""
    if not (folder / CONFIG_FILE).is_file() and (folder / HF_CONFIG_FILE).is_file():
        return _resolve_transformers_dir(folder, label)
    config = read_json(folder / CONFIG_FILE, "open_clip configuration")
    model_config = config.get("model_cfg")
    if not isinstance(model_config, dict) or not {"text_cfg", "vision_cfg"} <= set(model_config):
        raise UserError(f"'{folder / CONFIG_FILE}' has no whole model_cfg: it is no open_clip configuration.")
    quick_gelu = bool(model_config.get("quick_gelu"))
    return Source(folder.resolve().name, label, f"local-dir:{folder}", quick_gelu=quick_gelu, folder=folder)


def _resolve_path(path: Path, label: str) -> Source:
    if path.is_file():
        hint = f"Say which: --model ViT-B-32 --pretrained {label}."
        raise UserError(f"'{label}' is a weights file, which does not say its architecture.", hint=hint)
    if (path / RECORD_FILE).is_file():
        record = read_json(path / RECORD_FILE, "training record")
        return _checked_record(path, label, record)
    if any((path / file).is_file() for file in (CONFIG_FILE, HF_CONFIG_FILE)):
        return _resolve_local_dir(path, label)
    inside = _checkpoints_in(path)
    if inside:
        paths = " or ".join(str(Path(label) / name) for name in inside[:3])
        raise UserError(f"'{label}' is no checkpoint folder, but holds some.", hint=f"Write --model {paths}.")
    files = ", ".join(sorted(p.name for p in path.iterdir())[:5]) or "nothing"
    raise UserError(
        f"'{label}' is no checkpoint folder: it holds neither {CONFIG_FILE} nor {HF_CONFIG_FILE} (found: {files}).",
        hint="A single weights file is loaded with --model ARCHITECTURE --pretrained FILE.",
    )


def _checked_record(path: Path, label: str, record: dict[str, Any]) -> Source:
    """A clipib folder whose configuration and record agree on the activation."""
    source = _resolve_local_dir(path, label)
    recorded = record.get("activation")
    configured = "quick_gelu" if source.quick_gelu else "gelu"
    if recorded != configured:
        raise UserError(
            f"'{label}' was trained with the activation {recorded}, its configuration says {configured}.",
            hint="Restore the file that was edited; with the wrong activation every number would be wrong.",
        )
    return source._replace(name=record.get("name", source.name), record=record)


def _resolve_name(spec: str, pretrained: str | None) -> Source:
    import open_clip

    _add_built_in()
    name, slash, tag = spec.rpartition("/")
    if slash and name in open_clip.list_models():
        if pretrained and pretrained != tag:
            raise UserError(f"'{spec}' names the tag '{tag}', --pretrained names '{pretrained}'.", hint="Give one.")
        pretrained = tag
    else:
        name = spec
    if name not in open_clip.list_models():
        raise _unknown_model(spec, open_clip.list_models())
    if name == PHOTO:
        return _resolve_photo(pretrained)
    tags = open_clip.list_pretrained_tags_by_model(name)
    if pretrained == "none":
        return Source(name, RANDOM_WEIGHTS, name, quick_gelu=_config_quick_gelu(name))
    if pretrained is None:
        if not tags:
            hint = "Give --pretrained FILE, or --pretrained none for random weights."
            hint += " `clipib demo` trains a tiny one." if name in BUILT_IN else ""
            raise UserError(f"No pretrained weights are known for '{name}'.", hint=hint)
        pretrained = "openai" if "openai" in tags else tags[0]
    if Path(pretrained).expanduser().is_file():
        folder = Path(pretrained).expanduser().parent
        if (folder / RECORD_FILE).is_file():
            hint = f"Type --model {folder}: its record and its preprocessing belong to the weights."
            raise UserError(f"'{pretrained}' is part of the checkpoint folder '{folder}'.", hint=hint)
        weights = str(Path(pretrained).expanduser())
        return Source(name, pretrained, name, weights=weights, quick_gelu=_config_quick_gelu(name))
    return _resolve_tag(name, pretrained, tags)


def _resolve_photo(pretrained: str | None) -> Source:
    """The model of `clipib.models.photo`, which is made of installed packages."""
    if pretrained not in (None, "none", PHOTO_WEIGHTS):
        hint = "Leave out --pretrained, or give none for random weights. A fine-tuned photo is opened by its folder."
        raise UserError(f"'photo' has one set of weights, there is no '{pretrained}' for it.", hint=hint)
    from clipib.models.photo import find_parts

    find_parts()
    return Source(PHOTO, RANDOM_WEIGHTS if pretrained == "none" else PHOTO_WEIGHTS, PHOTO)


def _resolve_tag(name: str, tag: str, tags: list[str]) -> Source:
    """A pretrained tag with the activation that its weights were trained with."""
    import open_clip

    details = open_clip.get_pretrained_cfg(name, tag)
    if not details:
        if os.sep in tag or Path(tag).suffix:
            raise UserError(f"There is no weights file '{tag}'.", hint="Check the path after --pretrained.")
        close = nearest(tag, tags)
        found = f"Did you mean '{close[0]}'? " if close else ""
        known = ", ".join(tags[:6]) + (", ..." if len(tags) > 6 else "") if tags else "none"
        hint = "Or a weights file, or none for random weights."
        if name.endswith("-quickgelu"):
            hint = f"Weights that were not trained with QuickGELU go with --model {name[: -len('-quickgelu')]}."
        raise UserError(f"Unknown pretrained tag '{tag}' for {name}. {found}Known: {known}.", hint=hint)
    trained_with = bool(details.get("quick_gelu", False))
    if _config_quick_gelu(name) and not trained_with:
        hint = f"Use --model {name.replace('-quickgelu', '')} --pretrained {tag}."
        raise UserError(f"{name} computes QuickGELU, the weights '{tag}' were trained with GELU.", hint=hint)
    return Source(name, tag, name, weights=tag, quick_gelu=trained_with)


def find_model(spec: str, pretrained: str | None = None) -> Source:
    """`resolve_model`, and make sure that the weights are there."""
    source = resolve_model(spec, pretrained)
    check_weights(source)
    return source


def check_weights(source: Source) -> None:
    """Make sure that the weights are there: whole in a folder; of a pretrained tag, cached or within reach.

    Raises:
        UserError: when they are not, naming what works without network.
    """
    import open_clip

    if source.backend == "transformers":
        if source.folder:
            from clipib.models.transformers_backend import check_folder

            check_folder(source.folder)
        else:
            from clipib.models.hub import Commit, check_fetchable

            repo, _, sha = source.location.rpartition("@")
            check_fetchable(Commit(repo, sha, source.files))
        return
    if source.folder:
        _check_weights_file(source.folder)
    if not source.weights or Path(source.weights).is_file():
        return
    repo, _, file = open_clip.get_pretrained_cfg(source.name, source.weights).get("hf_hub", "").rpartition("/")
    if repo:
        files = (file,) if file else (WEIGHTS_FILE, "open_clip_pytorch_model.bin")
        require_hub(f"the weights {source.name}/{source.weights}", repo=repo, files=files)


def _check_weights_file(folder: Path) -> None:
    """A checkpoint folder has weights, and a safetensors file has the length that its header says."""
    from safetensors import SafetensorError, safe_open

    files = [p for ending in ("*.safetensors", "*.bin", "*.pth") for p in folder.glob(ending) if p.name != SEEN_FILE]
    if not files:
        raise UserError(f"'{folder}' holds no weights: expected {WEIGHTS_FILE}.")
    for path in (p for p in files if p.suffix == ".safetensors"):
        if not os.access(path, os.R_OK):
            raise UserError(f"You may not read the weights '{path}'.", hint=f"Their owner can type: chmod a+r '{path}'")
        try:
            with safe_open(path, framework="numpy"):
                pass
        except (SafetensorError, OSError) as error:
            raise UserError(f"The weights '{path}' are damaged: {error}.") from error


def require_hub(what: str, *, repo: str, files: tuple[str, ...]) -> None:
    """Fail at once, and in one sentence, where the hub cannot be reached and none of the files is cached.

    Raises:
        UserError: offline, or without network. The hub's own client would try for most of a minute.
    """
    from huggingface_hub import constants, try_to_load_from_cache

    if any(isinstance(try_to_load_from_cache(repo, file), str) for file in files):
        return
    if is_offline():
        raise UserError(f"Offline, and not in the local cache: {what} ({repo}).", hint=WORKS_OFFLINE)
    if any(os.environ.get(v) for v in ("HTTPS_PROXY", "https_proxy", "HTTP_PROXY", "http_proxy", "ALL_PROXY")):
        return
    address = urlparse(constants.ENDPOINT)
    try:
        port = address.port or (80 if address.scheme == "http" else 443)
        socket.create_connection((address.hostname, port), timeout=10).close()
    except OSError as error:
        message = f"Cannot fetch {what}: {address.hostname} cannot be reached ({error.strerror or error})."
        raise UserError(message, hint=WORKS_OFFLINE) from error


def read_json(path: Path, what: str) -> dict[str, Any]:
    """A JSON object from a file.

    Raises:
        UserError: when it is missing or no JSON object.
    """
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise UserError(f"There is no {what} '{path}'.") from error
    except (OSError, ValueError) as error:
        raise UserError(f"The {what} '{path}' cannot be read: {error}.") from error
    if not isinstance(content, dict):
        raise UserError(f"The {what} '{path}' is no JSON object.")
    return content


def _add_built_in() -> None:
    import open_clip

    if BUILT_IN[0] not in open_clip.list_models():
        open_clip.add_model_config(Path(__file__).parent / "configs")


def _config_quick_gelu(name: str) -> bool:
    import open_clip

    return bool(open_clip.get_model_config(name).get("quick_gelu", False))


def _unknown_model(spec: str, known: list[str]) -> UserError:
    hint = "`clipib list models` shows all; a checkpoint folder, hf:ORG/NAME and hf-hub:ORG/NAME work too."
    if "/" in spec and spec.rpartition("/")[0] not in known:
        parent = Path(spec).parent
        inside = sorted(p.name for p in parent.iterdir())[:5] if parent.is_dir() else []
        shown = f" '{parent}' holds {', '.join(inside)}." if inside else ""
        if re.fullmatch(r"[\w.-]+/[\w.-]+", spec) and not parent.is_dir():
            hint = f"For a checkpoint on the Hugging Face hub write hf:{spec}, in open_clip's layout hf-hub:{spec}."
        return UserError(f"'{spec}' is neither a folder that exists nor a model name.{shown}", hint=hint)
    close = nearest(spec, [*_checkpoints_in(Path()), *known])
    found = " Did you mean " + " or ".join(f"'{c}'" for c in close) + "?" if close else ""
    return UserError(f"Unknown model '{spec}'.{found}", hint=hint)


def _checkpoints_in(folder: Path) -> list[str]:
    """The names of the checkpoint folders that lie in a folder."""
    files = (CONFIG_FILE, HF_CONFIG_FILE)
    return [p.name for p in sorted(folder.iterdir()) if any((p / file).is_file() for file in files)]
