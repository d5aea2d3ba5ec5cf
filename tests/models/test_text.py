import open_clip
import pytest
import torch

from clipib.models.text import cut_length, encode_cut_text, is_cuttable

TEXTS = ["", "a", "a photo of a cat", "one two three four five six seven eight nine ten eleven twelve"]
VISION = {"image_size": 16, "layers": 1, "width": 32, "head_width": 16, "patch_size": 8}
TEXT = {"context_length": 20, "vocab_size": 49408, "width": 32, "heads": 2, "layers": 2}


def towers():
    torch.manual_seed(0)
    yield open_clip.CLIP(16, VISION, TEXT)
    yield open_clip.CustomTextCLIP(16, VISION, {**TEXT, "proj_bias": True})


def test_cut_text_equals_the_full_context():
    for module in towers():
        module.eval()
        tokens = open_clip.SimpleTokenizer(context_length=20)(TEXTS)
        assert is_cuttable(module)
        for batch in (tokens, tokens[:2], tokens[:1]):
            n = cut_length(batch)
            with torch.no_grad():
                difference = encode_cut_text(module, batch[:, :n]) - module.encode_text(batch)
            assert difference.abs().max() < 1e-5  # float32 products of another shape


def test_gradients_of_cut_text_equal_those_of_the_full_context():
    for module in towers():
        tokens = open_clip.SimpleTokenizer(context_length=20)(TEXTS)
        weight = torch.randn(4, 16)
        gradients = []
        for encode in (lambda m, t: encode_cut_text(m, t[:, : cut_length(t)]), lambda m, t: m.encode_text(t)):
            module.zero_grad()
            (encode(module, tokens) * weight).sum().backward()
            gradients.append({n: p.grad.clone() for n, p in module.named_parameters() if p.grad is not None})
        for name, gradient in gradients[1].items():
            scale = gradient.abs().max().clamp(min=1e-12)
            assert (gradients[0][name] - gradient).abs().max() / scale < 1e-4, name


@pytest.mark.parametrize("change", [{"no_causal_mask": True}, {"pool_type": "last"}, {"embed_cls": True}])
def test_towers_that_look_past_the_end_are_left_alone(change):
    assert not is_cuttable(open_clip.CustomTextCLIP(16, VISION, {**TEXT, **change}))
