"""Against open_clip's own `encode_text` of one text at a time, in float64, where rounding cannot hide a mistake."""

from dataclasses import replace

import open_clip
import pytest
import torch
from torch.nn import functional as F

from clipib.models.load import load_model
from clipib.models.shared_head import (
    _batches,
    encode_by_head,
    shares_heads,
    text_order,
    text_tree,
)

VISION = {"image_size": 16, "layers": 1, "width": 32, "head_width": 16, "patch_size": 8}
TEXT = {"context_length": 12, "vocab_size": 60, "width": 32, "heads": 2, "layers": 3}
START, END = 58, 59
TOWERS = {
    "clip": (open_clip.CLIP, {}, {}),
    "quick gelu": (open_clip.CLIP, {"quick_gelu": True}, {}),
    "layer scale": (open_clip.CLIP, {}, {"ls_init_value": 0.3}),
    "one layer": (open_clip.CLIP, {}, {"layers": 1}),
    "wide": (open_clip.CLIP, {}, {"width": 48, "heads": 6, "mlp_ratio": 2.0}),
    "custom": (open_clip.CustomTextCLIP, {}, {"proj_bias": True}),
    "unprojected": (open_clip.CustomTextCLIP, {}, {"proj_type": "none", "width": 16}),
}
CORPORA = {
    "one": [[7]],
    "empty": [[]],
    "nothing in common": [[1, 2], [3], [4, 5, 6]],
    "all equal": [[1, 2, 3]] * 4,
    "one begins another": [[1, 2], [1, 2, 3], [1], [], [1, 2, 3, 4]],
    "the longest": [[1] * 10, [*[1] * 9, 2], [1]],
    "templates": [
        [*head, name, *tail] for head in ([1, 2], [1, 2, 3], [4]) for tail in ([], [5]) for name in (6, 7, 8)
    ],
    "ties": [[1, 2], [3], [1, 2], [3], [1, 3]],
}


def make_tower(name):
    cls, options, text = TOWERS[name]
    torch.manual_seed(0)
    module = cls(16, VISION, {**TEXT, **text}, **options).double().eval()
    with torch.no_grad():
        for parameter in module.parameters():  # biases and gains away from 0 and 1, so that a forgotten one shows
            parameter.add_(0.2 * torch.randn_like(parameter))
    return module


def token_rows(texts, *, after_the_end=0):
    rows = torch.full((len(texts), 12), after_the_end)
    for row, text in zip(rows, texts, strict=True):
        row[: len(text) + 2] = torch.tensor([START, *text, END])
    return rows


def encode(module, tokens, **options):
    features, seen = [None] * len(tokens), []
    with torch.inference_mode():
        for places, batch in encode_by_head(module, tokens, **options):
            seen += places.tolist()
            for place, row in zip(places.tolist(), batch, strict=True):
                features[place] = row
    assert sorted(seen) == list(range(len(tokens)))
    return F.normalize(torch.stack(features), dim=-1)


def encode_plainly(module, tokens):
    with torch.inference_mode():
        return F.normalize(torch.cat([module.encode_text(row[None]) for row in tokens]), dim=-1)


@pytest.mark.parametrize("name", TOWERS)
def test_features_equal_those_of_whole_texts_encoded_alone(name):
    module = make_tower(name)
    assert shares_heads(module)
    for corpus in CORPORA.values():
        tokens = token_rows(corpus)
        expected = encode_plainly(module, tokens)
        for batch_tokens in (None, 1, 9, 20):
            assert (encode(module, tokens, batch_tokens=batch_tokens) - expected).abs().max() < 1e-12


def test_in_float32_unit_features_agree_within_a_millionth():
    module = make_tower("layer scale").float()
    tokens = token_rows(CORPORA["templates"])
    expected = encode_plainly(module, tokens)
    assert (encode(module, tokens) - expected).abs().max() < 1e-6
    alone = torch.cat([encode(module, row[None]) for row in tokens])
    assert (alone - expected).abs().max() < 1e-6


