"""Build the model that a source describes."""

from __future__ import annotations

import copy
import logging
import pickle
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch

from clipib.errors import UserError
from clipib.models import DEFAULT_PREPROCESS, PHOTO, PRECISIONS, PREPROCESS, RANDOM_WEIGHTS
from clipib.models.head import load_head
from clipib.models.hf_text import local_text_cfg
from clipib.models.model import DTYPES, Loaded, Model, fingerprint_of
from clipib.models.photo import build_photo
from clipib.models.preprocess import eval_transform, train_transform
from clipib.models.sources import Source, check_weights, resolve_model
from clipib.models.text import check_whole_context, reads_whole_context
from clipib.registry import check_name

DEFAULT_CONTEXT_LENGTH = 77  # open_clip's, where a configuration names none


def load_model(
    spec: str | Source,
    pretrained: str | None = None,
    *,
    device: str = "auto",
    precision: str = "fp32",
    preprocess: str = DEFAULT_PREPROCESS,
    seed: int = 0,
) -> Model:
    """Load a checkpoint.

    Args:
        spec: see `resolve_model`, or what it returned.
        pretrained: a tag, a weights file, "none" for random weights, or None for the default.
        device: "auto", "cpu", "cuda", "cuda:1", "mps".
        precision: "fp32"; "bf16" and "fp16" convert the weights; "amp" computes under autocast.
        preprocess: "open_clip", "hf" or "fast", see `clipib.models.preprocess`.
        seed: of random weights.

    Raises:
        UserError: when the weights are missing, of another layout, or would run with the wrong activation.
    """
    check_name("precision", precision, PRECISIONS)
    check_name("preprocess", preprocess, PREPROCESS)
    source = spec if isinstance(spec, Source) else resolve_model(spec, pretrained)
    target = pick_device(device)
    check_weights(source)
    with _quiet(), torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        try:
            loaded = _load_open_clip(source) if source.backend == "open_clip" else _load_transformers(source)
            train = train_transform(loaded.preprocess)
            evaluation = eval_transform(preprocess, loaded.preprocess, loaded.image_processor)
            if loaded.reads_whole_context:
                context_length = loaded.config["text_cfg"].get("context_length", DEFAULT_CONTEXT_LENGTH)
                check_whole_context(loaded.tokenizer, context_length, source.pretrained)
        except UserError:
            raise
        except (MemoryError, torch.OutOfMemoryError):
            raise
        except pickle.UnpicklingError as error:
            message = f"'{source.pretrained}' is no file of tensors alone; clipib never executes a pickle."
            raise UserError(message, hint="Save the state dict alone, best as safetensors.") from error
        except Exception as error:  # open_clip meets a damaged file with whatever comes first
            raise _unloadable(source, error) from error
    module = loaded.module
    _check_preprocess(source, loaded.preprocess)
    head = load_head(source.folder, source.record["head"]) if source.record.get("head") else None
    fingerprint = fingerprint_of(module, head, loaded.config, loaded.preprocess)
    _check_record(source, fingerprint)
    module.eval()
    torch.backends.cudnn.allow_tf32 = False  # float32 means float32
    if precision in DTYPES:
        _convert(module, DTYPES[precision])
    return Model(
        name=source.name,
        pretrained=source.pretrained,
        module=module.to(target),
        tokenizer=loaded.tokenizer,
        preprocess_train=train,
        preprocess_eval=evaluation,
        config=loaded.config,
        preprocess=loaded.preprocess,
        fingerprint=fingerprint,
        device=target,
        precision=precision,
        record=source.record,
        folder=source.folder,
        backend=source.backend,
        preprocess_name=preprocess,
        head=None if head is None else head.to(target),
    )


def _load_open_clip(source: Source) -> Loaded:
    import open_clip

    random = source.pretrained == RANDOM_WEIGHTS
    module, tokenizer = build_photo(random=random) if source.location == PHOTO else _open(source, random)
    config = _model_config(source)
    return Loaded(
        module=module,
        tokenizer=tokenizer,
        config=config,
        preprocess=asdict(open_clip.transform.PreprocessCfg(**module.visual.preprocess_cfg)),
        reads_whole_context=reads_whole_context(config),
    )


