"""What every class is scored by, and what its scores say of images."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from clipib.data.dataset import Dataset
from clipib.embeddings.encode import embed_texts
from clipib.embeddings.store import Store
from clipib.metrics.classification import Predictions, join_predictions, predict
from clipib.progress import SILENT, Progress
from clipib.tasks.scores import as_number, scorer_against

if TYPE_CHECKING:
    from clipib.models.model import Model

PROMPT_POOLINGS = ("mean", "union")
BLOCK = 4096  # images classified at once


def build_classifier(
    model: Model, dataset: Dataset, *, store: Store | None, pooling: str | None = None, progress: Progress = SILENT
) -> tuple[np.ndarray, int]:
    """What each class is scored by, and how many texts had to be encoded.

    Args:
        pooling: "mean": the mean of the unit prompt features of a class, normalised again; of sets of points
            that of their first points, of their second points and so on, with the mean weights. "union": the points of
            all prompts, with their weights divided by the number of prompts. Left out, mean for plain embeddings, else
            union.

    Returns:
        (K, D) unit norm, or (K, points, D + 1), see `clipib.scoring.features.pack`.
    """
    prompts = dataset.prompts
    texts = embed_texts(model, [text for own in prompts for text in own], store=store, progress=progress)
    of_classes = np.split(texts.array, np.cumsum([len(own) for own in prompts])[:-1])
    if (pooling or default_pooling(model)) == "union":
        return np.stack(list(_unions(of_classes))), texts.n_encoded
    return np.stack([_mean(own) for own in of_classes]), texts.n_encoded


def _mean(own: np.ndarray) -> np.ndarray:
    """(T, D) or (T, m, D + 1) -> the mean over prompts of unit norm, of sets of points with the mean weights."""
    mean = own.astype(np.float64).mean(axis=0)
    points = mean if own.ndim == 2 else mean[..., :-1]
    points /= np.linalg.norm(points, axis=-1, keepdims=True)
    return mean.astype(np.float32)


def _unions(of_classes: list[np.ndarray]) -> Iterator[np.ndarray]:
    """Of every class all points of its prompts, as many for each: a class with fewer repeats them at a lower weight."""
    most = max(map(len, of_classes))
    for own in of_classes:
        if own.ndim == 2:  # points of weight 1
            own = np.concatenate([own[:, None], np.ones((len(own), 1, 1), dtype=np.float32)], axis=2)
        chosen = np.arange(most) % len(own)
        united = own[chosen].copy()
        united[..., -1] /= (len(own) * np.bincount(chosen, minlength=len(own))[chosen])[:, None]
        yield united.reshape(-1, own.shape[-1])


def default_pooling(model: Model) -> str:
    return "union" if model.has_points else "mean"


class Scores(NamedTuple):
    """scores: (N, K) float32 logits, where an image may belong to several classes.

    mean_average_precision: where the protocol has a way of its own to compute it.
    """

    scores: np.ndarray
    mean_average_precision: float | None = None


def classify(
    features: np.ndarray, classifier: np.ndarray, model: Model, labels: np.ndarray, *, temperature: float = 1.0
) -> Predictions | Scores:
    """Predictions for N image features by a classifier of K classes, block by block.

    Logits are computed in float64 and rounded to float32, so that equal classes get equal logits whatever the block.
    Several points a class are compared by the checkpoint's similarity, of a plain checkpoint by `kme`: the logarithm
    of the mean of exp over its prompts' logits.

    Args:
        labels: (N,) classes, or (N, K) zeros and ones; for the latter the logits themselves are given back.
        temperature: the logits are divided by it; 1 leaves the checkpoint's own scale.
    """
    logits_of, parts = logits_by(classifier, model), []
    for start in range(0, len(features), BLOCK):
        logits = logits_of(features[start : start + BLOCK])
        logits = logits if temperature == 1.0 else (logits / temperature).astype(np.float32)
        parts.append(logits if labels.ndim == 2 else predict(logits, labels[start : start + BLOCK]))
    return Scores(np.concatenate(parts)) if labels.ndim == 2 else join_predictions(parts)


def logits_by(classifier: np.ndarray, model: Model) -> Callable[[np.ndarray], np.ndarray]:
    """Rows of images -> (n, K) float32 logits. Plain features against plain classes need no torch."""
    if classifier.ndim == 3:
        return scorer_against(model, classifier, similarity=None if model.has_points else "kme")
    scale, bias = as_number(model.logit_scale), as_number(model.logit_bias)
    weights = classifier.astype(np.float64).T
    return lambda block: (scale * (block.astype(np.float64) @ weights) + bias).astype(np.float32)
