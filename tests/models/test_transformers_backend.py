"""Checkpoints in transformers' layout against the same weights in open_clip's."""

import json
import shutil
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image
from reference.small_towers import make_small_clip, make_small_naflex, make_small_siglip

from clipib.errors import UserError
from clipib.models.checkpoint import save_checkpoint
from clipib.models.load import load_model
from clipib.models.model import checkpoint_sha256
from clipib.models.sources import resolve_model
from clipib.models.text import is_cuttable
from clipib.models.transformers_backend import features_of

TEXTS = [
    *["", " ", "a", "A", "a photo of a cat", "A PHOTO of a Cat.", "two dogs -- run, on the beach!", "red_bus"],
    *[
        "caf\u00e9 \u65e5\u672c",
        "x1y2",
        "&amp; <b>",
        "don\u2019t",
        "  spaces   inside  ",
        "cat\n\tdog",
        "...",
        "\u00df",
    ],
    *["people sitting at a table " * n for n in (1, 2, 5, 20)],
]
FAMILIES = ("clip", "siglip")


@pytest.fixture(scope="module")
def small(tmp_path_factory):
    """family -> the folders of transformers and of open_clip with the same weights."""
    folder = tmp_path_factory.mktemp("small")
    return {"clip": make_small_clip(folder), "siglip": make_small_siglip(folder)}


@pytest.fixture(scope="module")
def photographs():
    """20 pictures of odd sizes: coarse noise blown up, so that there are slopes and edges."""
    rng = np.random.default_rng(0)
    pictures = []
    for i in range(20):
        width, height = int(rng.integers(20, 200)), int(rng.integers(20, 200))
        coarse = Image.fromarray(rng.integers(0, 255, (7 + i % 5, 9, 3), dtype=np.uint8))
        pictures.append(coarse.resize((width, height), Image.Resampling.BILINEAR))
    return pictures


def images_and_texts(model, pictures):
    pixels = torch.stack([model.preprocess_eval(picture) for picture in pictures])
    with torch.inference_mode():
        return model.encode_images(pixels, normalize=False), model.encode_texts(model.tokenize(TEXTS), normalize=False)


@pytest.mark.parametrize("family", FAMILIES)
def test_the_same_weights_in_both_layouts_give_the_same_features(small, photographs, family):
    ours, theirs = (load_model(str(folder), device="cpu") for folder in small[family])
    assert (ours.backend, theirs.backend) == ("transformers", "open_clip")
    for name in ("mean", "std", "interpolation", "resize_mode", "size"):
        assert tuple(np.ravel(ours.preprocess[name])) == tuple(np.ravel(theirs.preprocess[name])), name
    for found, expected in zip(images_and_texts(ours, photographs), images_and_texts(theirs, photographs)):
        spread = (expected - expected.mean(0)).abs().max()
        assert spread > 0.1  # the features tell the inputs apart
        assert (found - expected).abs().max() < 1e-5  # float32 products in another order
    assert float(ours.logit_scale) == pytest.approx(np.exp(2.5))
    assert (None if ours.logit_bias is None else float(ours.logit_bias)) == {"clip": None, "siglip": -7.0}[family]


@pytest.mark.parametrize("family", FAMILIES)
def test_they_give_the_same_features_of_real_photographs(small, shared_data, family):
    pictures = []
    for i, path in enumerate(sorted(shared_data("coco_val2017_ccby").rglob("*.jpg"))[:20]):
        with Image.open(path) as picture:
            pictures.append(picture.convert("RGB").resize((101 + 14 * i, 203 - 6 * i), Image.Resampling.BICUBIC))
    ours, theirs = (load_model(str(folder), device="cpu") for folder in small[family])
    assert len(pictures) == 20
    found, expected = images_and_texts(ours, pictures)[0], images_and_texts(theirs, pictures)[0]
    assert (found - expected).abs().max() < 1e-5


def test_siglip_token_ids_are_those_of_open_clip(small):
    ours, theirs = (load_model(str(folder), device="cpu") for folder in small["siglip"])
    assert torch.equal(ours.tokenize(TEXTS), theirs.tokenize(TEXTS))
    assert ours.tokenize(["a"]).shape == (1, 20)
    assert not is_cuttable(ours.module) and not is_cuttable(theirs.module)


def test_clip_token_ids_differ_from_open_clips_in_the_padding_alone(small):
    ours, theirs = (load_model(str(folder), device="cpu") for folder in small["clip"])
    found, expected = ours.tokenize(TEXTS), theirs.tokenize(TEXTS)
    end = expected.argmax(dim=-1)
    assert torch.equal(found.argmax(dim=-1), end)
    before = torch.arange(20) <= end[:, None]
    assert torch.equal(found[before], expected[before])