def test_equal_texts_get_the_very_same_features():
    tokens = token_rows(CORPORA["ties"])
    features = encode(make_tower("clip").float(), tokens)
    assert torch.equal(features[0], features[2]) and torch.equal(features[1], features[3])


def test_what_stands_after_the_end_token_changes_nothing():
    module = make_tower("clip")
    texts = CORPORA["one begins another"]
    rows = [token_rows(texts, after_the_end=end) for end in (0, 5, END)]
    for tokens in (*rows, torch.cat(rows)):
        assert (encode(module, tokens) - encode_plainly(module, tokens)).abs().max() < 1e-12


def test_an_end_token_may_stand_where_another_text_goes_on():
    tokens = torch.tensor([[1, 5, 7, 0, 0], [1, 5, 7, 9, 0], [1, 5, 7, 3, 9], [1, 5, 7, 0, 9]])
    module = make_tower("clip")
    tokens = F.pad(tokens, (0, 7))
    assert (encode(module, tokens) - encode_plainly(module, tokens)).abs().max() < 1e-12


@pytest.mark.parametrize("corpus", CORPORA)
def test_the_tree_has_one_node_for_every_distinct_beginning(corpus):
    tokens = token_rows(CORPORA[corpus])
    tokens = tokens[text_order(tokens)]
    tree = text_tree(tokens)
    texts = [row[: row.tolist().index(END) + 1].tolist() for row in tokens]
    beginnings = {tuple(text[: i + 1]) for text in texts for i in range(len(text))}
    assert len(tree.ids) == len(beginnings)
    for text, path, end in zip(texts, tree.paths, tree.ends, strict=True):
        own = path[: len(text)]
        assert tree.ids[own].tolist() == text and end == len(text) - 1
        assert tree.positions[own].tolist() == list(range(len(text)))
    assert torch.equal(tree.paths.flatten()[tree.origins], torch.arange(len(tree.ids)))


def test_batches_keep_within_the_budget_of_nodes_and_of_paths():
    long = [[*[1] * 9, i] for i in range(2, 40)]
    for texts in (CORPORA["templates"], long):
        tokens = token_rows(texts)
        tokens = tokens[text_order(tokens)]
        for budget in (1, 14, 30):
            runs = list(_batches(tokens, budget))
            assert [first for first, _ in runs] == [0, *(last for _, last in runs[:-1])] and runs[-1][1] == len(texts)
            for first, last in runs:
                tree = text_tree(tokens[first:last])
                assert last - first == 1 or (len(tree.ids) <= budget and tree.paths.numel() <= 8 * budget)
    assert [last - first for first, last in _batches(tokens, 1000)] == [38]


@pytest.mark.parametrize(
    "change",
    [{"no_causal_mask": True}, {"pool_type": "last"}, {"embed_cls": True}, {"qk_norm": True}, {"scale_attn": True}],
)
def test_other_towers_keep_the_plain_form(change):
    torch.manual_seed(0)
    assert not shares_heads(open_clip.CustomTextCLIP(16, VISION, {**TEXT, **change}))


def test_a_block_with_parts_of_its_own_keeps_the_plain_form():
    class Adapted(torch.nn.MultiheadAttention):
        pass

    for attention in (Adapted(32, 2), torch.nn.MultiheadAttention(32, 2, add_bias_kv=True)):
        module = make_tower("clip")
        module.transformer.resblocks[1].attn = attention
        assert not shares_heads(module)
    assert not shares_heads(torch.nn.Linear(2, 2))


def test_a_model_shares_heads_in_float32_only():
    model = load_model("tiny", "none", device="cpu")
    tokens = model.tokenize(["a photo of a cat", "a photo of a dog", "x"])
    assert model.shares_heads
    for each in (model, replace(model, precision="amp")):
        with torch.inference_mode():
            expected, found = each.encode_texts(tokens), torch.empty(0)
            for places, features in each.encode_text_batches(tokens):
                found = torch.cat([found, features - expected[places]])
        assert found.shape == expected.shape
        assert found.abs().max() < 1e-6
    assert not replace(model, precision="amp").shares_heads
