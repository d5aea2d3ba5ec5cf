"""Every loss through `finetune`: terms, heads, resuming, errors."""

import csv
import json

import pytest
import torch

import clipib.training.loop as loop
from clipib import finetune
from clipib.errors import UserError
from clipib.losses import LOSSES
from clipib.losses.penalty.mine import MinePenalty
from clipib.models.load import load_model

QUICK = {"pretrained": "none", "batch_size": 16, "steps": 6, "lr": 1e-3, "eval_every": 6, "save_every": 2}
WORLD = "digitworld:n=120"
MINE = {"loss": "cibr", "penalty": "mine"}


def metrics(out):
    return list(csv.DictReader((out / "metrics.csv").open()))


def sha(out):
    return json.loads((out / "last/clipib.json").read_text())["checkpoint_sha256"]


@pytest.mark.parametrize("loss", LOSSES)
def test_every_loss_trains_and_logs_its_terms(loss, tmp_path):
    rows = finetune("tiny", WORLD, loss=loss, out=tmp_path / "f", **QUICK).rows
    (last,) = (r for r in rows if r.is_main and r.params == "stage=last")
    assert (last.loss, last.similarity) == (loss, LOSSES[loss].similarity)
    logged = metrics(tmp_path / "f")
    terms = {"loss_total", "loss_contrast"} | ({"loss_penalty_nats"} if loss == "cibr" else set())
    terms |= {"image_effective_points", "text_effective_points"} if loss in ("kme", "wpse") else set()
    assert terms <= set(logged[1]) and all(logged[1][t] for t in terms)
    model = load_model(str(tmp_path / "f/last"), device="cpu")
    assert model.similarity == LOSSES[loss].similarity
    assert (model.logit_bias is not None) == (loss == "siglip")


def test_point_sets_lower_the_loss_and_come_apart(tmp_path):
    options = {**QUICK, "steps": 60, "eval_every": 60, "batch_size": 32}
    finetune("tiny", "digitworld:n=600", loss="kme", points=4, out=tmp_path / "f", **options)
    rows = metrics(tmp_path / "f")[1:]
    losses = [float(r["loss_total"]) for r in rows]
    assert sum(losses[-5:]) < 0.95 * sum(losses[:5])
    assert float(rows[0]["image_effective_points"]) == pytest.approx(1, abs=1e-3)
    assert float(rows[-1]["image_effective_points"]) > 1.01


@pytest.mark.parametrize(
    "options",
    [
        {"loss": "kme", "points": 3},
        {"loss": "wpse", "points": 3, "point_pooling": "topk"},
        {"loss": "siglip"},
        {"loss": "cibr", "penalty": "logdet"},
        MINE,
    ],
    ids=lambda o: o.get("penalty", o["loss"]),
)
def test_a_resumed_run_ends_at_the_same_weights(options, tmp_path, monkeypatch):
    finetune("tiny", WORLD, out=tmp_path / "whole", **options, **QUICK)
    save = loop.save_state

    def save_and_stop(*arguments):
        save(*arguments)
        raise KeyboardInterrupt

    monkeypatch.setattr(loop, "save_state", save_and_stop)
    with pytest.raises(KeyboardInterrupt):
        finetune("tiny", WORLD, out=tmp_path / "cut", **options, **QUICK)
    monkeypatch.setattr(loop, "save_state", save)
    finetune("tiny", WORLD, out=tmp_path / "cut", resume=True, **options, **QUICK)
    timed = {"images_per_second"}
    whole, cut = (
        [{k: v for k, v in r.items() if k not in timed} for r in metrics(tmp_path / d)] for d in ("whole", "cut")
    )
    assert whole == cut
    assert sha(tmp_path / "whole") == sha(tmp_path / "cut")


def test_a_nan_in_a_critic_stops_with_its_name(tmp_path, monkeypatch):
    build = MinePenalty._build

    def broken(self, *arguments):
        build(self, *arguments)
        with torch.no_grad():
            next(self.critics["mine_text_image"].parameters()).fill_(torch.nan)

    monkeypatch.setattr(MinePenalty, "_build", broken)
    with pytest.raises(UserError, match="mine_text_image is nan at step 1"):
        finetune("tiny", WORLD, out=tmp_path / "f", **MINE, **QUICK)