def test_a_cut_text_gives_the_features_and_gradients_of_the_whole(small):
    model = load_model(str(small["clip"][0]), device="cpu")
    tokens, gradients = model.tokenize(TEXTS[:12]), []
    for cut in (True, False):
        model.module.zero_grad()
        features = model.encode_texts(tokens, cut=cut)
        features.square().sum(dim=0)[0].backward()
        gradients.append((features, model.module.hf.text_model.encoder.layers[0].mlp.fc1.weight.grad.clone()))
    for one, other in zip(*gradients):
        assert (one - other).abs().max() < 1e-5
    model.module.hf.config.text_config.eos_token_id = 7  # no largest id: the end cannot be found by argmax
    assert not is_cuttable(model.module)


@pytest.mark.parametrize("wrap", [lambda t: t, lambda t: SimpleNamespace(pooler_output=t, last_hidden_state=None)])
def test_both_kinds_of_output_are_unwrapped(small, wrap, monkeypatch):
    model = load_model(str(small["clip"][0]), device="cpu")
    found = torch.randn(3, 16)
    monkeypatch.setattr(type(model.module.hf), "get_image_features", lambda self, **_: wrap(found))
    monkeypatch.setattr(type(model.module.hf), "get_text_features", lambda self, **_: wrap(found))
    assert torch.equal(model.encode_images(torch.zeros(3, 3, 32, 32), normalize=False), found)
    assert torch.equal(model.encode_texts(model.tokenize(["a"]), normalize=False), found)
    assert torch.equal(features_of(wrap(found)), found)


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("precision", ["bf16", "amp"])
def test_lower_precision_is_close_and_keeps_the_scale(small, photographs, family, precision):
    full, low = (load_model(str(small[family][0]), device="cpu", precision=p) for p in ("fp32", precision))
    for a, b in zip(images_and_texts(full, photographs), images_and_texts(low, photographs)):
        assert torch.nn.functional.cosine_similarity(a, b).min() > 0.99 and not torch.equal(a, b)
    assert float(low.logit_scale.detach()) == float(full.logit_scale.detach())
    assert low.fingerprint == full.fingerprint


@pytest.mark.parametrize("family", FAMILIES)
def test_a_saved_folder_opens_here_and_in_transformers(small, photographs, tmp_path, family):
    from transformers import AutoImageProcessor, AutoModel, AutoTokenizer

    model = load_model(str(small[family][0]), device="cpu")
    with torch.no_grad():
        model.module.logit_scale.fill_(1.5)
        model.module.hf.vision_model.post_layernorm.bias.add_(0.3)
    fingerprint = save_checkpoint(model, tmp_path / "saved", {"loss": "clip", "similarity": "cosine"})
    again = load_model(str(tmp_path / "saved"), device="cpu")
    assert again.fingerprint == fingerprint != model.fingerprint and again.loss == "clip"
    assert again.tokenizer_key == model.tokenizer_key and again.transform_key == model.transform_key
    expected = images_and_texts(model, photographs)
    for found, features in zip(images_and_texts(again, photographs), expected):
        assert torch.equal(found, features)
    plain = AutoModel.from_pretrained(tmp_path / "saved").eval()
    processor = AutoImageProcessor.from_pretrained(tmp_path / "saved")
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "saved")
    assert processor.size == model.module.image_processor.size
    tokens = tokenizer(["a photo of a cat"], padding="max_length", max_length=20, return_tensors="pt").input_ids
    pixels = torch.stack([model.preprocess_eval(picture) for picture in photographs])
    with torch.inference_mode():
        images = features_of(plain.get_image_features(pixel_values=pixels))
        texts = features_of(plain.get_text_features(input_ids=tokens))
    assert (images - expected[0]).abs().max() < 1e-6
    assert (texts[0] - expected[1][TEXTS.index("a photo of a cat")]).abs().max() < 1e-5
    local = load_model(f"local-dir:{tmp_path / 'saved'}", device="cpu")
    assert local.fingerprint == fingerprint and not local.record


def test_a_fine_tune_of_two_steps_comes_back(small, tmp_path):
    from transformers import CLIPModel

    from clipib import finetune, retrieve, zeroshot

    start = str(small["clip"][0])
    finetune(start, "digitworld:n=40", out=tmp_path / "run", steps=2, batch_size=8, lr=1e-3, seed=3, device="cpu")
    base, tuned = load_model(start, device="cpu"), load_model(str(tmp_path / "run" / "last"), device="cpu")
    moved = [n for n, p in base.module.state_dict().items() if not torch.equal(p, tuned.module.state_dict()[n])]
    assert {"hf.logit_scale", "hf.visual_projection.weight", "hf.text_projection.weight"} <= set(moved)
    assert tuned.record["base"]["sha256"] == base.fingerprint
    state = CLIPModel.from_pretrained(tmp_path / "run" / "last").state_dict()
    assert torch.equal(state["visual_projection.weight"], tuned.module.hf.visual_projection.weight)
    rows = zeroshot(str(tmp_path / "run" / "last"), "digitworld/digit:n=20", out=tmp_path / "z", device="cpu").rows
    assert rows[0].checkpoint_sha256 == tuned.fingerprint and rows[0].loss == "clip"
    assert retrieve(start, "digitworld:n=20", out=tmp_path / "r", device="cpu").images_encoded == 20


