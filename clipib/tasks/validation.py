"""The numbers that choose the best checkpoint of a run."""

from __future__ import annotations

import numpy as np

from clipib.data.dataset import Dataset
from clipib.embeddings.encode import embed_images, embed_texts
from clipib.metrics.classification import accuracy_at_k, mean_per_class_recall
from clipib.metrics.retrieval import recall_at_k
from clipib.models.model import Model
from clipib.tasks.classifier import build_classifier, classify
from clipib.tasks.scores import rank

RECALL_K = (1, 5, 10)


def validate(model: Model, val: Dataset, batch_size: int, workers: int) -> dict[str, float]:
    """Validation metrics, through the same functions as zeroshot and retrieve, past the store."""
    images = embed_images(model, val, store=None, batch_size=batch_size, workers=workers)
    if val.captions is not None:
        texts = embed_texts(model, val.captions, store=None)
        ranks = rank(model, images.array, texts.array, val.image_of_caption)
        ways = {"image": ranks.text_to_image.numpy(), "text": ranks.image_to_text.numpy()}
        return {f"{way}_retrieval_recall@{k}": recall_at_k(found, k) for way, found in ways.items() for k in RECALL_K}
    classifier, _ = build_classifier(model, val, store=None)
    predictions = classify(images.array, classifier, model, val.labels)
    accuracies = {f"acc{k}": accuracy_at_k(predictions.target_rank, k) for k in (1, 5) if k <= len(val.classnames)}
    return {**accuracies, "mean_per_class_recall": mean_per_class_recall(predictions.predicted, val.labels)}


def selection_value(metrics: dict[str, float]) -> float:
    """What chooses the best checkpoint: accuracy, or the mean of the six recalls."""
    if "acc1" in metrics:
        return metrics["acc1"]
    return float(np.mean(list(metrics.values())))