def test_training_goes_on_with_the_points_of_the_checkpoint(tmp_path):
    again = {**QUICK, "pretrained": None, "allow_overlap": True}
    finetune("tiny", WORLD, loss="kme", points=3, out=tmp_path / "a", **QUICK)
    start = str(tmp_path / "a/last")
    finetune(start, WORLD, loss="kme", out=tmp_path / "b", **again)
    before, after = (load_model(str(tmp_path / d / "last"), device="cpu").head for d in ("a", "b"))
    assert before.config == after.config and not torch.equal(before.image.gates, after.image.gates)
    with pytest.raises(UserError, match="--points 3, not 5"):
        finetune(start, WORLD, loss="kme", points=5, out=tmp_path / "c", **again)
    finetune(start, WORLD, loss="clip", out=tmp_path / "d", **again)
    assert load_model(str(tmp_path / "d/last"), device="cpu").head is None
    finetune(start, WORLD, loss="kme", contrast="sigmoid", out=tmp_path / "e", **again)
    grown = load_model(str(tmp_path / "e/last"), device="cpu")
    assert grown.head.config["points"] == 3 and grown.logit_bias is not None


def test_a_bias_begins_where_the_first_batch_balances_it(tmp_path):
    finetune("tiny", WORLD, loss="siglip", out=tmp_path / "a", **QUICK)
    first = float(metrics(tmp_path / "a")[1]["loss_contrast"])
    assert first < 5  # log(B - 1) + 1 or so; from a bias of 0 it would be B log 2 = 11
    bias = float(load_model(str(tmp_path / "a/last"), device="cpu").logit_bias.detach())
    again = {
        **QUICK,
        "pretrained": None,
        "allow_overlap": True,
        "steps": 1,
        "eval_every": 1,
        "lr": 1e-9,
        "head_lr": 1e-9,
    }
    finetune(str(tmp_path / "a/last"), WORLD, loss="siglip", out=tmp_path / "b", **again)
    assert float(load_model(str(tmp_path / "b/last"), device="cpu").logit_bias.detach()) == pytest.approx(bias)


def test_positives(photo_folder, tmp_path):
    """Equal texts have equal logits, so that a softmax over their mean is the same loss; other contrasts differ."""
    (photo_folder / "templates.txt").write_text("a photo of a {c}.\nthis is a {c}.\nlook at the {c}.\n")
    found = {}
    for contrast in ("softmax", "sigmoid"):
        for positives in ("identity", "same-caption", "same-image", "same-class"):
            out = tmp_path / f"{contrast}-{positives}"
            options = {**QUICK, "batch_size": 8, "steps": 1, "eval_every": 1, "contrast": contrast}
            finetune("tiny", f"folder:{photo_folder}", positives=positives, out=out, **options)
            found[contrast, positives] = float(metrics(out)[1]["loss_contrast"])
    softmax, sigmoid = ({p: v for (c, p), v in found.items() if c == name} for name in ("softmax", "sigmoid"))
    assert softmax["identity"] == softmax["same-image"]  # all files differ
    assert softmax["same-caption"] == pytest.approx(softmax["identity"], rel=1e-6) != softmax["same-class"]
    assert len({round(sigmoid[p], 4) for p in ("identity", "same-caption", "same-class")}) == 3
    with pytest.raises(UserError, match="no classes"):
        finetune("tiny", WORLD, positives="same-class", out=tmp_path / "x", **QUICK)


@pytest.mark.parametrize(
    "options, message",
    [
        ({"contrast": "softmaks"}, "Did you mean 'softmax'"),
        ({"similarity": "kmee"}, "Did you mean 'kme'"),
        ({"penalty": "log-det"}, "Did you mean 'logdet'"),
        ({"positives": "same-captions"}, "Did you mean 'same-caption'"),
        ({"loss": "kme", "point_pooling": "topK"}, "point pooling"),
        ({"points": 4}, "sets of points"),
        ({"loss": "kme", "points": 0}, "at least 1"),
        ({"loss": "kme", "head_lr": 0.0}, "learning rate"),
        ({"loss": "cibr", "penalty_sigma": -1.0}, "sigma"),
    ],
)
def test_impossible_parts_are_refused_before_anything_is_written(options, message, tmp_path):
    with pytest.raises(UserError) as caught:
        finetune("tiny", WORLD, out=tmp_path / "f", **options, **QUICK)
    assert message in f"{caught.value} {caught.value.hint}"
    assert not (tmp_path / "f").exists()
