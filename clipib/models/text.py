"""CLIP's text tower run on the longest text of the batch instead of the full context.

Under a causal mask the end token sees only what stands before it, so cutting what follows changes nothing but the
cost. open_clip's own `encode_text` refuses shorter inputs: its position table and mask have the full length.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn


def _tower(module: nn.Module) -> nn.Module:
    return getattr(module, "text", module)


def is_cuttable(module: nn.Module) -> bool:
    """Whether the text tower is open_clip's causal transformer pooled at the end token, with no token appended."""
    tower = _tower(module)
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
    tower, length = _tower(module), tokens.shape[1]
    dtype = tower.transformer.get_cast_dtype()
    x = tower.token_embedding(tokens).to(dtype) + tower.positional_embedding[:length].to(dtype)
    x = tower.transformer(x, attn_mask=tower.attn_mask[:length, :length])
    x = tower.ln_final(x[torch.arange(len(x), device=x.device), tokens.argmax(dim=-1)])
    projection = tower.text_projection
    if projection is None:
        return x
    return projection(x) if isinstance(projection, nn.Linear) else x @ projection
