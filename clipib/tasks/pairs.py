"""Images and their texts, encoded and split, as the two probing commands need them."""

from __future__ import annotations

import json
import math
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import torch

from clipib.data.dataset import Dataset
from clipib.errors import UserError
from clipib.information.table import ScoreTable
from clipib.models.checkpoint import RECORD_FILE
from clipib.tasks.scores import as_number, own_features, own_similarity

if TYPE_CHECKING:
    from clipib.models.model import Model

NUMBERS = 2**22  # logits or kernel values at once
FEWEST = 20  # images below which nothing can be split and tested


def score_table(model: Model, images: np.ndarray, texts: np.ndarray, image_of_text: np.ndarray) -> ScoreTable:
    """What the checkpoint's loss sees of stored images and texts: its own similarity with scale and bias."""
    kind, left, right = own_similarity(model), own_features(model, images), own_features(model, texts)
    options = {"logit_scale": as_number(model.logit_scale), "logit_bias": as_number(model.logit_bias)}
    everything = torch.arange(right.n)
    numbers = left.weights.shape[1] * right.weights.shape[1]

    def score(rows: torch.Tensor, columns: torch.Tensor) -> torch.Tensor:
        whole = len(columns) == right.n and bool((columns == everything).all())
        block, others = left.rows(rows), right if whole else right.rows(columns)
        wide = max(1, NUMBERS // (numbers * max(1, block.n)))
        parts = [kind.logits(block, others.rows(slice(t, t + wide)), **options) for t in range(0, others.n, wide)]
        return torch.cat(parts, 1)

    return ScoreTable(score, torch.arange(left.n), everything, torch.from_numpy(np.asarray(image_of_text)))


def split_images(n: int, shares: tuple[float, ...], seed: int) -> list[torch.Tensor]:
    """Random disjoint sets of images, sorted; what belongs to an image goes with it."""
    order = torch.from_numpy(np.random.default_rng([seed, 81]).permutation(n))
    ends = [round(n * sum(shares[: i + 1])) for i in range(len(shares))]
    return [order[a:b].sort().values for a, b in zip([0, *ends], ends)]


def check_pairs(dataset: Dataset, array: np.ndarray, texts: np.ndarray) -> None:
    """Refuse what has nothing to measure.

    Raises:
        UserError: for too few images, captions that are all equal, or features that are all equal.
    """
    if dataset.captions is None:
        raise UserError(
            f"'{dataset.name}' has no captions: there are no pairs to compare.",
            hint="Give a table with captions (csv:PATH, --caption-column) or digitworld.",
        )
    if len(dataset) < FEWEST:
        hint = "Give more pairs, or leave --limit out."
        raise UserError(f"'{dataset.name}' has {len(dataset)} images with captions; {FEWEST} are needed.", hint=hint)
    if len(set(dataset.captions)) == 1:
        hint = "Name the column of the captions with --caption-column."
        raise UserError(f"All captions of '{dataset.name}' are equal: '{dataset.captions[0][:60]}'.", hint=hint)
    for side, features in (("image", array), ("text", texts)):
        if not np.isfinite(features).all():
            raise UserError(
                f"A {side} feature of '{dataset.name}' is not a finite number.", hint="Try --precision fp32."
            )
        _, counts = np.unique(features.reshape(len(features), -1).round(6), axis=0, return_counts=True)
        if len(counts) < 2 or (side == "image" and counts.max() > len(features) / 2):
            what = f"{counts.max():,} of the {len(features):,} {side} features of '{dataset.name}' are equal."
            raise UserError(
                what, hint="Look for copies with 'clipib data verify', or take a checkpoint that tells them apart."
            )


def training_record(model: Model) -> dict[str, Any]:
    """What a checkpoint folder tells of its training; empty for what clipib did not train. Builds no model."""
    path = model.folder and model.folder / RECORD_FILE
    return json.loads(path.read_text(encoding="utf-8")) if path and path.is_file() else {}


class Free(NamedTuple):
    """What the training loss leaves open at its optimum.

    constant: s - PMI where the loss fixes it, None where one number is free.
    words: the same as a sentence.
    """

    constant: float | None
    words: str


def free_constants(model: Model) -> Free:
    """What is free at the optimum of the loss that a checkpoint was trained with, as its record tells."""
    record = training_record(model)
    training = record.get("training", {})
    contrast, batch = training.get("contrast") or record.get("contrast"), training.get("batch_size")
    moved = training.get("positives", "identity") != "identity"
    end = f" It was trained with --positives {training['positives']}, which moves the optimum away." if moved else ""
    if contrast == "sigmoid" or (contrast is None and model.logit_bias is not None):
        if batch and batch > 1 and not moved:
            fixed = -math.log(batch - 1)
            return Free(fixed, f"Sigmoid loss, batches of {batch}: nothing is free, PMI = s + log {batch - 1}.")
        return Free(None, f"Sigmoid loss of unknown batches: PMI = s + log(B - 1) with an unknown B.{end}")
    if contrast == "decoupled":
        return Free(None, "Decoupled loss: one number is free, and it is no bound on information.")
    known = "Softmax loss" if contrast == "softmax" else "Unknown training, taken for CLIP's softmax loss"
    return Free(None, f"{known}: PMI = s - c with one free number c.{end}")
