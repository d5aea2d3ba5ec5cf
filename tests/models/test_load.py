import json
import pickle
import shutil

import open_clip
import pytest
import torch

from clipib.errors import UserError
from clipib.models.checkpoint import save_checkpoint
from clipib.models.load import load_model

PIXELS = torch.rand(3, 3, 32, 32)


def images_and_texts(model):
    with torch.inference_mode():
        return torch.cat([model.encode_images(PIXELS), model.encode_texts(model.tokenize(["a cat", "two dogs", "x"]))])


@pytest.fixture
def tiny():
    return load_model("tiny", "none", device="cpu", seed=5)


def test_random_weights_follow_the_seed_and_leave_the_global_one_alone(tiny):
    torch.manual_seed(1)
    before = torch.random.get_rng_state()
    again = load_model("tiny", "none", device="cpu", seed=5)
    assert torch.equal(before, torch.random.get_rng_state())
    assert again.fingerprint == tiny.fingerprint != load_model("tiny", "none", device="cpu", seed=6).fingerprint
    assert tiny.is_random


def test_the_same_weights_by_every_road_give_the_same_features(tiny, tmp_path):
    torch.save(
        {"epoch": 1, "state_dict": {f"module.{k}": v for k, v in tiny.module.state_dict().items()}}, tmp_path / "w.pt"
    )
    save_checkpoint(tiny, tmp_path / "folder", {"loss": "clip", "similarity": "cosine"})
    roads = [("tiny", str(tmp_path / "w.pt")), (str(tmp_path / "folder"), None), (f"local-dir:{tmp_path}/folder", None)]
    for spec, pretrained in roads:
        model = load_model(spec, pretrained, device="cpu")
        assert (images_and_texts(model) - images_and_texts(tiny)).abs().max() < 1e-5
        assert model.fingerprint == tiny.fingerprint
        assert model.transform_key == tiny.transform_key and model.tokenizer_key == tiny.tokenizer_key


def test_plain_open_clip_opens_a_checkpoint_folder(checkpoint):
    ours = load_model(str(checkpoint), device="cpu")
    module, _, transform = open_clip.create_model_and_transforms(f"local-dir:{checkpoint}")
    module.eval()
    tokens = open_clip.get_tokenizer(f"local-dir:{checkpoint}")(["a cat", "two dogs", "x"])
    assert torch.equal(tokens, ours.tokenize(["a cat", "two dogs", "x"]))
    with torch.inference_mode():
        theirs = torch.cat([module.encode_image(PIXELS, normalize=True), module.encode_text(tokens, normalize=True)])
    assert (theirs - images_and_texts(ours)).abs().max() < 1e-6
    assert repr(transform) == repr(ours.preprocess_eval)


def test_quick_gelu_survives_saving(tmp_path):
    from dataclasses import replace

    model = load_model("tiny", "none", device="cpu")
    quick = replace(model, config={**model.config, "quick_gelu": True})
    save_checkpoint(quick, tmp_path / "q", {})
    for spec in (str(tmp_path / "q"), f"local-dir:{tmp_path / 'q'}"):
        loaded = load_model(spec, device="cpu")
        assert type(loaded.module.visual.transformer.resblocks[0].mlp.gelu).__name__ == "QuickGELU"
    module = open_clip.create_model(f"local-dir:{tmp_path / 'q'}")
    assert type(module.transformer.resblocks[0].mlp.gelu).__name__ == "QuickGELU"


def test_an_edited_weight_is_refused(checkpoint, tmp_path):
    from safetensors.torch import load_file, save_file

    folder = shutil.copytree(checkpoint, tmp_path / "edited")
    state = load_file(folder / "open_clip_model.safetensors")
    state["logit_scale"] += 1e-4
    save_file(state, folder / "open_clip_model.safetensors")
    with pytest.raises(UserError, match="not those that its record names"):
        load_model(str(folder))


