"""The one object that the rest of clipib knows of a checkpoint."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field
from functools import lru_cache
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch import Tensor, nn

from clipib.models import RANDOM_WEIGHTS
from clipib.models.hf_text import cut_padding, formula_settings, is_hf_text
from clipib.models.shared_head import encode_by_head, shares_heads
from clipib.models.text import cut_length, encode_cut_text, is_cuttable
from clipib.scoring.features import Features, pack

if TYPE_CHECKING:
    from clipib.models.head import Head
    from clipib.models.towers import Encoded

DTYPES = {"bf16": torch.bfloat16, "fp16": torch.float16}


class Loaded(NamedTuple):
    """What a backend reads of a checkpoint.

    module, tokenizer, config, preprocess: as in `Model`. image_processor: transformers' own, where there is one.
    reads_whole_context: the text tower pools at a fixed place and sees the padding, as SigLIP's does.
    """

    module: nn.Module
    tokenizer: Callable[[Sequence[str]], Tensor]
    config: dict[str, Any]
    preprocess: dict[str, Any]
    image_processor: Any = None
    reads_whole_context: bool = False


class Embedding(NamedTuple):
    """What a tower makes of n items, for a loss.

    features: (n, D) unit norm float32. hidden: (n, H) float32 before the projection, where it was asked for.
    points: the weighted point sets of a checkpoint with a point head.
    """

    features: Tensor
    hidden: Tensor | None = None
    points: Features | None = None


@dataclass
class Model:
    """A dual encoder with everything that belongs to it.

    name: architecture. pretrained: tag, file, folder, or "random weights".
    module: the torch module; tokenizer: list of texts -> (n, L) token ids.
    preprocess_train, preprocess_eval: RGB picture -> (3, H, W) float tensor.
    config: open_clip's model_cfg, or what matters of transformers'; `quick_gelu` and `text_cfg` are always present.
    preprocess: size, mean, std, interpolation, ... as open_clip names them.
    fingerprint: sha256 over architecture, activation, preprocessing and every weight; names and places do not enter.
    record: how the checkpoint was trained by clipib, or empty.
    folder: where a local checkpoint lies, or None.
    backend: "open_clip" or "transformers", which says how it is saved.
    preprocess_name: which of `clipib.models.preprocess.PREPROCESS` made `preprocess_eval`.
    head: what clipib adds to the towers, or None: see `clipib.models.head`.
    locked: the towers, "image" and "text", whose trunks are not trained.
    images_at_once: how many the memory was found to hold, None until more were too many.
    """

    name: str
    pretrained: str
    module: nn.Module
    tokenizer: Callable[[Sequence[str]], Tensor]
    preprocess_train: Callable[[Any], Tensor]
    preprocess_eval: Callable[[Any], Tensor]
    config: dict[str, Any]
    preprocess: dict[str, Any]
    fingerprint: str
    device: torch.device
    precision: str = "fp32"
    record: dict[str, Any] = field(default_factory=dict)
    folder: Any = None
    backend: str = "open_clip"
    preprocess_name: str = "open_clip"
    head: Head | None = None
    locked: tuple[str, ...] = ()
    images_at_once: int | None = None

    @property
    def is_random(self) -> bool:
        return self.pretrained == RANDOM_WEIGHTS

    @property
    def loss(self) -> str:
        """The loss that the checkpoint was fine-tuned with, or ""."""
        return self.record.get("loss", "")

    @property
    def similarity(self) -> str:
        """How the checkpoint scores an image against a text: that of its point head, else cosine."""
        return self.head.similarity if self.has_points else "cosine"

    @property
    def logit_scale(self) -> Tensor:
        """The multiplier of the cosine, already exponentiated; a scalar that carries gradient."""
        return self.module.logit_scale.exp().reshape(())

    @property
    def logit_bias(self) -> Tensor | None:
        bias = getattr(self.module, "logit_bias", None)
        if bias is None and self.head is not None:
            bias = self.head.logit_bias
        return None if bias is None else bias.reshape(())

    @property
    def transform_key(self) -> str:
        """What the pixels of an image depend on."""
        about = getattr(self.preprocess_eval, "about", None)
        key = [self.preprocess_name, self.preprocess, *([about] if about else [])]
        return json.dumps(key, sort_keys=True, default=list)

    @property
    def tokenizer_key(self) -> str:
        """What the token ids of a text depend on."""
        text = self.config.get("text_cfg", {})
        kept = {k: text.get(k) for k in ("context_length", "tokenizer_kwargs", "tokenizer_mode")}
        return json.dumps([type(self.tokenizer).__name__, kept, tokenizer_rules(self.tokenizer)], sort_keys=True)

    @property
    def computes_in(self) -> str:
        """The precision, and under autocast the number format, which depends on the device."""
        return f"amp {amp_dtype(self.device)}" if self.precision == "amp" else self.precision

    def tokenize(self, texts: Sequence[str]) -> Tensor:
        """(n, L) int64 token ids on the CPU, padded to the context length."""
        return self.tokenizer(list(texts))

    @property
    def networks(self) -> nn.ModuleDict:
        """Everything with weights: the towers, and the head where there is one."""
        parts = {"module": self.module} if self.head is None else {"module": self.module, "head": self.head}
        return nn.ModuleDict(parts)

    def encode_images(self, pixels: Tensor, *, normalize: bool = True) -> Tensor:
        """What the store keeps of (n, 3, H, W) preprocessed pixels.

        (n, D) float32 features, unit norm unless told otherwise; of a checkpoint with a point head (n, m, D + 1), see
        `clipib.scoring.features.pack`.
        """
        if self.has_points:
            return pack(self.embed_images(pixels).points)
        with self._precision():
            features = self.module.encode_image(self._pixels(pixels))
        return _finish(features, normalize)

    def encode_texts(self, tokens: Tensor, *, normalize: bool = True, cut: bool = True) -> Tensor:
        """The same of (n, L) token ids.

        Causal towers pooled at the end token are run on the longest text of the batch only (`cut`), which is exact:
        later tokens cannot reach the pooled one. Towers of transformers mask their padding, which is cut as well.
        """
        if self.has_points:
            return pack(self.embed_texts(tokens).points)
        with self._precision():
            if cut and is_cuttable(self.module):
                tokens = tokens[:, : cut_length(tokens)]
                features = encode_cut_text(self.module, tokens.to(self.device))
            else:
                if cut and is_hf_text(self.module):
                    tokens = cut_padding(self.module, tokens)
                features = self.module.encode_text(tokens.to(self.device))
        return _finish(features, normalize)

    @property
    def shares_heads(self) -> bool:
        """Whether texts that begin alike are encoded together, what they begin with once."""
        return self.precision == "fp32" and not self.has_points and shares_heads(self.module)

    def encode_text_batches(self, tokens: Tensor) -> Iterator[tuple[list[int], Tensor]]:
        """`encode_texts` of (n, L) token ids in batches: the places of the texts in a batch, and what the store keeps.

        Texts that begin alike share the work where the tower allows it; else all are one batch.
        """
        if not self.shares_heads:
            yield list(range(len(tokens))), self.encode_texts(tokens)
            return
        for places, features in encode_by_head(self.module, tokens):
            yield places.tolist(), _finish(features, normalize=True)

    @property
    def has_points(self) -> bool:
        return self.head is not None and self.head.has_points

    def embed_images(self, pixels: Tensor, *, hidden: bool = False) -> Embedding:
        """Features, hidden features where asked for, and points where there is a head for them, of n images."""
        if not (hidden or self.has_points):
            return Embedding(self.encode_images(pixels))
        from clipib.models.towers import encode_image_parts

        with self._precision():
            parts = encode_image_parts(self.module, self._pixels(pixels))
        return self._embedding(parts, self.head.image if self.has_points else None)

    def embed_texts(self, tokens: Tensor, *, hidden: bool = False) -> Embedding:
        """The same of (n, L) token ids."""
        if not (hidden or self.has_points):
            return Embedding(self.encode_texts(tokens))
        from clipib.models.towers import encode_text_parts

        with self._precision():
            parts = encode_text_parts(self.module, tokens.to(self.device))
        return self._embedding(parts, self.head.text if self.has_points else None)

    def _embedding(self, parts: Encoded, head: nn.Module | None) -> Embedding:
        features = _finish(parts.features, normalize=True)
        points = None if head is None else head(features, parts.tokens.float(), parts.mask)
        return Embedding(features, parts.hidden.float(), points)

    def _pixels(self, pixels: Tensor) -> Tensor:
        pixels = pixels.to(self.device, non_blocking=True)
        return pixels.to(DTYPES.get(self.precision, pixels.dtype))

    def _precision(self):
        if self.precision != "amp":
            return nullcontext()
        return torch.autocast(self.device.type, dtype=amp_dtype(self.device))


def amp_dtype(device: torch.device) -> torch.dtype:
    """bfloat16 where the device computes in it, else float16."""
    if device.type == "cuda" and not torch.cuda.is_bf16_supported(including_emulation=False):
        return torch.float16
    return torch.bfloat16


@lru_cache(maxsize=4)  # a vocabulary may have a quarter of a million words
def tokenizer_rules(tokenizer: Any) -> str:
    """sha256 of vocabulary and rules of a transformers tokenizer, "" for open_clip's own."""
    inner = getattr(tokenizer, "tokenizer", None)
    if inner is None:
        return ""
    backend = getattr(inner, "backend_tokenizer", None)
    if backend is not None:
        rules = json.loads(backend.to_str())
        rules = {k: v for k, v in rules.items() if k not in ("truncation", "padding")}  # set by the last call
    else:
        pieces = getattr(inner, "sp_model", None)
        model = hashlib.sha256(pieces.serialized_model_proto()).hexdigest() if pieces else ""
        rules = [type(inner).__name__, sorted(inner.get_vocab().items()), model]
    clean = getattr(getattr(tokenizer, "clean_fn", None), "__name__", "")
    described = [rules, inner.padding_side, inner.pad_token_id, clean]
    return hashlib.sha256(json.dumps(described, sort_keys=True).encode()).hexdigest()


def checkpoint_sha256(config: dict[str, Any], preprocess: dict[str, Any], state: dict[str, Tensor]) -> str:
    """sha256 of architecture, preprocessing and weights, independent of device, file format and order."""
    digest = hashlib.sha256(json.dumps([config, preprocess], sort_keys=True, default=list).encode())
    for name in sorted(state):
        tensor = state[name].detach().cpu().contiguous()
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        digest.update(tensor.reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()


def fingerprint_of(
    module: nn.Module, head: nn.Module | None, config: dict[str, Any], preprocess: dict[str, Any]
) -> str:
    """`checkpoint_sha256` of a module as it is now, with its head where it has one."""
    config, state = config | formula_settings(module), dict(module.state_dict())
    if head is not None:
        config = config | {"head": head.config}
        state |= {f"head.{name}": tensor for name, tensor in head.state_dict().items()}
    return checkpoint_sha256(config, preprocess, state)


def _finish(features: Tensor, normalize: bool) -> Tensor:
    features = features.float()
    return torch.nn.functional.normalize(features, dim=-1) if normalize else features
