"""The linear probe: logistic regression on frozen features."""

from __future__ import annotations

import warnings
from typing import TYPE_CHECKING

import numpy as np

from clipib.metrics.few_shot import rounds

if TYPE_CHECKING:
    from sklearn.linear_model import LogisticRegression

STRENGTHS = tuple(10.0**power for power in range(-1, 5))  # C of scikit-learn, the strongest ridge first
DEFAULT_C = 10.0  # where there is nothing to choose by
MAX_STEPS = 2_000
# Of the gradient of the mean loss, which is small for unit features and many classes: at scikit-learn's own 1e-4 some
# predictions still change.
ROUGH, EXACT = 1e-5, 1e-7
MOST_ROWS = 1_000  # up to which every fold is validated on


def linear_probe(
    train: np.ndarray, labels: np.ndarray, test: np.ndarray, *, n_classes: int, folds: np.ndarray
) -> tuple[np.ndarray, float]:
    """Class scores of the test images by multinomial logistic regression, and the C that it was fitted with.

        minimise  1/2 |W|^2 - C sum_i log softmax(W x_i + b)_{y_i}

    C is chosen among 0.1, 1, ..., 1e4 by the hits on held-out folds of the training images, among equals by the smaller
    log loss; then all training images are fitted. It is 10 where no class has two images. Of two classes
    scikit-learn fits the difference w of their weights, with the ridge 1/2 |w|^2. The unit features are moved
    to their mean, which changes no optimum, and divided by one number, the root mean square of their length then, so
    that a C means the same for a checkpoint whose features lie close together.

    Args:
        train: (n, D) and test: (N, D) features as the store keeps them. labels: (n,) of K classes, two at least.
        folds: (n,) as `clipib.metrics.few_shot.assign_folds` gives them.

    Returns:
        (N, K) float32 logits, -inf for a class without a training image, and C.

    Raises:
        ValueError: when the training images are of one class.

    Reference:
        Radford et al., 2021, arXiv 2103.00020, appendix A.3, where the features are those before the projection.
    """
    if len(np.unique(labels)) < 2:
        raise ValueError("expected training images of at least two classes, got one")
    train, test = _centred(train, test)
    hits, loss = np.zeros(len(STRENGTHS)), np.zeros(len(STRENGTHS))
    for fit, held in rounds(folds, most_rows=MOST_ROWS):
        model = None
        for i, strength in enumerate(STRENGTHS):  # each fit begins at the one before
            model = _fit(train[fit], labels[fit], strength, tolerance=ROUGH, start=model)
            logits = _logits(model, train[held], n_classes)
            hits[i] += (logits.argmax(axis=1) == labels[held]).sum()
            loss[i] += _log_loss(logits, labels[held])
    chosen = STRENGTHS[np.lexsort((loss, -hits))[0]] if loss.any() else DEFAULT_C
    return _logits(_fit(train, labels, chosen, tolerance=EXACT), test, n_classes).astype(np.float32), chosen


def _centred(train: np.ndarray, test: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Both moved by the mean of the first and divided by its root mean square length; float64."""
    mean = train.mean(axis=0, dtype=np.float64)
    train, test = train - mean, test - mean
    length = np.sqrt(np.square(train).sum(axis=1).mean()) or 1.0
    return train / length, test / length


def _fit(
    features: np.ndarray,
    labels: np.ndarray,
    strength: float,
    *,
    tolerance: float,
    start: LogisticRegression | None = None,
) -> LogisticRegression:
    """A fit to C = `strength`, from the weights of another where one is given."""
    from sklearn.linear_model import LogisticRegression

    model = start or LogisticRegression(warm_start=True, max_iter=MAX_STEPS)
    with warnings.catch_warnings():
        # That there are many classes for so few images; that steps ran out, when predictions have long settled.
        warnings.simplefilter("ignore")
        return model.set_params(C=strength, tol=tolerance).fit(features, labels)


def _logits(model: LogisticRegression, features: np.ndarray, n_classes: int) -> np.ndarray:
    """(N, K) float64 of all classes; two classes share one row of weights."""
    found = model.decision_function(features)
    if found.ndim == 1:
        found = np.stack([-found / 2, found / 2], axis=1)
    logits = np.full((len(features), n_classes), -np.inf)
    logits[:, model.classes_] = found
    return logits


def _log_loss(logits: np.ndarray, labels: np.ndarray) -> float:
    """Sum of -log p of the right class, in nats."""
    top = logits.max(axis=1)
    return float(
        (np.log(np.exp(logits - top[:, None]).sum(axis=1)) + top - logits[np.arange(len(labels)), labels]).sum()
    )