def test_a_pickle_is_never_executed(tmp_path):
    marker = tmp_path / "executed"

    class Trap:
        def __reduce__(self):
            return (open, (str(marker), "w"))

    (tmp_path / "trap.pt").write_bytes(pickle.dumps({"state_dict": Trap()}))
    torch.save({"state_dict": Trap()}, tmp_path / "trap2.pt")
    for name in ("trap.pt", "trap2.pt"):
        with pytest.raises(UserError):
            load_model("tiny", str(tmp_path / name), device="cpu")
    assert not marker.exists()


def test_weights_of_another_layout_are_named(tmp_path):
    torch.save({"encoder.weight": torch.zeros(2)}, tmp_path / "other.pt")
    with pytest.raises(UserError, match=r"no open_clip checkpoint of tiny: its 1 tensors are named encoder.weight"):
        load_model("tiny", str(tmp_path / "other.pt"), device="cpu")


def test_the_stray_checkpoint_of_the_shared_data_is_refused(shared_data):
    path = shared_data("mira_tiny_clip")
    with pytest.raises(UserError, match="no open_clip checkpoint of ViT-B-32"):
        load_model("ViT-B-32", str(path / "clip.pt"), device="cpu")
    for spec in (path, path / "clip.pt"):
        with pytest.raises(UserError):
            load_model(str(spec), device="cpu")


@pytest.mark.parametrize("name", ["gpu", "cuda:77", "meta"])
def test_a_device_that_is_not_there(name):
    with pytest.raises(UserError, match="device"):
        load_model("tiny", "none", device=name)


@pytest.mark.parametrize("precision", ["bf16", "amp"])
def test_lower_precision_is_close_and_keeps_the_scale(tiny, precision):
    low = load_model("tiny", "none", device="cpu", precision=precision, seed=5)
    cosines = (images_and_texts(low) * images_and_texts(tiny)).sum(-1)
    assert cosines.min() > 0.999 and not torch.equal(images_and_texts(low), images_and_texts(tiny))
    assert float(low.logit_scale) == float(tiny.logit_scale)
    assert low.fingerprint == tiny.fingerprint


def test_the_record_tells_how_it_was_trained(checkpoint):
    record = json.loads((checkpoint / "clipib.json").read_text())
    assert record["loss"] == "clip" and record["activation"] == "gelu" and record["step"] == 200
    assert record["data"]["train"]["name"] == "digitworld"


def test_damaged_folders_are_named(checkpoint, tmp_path):
    import json
    import shutil

    def damaged(name, file, change):
        folder = shutil.copytree(checkpoint, tmp_path / name)
        change(folder / file)
        return str(folder)

    def edit(**values):
        def change(path):
            config = json.loads(path.read_text())
            config["preprocess_cfg"] |= values
            path.write_text(json.dumps(config))

        return change

    weights, config = "open_clip_model.safetensors", "open_clip_config.json"
    for spec, message in (
        (damaged("cut", weights, lambda p: p.write_bytes(p.read_bytes()[:-9])), "damaged"),
        (damaged("none", weights, lambda p: p.unlink()), "holds no weights"),
        (damaged("empty", config, lambda p: p.write_text('{"model_cfg": {}}')), "no whole model_cfg"),
        (damaged("foo", config, edit(interpolation="foo")), "cannot be loaded"),
        (damaged("two", config, edit(mean=[0, 0])), "preprocessing that cannot be"),
        (damaged("mean", config, edit(mean=[0, 0, 0])), "not those that its record names"),
    ):
        with pytest.raises(UserError, match=message):
            load_model(spec)


def test_a_weights_file_of_a_checkpoint_folder_is_not_taken_alone(checkpoint):
    with pytest.raises(UserError, match="part of the checkpoint folder") as error:
        load_model("tiny", str(checkpoint / "open_clip_model.safetensors"))
    assert f"--model {checkpoint}" in error.value.hint
