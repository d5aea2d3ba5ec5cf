import json

import numpy as np
import pandas as pd
import pytest
import torch
from clip_benchmark.metrics import image_caption_selection as theirs

from clipib import retrieve
from clipib.data.load import load_dataset
from clipib.metrics.bootstrap import bootstrap_mean
from clipib.models.load import load_model
from clipib.tasks.results import read_rows


@pytest.fixture(scope="module")
def model(checkpoint):
    return load_model(str(checkpoint), device="cpu")


@pytest.fixture
def foreign(shared_data, tmp_path):
    """The shared captions, each against one of another image."""
    source = shared_data("coco_val2017_ccby")
    frame = pd.read_csv(source / "captions.csv").iloc[::7].reset_index(drop=True)
    frame["image"] = [str(source / p) for p in frame.image]
    frame["negative_caption"] = np.roll(frame.caption, 3)
    frame["kind"] = ["odd" if i % 2 else "even" for i in range(len(frame))]
    frame.to_csv(tmp_path / "foreign.csv", index=False)
    return tmp_path / "foreign.csv"


def encoded(model, paths, texts):
    images = load_dataset(f"csv:{paths}").images
    with torch.inference_mode():
        pixels = torch.stack([model.preprocess_eval(images.open(i)) for i in range(len(images.ids))])
        return model.encode_images(pixels).double(), model.encode_texts(model.tokenize(texts)).double()


def test_captions_of_other_images_equal_the_direct_definition(checkpoint, model, foreign, tmp_path):
    rows = {(r.metric, r.params): r for r in retrieve(str(checkpoint), f"csv:{foreign}", out=tmp_path / "r").rows}
    frame = pd.read_csv(foreign)
    images, texts = encoded(model, foreign, [*frame.caption, *frame.negative_caption])
    ids = list(dict.fromkeys(frame.image))
    own = images[[ids.index(p) for p in frame.image]]
    right, wrong = ((own * t).sum(1).numpy() for t in texts.chunk(2))
    hits = right > wrong
    assert np.abs(right - wrong).min() > 1e-6  # so that the last bits decide nothing
    assert rows["text_acc", ""].value == hits.mean() and rows["text_acc", ""].n == len(frame)
    assert rows["text_acc", "kind=odd"].value == hits[1::2].mean()
    assert [r.is_main for r in rows.values()] == [True, False, False] and rows["text_acc", ""].ci_low < hits.mean()
    samples = pd.read_parquet(next((tmp_path / "r" / "samples").glob("*.parquet")))
    assert samples.text_acc.tolist() == hits.tolist()
    scale = model.logit_scale.item()
    assert samples.score_00.to_numpy() / scale == pytest.approx(right, abs=1e-5)


def benchmark(model, images, captions):
    """CLIP_benchmark's numbers on questions with the same scores, in float32."""

    class Loader(list):
        pass

    batches = Loader([(torch.stack(pixels), texts) for pixels, texts in [(images, captions)]])
    return theirs.evaluate(model.module, batches, lambda texts: model.tokenize(texts), "cpu", amp=False)


def test_captions_against_wrong_ones_equal_clip_benchmark(checkpoint, model, shared_data, tmp_path):
    path = shared_data("coco_val2017_ccby") / "sugarcrepe.csv"
    (row, *by_kind) = retrieve(str(checkpoint), f"csv:{path}", out=tmp_path / "r").rows
    dataset = load_dataset(f"csv:{path}")
    pixels = [model.preprocess_eval(dataset.images.open(i)) for (i,) in dataset.contrasts.images]
    found = benchmark(model, pixels, [list(pair) for pair in dataset.contrasts.captions])
    assert row.value == pytest.approx(found["text_acc"], abs=1e-6)
    samples = pd.read_parquet(next((tmp_path / "r" / "samples").glob("*.parquet")))
    together = bootstrap_mean(samples.text_acc.to_numpy(dtype=bool), clusters=samples.sample_id.to_numpy(dtype=str))
    assert (row.ci_low, row.ci_high) == pytest.approx(together)
    assert len(by_kind) == 7 and sum(r.n for r in by_kind) == row.n == 154
    assert sum(r.value * r.n for r in by_kind) == pytest.approx(row.value * 154)


@pytest.fixture
def pairs(shared_data, tmp_path):
    """Pairs of photographs with one caption of each, as Winoground writes them."""
    source = shared_data("coco_val2017_ccby")
    first = pd.read_csv(source / "captions.csv").drop_duplicates("image")[:60]
    paths, captions = [str(source / p) for p in first.image], list(first.caption)
    rows = [
        {"image_0": paths[i], "image_1": paths[i + 1], "caption_0": captions[i], "caption_1": captions[i + 1]}
        for i in range(0, 60, 2)
    ]
    (tmp_path / "pairs.jsonl").write_text("\n".join(map(json.dumps, rows)))
    return tmp_path / "pairs.jsonl"


def test_pairs_of_images_equal_clip_benchmark(checkpoint, model, pairs, tmp_path):
    rows = {r.metric: r for r in retrieve(str(checkpoint), f"csv:{pairs}", out=tmp_path / "r").rows}
    dataset = load_dataset(f"csv:{pairs}")
    pixels = [
        torch.stack([model.preprocess_eval(dataset.images.open(i)) for i in two]) for two in dataset.contrasts.images
    ]
    found = benchmark(model, pixels, [list(pair) for pair in dataset.contrasts.captions])
    for metric, name in (("text_acc", "text_acc"), ("image_acc", "image_acc"), ("group_acc", "acc")):
        assert rows[metric].value == pytest.approx(found[name], abs=1e-6)
    assert rows["group_acc"].is_main and rows["group_acc"].value < rows["text_acc"].value < 1


def test_the_second_run_keeps_its_rows_and_ties_are_counted(checkpoint, foreign, tmp_path):
    frame = pd.read_csv(foreign)
    # What differs in blanks alone is read alike; features of other batches may differ in the last bits.
    frame["negative_caption"] = frame.caption.str.replace(" ", "  ", n=1)
    frame.to_csv(foreign, index=False)
    first = retrieve(str(checkpoint), f"csv:{foreign}", out=tmp_path / "r")
    samples = pd.read_parquet(next((tmp_path / "r" / "samples").glob("*.parquet")))
    assert first.rows[0].n_ties == samples.tied.sum() > 0 and samples.text_acc[samples.tied].all()
    again = retrieve(str(checkpoint), f"csv:{foreign}", out=tmp_path / "r")
    assert again.rows == first.rows == read_rows(tmp_path / "r" / "results.csv") and again.images_encoded == 0


def test_questions_and_captions_in_one_call_from_the_command_line(clipib, checkpoint, foreign, shared_data):
    captions = shared_data("coco_val2017_ccby") / "captions.csv"
    result = clipib("retrieve", "-m", checkpoint, "--split", f"csv:{foreign},csv:{captions}", "--limit", 20)
    assert result.exit_code == 0, result.stderr
    rows = read_rows("runs/retrieve/results.csv")
    assert {r.metric for r in rows} > {"text_acc", "image_retrieval_recall@1"} and {r.limit for r in rows} == {20}
    assert next(r for r in rows if r.metric == "text_acc").n == 20
    assert "captions against column 'negative_caption', 2 kinds" in result.stderr
