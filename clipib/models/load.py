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
from clipib.models.hf_text import formula_settings, local_text_cfg
from clipib.models.model import DTYPES, PRECISIONS, RANDOM_WEIGHTS, Model, checkpoint_sha256
from clipib.models.photo import PHOTO, build_photo
from clipib.models.sources import Source, check_weights, resolve_model
from clipib.registry import check_name


def load_model(
    spec: str | Source,
    pretrained: str | None = None,
    *,
    device: str = "auto",
    precision: str = "fp32",
    seed: int = 0,
) -> Model:
    """Load a checkpoint.

    Args:
        spec: see `resolve_model`, or what it returned.
        pretrained: a tag, a weights file, "none" for random weights, or None for the default.
        device: "auto", "cpu", "cuda", "cuda:1", "mps".
        precision: "fp32"; "bf16" and "fp16" convert the weights; "amp" computes under autocast.
        seed: of random weights.

    Raises:
        UserError: when the weights are missing, of another layout, or would run with the wrong activation.
    """
    import open_clip

    check_name("precision", precision, PRECISIONS)
    source = spec if isinstance(spec, Source) else resolve_model(spec, pretrained)
    target = pick_device(device)
    random = source.pretrained == RANDOM_WEIGHTS
    check_weights(source)
    with _quiet(), torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        try:
            module, tokenizer = build_photo(random=random) if source.location == PHOTO else _open(source, random)
            preprocess = open_clip.transform.PreprocessCfg(**module.visual.preprocess_cfg)
            train, evaluation = (open_clip.transform.image_transform_v2(preprocess, is_train=t) for t in (True, False))
        except (MemoryError, torch.OutOfMemoryError, UserError):
            raise
        except pickle.UnpicklingError as error:
            message = f"'{source.pretrained}' is no file of tensors alone; clipib never executes a pickle."
            raise UserError(message, hint="Save the state dict alone, best as safetensors.") from error
        except Exception as error:  # open_clip meets a damaged file with whatever comes first
            raise _unloadable(source, error) from error
    _check_preprocess(source, preprocess)
    config = _model_config(source)
    fingerprint = checkpoint_sha256(config | formula_settings(module), asdict(preprocess), module.state_dict())
    _check_record(source, fingerprint)
    module.eval()
    torch.backends.cudnn.allow_tf32 = False  # float32 means float32
    if precision in DTYPES:
        _convert(module, DTYPES[precision])
    return Model(
        name=source.name,
        pretrained=source.pretrained,
        module=module.to(target),
        tokenizer=tokenizer,
        preprocess_train=train,
        preprocess_eval=evaluation,
        config=config,
        preprocess=asdict(preprocess),
        fingerprint=fingerprint,
        device=target,
        precision=precision,
        record=source.record,
        folder=source.folder,
    )


def _open(source: Source, random: bool):
    """Module and tokenizer of a source that open_clip knows."""
    import open_clip

    module = open_clip.create_model(
        source.location,
        pretrained=source.weights,
        force_quick_gelu=bool(source.quick_gelu),
        require_pretrained=not random,
        weights_only=True,
        **local_text_cfg(open_clip.get_model_config(source.location), source.folder),
    )
    return module, open_clip.get_tokenizer(source.location)


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


def _check_preprocess(source: Source, preprocess) -> None:
    if len(preprocess.mean) != 3 or len(preprocess.std) != 3 or min(preprocess.std) <= 0:
        raise UserError(
            f"'{source.pretrained}' has a preprocessing that cannot be: mean {preprocess.mean}, std {preprocess.std}.",
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
    kept = {n: p.data.clone() for n, p in module.named_parameters() if n in ("logit_scale", "logit_bias")}
    module.to(dtype)
    for name, value in kept.items():
        getattr(module, name).data = value


def _unloadable(source: Source, error: Exception) -> UserError:
    """Why the weights do not fit, with what the file holds instead."""
    if source.location.startswith("hf-hub:"):
        return UserError(f"'{source.location}' cannot be loaded: {_first_line(error)}")
    if source.location.startswith("local-dir:"):
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
