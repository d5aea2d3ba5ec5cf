"""Under `clip_benchmark` the numbers are those of CLIP_benchmark's functions, bit for bit, in mixed precision too."""

import numpy as np
import pandas as pd
import pytest
import torch
from clip_benchmark.metrics import zeroshot_classification as their_classification
from clip_benchmark.metrics import zeroshot_retrieval as their_retrieval
from sklearn.metrics import balanced_accuracy_score

from clipib import retrieve, zeroshot
from clipib.data.load import load_dataset
from clipib.errors import UserError
from clipib.models.load import load_model
from clipib.tasks.protocol import choose_protocol

SIZE = 16  # of a batch


def pixels_of(model, dataset):
    return torch.stack([model.preprocess_eval(dataset.images.open(i)) for i in range(len(dataset))])


def their_zeroshot(checkpoint, spec, amp):
    """Their classifier, logits, topk and argmax on our tensors."""
    model, dataset = load_model(str(checkpoint), device="cpu"), load_dataset(spec, need="label")
    classifier = their_classification.zero_shot_classifier(
        model.module, model.tokenizer, list(dataset.classnames), list(dataset.templates), "cpu", amp=amp
    )
    loader = torch.utils.data.DataLoader(
        torch.utils.data.TensorDataset(pixels_of(model, dataset), torch.from_numpy(dataset.labels)), batch_size=SIZE
    )
    logits, target = their_classification.run_classification(model.module, classifier, loader, "cpu", amp=amp)
    top = logits.topk(5, 1, True, True)[1]
    hits = (top == target[:, None]).numpy()
    recall = balanced_accuracy_score(target, logits.argmax(axis=1))
    return {"acc1": hits[:, :1].any(1).mean(), "acc5": hits.any(1).mean(), "mean_per_class_recall": recall}


@pytest.mark.parametrize("precision", ["auto", "fp32"])
def test_zero_shot_is_theirs(checkpoint, tmp_path, monkeypatch, precision):
    spec = "digitworld/color:n=90"
    options = {"protocol": "clip_benchmark", "precision": precision, "batch_size": SIZE}
    outcome = zeroshot(str(checkpoint), spec, out=tmp_path / "z", cache_dir=tmp_path / "c", **options)
    rows = {r.metric: r for r in outcome.rows if "images=" not in r.params}
    theirs = their_zeroshot(checkpoint, spec, amp=precision == "auto")
    assert {m: rows[m].value for m in theirs} == pytest.approx(theirs, abs=1e-12)
    assert {r.protocol for r in outcome.rows} == {"clip_benchmark"}
    assert rows["acc1"].precision == ("amp" if precision == "auto" else "fp32")
    monkeypatch.setattr("clipib.models.load.load_model", None)  # a warm run builds no model
    again = zeroshot(str(checkpoint), spec, out=tmp_path / "y", cache_dir=tmp_path / "c", **options)
    assert (again.images_encoded, again.texts_encoded) == (0, 0)
    assert [r.value for r in again.rows] == [r.value for r in outcome.rows]


@pytest.mark.parametrize("precision", ["auto", "fp32"])
def test_retrieval_is_theirs(checkpoint, tmp_path, precision):
    spec, amp = "digitworld:n=50", precision == "auto"
    model, dataset = load_model(str(checkpoint), device="cpu"), load_dataset(spec, need="caption")
    pixels = pixels_of(model, dataset)
    texts = [[dataset.captions[j] for j in np.flatnonzero(dataset.image_of_caption == i)] for i in range(len(dataset))]
    batches = [(pixels[i : i + SIZE], texts[i : i + SIZE]) for i in range(0, len(dataset), SIZE)]
    theirs = their_retrieval.evaluate(model.module, batches, model.tokenizer, "cpu", amp=amp, recall_k_list=[1, 5, 10])
    outcome = retrieve(
        str(checkpoint), spec, out=tmp_path / "r", protocol="clip_benchmark", precision=precision, batch_size=SIZE
    )
    assert {r.metric: r.value for r in outcome.rows} == pytest.approx(theirs, abs=1e-7)  # theirs are float32 means
    samples = pd.read_parquet(next((tmp_path / "r" / "samples").iterdir()))
    to_image = samples[samples.direction == "text_to_image"]
    assert (to_image["rank"] < 5).mean() == pytest.approx(theirs["image_retrieval_recall@5"])


