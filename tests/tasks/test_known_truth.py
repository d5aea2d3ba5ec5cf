import numpy as np
import pytest

from clipib.data.digitworld.truth import true_pmi
from clipib.data.load import load_dataset
from clipib.tasks.known_truth import bayes_ceiling, is_grey, true_pmi_recall


def test_recall_of_the_truth_equals_its_mean_over_random_orders_of_the_ties():
    """Images are ranked for captions and captions for images; 400 random orders, four standard errors."""
    dataset = load_dataset("digitworld:n=120")
    scores = true_pmi(dataset.world.scenes, list(dataset.captions))
    found, rng = true_pmi_recall(dataset, (5,)), np.random.default_rng(0)
    for way, table in (("image_retrieval", scores.T), ("text_retrieval", scores)):
        draws = []
        for _ in range(400):
            shaken = table + rng.uniform(0, 1e-9, table.shape)
            draws.append(((shaken > np.diag(shaken)[:, None]).sum(1) < 5).mean())
        assert found[way][5] == pytest.approx(np.mean(draws), abs=4 * np.std(draws) / 20)
    assert found["image_retrieval"][5] != found["text_retrieval"][5]


def test_the_ceiling_of_colour_is_what_guessing_grey_ones_gives():
    dataset = load_dataset("digitworld/color:n=20000", need="label")
    grey = is_grey(dataset)
    best_guess = np.where(grey, 0, dataset.labels)  # red is the most frequent colour
    expected = (best_guess == dataset.labels).mean()
    assert bayes_ceiling(dataset) == pytest.approx(expected, abs=4 * 0.33 / np.sqrt(20_000))
    assert bayes_ceiling(load_dataset("digitworld/digit:n=5", need="label")) == 1.0
