"""Texts encoded as a tree of tokens: what several texts begin with is computed once.

Under a causal mask the state of a token depends on what stands before it alone. Texts with a common head ("a photo of
a") therefore share the head's states in every layer, its keys and values with them, and a text costs only the tokens
in which it differs from the text before it in sorted order. The last block needs the end tokens alone. This is
`clipib.models.text.encode_cut_text` in another order of sums.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from clipib.models.text import cut_length, is_cuttable, project_text, text_tower

CPU_BATCH_TOKENS, BATCH_TOKENS = 384, 8192  # more at once is slower on a CPU, whose cache they leave
PATH_TOKENS = 8  # as many times more in the paths, which repeat a common head in every text


class TextTree(NamedTuple):
    """The distinct beginnings of n texts; a node is a token after all that stand before it.

    ids, positions: (T,) the token of every node, and where in its texts it stands.
    origins: (T,) where the node lies in the flattened paths of the text that brought it.
    paths: (n, L) the nodes of every text from the first token on; any node after the end of a text.
    ends: (n,) position of the end token.
    """

    ids: Tensor
    positions: Tensor
    origins: Tensor
    paths: Tensor
    ends: Tensor

    @property
    def leaves(self) -> Tensor:
        """(n,) the node of every text's end token."""
        return self.paths.gather(1, self.ends[:, None])[:, 0]

    def to(self, device: torch.device) -> TextTree:
        return TextTree(*(tensor.to(device) for tensor in self))


def shares_heads(module: nn.Module) -> bool:
    """Whether the text tower is causal, pooled at the end token, and made of open_clip's plain blocks."""
    if hasattr(module, "takes_shorter_texts") or not is_cuttable(module):
        return False
    from open_clip.transformer import ResidualAttentionBlock, Transformer

    transformer = text_tower(module).transformer
    if type(transformer) is not Transformer:
        return False
    blocks = transformer.resblocks
    return len(blocks) > 0 and all(type(b) is ResidualAttentionBlock and _is_plain(b) for b in blocks)


def text_order(tokens: Tensor) -> np.ndarray:
    """Places of (n, L) token ids in lexicographic order, in which texts that begin alike stand together; (n,) int64."""
    return np.lexsort(tokens[:, : cut_length(tokens)].cpu().numpy().T[::-1])


def text_tree(tokens: Tensor) -> TextTree:
    """The tree of (n, L) token ids that stand in `text_order`; the end token is the first largest id of a row.

    Example:
        >>> tree = text_tree(torch.tensor([[1, 5, 6, 9], [1, 5, 7, 9], [1, 9, 0, 0]]))
        >>> tree.ids.tolist(), tree.positions.tolist()
        ([1, 5, 6, 9, 7, 9, 9], [0, 1, 2, 3, 2, 3, 1])
        >>> tree.paths.tolist()
        [[0, 1, 2, 3], [0, 1, 4, 5], [0, 6, 4, 5]]
    """
    ends = tokens.argmax(dim=-1)
    tokens = tokens[:, : cut_length(tokens)]
    places = torch.arange(tokens.shape[1], device=tokens.device)
    own = (places >= _common_heads(tokens, ends)[:, None]) & (places <= ends[:, None])  # (n, L)
    numbers = own.flatten().cumsum(0).sub(1).view_as(own)
    # a position that a text does not bring itself is the last one brought there by the texts above
    paths = torch.where(own, numbers, 0).cummax(dim=0).values
    origins = own.flatten().nonzero()[:, 0]
    return TextTree(tokens.flatten()[origins], origins % len(places), origins, paths, ends)


def encode_tree(module: nn.Module, tree: TextTree) -> Tensor:
    """(n, D) features of the texts of a tree, before normalisation; for towers that `shares_heads` accepts."""
    tower, length = text_tower(module), tree.paths.shape[1]
    blocks, mask = tower.transformer.resblocks, tower.attn_mask[:length, :length]
    x = tower.token_embedding(tree.ids) + tower.positional_embedding[tree.positions]  # (T, W)
    for block in blocks[:-1]:
        x = x + block.ls_1(_attend(block.attn, block.ln_1(x), tree, mask))
        x = x + block.ls_2(block.mlp(block.ln_2(x)))
    block = blocks[-1]
    x = x[tree.leaves] + block.ls_1(_attend_at_the_end(block.attn, block.ln_1(x), tree, mask))  # (n, W)
    x = x + block.ls_2(block.mlp(block.ln_2(x)))
    return project_text(tower, tower.ln_final(x))


