"""One forward pass of a tower that gives its tokens beside the embedding: what point sets and penalties are made of."""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from clipib.errors import UserError
from clipib.models.hf_text import cut_padding, is_hf_text
from clipib.models.text import cut_length, is_cuttable, project_text, text_tower
from clipib.models.transformers_backend import TransformersEncoder


class Encoded(NamedTuple):
    """What one pass of a tower gives, all in the dtype that the tower computes in, all carrying gradient.

    features: (n, D) as `encode_image` and `encode_text` of the module give them, not normalised.
    hidden: (n, H) pooled, before the projection; the features themselves where the tower has no projection.
    tokens: (n, T, W) the tower's last tokens, after its last layer norm where it has one for tokens.
    mask: (n, T) bool, True where a token belongs to the item.
    """

    features: Tensor
    hidden: Tensor
    tokens: Tensor
    mask: Tensor


def encode_image_parts(module: nn.Module, pixels: Tensor) -> Encoded:
    """Features, hidden and tokens of images.

    The tokens are, with class and other prefix tokens where there are any,
    open_clip's ViT: the transformer's output after `ln_post`, or the queries of an attentional pooler;
    ModifiedResNet: the places of the last map, row by row; hidden is the attention pool's output before `c_proj`;
    timm: `forward_features` of the trunk, a map place by place; hidden is what the last projection reads;
    transformers: the last hidden state after `post_layernorm`, as open_clip has it.

    Args:
        pixels: (n, 3, H, W) on the module's device, or the packed patches of a NaFlex tower, whose padding is masked.

    Raises:
        UserError: when the tower gives no tokens, or no pooled features.
    """
    if isinstance(module, TransformersEncoder):
        return _transformers_image(module, pixels)
    kind = _image_kind(module)
    if kind == "timm":
        features, hidden, tokens = _timm_image(module.visual, pixels)
    elif kind == "resnet":
        features, hidden, tokens = _resnet_image(module.visual, pixels)
    else:
        features, hidden, tokens = _vit_image(module.visual, pixels)
    _check_pooled(features, "image", module.visual)
    return Encoded(features, hidden, tokens, torch.ones(tokens.shape[:2], dtype=torch.bool, device=tokens.device))


def encode_text_parts(module: nn.Module, tokens: Tensor, *, cut: bool = True) -> Encoded:
    """Features, hidden and tokens of texts.

    Masked out are: after the end of the text where the end token is pooled; padding that the tower itself masks; and
    the run of one id that ends a row where the tower reads its padding, as SigLIP's does. The pooled token stays.

    Args:
        tokens: (n, L) token ids on the module's device.
        cut: leave out columns that cannot change the features, as `Model.encode_texts` does; T is smaller then.

    Raises:
        UserError: when the tower gives no tokens, or no pooled features.
        ValueError: when the ids are no matrix.
    """
    if tokens.ndim != 2:
        raise ValueError(f"expected (n, L) token ids, got {tuple(tokens.shape)}")
    kind = _text_kind(module)
    if cut and is_cuttable(module):
        tokens = tokens[:, : cut_length(tokens)]
    elif cut and kind == "hf":
        tokens = cut_padding(module, tokens)
    if kind == "transformers":
        return _transformers_text(module, tokens)
    encoded = _hf_text(module.text, tokens) if kind == "hf" else _open_clip_text(text_tower(module), tokens)
    _check_pooled(encoded.features, "text", text_tower(module))
    return encoded


def token_widths(module: nn.Module) -> tuple[int, int]:
    """W of the image tokens and of the text tokens, read from the weights and the configuration.

    Raises:
        UserError: when a tower gives no tokens.
    """
    return _image_width(module), _text_width(module)


def _image_width(module: nn.Module) -> int:
    if isinstance(module, TransformersEncoder):
        return module.hf.config.vision_config.hidden_size
    kind, tower = _image_kind(module), module.visual
    if kind == "timm":
        return tower.trunk.num_features
    if kind == "resnet":
        return tower.attnpool.k_proj.in_features
    return tower.transformer.width if tower.attn_pool is None else tower.attn_pool.query.shape[-1]


def _text_width(module: nn.Module) -> int:
    kind = _text_kind(module)
    if kind == "transformers":
        return module.hf.config.text_config.hidden_size
    return module.text.transformer.config.hidden_size if kind == "hf" else text_tower(module).transformer.width


def _image_kind(module: nn.Module) -> str:
    from open_clip.modified_resnet import ModifiedResNet
    from open_clip.timm_model import TimmModel
    from open_clip.transformer import VisionTransformer

    kinds = {TimmModel: "timm", ModifiedResNet: "resnet", VisionTransformer: "vit"}
    tower = getattr(module, "visual", None)
    found = next((kind for cls, kind in kinds.items() if isinstance(tower, cls)), None)
    if found is None:
        raise _no_tokens("image", tower, "is none that clipib reads tokens of")
    return found


