import numpy as np
import pytest
import torch
from reference.ranks import naive_ranks

from clipib import retrieve
from clipib.data.load import load_dataset
from clipib.models.load import load_model


def test_the_numbers_equal_a_direct_computation(checkpoint, tmp_path):
    rows = retrieve(str(checkpoint), "digitworld:objects=2+n=120", out=tmp_path / "r").rows
    model, dataset = load_model(str(checkpoint), device="cpu"), load_dataset("digitworld:objects=2+n=120")
    with torch.inference_mode():
        pixels = torch.stack([model.preprocess_eval(dataset.images.open(i)) for i in range(120)])
        images, texts = model.encode_images(pixels), model.encode_texts(model.tokenize(dataset.captions))
    to_image, to_text = naive_ranks(images, texts, torch.from_numpy(dataset.image_of_caption))
    for way, ranks in (("image", to_image), ("text", to_text)):
        for k in (1, 5, 10):
            (row,) = [r for r in rows if r.metric == f"{way}_retrieval_recall@{k}" and not r.params]
            # features of another batch shape differ in the last bits; a near tie may fall the other way
            assert row.value == pytest.approx(np.mean([r < k for r in ranks]), abs=2 / 120)
            (truth,) = [r for r in rows if r.metric == row.metric and "true_pmi" in r.params]
            assert truth.value > row.value - 2 / 120


def test_coco_captions_have_several_texts_per_image(checkpoint, shared_data, tmp_path):
    spec = f"csv:{shared_data('coco_val2017_ccby')}/captions.csv"
    rows = {r.metric: r for r in retrieve(str(checkpoint), spec, out=tmp_path / "r", recall_k=(1, 99)).rows}
    assert rows["image_retrieval_recall@1"].n == 495 and rows["image_retrieval_recall@1"].ci_low is not None
    assert rows["text_retrieval_recall@1"].n == 99 and rows["text_retrieval_recall@1"].ci_low is not None
    assert rows["image_retrieval_recall@99"].value == 1.0
    assert rows["image_retrieval_recall@1"].dataset == "coco_val2017_ccby/captions.csv"


def test_the_second_run_keeps_its_rows(checkpoint, tmp_path):
    first = retrieve(str(checkpoint), "digitworld:n=40", out=tmp_path / "r", cache_dir=tmp_path / "c")
    again = retrieve(str(checkpoint), "digitworld:n=40", out=tmp_path / "r", cache_dir=tmp_path / "c")
    assert again.rows == first.rows and again.images_encoded == 0