def encode_by_head(
    module: nn.Module, tokens: Tensor, *, batch_tokens: int | None = None
) -> Iterator[tuple[Tensor, Tensor]]:
    """Encode (n, L) token ids batch by batch, texts that begin alike together.

    Args:
        batch_tokens: nodes of a batch at most, but where a single text has more; None goes by the device.

    Yields:
        places (m,) of a batch's texts among the n, and their features (m, D) before normalisation.
    """
    device = text_tower(module).positional_embedding.device
    batch_tokens = batch_tokens or (CPU_BATCH_TOKENS if device.type == "cpu" else BATCH_TOKENS)
    order = torch.from_numpy(text_order(tokens))
    tokens = tokens[order]
    for first, last in _batches(tokens, batch_tokens):
        yield order[first:last], encode_tree(module, text_tree(tokens[first:last]).to(device))


def _is_plain(block: nn.Module) -> bool:
    """Self-attention by torch's own module, with one projection for queries, keys and values."""
    attn = block.attn
    return (
        type(attn) is nn.MultiheadAttention
        and attn.in_proj_weight is not None
        and attn.bias_k is None
        and not attn.add_zero_attn
        and not attn.dropout
        and not hasattr(block, "ln_1_kv")
    )


def _common_heads(tokens: Tensor, ends: Tensor) -> Tensor:
    """(n,) how many tokens each text shares with the one above it; 0 for the first."""
    same = (tokens[1:] == tokens[:-1]).long().cumprod(dim=-1).sum(dim=-1)
    return F.pad(torch.minimum(same, torch.minimum(ends[1:], ends[:-1]) + 1), (1, 0))


def _batches(tokens: Tensor, batch_tokens: int) -> Iterator[tuple[int, int]]:
    """First and last + 1 of runs of sorted texts whose tree has at most so many nodes, and whose paths are short."""
    ends = tokens.argmax(dim=-1)
    lengths, brought = (ends + 1).tolist(), (ends + 1 - _common_heads(tokens, ends)).tolist()
    first = nodes = longest = 0
    for i, length in enumerate(lengths):
        nodes, longest = nodes + brought[i], max(longest, length)
        if i > first and (nodes > batch_tokens or (i + 1 - first) * longest > PATH_TOKENS * batch_tokens):
            yield first, i
            first, nodes, longest = i, length, length
    yield first, len(lengths)


def _attend(attn: nn.MultiheadAttention, x: Tensor, tree: TextTree, mask: Tensor) -> Tensor:
    """(T, W) -> (T, W): every text attends along its path, and a node keeps what it got in the text that brought it."""
    query, key, value = F.linear(x, attn.in_proj_weight, attn.in_proj_bias).chunk(3, dim=-1)
    query, key, value = (_heads(attn, y[tree.paths]) for y in (query, key, value))
    found = F.scaled_dot_product_attention(query, key, value, attn_mask=mask)  # (n, heads, L, W / heads)
    return attn.out_proj(found.transpose(1, 2).reshape(-1, attn.embed_dim)[tree.origins])


def _attend_at_the_end(attn: nn.MultiheadAttention, x: Tensor, tree: TextTree, mask: Tensor) -> Tensor:
    """(T, W) -> (n, W): only the end tokens ask."""
    width = attn.embed_dim
    bias = (None, None) if attn.in_proj_bias is None else attn.in_proj_bias.split([width, 2 * width])
    weight = attn.in_proj_weight.split([width, 2 * width])
    query = F.linear(x[tree.leaves], weight[0], bias[0])[:, None]  # (n, 1, W)
    key, value = F.linear(x, weight[1], bias[1]).chunk(2, dim=-1)
    query, key, value = (_heads(attn, y) for y in (query, key[tree.paths], value[tree.paths]))
    found = F.scaled_dot_product_attention(query, key, value, attn_mask=mask[tree.ends][:, None, None])
    return attn.out_proj(found.flatten(1))


def _heads(attn: nn.MultiheadAttention, x: Tensor) -> Tensor:
    """(n, L, W) -> (n, heads, L, W / heads)"""
    return x.unflatten(-1, (attn.num_heads, -1)).transpose(1, 2)