def test_the_fingerprint_covers_architecture_preprocessing_and_every_weight(small):
    model = load_model(str(small["siglip"][0]), device="cpu")
    state = model.module.state_dict()
    assert len(state) == len(dict(model.module.hf.named_parameters()))

    def fingerprint(config=model.config, preprocess=model.preprocess, state=state):
        return checkpoint_sha256(config, preprocess, state)

    text = model.config["text_config"]
    assert fingerprint() == model.fingerprint
    assert fingerprint(config={**model.config, "text_config": {**text, "hidden_act": "gelu"}}) != model.fingerprint
    assert fingerprint(preprocess={**model.preprocess, "resize_mode": "shortest"}) != model.fingerprint
    for name in state:
        changed = {**state, name: state[name] + 1e-3}
        assert fingerprint(state=changed) != model.fingerprint, name


def damaged(small, tmp_path, name, change, family="clip"):
    folder = shutil.copytree(small[family][0], tmp_path / name)
    change(folder)
    return str(folder)


def edit(file, **values):
    def change(folder):
        content = json.loads((folder / file).read_text())
        content.update(values)
        (folder / file).write_text(json.dumps(content))

    return change


def edit_weights(change):
    def apply(folder):
        from safetensors.torch import load_file, save_file

        state = load_file(folder / "model.safetensors")
        change(state)
        save_file(state, folder / "model.safetensors", metadata={"format": "pt"})

    return apply


def cut_weights(folder):
    path = folder / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-9])


WRONG = {
    "bert": (edit("config.json", model_type="bert"), "type 'bert', which is no image-text model"),
    "typo": (edit("config.json", model_type="siglp"), "Did you mean 'siglip'"),
    "untyped": (edit("config.json", model_type=None), "of the type None"),
    "none": (lambda f: (f / "model.safetensors").unlink(), "holds no weights: expected model.safetensors"),
    "cut": (cut_weights, "are damaged"),
    "missing": (edit_weights(lambda s: s.pop("logit_scale")), "lacks logit_scale"),
    "extra": (edit_weights(lambda s: s.update(more=torch.zeros(2))), "has more than its configuration: more"),
    "shape": (edit_weights(lambda s: s.update({"logit_scale": torch.zeros(2)})), "cannot be loaded"),
    "no processor": (lambda f: (f / "preprocessor_config.json").unlink(), "has no preprocessor_config.json"),
    "no tokenizer": (lambda f: (f / "tokenizer.json").unlink(), "has no tokenizer"),
    "other size": (edit("preprocessor_config.json", crop_size={"height": 24, "width": 24}), "takes 32 px"),
    "wider": (edit("preprocessor_config.json", size={"shortest_edge": 40}), "resizes to .40,. px and crops to"),
    "no json": (lambda f: (f / "config.json").write_text("{"), "cannot be read"),
}


@pytest.mark.parametrize("name", WRONG)
def test_what_is_wrong_with_a_folder_is_told(small, tmp_path, name):
    change, message = WRONG[name]
    with pytest.raises(UserError, match=message):
        load_model(damaged(small, tmp_path, name, change), device="cpu")


def test_a_missing_part_of_the_weights_is_named(small, tmp_path):
    def shard(folder):
        (folder / "model.safetensors").unlink()
        index = {"weight_map": {"logit_scale": "model-00001-of-00002.safetensors"}}
        (folder / "model.safetensors.index.json").write_text(json.dumps(index))

    with pytest.raises(UserError, match="lacks a part of its weights: model-00001-of-00002"):
        load_model(damaged(small, tmp_path, "part", shard), device="cpu")


def test_an_edited_saved_folder_is_refused(small, tmp_path):
    save_checkpoint(load_model(str(small["clip"][0]), device="cpu"), tmp_path / "saved", {})
    edit("preprocessor_config.json", image_mean=[0.5, 0.5, 0.5])(tmp_path / "saved")
    with pytest.raises(UserError, match="not those that its record names"):
        load_model(str(tmp_path / "saved"), device="cpu")


