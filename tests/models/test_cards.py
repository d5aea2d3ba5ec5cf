"""A run whose features are all stored builds no model; a card that no longer holds is passed over."""

import json
import os
import subprocess
import sys

import pytest

from clipib.data.load import load_dataset
from clipib.errors import UserError
from clipib.models.cards import Request, recall
from clipib.progress import SILENT
from clipib.tasks.checkpoint import Checkpoint

HEAVY = ("torch", "open_clip", "torchvision", "sklearn", "transformers", "faiss", "datasets", "matplotlib", "scipy")
OPTIONS = {"device": "auto", "precision": "fp32", "preprocess": "open_clip", "seed": 0}


def opened(spec, cache_dir, pretrained=None, *, verify=False, **options):
    asked = {**OPTIONS, **options}
    return Checkpoint(str(spec), pretrained, **asked, cache_dir=cache_dir, verify=verify, progress=SILENT)


def test_a_warm_zeroshot_imports_nothing_heavy(checkpoint, photo_folder, tmp_path):
    script = (
        "import json, sys, clipib\n"
        f"rows = clipib.zeroshot({str(checkpoint)!r}, {'folder:' + str(photo_folder)!r}, out=sys.argv[1]).rows\n"
        f"print(json.dumps([[r.value for r in rows], [m for m in {HEAVY!r} if m in sys.modules]]))\n"
    )
    env = {**os.environ, "CLIPIB_CACHE": str(tmp_path / "cache")}
    found = []
    for out in ("a", "b"):
        done = subprocess.run(
            [sys.executable, "-c", script, str(tmp_path / out)], env=env, capture_output=True, text=True, check=True
        )
        found.append(json.loads(done.stdout))
    (cold, cold_heavy), (warm, warm_heavy) = found
    assert cold == warm and "torch" in cold_heavy and warm_heavy == []


def test_a_card_says_what_the_model_says(checkpoint, tmp_path):
    first = opened(checkpoint, tmp_path).open()
    second = opened(checkpoint, tmp_path).open()
    names = ("name", "pretrained", "fingerprint", "transform_key", "tokenizer_key", "computes_in", "precision", "loss")
    names += ("similarity", "is_random", "preprocess_name", "folder")
    assert [getattr(second, n) for n in names] == [getattr(first, n) for n in names]
    assert second.logit_scale == first.logit_scale.item() and second.logit_bias is None
    assert second.device.type == first.device.type and not second.is_built
    assert second.tokenize(["a"]).equal(first.tokenize(["a"])) and second.is_built


def test_other_words_other_files_other_options_are_another_card(checkpoint, tmp_path):
    opened("tiny", tmp_path, "none").open()
    known = opened("tiny", tmp_path, "none")
    assert known.card and known.source().pretrained == "random weights"
    for other in ({"seed": 1}, {"precision": "bf16"}, {"preprocess": "fast"}, {"verify": True}):
        assert opened("tiny", tmp_path, "none", **other).card is None, other
    copy = tmp_path / "copy"
    copy.mkdir()
    for path in checkpoint.iterdir():
        (copy / path.name).write_bytes(path.read_bytes())
    opened(copy, tmp_path).open()
    assert opened(copy, tmp_path).card
    (copy / "open_clip_pytorch_model.bin").write_bytes(b"")
    assert opened(copy, tmp_path).card is None  # a file more may be the one that is read
    (copy / "open_clip_pytorch_model.bin").unlink()
    record = copy / "clipib.json"
    record.write_text(record.read_text() + " ")
    assert opened(copy, tmp_path).card is None


def test_weights_that_changed_behind_the_card_are_refused(checkpoint, photo_folder, tmp_path):
    opened(checkpoint, tmp_path).open()
    (path,) = (tmp_path / "models").iterdir()
    card = json.loads(path.read_text())
    card["facts"]["fingerprint"] = "0" * 64
    path.write_text(json.dumps(card))
    model = opened(checkpoint, tmp_path).open()
    assert model.fingerprint == "0" * 64
    with pytest.raises(UserError, match="changed, though their size and times did not"):
        model.preprocess_eval(load_dataset(f"folder:{photo_folder}").images.open(0))
    assert opened(checkpoint, tmp_path, verify=True).open().fingerprint != "0" * 64


def test_a_branch_of_the_hub_is_never_taken_from_a_card(tmp_path, monkeypatch):
    moving, fixed = Request("hf:org/name@main", None, OPTIONS), Request("hf:org/name@" + "a" * 40, None, OPTIONS)
    assert not moving.is_settled and fixed.is_settled
    here = Request("tiny", "none", OPTIONS).path(tmp_path)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "7")  # --device auto may now mean another one
    assert Request("tiny", "none", OPTIONS).path(tmp_path) != here
    path = moving.path(tmp_path)
    path.parent.mkdir()
    card = {"files": {}, "source": {"folder": None}}
    path.write_text(json.dumps(card))
    assert recall(moving, tmp_path) is None
    monkeypatch.setenv("CLIPIB_OFFLINE", "1")
    assert recall(moving, tmp_path) == card
