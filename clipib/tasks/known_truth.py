"""What the best possible model would reach on digitworld, to stand beside what a checkpoint reaches."""

from __future__ import annotations

import numpy as np

from clipib.data.dataset import Dataset
from clipib.data.digitworld.truth import bayes_accuracy, true_pmi
from clipib.metrics.retrieval import expected_recall_at_k


def is_grey(dataset: Dataset) -> np.ndarray:
    """(N,) bool: the one object of each scene is washed out to grey."""
    return dataset.world.scenes.grey[:, 0]


def bayes_ceiling(dataset: Dataset) -> float:
    """Accuracy of the best classifier from the picture, for a label set of digitworld."""
    return bayes_accuracy(dataset.world.attribute)


def true_pmi_recall(dataset: Dataset, ks: tuple[int, ...]) -> dict[str, dict[int, float]]:
    """Expected recalls of ranking by the true PMI, ties in random order.

    Returns:
        {"image_retrieval": {k: recall}, "text_retrieval": {k: recall}}.
    """
    # Equal probabilities reached by other products differ in the last bits; rounding makes them the ties they are.
    scores = true_pmi(dataset.world.scenes, list(dataset.captions)).round(9)  # (N, M)
    own = dataset.image_of_caption[None, :] == np.arange(len(dataset))[:, None]
    return {
        "image_retrieval": {k: expected_recall_at_k(scores.T, own.T, k) for k in ks},
        "text_retrieval": {k: expected_recall_at_k(scores, own, k) for k in ks},
    }