def test_pickled_weights_are_read_but_never_executed(small, photographs, tmp_path):
    import pickle

    from safetensors.torch import load_file

    marker = tmp_path / "executed"

    def as_bin(folder):
        state = load_file(folder / "model.safetensors")
        (folder / "model.safetensors").unlink()
        torch.save(state, folder / "pytorch_model.bin")

    class Trap:
        def __reduce__(self):
            return (open, (str(marker), "w"))

    folder = damaged(small, tmp_path, "bin", as_bin)
    same = load_model(folder, device="cpu")
    assert same.fingerprint == load_model(str(small["clip"][0]), device="cpu").fingerprint
    with open(f"{folder}/pytorch_model.bin", "wb") as file:
        pickle.dump({"logit_scale": Trap()}, file)
    with pytest.raises(UserError):
        load_model(folder, device="cpu")
    assert not marker.exists()


def test_half_precision_weights_are_the_same_numbers_in_float32(small, tmp_path):
    def halve(state):
        state.update({name: tensor.half() for name, tensor in state.items()})

    folder = damaged(small, tmp_path, "half", edit_weights(halve))
    edit("config.json", dtype="float16", torch_dtype="float16")(tmp_path / "half")
    model = load_model(folder, device="cpu")
    assert {p.dtype for p in model.module.parameters()} == {torch.float32}


def test_a_weights_flag_does_not_go_with_a_folder(small):
    with pytest.raises(UserError, match="weights of its own"):
        resolve_model(str(small["clip"][0]), "none")


def test_siglip_that_tells_capitals_apart_is_refused(small, tmp_path):
    folder = shutil.copytree(small["siglip"][1], tmp_path / "capitals")
    config = json.loads((folder / "open_clip_config.json").read_text())
    config["model_cfg"]["text_cfg"]["tokenizer_kwargs"] = {"clean": "whitespace"}
    (folder / "open_clip_config.json").write_text(json.dumps(config))
    with pytest.raises(UserError, match="tells capitals apart") as error:
        load_model(str(folder), device="cpu")
    assert "canonicalize" in error.value.hint


def test_siglip_texts_that_are_not_padded_to_the_end_are_refused():
    from clipib.models.text import check_whole_context

    with pytest.raises(UserError, match="pads to 4 tokens, its text tower reads 20"):
        check_whole_context(lambda texts: torch.ones(len(texts), 4), 20, "x")


def test_a_tower_of_variable_resolution_reads_squares_and_its_own_patches(tmp_path, photographs):
    """NaFlex: 16 patches of 8 px, as a square through open_clip's transform, as it lies through the processor."""
    from transformers import AutoImageProcessor, Siglip2Model

    folder = make_small_naflex(tmp_path)
    plain, processor = Siglip2Model.from_pretrained(folder), AutoImageProcessor.from_pretrained(folder)
    own = load_model(str(folder), device="cpu", preprocess="hf")
    square = load_model(str(folder), device="cpu")
    assert square.preprocess["size"] == (32, 32) and square.preprocess["resize_mode"] == "squash"
    with torch.inference_mode():
        expected = features_of(plain.get_image_features(**processor(images=photographs, return_tensors="pt")))
        assert (images_and_texts(own, photographs)[0] - expected).abs().max() < 1e-5
        squares = [p.resize((32, 32), Image.Resampling.BILINEAR) for p in photographs]
        processed = processor(images=squares, return_tensors="pt")
        assert processed["pixel_attention_mask"].min() == 1
        processed["pixel_values"] = processed["pixel_values"].float()
        expected = features_of(plain.get_image_features(**processed))
        assert (images_and_texts(square, photographs)[0] - expected).abs().max() < 1e-5
    tokens = own.tokenize(["CAT, dog", "a bird"])
    assert tokens[0, :8].tolist() == [8, 6, 25, 5, 9, 20, 12, 0] and not tokens[0, 7:].any()  # padded on the right
    assert own.transform_key != square.transform_key and own.fingerprint == square.fingerprint


def test_a_tokenizer_that_knows_no_word_is_refused(small, tmp_path):
    """transformers reads a sentencepiece vocabulary beside a SigLIP 2 configuration as an empty one."""
    folder = make_small_naflex(tmp_path)
    (folder / "tokenizer.json").unlink()
    for name in ("spiece.model", "tokenizer_config.json"):
        shutil.copy(small["siglip"][0] / name, folder / name)
    with pytest.raises(UserError, match="read as Siglip2Tokenizer, gives different texts the same token ids"):
        load_model(str(folder), device="cpu")


def test_transformers_is_imported_where_it_is_used_alone():
    import ast
    from pathlib import Path

    import clipib

    for path in Path(clipib.__file__).parent.rglob("*.py"):
        for node in ast.parse(path.read_text()).body:  # the top of the module alone
            names = [a.name for a in node.names] if isinstance(node, ast.Import) else [getattr(node, "module", "")]
            assert not any((name or "").partition(".")[0] == "transformers" for name in names), path
