"""What only a CUDA device can show; `python -m pytest -m gpu` on such a machine."""

import numpy as np
import pytest
import torch

from clipib import finetune, zeroshot
from clipib.data.load import load_dataset
from clipib.embeddings.encode import embed_images, embed_texts
from clipib.embeddings.index import build_index, search_index
from clipib.models.load import load_model

pytestmark = [pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")]


def test_features_equal_those_of_the_cpu(checkpoint):
    dataset = load_dataset("digitworld:n=64")
    found = []
    for device in ("cpu", "cuda"):
        model = load_model(str(checkpoint), device=device)
        images, texts = embed_images(model, dataset, store=None), embed_texts(model, dataset.captions, store=None)
        found.append(torch.cat([images.features, texts.features]))
    assert (found[0] - found[1]).abs().max() < 1e-3  # TF32 is off by default; kernels sum in another order


def test_training_under_autocast_learns_and_its_checkpoint_evaluates_on_the_cpu(tmp_path):
    options = {"pretrained": "none", "steps": 30, "batch_size": 32, "lr": 1e-3, "device": "cuda"}
    finetune("tiny", "digitworld:n=600", loss="cibr", out=tmp_path / "f", **options)
    rows = zeroshot(str(tmp_path / "f" / "last"), "digitworld/color:n=200", out=tmp_path / "z", device="cpu").rows
    assert rows[0].value > 0


def test_the_index_lies_on_the_gpu_and_is_exact():
    rows = np.random.default_rng(0).normal(size=(500, 16)).astype(np.float32)
    found = search_index(build_index(rows), rows[:9], 5)
    assert np.array_equal(found.indices, np.argsort(-(rows[:9] @ rows.T), axis=1)[:, :5])