def test_another_batch_is_another_number_and_no_resumed_row(checkpoint, tmp_path):
    common = {"protocol": "clip_benchmark", "out": tmp_path / "z", "cache_dir": tmp_path / "c"}
    rows = [zeroshot(str(checkpoint), "digitworld/color:n=40", **common, batch_size=n).rows[0] for n in (7, None, 64)]
    assert [r.params for r in rows] == ["batch_size=7", "", ""] and rows[1] == rows[2]
    strict = zeroshot(str(checkpoint), "digitworld/color:n=40", out=tmp_path / "s", batch_size=7).rows
    assert not any("batch" in r.params for r in strict)


def test_the_main_metric_of_datacomps_retrieval_is_the_mean_of_both_recalls(checkpoint, tmp_path):
    options = {"protocol": "datacomp", "out": tmp_path / "r", "cache_dir": tmp_path / "c"}
    rows = retrieve(str(checkpoint), "digitworld:n=50", **options).rows
    (main,) = [r for r in rows if r.is_main]
    both = [r.value for r in rows if r.metric.endswith("_retrieval_recall@1")]
    assert main.metric == "mean_recall@1" and main.value == pytest.approx(sum(both) / 2) and len(both) == 2
    assert retrieve(str(checkpoint), "digitworld:n=50", **options).images_encoded == 0


def test_stored_features_belong_to_their_batch(checkpoint, tmp_path):
    spec, options = "digitworld/digit:n=40", {"protocol": "clip_benchmark", "cache_dir": tmp_path / "c"}
    zeroshot(str(checkpoint), spec, out=tmp_path / "a", **options)
    strict = zeroshot(str(checkpoint), spec, out=tmp_path / "b", cache_dir=tmp_path / "c")
    other = zeroshot(str(checkpoint), spec, out=tmp_path / "d", batch_size=8, **options)
    assert strict.images_encoded == other.images_encoded == 40
    assert other.texts_encoded == 0  # the prompts of a class are a batch of their own


def test_datacomp_encodes_the_images_of_classification_in_float32(checkpoint, tmp_path):
    rows = zeroshot(str(checkpoint), "digitworld/digit:n=40", out=tmp_path / "z", protocol="datacomp").rows
    assert {(r.protocol, r.precision) for r in rows} == {("datacomp", "fp32")}
    assert choose_protocol("datacomp", "auto", "label")[2:] == (False, True)
    assert choose_protocol("datacomp", "auto", "caption")[2:] == (True, True)


def test_what_a_protocol_does_not_know(checkpoint, tmp_path):
    with pytest.raises(UserError, match="--temperature is of nll and ece"):
        zeroshot(str(checkpoint), "digitworld/digit:n=40", out=tmp_path, protocol="datacomp", temperature="0.1")
    with pytest.raises(UserError, match="Did you mean 'clip_benchmark'"):
        choose_protocol("clipbenchmark", "auto", "label")
    for name, precision in (("clip_benchmark", "bf16"), ("datacomp", "fp32")):
        with pytest.raises(UserError, match=f"'{name}' has no precision '{precision}'"):
            choose_protocol(name, precision, "label")


def test_an_unreadable_image_ends_a_run_as_it_does_theirs(checkpoint, photo_folder, tmp_path):
    (photo_folder / "test" / "blue_dot" / "0.png").write_bytes(b"x")
    with pytest.raises(UserError, match=r"cannot be read: blue_dot/0.png") as error:
        zeroshot(str(checkpoint), f"folder:{photo_folder}", out=tmp_path / "z", protocol="clip_benchmark", max_bad=1)
    assert "leave out --protocol" in error.value.hint