def _open(source: Source, random: bool):
    """Module and tokenizer of a source that open_clip knows."""
    import open_clip

    module = open_clip.create_model(
        source.location,
        pretrained=source.weights,
        force_quick_gelu=bool(source.quick_gelu),
        pretrained_text=False,  # random weights are random in a text tower of transformers too
        require_pretrained=not random,
        weights_only=True,
        **local_text_cfg(open_clip.get_model_config(source.location), source.folder),
    )
    return module, open_clip.get_tokenizer(source.location)


def _load_transformers(source: Source) -> Loaded:
    from clipib.models.transformers_backend import load_transformers

    return load_transformers(source)


def pick_device(name: str) -> torch.device:
    """The torch device that a name stands for; "auto" is the best one there is.

    Raises:
        UserError: when there is no such device.
    """
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "mps" if torch.backends.mps.is_available() else "cpu"
    try:
        device = torch.device(name)
    except RuntimeError as error:
        raise UserError(f"Unknown device '{name}'.", hint="Known: auto, cpu, cuda, cuda:1, mps.") from error
    if device.type not in ("cpu", "cuda", "mps"):
        raise UserError(f"Unknown device '{name}'.", hint="Known: auto, cpu, cuda, cuda:1, mps.")
    present = {"cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available()}.get(device.type, True)
    if not present or (device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count()):
        raise UserError(f"There is no device '{name}' on this machine.", hint="Try --device auto or --device cpu.")
    return device


def _model_config(source: Source) -> dict[str, Any]:
    """open_clip's model_cfg with the activation written out."""
    import open_clip

    config = copy.deepcopy(open_clip.get_model_config(source.location))
    config["quick_gelu"] = bool(config.get("quick_gelu") or source.quick_gelu)
    return config


def _check_preprocess(source: Source, preprocess: dict[str, Any]) -> None:
    mean, std = preprocess["mean"], preprocess["std"]
    if len(mean) != 3 or len(std) != 3 or min(std) <= 0:
        raise UserError(
            f"'{source.pretrained}' has a preprocessing that cannot be: mean {mean}, std {std}.",
            hint="Three numbers each are expected, std above 0.",
        )


def _check_record(source: Source, fingerprint: str) -> None:
    recorded = source.record.get("checkpoint_sha256")
    if recorded and recorded != fingerprint:
        raise UserError(
            f"Weights, architecture or preprocessing in '{source.pretrained}' are not those that its record names "
            f"({fingerprint[:12]} found, {recorded[:12]} recorded).",
            hint=f"The folder was edited or damaged. To use it as it is: --model local-dir:{source.folder}.",
        )


def _convert(module: torch.nn.Module, dtype: torch.dtype) -> None:
    """Convert the weights, but not the logit scale and bias, which act on float32 scores."""
    acting = [p for p in (module.logit_scale, getattr(module, "logit_bias", None)) if p is not None]
    kept = [p.data.clone() for p in acting]
    module.to(dtype)
    for parameter, value in zip(acting, kept, strict=True):
        parameter.data = value


def _unloadable(source: Source, error: Exception) -> UserError:
    """Why the weights do not fit, with what the file holds instead."""
    if source.location.startswith("hf-hub:"):
        return UserError(f"'{source.location}' cannot be loaded: {_first_line(error)}")
    if source.backend == "transformers" or source.location.startswith("local-dir:"):
        return UserError(f"'{source.pretrained}' cannot be loaded: {_first_line(error)}")
    found = _tensor_names(source.weights) if source.weights and Path(source.weights).is_file() else []
    if not found:
        return UserError(f"The weights {source.name}/{source.pretrained} cannot be loaded: {_first_line(error)}")
    shown = ", ".join(found[:3])
    return UserError(
        f"'{source.pretrained}' is no open_clip checkpoint of {source.name}: its {len(found)} tensors are named "
        f"{shown}, ...",
        hint="clipib reads state dicts of open_clip architectures; give the matching --model.",
    )


def _tensor_names(path: str) -> list[str]:
    from open_clip.factory import load_state_dict

    try:
        return sorted(load_state_dict(path, weights_only=True))
    except Exception:
        return []


def _first_line(error: Exception) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    text = " ".join(lines[:2]) or type(error).__name__
    return text if len(text) <= 200 else text[:197] + "..."


class _quiet:
    """open_clip reports through the root logger; what matters of it becomes a UserError here."""

    def __enter__(self):
        self.level = logging.root.manager.disable
        logging.disable(logging.CRITICAL)

    def __exit__(self, *_):
        logging.disable(self.level)
