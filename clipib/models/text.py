"""CLIP's text tower run on the longest text of the batch instead of the full context.

Under a causal mask the end token sees only what stands before it, so cutting what follows changes nothing but the
cost. open_clip's own `encode_text` refuses shorter inputs: its position table and mask have the full length.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from clipib.errors import UserError


def text_tower(module: nn.Module) -> nn.Module:
    """The part with the text tower's layers: the module itself where open_clip's CLIP holds them."""
    return getattr(module, "text", module)


def is_cuttable(module: nn.Module) -> bool:
    """Whether the text tower is causal and pooled at the end token, with no token appended."""
    if hasattr(module, "takes_shorter_texts"):
        return module.takes_shorter_texts
    tower = text_tower(module)
    pooling = getattr(tower, "text_pool_type", getattr(tower, "pool_type", ""))
    return (
        pooling == "argmax"
        and getattr(tower, "attn_mask", None) is not None
        and hasattr(tower, "positional_embedding")
        and hasattr(tower, "ln_final")
        and getattr(tower, "cls_emb", None) is None
        and not getattr(tower, "use_pad_mask", False)
    )


def cut_length(tokens: Tensor) -> int:
    """Length of the longest text in (n, L) token ids; the end token is the first largest id of a row."""
    return int(tokens.argmax(dim=-1).max()) + 1


def encode_cut_text(module: nn.Module, tokens: Tensor) -> Tensor:
    """(n, l) token ids with l at most the context length -> (n, D) features, before normalisation."""
    if hasattr(module, "takes_shorter_texts"):
        return module.encode_text(tokens)
    tower, length = text_tower(module), tokens.shape[1]
    dtype = tower.transformer.get_cast_dtype()
    x = tower.token_embedding(tokens).to(dtype) + tower.positional_embedding[:length].to(dtype)
    x = tower.transformer(x, attn_mask=tower.attn_mask[:length, :length])
    x = tower.ln_final(x[torch.arange(len(x), device=x.device), tokens.argmax(dim=-1)])
    return project_text(tower, x)


def project_text(tower: nn.Module, pooled: Tensor) -> Tensor:
    """(n, W) pooled features of an open_clip text tower -> (n, D) features, before normalisation."""
    projection = tower.text_projection
    if projection is None:
        return pooled
    return projection(pooled) if isinstance(projection, nn.Linear) else pooled @ projection


def reads_whole_context(config: dict[str, Any]) -> bool:
    """Whether open_clip's model_cfg has a text tower like SigLIP's: every position sees all, the last is pooled."""
    text = config.get("text_cfg", {})
    return bool(text.get("no_causal_mask")) and text.get("pool_type") == "last"


def check_whole_context(tokenize: Callable[[Sequence[str]], Tensor], context_length: int, label: str) -> None:
    """Make sure that texts reach a tower like SigLIP's as they did in training: padded to the end, case taken out.

    Raises:
        UserError: when they do not; the scores would look plausible and be wrong.
    """
    tokens = tokenize(["A Photo of TWO Cats", "a photo of two cats", "cats"])
    if tokens.shape[1] != context_length:
        raise UserError(
            f"The tokenizer of '{label}' pads to {tokens.shape[1]} tokens, its text tower reads {context_length}.",
            hint="Towers of the SigLIP family see the padding; mend context_length in the configuration.",
        )
    if not torch.equal(tokens[0], tokens[1]):
        raise UserError(
            f"The tokenizer of '{label}' tells capitals apart, which the SigLIP family was trained without.",
            hint='In open_clip_config.json, text_cfg needs "tokenizer_kwargs": {"clean": "canonicalize"}.',
        )
