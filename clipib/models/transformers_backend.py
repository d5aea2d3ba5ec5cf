"""Checkpoints in transformers' layout: CLIP, SigLIP and SigLIP 2.

A folder that clipib saves of such a model is what transformers itself writes (`config.json`, `model.safetensors`,
`preprocessor_config.json`, the tokenizer's files), beside `clipib.json`; both open it again.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from clipib.errors import UserError
from clipib.models.hub import WEIGHTS, Commit, fetch_checkpoint
from clipib.models.model import Loaded, Model
from clipib.models.preprocess import describe_processor, unpack_patches
from clipib.models.sources import Source, read_json
from clipib.registry import nearest

FAMILIES = {"clip": "CLIPModel", "siglip": "SiglipModel", "siglip2": "Siglip2Model"}
CLEAN = {"clip": "lower", "siglip": "canonicalize", "siglip2": "canonicalize"}  # open_clip's names of text rules
VOCABULARIES = ("tokenizer.json", "vocab.json", "spiece.model", "tokenizer.model")
TEXT_KEYS = "hidden_size intermediate_size num_hidden_layers num_attention_heads hidden_act layer_norm_eps vocab_size"
TEXT_KEYS += " max_position_embeddings eos_token_id projection_size"
VISION_KEYS = "hidden_size intermediate_size num_hidden_layers num_attention_heads hidden_act layer_norm_eps"
VISION_KEYS += " image_size patch_size num_channels num_patches vision_use_head"


class TransformersEncoder(nn.Module):
    """A dual encoder of transformers behind the methods that clipib calls.

    hf: the model. image_processor: the checkpoint's own.
    """

    def __init__(self, hf: nn.Module, image_processor: Any) -> None:
        super().__init__()
        self.hf = hf
        self.image_processor = image_processor

    @property
    def visual(self) -> nn.Module:
        return self.hf.vision_model

    @property
    def logit_scale(self) -> nn.Parameter:
        """The logarithm of the multiplier."""
        return self.hf.logit_scale

    @property
    def logit_bias(self) -> nn.Parameter | None:
        return getattr(self.hf, "logit_bias", None)

    @property
    def takes_shorter_texts(self) -> bool:
        """Whether what stands after the first largest id cannot change the features: CLIP's causal tower."""
        text = self.hf.config.text_config
        return self.hf.config.model_type == "clip" and text.eos_token_id in (2, text.vocab_size - 1)

    def encode_image(self, pixels: Tensor) -> Tensor:
        """(n, 3, H, W) pixels, or (n, P + 1, E) packed patches of a NaFlex tower, -> (n, D) features."""
        return features_of(self.hf.get_image_features(**self.image_inputs(pixels)))

    def image_inputs(self, pixels: Tensor) -> dict[str, Tensor]:
        """What the image tower is called with, in its own order and under transformers' names."""
        if self.hf.config.model_type != "siglip2":
            return {"pixel_values": pixels}
        if pixels.ndim == 4:
            patches, mask, shapes = _cut_patches(pixels, self.hf.config.vision_config.patch_size)
        else:
            patches, mask, shapes = unpack_patches(pixels)
        return {"pixel_values": patches, "pixel_attention_mask": mask, "spatial_shapes": shapes}

    def encode_text(self, tokens: Tensor) -> Tensor:
        """(n, L) token ids -> (n, D) features. There is no mask: SigLIP was trained to see its padding."""
        return features_of(self.hf.get_text_features(input_ids=tokens))


def features_of(output: Any) -> Tensor:
    """The projected features: before transformers 5 the output itself, since then its `pooler_output`."""
    return output if isinstance(output, Tensor) else output.pooler_output


def check_config(config: dict[str, Any], label: str) -> str:
    """The family of a transformers configuration.

    Raises:
        UserError: when it is no dual encoder that clipib reads.
    """
    kind = config.get("model_type")
    if kind not in FAMILIES:
        close = nearest(str(kind), FAMILIES)
        found = f" Did you mean '{close[0]}'?" if close else ""
        raise UserError(
            f"'{label}' is a model of the type {kind!r}, which is no image-text model that clipib reads.{found}",
            hint=f"Known: {', '.join(FAMILIES)}.",
        )
    vision = config.get("vision_config") or {}
    if vision.get("vision_use_head") is False:
        raise UserError(f"'{label}' has no pooling head in its image tower, so it gives no image features.")
    return kind


def quick_gelu_of(config: dict[str, Any]) -> bool:
    """Whether a configuration computes QuickGELU, which CLIP's towers do where nothing else is written."""
    default = "quick_gelu" if config.get("model_type") == "clip" else "gelu_pytorch_tanh"
    return (config.get("vision_config") or {}).get("hidden_act", default) == "quick_gelu"


def check_folder(folder: Path) -> None:
    """Make sure that the weights are there and whole.

    Raises:
        UserError: when they are not.
    """
    from safetensors import SafetensorError, safe_open

    found = next((name for name in WEIGHTS if (folder / name).is_file()), None)
    if found is None:
        raise UserError(f"'{folder}' holds no weights: expected {WEIGHTS[0]} or {WEIGHTS[2]}.")
    parts = [found]
    if found.endswith(".index.json"):
        parts = sorted(set(read_json(folder / found, "index of weights").get("weight_map", {}).values()))
    for name in parts:
        if not (folder / name).is_file():
            raise UserError(f"'{folder}' lacks a part of its weights: {name}, which {found} names.")
        if name.endswith(".safetensors"):
            try:
                with safe_open(folder / name, framework="numpy"):
                    pass
            except (SafetensorError, OSError) as error:
                raise UserError(f"The weights '{folder / name}' are damaged: {error}.") from error


