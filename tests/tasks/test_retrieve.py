import shutil

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image
from reference.ranks import naive_ranks

from clipib import retrieve
from clipib.data.load import load_dataset
from clipib.metrics.catalog import metric_of
from clipib.models.load import load_model
from clipib.tasks.protocol import choose_protocol
from clipib.tasks.retrieve import _asked


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
        of = {r.metric: r for r in rows if r.metric.startswith(f"{way}_retrieval") and not r.params}
        assert of[f"{way}_retrieval_median_rank"].value == pytest.approx(np.median(ranks) + 1, abs=1)
        assert of[f"{way}_retrieval_mean_rank"].value == pytest.approx(np.mean(ranks) + 1, abs=2 / 120)
        assert of[f"{way}_retrieval_mean_rank"].n == 120 and not of[f"{way}_retrieval_mean_rank"].is_main
    by_metric = {r.metric: r.value for r in rows if not r.params}
    assert by_metric["text_retrieval_map@r"] == pytest.approx(by_metric["text_retrieval_recall@1"])  # one caption each
    assert list(by_metric) == _asked((1, 5, 10), choose_protocol("strict", "auto", "caption")) and all(
        metric_of(m) for m in by_metric
    )


def test_coco_captions_have_several_texts_per_image(checkpoint, shared_data, tmp_path):
    spec = f"csv:{shared_data('coco_val2017_ccby')}/captions.csv"
    rows = {r.metric: r for r in retrieve(str(checkpoint), spec, out=tmp_path / "r", recall_k=(1, 99)).rows}
    assert rows["image_retrieval_recall@1"].n == 495 and rows["image_retrieval_recall@1"].ci_low is not None
    assert rows["text_retrieval_recall@1"].n == 99 and rows["text_retrieval_recall@1"].ci_low is not None
    assert rows["image_retrieval_recall@99"].value == 1.0
    assert rows["image_retrieval_recall@1"].dataset == "coco_val2017_ccby/captions.csv"
    (table,) = (tmp_path / "r" / "samples").glob("*.parquet")
    samples = pd.read_parquet(table)
    captions, images = (samples[samples.direction == d] for d in ("text_to_image", "image_to_text"))
    assert rows["image_retrieval_mean_rank"].value == captions["rank"].mean() + 1
    assert rows["image_retrieval_median_rank"].value == captions["rank"].median() + 1
    assert rows["text_retrieval_median_rank"].value == images["rank"].median() + 1
    assert rows["text_retrieval_map@r"].value == pytest.approx(images["average_precision"].mean())
    assert rows["text_retrieval_map@r"].n == 99 and captions["average_precision"].isna().all()
    assert ((images["average_precision"] > 0) == (images["rank"] < 5)).all()  # all have five captions


def test_recalls_that_ties_decide_have_both_bounds(checkpoint, tmp_path):
    """Two of four pairs are copies: at one K each is a hit before its twin and none after it."""
    for i in range(3):
        Image.fromarray(np.random.default_rng(i).integers(0, 256, (16, 16, 3), dtype=np.uint8)).save(
            tmp_path / f"{i}.png"
        )
    shutil.copy(tmp_path / "0.png", tmp_path / "3.png")
    lines = [f"{i}.png,a {word} digit" for i, word in enumerate(("red", "green", "blue", "red"))]
    (tmp_path / "t.csv").write_text("\n".join(["image,caption", *lines]) + "\n")
    call = {"recall_k": (1, 2, 3, 4), "out": tmp_path / "r", "cache_dir": tmp_path / "c"}
    rows = retrieve(str(checkpoint), f"csv:{tmp_path / 't.csv'}", **call).rows
    values = {(r.metric, r.params): r for r in rows}
    for way in ("image", "text"):
        (metric,) = {m for m, params in values if m.startswith(way) and "ties" in params}
        plain, low, high = (values[metric, p] for p in ("", "ties=pessimistic", "ties=optimistic"))
        assert low.value < plain.value < high.value and high.value - low.value == 0.5
        assert plain.n_ties == low.n_ties == 2 and low.ci_low < low.value < low.ci_high
        assert not low.is_main and not high.is_main and values[f"{way}_retrieval_recall@1", ""].is_main
    assert retrieve(str(checkpoint), f"csv:{tmp_path / 't.csv'}", **call).rows == rows  # kept


def test_the_second_run_keeps_its_rows(checkpoint, tmp_path):
    first = retrieve(str(checkpoint), "digitworld:n=40", out=tmp_path / "r", cache_dir=tmp_path / "c")
    again = retrieve(str(checkpoint), "digitworld:n=40", out=tmp_path / "r", cache_dir=tmp_path / "c")
    assert again.rows == first.rows and again.images_encoded == 0
