"""open_clip's towers of other libraries: timm for images, transformers for texts."""

import json

import pytest
import torch

from clipib.models.checkpoint import save_checkpoint
from clipib.models.load import load_model
from clipib.models.text import is_cuttable

WORDS = [
    "[PAD]",
    "[UNK]",
    "[CLS]",
    "[SEP]",
    "a",
    "photo",
    "of",
    "the",
    "cat",
    "dog",
    "red",
    "bus",
    "two",
    "on",
    "beach",
]
TEXTS = ["a photo of the cat", "Two DOG", "", "a red bus on the beach " * 6]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A checkpoint of random weights: timm's smallest vision transformer and a BERT of two layers, mean-pooled."""
    import open_clip
    from safetensors.torch import save_file
    from transformers import BertConfig, BertModel, BertTokenizerFast

    place = tmp_path_factory.mktemp("custom")
    bert, checkpoint = place / "bert", place / "checkpoint"
    checkpoint.mkdir()
    shape = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 64}
    torch.manual_seed(0)
    BertModel(BertConfig(vocab_size=len(WORDS), max_position_embeddings=24, **shape)).save_pretrained(bert)
    (place / "vocab.txt").write_text("\n".join(WORDS))
    tokenizer = BertTokenizerFast(vocab={word: i for i, word in enumerate(WORDS)})
    tokenizer.save_pretrained(checkpoint)
    vision = {"image_size": 160, "timm_model_name": "test_vit", "timm_model_pretrained": False, "timm_pool": "avg"}
    text = {"hf_model_name": str(bert), "hf_tokenizer_name": str(bert), "context_length": 16, "hf_proj_type": "linear"}
    text |= {"hf_pooler_type": "mean_pooler"}
    config = {"embed_dim": 24, "vision_cfg": {**vision, "timm_proj": "linear"}, "text_cfg": text}
    module = open_clip.CustomTextCLIP(24, config["vision_cfg"], {**text, "hf_model_pretrained": False})
    (checkpoint / "open_clip_config.json").write_text(json.dumps({"model_cfg": config, "preprocess_cfg": {}}))
    save_file(module.state_dict(), checkpoint / "open_clip_model.safetensors")
    return checkpoint


def test_a_text_tower_of_transformers_and_an_image_tower_of_timm(folder):
    from transformers import AutoTokenizer

    model = load_model(str(folder), device="cpu")
    assert not is_cuttable(model.module)
    tokens = model.tokenize(TEXTS)
    tokenizer = AutoTokenizer.from_pretrained(folder)
    expected = tokenizer(TEXTS, padding="max_length", max_length=16, truncation=True, return_tensors="pt")
    assert torch.equal(tokens, expected.input_ids)
    with torch.inference_mode():
        hidden = model.module.text.transformer(tokens, attention_mask=(tokens != 0).long()).last_hidden_state
        mask = (tokens != 0).float().unsqueeze(-1)
        texts = model.module.text.proj((hidden * mask).sum(1) / mask.sum(1))
        assert (model.encode_texts(tokens, normalize=False) - texts).abs().max() < 1e-5
        pixels = torch.rand(2, 3, 160, 160)
        trunk = model.module.visual.trunk
        images = model.module.visual.head(trunk(pixels))
        assert (model.encode_images(pixels, normalize=False) - images).abs().max() < 1e-5


def test_the_tokenizer_key_covers_the_vocabulary_and_stays_the_same_after_use(folder, tmp_path):
    import shutil

    model = load_model(str(folder), device="cpu")
    unused = load_model(str(folder), device="cpu")
    model.tokenize(["a", "a photo"])
    assert model.tokenizer_key == unused.tokenizer_key
    other = shutil.copytree(folder, tmp_path / "other")
    path = other / "tokenizer.json"
    path.write_text(path.read_text().replace('"cat": 8', '"cat": 9').replace('"dog": 9', '"dog": 8'))
    assert load_model(str(other), device="cpu").tokenizer_key != model.tokenizer_key


def test_a_custom_checkpoint_is_saved_and_opened_again(folder, tmp_path):
    model = load_model(str(folder), device="cpu", precision="fp32")
    fingerprint = save_checkpoint(model, tmp_path / "saved", {})
    again = load_model(str(tmp_path / "saved"), device="cpu")
    assert again.fingerprint == fingerprint == model.fingerprint and again.tokenizer_key == model.tokenizer_key
    assert torch.equal(again.encode_texts(again.tokenize(TEXTS)), model.encode_texts(model.tokenize(TEXTS)))