def load_transformers(source: Source) -> Loaded:
    """Module, tokenizer and preprocessing of a folder or a commit on the hub.

    Raises:
        UserError: when weights are missing, left over or of another shape, or there is no image processor or tokenizer.
    """
    repo, _, sha = source.location.rpartition("@")
    folder = source.folder or fetch_checkpoint(Commit(repo, sha, source.files))
    label = source.pretrained
    family = check_config(read_json(folder / "config.json", "configuration"), label)
    hf = _load_weights(folder, family, label)
    vision, text = hf.config.vision_config, hf.config.text_config
    image_processor = _load_image_processor(folder, label)
    side = vision.image_size if family != "siglip2" else vision.patch_size * int(vision.num_patches**0.5)
    config = {
        "model_type": family,
        "quick_gelu": vision.hidden_act == "quick_gelu",
        "projection_dim": getattr(hf.config, "projection_dim", None),
        "text_config": {key: getattr(text, key, None) for key in TEXT_KEYS.split()},
        "vision_config": {key: getattr(vision, key, None) for key in VISION_KEYS.split()},
        "text_cfg": {
            "context_length": text.max_position_embeddings,
            "tokenizer_kwargs": {"clean": CLEAN[family]},
        },
    }
    return Loaded(
        module=TransformersEncoder(hf, image_processor),
        tokenizer=_load_tokenizer(folder, family, text.max_position_embeddings, label),
        config=config,
        preprocess=describe_processor(image_processor, side=side),
        image_processor=image_processor,
        reads_whole_context=family != "clip",
    )


def save_transformers(model: Model, folder: Path) -> None:
    """Write weights, configuration and image processor as transformers does; the tokenizer is written by the caller."""
    import transformers

    with _without_bars(transformers):
        model.module.hf.save_pretrained(str(folder))
        model.module.image_processor.save_pretrained(str(folder))


def _load_weights(folder: Path, family: str, label: str) -> nn.Module:
    """The model in float32, with every weight from the file and every weight of the file used."""
    import transformers

    with _without_bars(transformers):
        hf, info = getattr(transformers, FAMILIES[family]).from_pretrained(
            str(folder), local_files_only=True, output_loading_info=True
        )
    for kind, meaning in (("missing_keys", "lacks"), ("unexpected_keys", "has more than its configuration:")):
        names = sorted(str(name) for name in info[kind] if not str(name).endswith("position_ids"))
        if names:
            shown = ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")
            hint = "With other weights in their place every number would be wrong; restore the file."
            raise UserError(f"The file of weights of '{label}' {meaning} {shown}.", hint=hint)
    return hf.float()


def _load_image_processor(folder: Path, label: str) -> Any:
    from transformers import AutoImageProcessor

    if not any((folder / name).is_file() for name in ("preprocessor_config.json", "processor_config.json")):
        hint = "Copy the file from the checkpoint that this one was made of; sizes and colours are not guessed."
        raise UserError(f"'{label}' has no preprocessor_config.json.", hint=hint)
    return AutoImageProcessor.from_pretrained(str(folder), local_files_only=True)


def _load_tokenizer(folder: Path, family: str, context_length: int, label: str) -> Any:
    """open_clip's wrapper of a transformers tokenizer: it cleans texts by the family's rule and pads to the end."""
    from open_clip.tokenizer import HFTokenizer

    if not any((folder / name).is_file() for name in VOCABULARIES):
        raise UserError(f"'{label}' has no tokenizer: neither tokenizer.json nor a vocabulary lies beside its weights.")
    tokenizer = HFTokenizer(str(folder), context_length, clean=CLEAN[family], local_files_only=True)
    tokenizer.tokenizer.padding_side = "right"  # as in training; Siglip2Tokenizer's own default is left
    if tokenizer.tokenizer.pad_token_id is None:
        raise UserError(f"The tokenizer of '{label}' has no padding token.")
    tokens = tokenizer(["two dogs run", "a red bus"])
    if torch.equal(tokens[0], tokens[1]):  # transformers makes an empty vocabulary of files that it does not know
        kind = type(tokenizer.tokenizer).__name__
        raise UserError(f"The tokenizer of '{label}', read as {kind}, gives different texts the same token ids.")
    return tokenizer


def _cut_patches(pixels: Tensor, patch: int) -> tuple[Tensor, Tensor, Tensor]:
    """(n, 3, H, W) -> (n, h w, patch * patch * 3) patches in rows, (n, h w) mask of ones, (n, 2) of h and w."""
    n, channels, height, width = pixels.shape
    h, w = height // patch, width // patch
    grid = pixels.reshape(n, channels, h, patch, w, patch).permute(0, 2, 4, 3, 5, 1)
    patches = grid.reshape(n, h * w, patch * patch * channels)
    mask = torch.ones(n, h * w, dtype=torch.int32, device=pixels.device)
    return patches, mask, torch.tensor([[h, w]], device=pixels.device).expand(n, 2)


class _without_bars:
    """transformers draws a bar for every file that it reads; progress is for `clipib.progress` to show."""

    def __init__(self, transformers: Any) -> None:
        self.logging = transformers.utils.logging

    def __enter__(self) -> None:
        self.shown = self.logging.is_progress_bar_enabled()
        self.logging.disable_progress_bar()

    def __exit__(self, *_: object) -> None:
        if self.shown:
            self.logging.enable_progress_bar()