def _text_kind(module: nn.Module) -> str:
    if isinstance(module, TransformersEncoder):
        return "transformers"
    if is_hf_text(module):
        return "hf"
    tower = text_tower(module)
    if not all(hasattr(tower, name) for name in ("token_embedding", "positional_embedding", "ln_final")):
        raise _no_tokens("text", tower, "is none that clipib reads tokens of")
    return "open_clip"


def _vit_image(tower: nn.Module, pixels: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    x = tower.transformer(tower._embeds(pixels))  # (n, 1 + patches, W)
    if tower.attn_pool is not None:
        if tower.attn_pool_contrastive is not None:
            raise _no_tokens("image", tower, "has two attentional poolers and leaves its features unpooled")
        x = tower.attn_pool(x)  # (n, queries, D)
    if tower.attn_pool is None and tower.final_ln_after_pool:
        hidden = tower.ln_post(tower._global_pool(x)[0])
    else:
        x = tower.ln_post(x)
        hidden = tower._global_pool(x)[0]
    return hidden if tower.proj is None else hidden @ tower.proj, hidden, x


def _resnet_image(tower: nn.Module, pixels: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    x = tower.stem(pixels)
    for layer in (tower.layer1, tower.layer2, tower.layer3, tower.layer4):
        x = layer(x)
    x = x.flatten(2).transpose(1, 2)  # (n, h w, W)
    hidden = _attention_pool(tower.attnpool, x)
    return tower.attnpool.c_proj(hidden), hidden, x


def _attention_pool(pool: nn.Module, tokens: Tensor) -> Tensor:
    """(n, T, W) -> (n, W): CLIP's attention pool before `c_proj`, for the one query that it keeps, the mean's."""
    x = torch.cat([tokens.mean(dim=1, keepdim=True), tokens], dim=1) + pool.positional_embedding.to(tokens.dtype)
    query, key, value = pool.q_proj(x[:, :1]), pool.k_proj(x), pool.v_proj(x)
    query, key, value = (y.unflatten(-1, (pool.num_heads, -1)).transpose(1, 2) for y in (query, key, value))
    return F.scaled_dot_product_attention(query, key, value).flatten(1)


def _timm_image(tower: nn.Module, pixels: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    trunk, head = tower.trunk, tower.head
    x = trunk.forward_features(pixels)
    tokens = _places(x, trunk)
    if not len(head):  # the projection is timm's own classifier, or there is none
        return *_head_and_its_input(trunk, x), tokens
    x = trunk.forward_head(x)
    hidden = head[:-1](x)
    features = head[-1](hidden)
    # timm's attention pools project inside, so nothing pooled stands before the features
    return features, hidden if hidden.ndim == 2 else features, tokens


def _places(x: Any, trunk: nn.Module) -> Tensor:
    """(n, T, W) tokens of what a timm trunk gives before its pooling: tokens already, or a map."""
    if isinstance(x, Tensor) and x.ndim == 3:
        return x
    if isinstance(x, Tensor) and x.ndim == 4:
        return x.flatten(1, 2) if getattr(trunk, "output_fmt", "NCHW") == "NHWC" else x.flatten(2).transpose(1, 2)
    found = f"a tensor of shape {tuple(x.shape)}" if isinstance(x, Tensor) else f"a {type(x).__name__}"
    raise _no_tokens("image", trunk, f"gives {found} before its pooling, neither tokens nor a map")


def _head_and_its_input(trunk: nn.Module, x: Tensor) -> tuple[Tensor, Tensor]:
    """A timm trunk's output and what its classifier reads; `pre_logits` is not kept alike by all architectures."""
    classifier, read = trunk.get_classifier(), []
    if not isinstance(classifier, nn.Module):
        features = trunk.forward_head(x)
        return features, features
    hook = classifier.register_forward_pre_hook(lambda _, inputs: read.append(inputs[0]))
    try:
        features = trunk.forward_head(x)
    finally:
        hook.remove()
    return features, read[0].flatten(1) if read else features


def _transformers_image(module: TransformersEncoder, pixels: Tensor) -> Encoded:
    inputs, tower = module.image_inputs(pixels), module.hf.vision_model
    out = tower(*inputs.values())
    features = hidden = out.pooler_output
    tokens = out.last_hidden_state
    if module.hf.config.model_type == "clip":
        features = module.hf.visual_projection(hidden)
        tokens = tower.post_layernorm(tokens)  # transformers applies it to the class token alone
    mask = inputs.get("pixel_attention_mask", torch.ones(tokens.shape[:2], device=tokens.device))
    return Encoded(features, hidden, tokens, mask.bool())


def _transformers_text(module: TransformersEncoder, ids: Tensor) -> Encoded:
    out = module.hf.text_model(input_ids=ids)
    tokens = out.last_hidden_state
    if module.hf.config.model_type != "clip":
        return Encoded(out.pooler_output, tokens[:, -1], tokens, _without_padding(ids, kept=-1))
    eos = module.hf.config.text_config.eos_token_id
    end = ids.argmax(dim=-1) if eos == 2 else _first(ids, eos)  # 2 stands in old configurations, whatever the end is
    hidden = out.pooler_output
    return Encoded(module.hf.text_projection(hidden), hidden, tokens, _until(ids, end))


def _hf_text(tower: nn.Module, ids: Tensor) -> Encoded:
    from open_clip.hf_model import ClsLastHiddenStatePooler, ClsPooler

    mask = ids != tower.config.pad_token_id
    out = tower.transformer(input_ids=ids, attention_mask=mask.long())
    hidden = tower.pooler(out, mask.long())
    if isinstance(tower.pooler, (ClsPooler, ClsLastHiddenStatePooler)):
        mask[:, 0] = True
    return Encoded(tower.proj(hidden), hidden, out.last_hidden_state, mask)


def _open_clip_text(tower: nn.Module, ids: Tensor) -> Encoded:
    """TextTransformer, or the same parts lying in CLIP itself, which knows no token appended for pooling."""
    from open_clip.transformer import text_global_pool

    x, attention_mask = _embed_ids(tower, ids)
    x = tower.transformer(x, attn_mask=attention_mask)  # (n, T, W)
    if getattr(tower, "cls_emb", None) is not None:
        hidden = tower.ln_final(x[:, -1])
    else:
        x = tower.ln_final(x)
        hidden = text_global_pool(x, ids, _pooling(tower), eos_token_id=_eos_id(tower))
    return Encoded(project_text(tower, hidden), hidden, x, _open_clip_mask(tower, ids))


def _embed_ids(tower: nn.Module, ids: Tensor) -> tuple[Tensor, Tensor | None]:
    """(n, T, W) embedded ids and the mask to add in attention, both at the length of the ids."""
    if hasattr(tower, "_embeds"):
        x, mask = tower._embeds(ids)
    else:
        dtype = tower.transformer.get_cast_dtype()
        x = tower.token_embedding(ids).to(dtype) + tower.positional_embedding[: ids.shape[1]].to(dtype)
        mask = tower.attn_mask
    return x, mask if mask is None else mask[..., : x.shape[1], : x.shape[1]]


def _open_clip_mask(tower: nn.Module, ids: Tensor) -> Tensor:
    """(n, T) bool; a token appended for pooling, as CoCa's, is the last."""
    pooling = _pooling(tower)
    if getattr(tower, "cls_emb", None) is not None:
        return F.pad(ids != tower.pad_id, (0, 1), value=True)
    if pooling in ("argmax", "eos"):
        return _until(ids, ids.argmax(dim=-1) if pooling == "argmax" else _first(ids, _eos_id(tower)))
    kept = 0 if pooling == "first" else -1
    if not getattr(tower, "use_pad_mask", False):
        return _without_padding(ids, kept=kept)
    mask = ids != tower.pad_id
    mask[:, kept] = True
    return mask


def _pooling(tower: nn.Module) -> str:
    return getattr(tower, "text_pool_type", getattr(tower, "pool_type", "argmax"))


def _eos_id(tower: nn.Module) -> int | None:
    return getattr(tower, "text_eos_id", getattr(tower, "eos_id", None))


def _first(ids: Tensor, wanted: int) -> Tensor:
    """(n,) first place of an id in every row, 0 where it is missing."""
    return (ids == wanted).int().argmax(dim=-1)


def _until(ids: Tensor, end: Tensor) -> Tensor:
    return torch.arange(ids.shape[1], device=ids.device) <= end[:, None]


def _without_padding(ids: Tensor, *, kept: int) -> Tensor:
    """(n, L) bool, False in the run of one id, at least twice, that ends a row, save at the place `kept`.

    The id itself cannot be asked for: open_clip's configurations leave SigLIP's at another's default, transformers'
    give SigLIP 2 that of SigLIP.
    """
    padding = (ids == ids[:, -1:]).flip(1).cumprod(dim=1).flip(1).bool()
    padding &= padding.sum(dim=1, keepdim=True) > 1  # a text that fills the row ends in a token of its own
    padding[:, kept] = False
    return ~padding


def _check_pooled(features: Tensor, side: str, tower: nn.Module) -> None:
    if features.ndim != 2:
        raise _no_tokens(side, tower, f"pools nothing: its features have the shape {tuple(features.shape)}")


def _no_tokens(side: str, tower: Any, why: str) -> UserError:
    return UserError(
        f"The {side} tower {type(tower).__name__} {why}.",
        hint="Point sets need its tokens and one pooled embedding; take --similarity cosine or another model.",
    )
