"""The temperature of nll and ece: the checkpoint's own, a number, or the one that fits other images best."""

import numpy as np
import pandas as pd
import pytest
from scipy.optimize import minimize_scalar
from scipy.special import log_softmax

from clipib import zeroshot
from clipib.data.load import load_dataset
from clipib.embeddings.encode import embed_images
from clipib.errors import UserError
from clipib.models.load import load_model
from clipib.tasks.classifier import build_classifier

TEST, OTHER = "digitworld/color:n=120", "digitworld/color:n=150+split=val"


def cosines(checkpoint, spec):
    model, dataset = load_model(str(checkpoint), device="cpu"), load_dataset(spec, need="label")
    images, classes = embed_images(model, dataset, store=None).array, build_classifier(model, dataset, store=None)[0]
    return images.astype(float) @ classes.T.astype(float), dataset.labels, model.logit_scale.item()


def nll(scores, labels):
    return -log_softmax(scores, axis=1)[np.arange(len(labels)), labels].mean()


def by_metric(rows):
    return {r.metric: r for r in rows if "images" not in r.params}


def test_own_and_a_number(checkpoint, tmp_path):
    scores, labels, scale = cosines(checkpoint, TEST)
    own = by_metric(zeroshot(str(checkpoint), TEST, out=tmp_path / "z").rows)
    number = by_metric(zeroshot(str(checkpoint), TEST, out=tmp_path / "z", temperature="0.05").rows)
    assert own["nll"].value == pytest.approx(nll(scale * scores, labels), abs=1e-5)
    assert number["nll"].value == pytest.approx(nll(scores / 0.05, labels), abs=1e-5)
    assert (own["nll"].params, number["ece"].params) == ("temperature=own", "temperature=0.05")
    assert own["acc1"].value == number["acc1"].value and own["acc1"].params == number["acc1"].params == ""
    frame = pd.read_parquet(next((tmp_path / "z" / "samples").glob("*.parquet")))
    assert frame["nll"].mean() == pytest.approx(number["nll"].value)


def test_fit_is_chosen_on_the_other_images(checkpoint, tmp_path):
    scores, labels, _ = cosines(checkpoint, OTHER)
    best = minimize_scalar(lambda s: nll(np.exp(s) * scores, labels), bounds=(-3, 8), method="bounded").x
    found = by_metric(zeroshot(str(checkpoint), TEST, out=tmp_path / "z", temperature="fit", fit_data=OTHER).rows)
    scores, labels, _ = cosines(checkpoint, TEST)
    assert found["nll"].value == pytest.approx(nll(np.exp(best) * scores, labels), abs=1e-4)
    hash_of_data = load_dataset(OTHER, need="label").sha256[:12]
    assert found["nll"].params == f"temperature=fit;temperature_data={hash_of_data}"


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"temperature": "hot"}, "neither own, fit nor a positive number"),
        ({"temperature": "-1"}, "neither own, fit nor a positive number"),
        ({"temperature": "fit"}, "go together"),
        ({"fit_data": OTHER}, "go together"),
        ({"temperature": "fit", "fit_data": f"{TEST}+split=test"}, "120 images of 'digitworld/color' are among"),
        ({"temperature": "fit", "fit_data": "digitworld/digit:n=20+split=val"}, "0 have the 8 classes"),
    ],
)
def test_mistakes(checkpoint, tmp_path, options, words):
    with pytest.raises(UserError, match=words):
        zeroshot(str(checkpoint), TEST, out=tmp_path / "z", **options)
    assert not (tmp_path / "z").exists()
