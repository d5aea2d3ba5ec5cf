"""The same random weights twice: as a folder of transformers and as a folder of open_clip.

The names of the one are turned into the names of the other here, by hand, so that nothing of clipib takes part.
"""

from __future__ import annotations

import json
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import Tensor

SIDE, CONTEXT = 32, 20  # px, tokens
TOWER = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2}
SENTENCES = (
    "a photo of a cat",
    "two dogs run on the beach",
    "the quick brown fox jumps over the lazy dog",
    "people sitting at a table with food and drinks",
    "a red bus in a city street",
)


def make_small_clip(folder: Path, *, seed: int = 0, with_open_clip: bool = True) -> tuple[Path, Path]:
    """A CLIP of two layers; returns the folders of transformers and of open_clip."""
    from transformers import CLIPConfig, CLIPImageProcessor, CLIPModel

    hf, other = folder / "clip-hf", folder / "clip-open-clip"
    text = {**TOWER, "vocab_size": 49408, "max_position_embeddings": CONTEXT, "eos_token_id": 49407}
    vision = {**TOWER, "image_size": SIDE, "patch_size": 8}
    torch.manual_seed(seed)
    model = CLIPModel(CLIPConfig(text_config=text, vision_config=vision, projection_dim=16))
    _shake(model)
    model.save_pretrained(hf)
    _clip_tokenizer().save_pretrained(hf)
    side = {"height": SIDE, "width": SIDE}
    CLIPImageProcessor(size={"shortest_edge": SIDE}, crop_size=side).save_pretrained(hf)
    if with_open_clip:
        config = {
            "embed_dim": 16,
            "quick_gelu": True,
            "vision_cfg": {"image_size": SIDE, "layers": 2, "width": 32, "head_width": 16, "patch_size": 8}
            | {"mlp_ratio": 2.0},
            "text_cfg": {"context_length": CONTEXT, "vocab_size": 49408, "width": 32, "heads": 2, "layers": 2}
            | {"mlp_ratio": 2.0},
        }
        _save_open_clip(other, config, {}, clip_to_open_clip(model.state_dict()))
    return hf, other


def make_small_siglip(folder: Path, *, seed: int = 0) -> tuple[Path, Path]:
    """A SigLIP of two layers with a sentencepiece vocabulary; open_clip's has a timm image tower and a T5 tokenizer."""
    from transformers import SiglipConfig, SiglipImageProcessor, SiglipModel

    hf, other = folder / "siglip-hf", folder / "siglip-open-clip"
    ours, theirs = _siglip_tokenizers(folder)
    size = len(ours)
    text = {**TOWER, "vocab_size": size, "max_position_embeddings": CONTEXT}
    torch.manual_seed(seed)
    model = SiglipModel(SiglipConfig(text_config=text, vision_config={**TOWER, "image_size": SIDE, "patch_size": 8}))
    _shake(model)
    model.save_pretrained(hf)
    ours.save_pretrained(hf)
    SiglipImageProcessor(size={"height": SIDE, "width": SIDE}).save_pretrained(hf)
    _register_timm_tower()
    config = {
        "embed_dim": 32,
        "init_logit_bias": -10,
        "custom_text": True,
        "vision_cfg": {"image_size": SIDE, "timm_model_name": "vit_siglip_of_tests", "timm_pool": "map"}
        | {"timm_proj": "none", "timm_model_pretrained": False},
        "text_cfg": {"context_length": CONTEXT, "vocab_size": size, "width": 32, "heads": 2, "layers": 2}
        | {"mlp_ratio": 2.0, "no_causal_mask": True, "proj_bias": True, "pool_type": "last"}
        | {"norm_kwargs": {"eps": 1e-6}, "act_kwargs": {"approximate": "tanh"}}
        | {"hf_tokenizer_name": "local", "tokenizer_kwargs": {"clean": "canonicalize"}},
    }
    preprocess = {"mean": [0.5] * 3, "std": [0.5] * 3, "interpolation": "bicubic", "resize_mode": "squash"}
    _save_open_clip(other, config, preprocess, siglip_to_open_clip(model.state_dict()))
    theirs.save_pretrained(other)
    return hf, other


