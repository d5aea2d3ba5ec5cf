"""Weights by tag and by hub id, from a cache folder laid out as the hub's client lays it out; no network."""

import json

import huggingface_hub.constants
import pytest
import torch
from safetensors.torch import save_file

from clipib.errors import UserError
from clipib.models.load import load_model


@pytest.fixture
def hub_cache(tmp_path, monkeypatch):
    """An empty cache of the hub's client, offline; the result puts files of a repository there."""
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")

    def put(repo):
        home = tmp_path / "hub" / f"models--{repo.replace('/', '--')}"
        (home / "refs").mkdir(parents=True)
        (home / "refs" / "main").write_text("0" * 40)
        snapshot = home / "snapshots" / ("0" * 40)
        snapshot.mkdir(parents=True)
        return snapshot

    return put


def test_a_tag_brings_its_activation_and_preprocessing(hub_cache):
    random = load_model("ViT-B-32", "none", device="cpu", seed=2)
    state = {name: tensor.half() for name, tensor in random.module.state_dict().items()}
    save_file(state, hub_cache("timm/vit_base_patch32_clip_224.openai") / "open_clip_model.safetensors")
    for spec, pretrained in (("ViT-B-32", None), ("ViT-B-32", "openai"), ("ViT-B-32/openai", None)):
        model = load_model(spec, pretrained, device="cpu")
        blocks = [model.module.visual.transformer.resblocks[0], model.module.transformer.resblocks[0]]
        assert {type(block.mlp.gelu).__name__ for block in blocks} == {"QuickGELU"}
        assert model.config["quick_gelu"] and model.pretrained == "openai"
        assert torch.equal(model.module.visual.proj, state["visual.proj"].float())
        assert model.preprocess["mean"] == (0.48145466, 0.4578275, 0.40821073)
    same = load_model("ViT-B-32-quickgelu", "openai", device="cpu")
    assert same.fingerprint == model.fingerprint  # one checkpoint under two names


def test_a_hub_id_is_read_from_the_cache(hub_cache, checkpoint):
    folder = hub_cache("someone/tiny")
    for file in ("open_clip_config.json", "open_clip_model.safetensors"):
        (folder / file).write_bytes((checkpoint / file).read_bytes())
    model = load_model("hf-hub:someone/tiny", device="cpu")
    assert model.name == "someone/tiny" and model.pretrained == "hf-hub:someone/tiny"
    assert model.fingerprint == load_model(f"local-dir:{checkpoint}", device="cpu").fingerprint


def test_what_is_not_cached_fails_at_once(hub_cache):
    with pytest.raises(UserError, match="Offline, and not in the local cache"):
        load_model("hf-hub:someone/else", device="cpu")
    hub_cache("someone/half").joinpath("open_clip_config.json").write_text(json.dumps({"model_cfg": {}}))
    with pytest.raises(UserError, match="cannot be loaded"):
        load_model("hf-hub:someone/half", device="cpu")