def make_small_naflex(folder: Path) -> Path:
    """A SigLIP 2 of variable resolution with 16 patches of 8 px."""
    from transformers import Siglip2Config, Siglip2ImageProcessor, Siglip2Model, Siglip2Tokenizer

    hf = folder / "naflex-hf"
    marks = ["<pad>", "<eos>", "<bos>", "<unk>", "<mask>", "\u2581", *"abcdefghijklmnopqrstuvwxyz"]
    ours = Siglip2Tokenizer(vocab={mark: i for i, mark in enumerate(marks)}, merges=[])
    text = {**TOWER, "vocab_size": len(ours), "max_position_embeddings": CONTEXT}
    torch.manual_seed(0)
    vision = {**TOWER, "num_patches": 16, "patch_size": 8}
    model = Siglip2Model(Siglip2Config(text_config=text, vision_config=vision))
    _shake(model)
    model.save_pretrained(hf)
    ours.save_pretrained(hf)
    Siglip2ImageProcessor(patch_size=8, max_num_patches=16).save_pretrained(hf)
    return hf


def clip_to_open_clip(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """CLIPModel's names -> open_clip.CLIP's."""
    found = {
        "logit_scale": state["logit_scale"],
        "visual.class_embedding": state["vision_model.embeddings.class_embedding"],
        "visual.conv1.weight": state["vision_model.embeddings.patch_embedding.weight"],
        "visual.positional_embedding": state["vision_model.embeddings.position_embedding.weight"],
        "visual.proj": state["visual_projection.weight"].T,
        "token_embedding.weight": state["text_model.embeddings.token_embedding.weight"],
        "positional_embedding": state["text_model.embeddings.position_embedding.weight"],
        "text_projection": state["text_projection.weight"].T,
    }
    for kind in ("weight", "bias"):
        found[f"visual.ln_pre.{kind}"] = state[f"vision_model.pre_layrnorm.{kind}"]
        found[f"visual.ln_post.{kind}"] = state[f"vision_model.post_layernorm.{kind}"]
        found[f"ln_final.{kind}"] = state[f"text_model.final_layer_norm.{kind}"]
    found |= _blocks(state, "vision_model", "visual.transformer.resblocks")
    found |= _blocks(state, "text_model", "transformer.resblocks")
    return found


def siglip_to_open_clip(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """SiglipModel's names -> those of open_clip.CustomTextCLIP with timm's image tower."""
    pool = "vision_model.head"
    query, key_value = state[f"{pool}.attention.in_proj_weight"].split([32, 64])
    query_bias, key_value_bias = state[f"{pool}.attention.in_proj_bias"].split([32, 64])
    found = {
        "logit_scale": state["logit_scale"].reshape(()),
        "logit_bias": state["logit_bias"].reshape(()),
        "visual.trunk.pos_embed": state["vision_model.embeddings.position_embedding.weight"][None],
        "visual.trunk.attn_pool.latent": state[f"{pool}.probe"],
        "visual.trunk.attn_pool.q.weight": query,
        "visual.trunk.attn_pool.q.bias": query_bias,
        "visual.trunk.attn_pool.kv.weight": key_value,
        "visual.trunk.attn_pool.kv.bias": key_value_bias,
        "text.token_embedding.weight": state["text_model.embeddings.token_embedding.weight"],
        "text.positional_embedding": state["text_model.embeddings.position_embedding.weight"],
    }
    for kind in ("weight", "bias"):
        found[f"visual.trunk.patch_embed.proj.{kind}"] = state[f"vision_model.embeddings.patch_embedding.{kind}"]
        found[f"visual.trunk.norm.{kind}"] = state[f"vision_model.post_layernorm.{kind}"]
        found[f"visual.trunk.attn_pool.proj.{kind}"] = state[f"{pool}.attention.out_proj.{kind}"]
        found[f"visual.trunk.attn_pool.norm.{kind}"] = state[f"{pool}.layernorm.{kind}"]
        found[f"text.ln_final.{kind}"] = state[f"text_model.final_layer_norm.{kind}"]
        found[f"text.text_projection.{kind}"] = state[f"text_model.head.{kind}"]
        for fc in ("fc1", "fc2"):
            found[f"visual.trunk.attn_pool.mlp.{fc}.{kind}"] = state[f"{pool}.mlp.{fc}.{kind}"]
        for i in range(2):
            old, new = f"vision_model.encoder.layers.{i}", f"visual.trunk.blocks.{i}"
            found[f"{new}.attn.qkv.{kind}"] = torch.cat([state[f"{old}.self_attn.{p}_proj.{kind}"] for p in "qkv"])
            found[f"{new}.attn.proj.{kind}"] = state[f"{old}.self_attn.out_proj.{kind}"]
            for a, b in (("layer_norm1", "norm1"), ("layer_norm2", "norm2"), ("mlp.fc1", "mlp.fc1"), ("mlp.fc2",) * 2):
                found[f"{new}.{b}.{kind}"] = state[f"{old}.{a}.{kind}"]
    return found | _blocks(state, "text_model", "text.transformer.resblocks")


def _blocks(state: dict[str, Tensor], tower: str, other: str) -> dict[str, Tensor]:
    found = {}
    names = {"self_attn.out_proj": "attn.out_proj", "layer_norm1": "ln_1", "layer_norm2": "ln_2"}
    names |= {"mlp.fc1": "mlp.c_fc", "mlp.fc2": "mlp.c_proj"}
    for i in range(2):
        old, new = f"{tower}.encoder.layers.{i}", f"{other}.{i}"
        for kind in ("weight", "bias"):
            parts = [state[f"{old}.self_attn.{p}_proj.{kind}"] for p in "qkv"]
            found[f"{new}.attn.in_proj_{kind}"] = torch.cat(parts)
            found |= {f"{new}.{b}.{kind}": state[f"{old}.{a}.{kind}"] for a, b in names.items()}
    return found


def _shake(model: torch.nn.Module) -> None:
    """Biases and gains away from 0 and 1, so that a forgotten one shows."""
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "logit" not in name:
                parameter.add_(0.1 * torch.randn_like(parameter))
        model.logit_scale.fill_(2.5)
        if hasattr(model, "logit_bias"):
            model.logit_bias.fill_(-7.0)


def _save_open_clip(folder: Path, model_cfg: dict, preprocess_cfg: dict, state: dict[str, Tensor]) -> None:
    folder.mkdir(parents=True)
    content = {"model_cfg": model_cfg, "preprocess_cfg": preprocess_cfg}
    (folder / "open_clip_config.json").write_text(json.dumps(content))
    save_file({name: t.contiguous().clone() for name, t in state.items()}, folder / "open_clip_model.safetensors")


def _clip_tokenizer():
    """transformers' CLIP tokenizer with open_clip's vocabulary."""
    from open_clip.tokenizer import SimpleTokenizer
    from transformers import CLIPTokenizer

    simple = SimpleTokenizer()
    special = {"<start_of_text>": "<|startoftext|>", "<end_of_text>": "<|endoftext|>"}
    vocab = {special.get(token, token): i for token, i in simple.encoder.items()}
    merges = sorted(simple.bpe_ranks, key=simple.bpe_ranks.get)
    return CLIPTokenizer(vocab=vocab, merges=merges, model_max_length=CONTEXT)


def _siglip_tokenizers(folder: Path):
    """SigLIP's sentencepiece tokenizer, and a fast T5 tokenizer of the same pieces as open_clip's repositories hold."""
    import sentencepiece
    from transformers import SiglipTokenizer, T5TokenizerFast

    path = folder / "spiece.model"
    with path.open("wb") as file:
        sentencepiece.SentencePieceTrainer.train(
            sentence_iterator=iter(SENTENCES * 20),
            model_writer=file,
            vocab_size=100,
            pad_id=0,
            eos_id=1,
            unk_id=2,
            bos_id=-1,
            hard_vocab_limit=False,
            minloglevel=2,
        )
    pieces = sentencepiece.SentencePieceProcessor(model_file=str(path))
    vocab = [(pieces.id_to_piece(i), pieces.get_score(i)) for i in range(len(pieces))]
    return SiglipTokenizer(str(path)), T5TokenizerFast(vocab=vocab, extra_ids=0, pad_token="</s>")


def _register_timm_tower() -> None:
    """timm's vision transformer as SigLIP uses it, in the size of the tests."""
    from timm import list_models
    from timm.models import VisionTransformer, register_model

    if "vit_siglip_of_tests" in list_models():
        return

    def vit_siglip_of_tests(num_classes=0, global_pool="map", **_):
        shape = {"img_size": SIDE, "patch_size": 8, "embed_dim": 32, "depth": 2, "num_heads": 2, "mlp_ratio": 2.0}
        head = {"num_classes": num_classes, "global_pool": global_pool}
        model = VisionTransformer(**shape, **head, class_token=False, act_layer="gelu_tanh")
        model.default_cfg = model.pretrained_cfg = {"input_size": (3, SIDE, SIDE)}
        return model

    register_model(vit_siglip_of_tests)
