"""Classification by the nearest labelled images."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from clipib.metrics.few_shot import rounds

KS = (1, 2, 4, 8, 16, 32, 64, 128)
DEFAULT_K = 1  # where there is nothing to choose by
TEMPERATURE = 0.07
BLOCK = 1024  # queries compared at once
MOST_ROWS = 20_000  # up to which every fold is validated on


class Nearest(NamedTuple):
    """The k nearest keys of each query, nearest first: similarity and index, (N, k) both."""

    similarity: np.ndarray
    index: np.ndarray


def find_nearest(queries: np.ndarray, keys: np.ndarray, k: int) -> Nearest:
    """The k keys of largest inner product with each query; of equal ones the lowest index comes first.

    Computed in float64 and rounded to float32, so that equal keys are equally near.

    Args:
        queries: (N, D). keys: (M, D), M at least k.
    """
    if queries.shape[1] != keys.shape[1] or not 1 <= k <= len(keys):
        raise ValueError(f"expected (N, D), (M, D) and 1 <= k <= M, got {queries.shape}, {keys.shape} and k={k}")
    columns, parts = keys.astype(np.float64).T, []
    for start in range(0, len(queries), BLOCK):
        similarity = (queries[start : start + BLOCK].astype(np.float64) @ columns).astype(np.float32)
        cut = np.partition(similarity, -k, axis=1)[:, -k, None]
        above, level = similarity > cut, similarity == cut
        places = k - above.sum(axis=1, keepdims=True)  # left for those at the cut
        taken = above | (level & (np.cumsum(level, axis=1) <= places))
        index = np.nonzero(taken)[1].reshape(-1, k)
        near = np.take_along_axis(similarity, index, axis=1)
        order = np.argsort(-near, axis=1, kind="stable")
        parts.append(Nearest(*(np.take_along_axis(a, order, axis=1) for a in (near, index))))
    return Nearest(*(np.concatenate(columns) for columns in zip(*parts, strict=True)))


def vote(similarity: np.ndarray, labels: np.ndarray, *, n_classes: int) -> np.ndarray:
    """Logarithm of what the neighbours of each query give to every class.

        score_c = log sum_{i : y_i = c} exp(s_i / T),   T = 0.07

    A class without a neighbour has -inf, so its softmax is 0.

    Args:
        similarity, labels: (N, k) of the neighbours.

    Returns:
        (N, K) float32.

    Reference:
        Wu et al., 2018, Unsupervised feature learning via non-parametric instance discrimination, arXiv 1805.01978.

    Example:
        >>> vote(np.array([[0.9, 0.8, 0.8]]), np.array([[0, 1, 1]]), n_classes=2).argmax(1)
        array([0])
    """
    weight = np.exp((similarity.astype(np.float64) - similarity.max(axis=1, keepdims=True)) / TEMPERATURE)
    votes = np.zeros((len(similarity), n_classes))
    np.add.at(votes, (np.arange(len(similarity))[:, None], labels), weight)
    with np.errstate(divide="ignore"):
        return np.log(votes).astype(np.float32)


def knn_probe(
    train: np.ndarray, labels: np.ndarray, test: np.ndarray, *, n_classes: int, folds: np.ndarray
) -> tuple[np.ndarray, float]:
    """Class scores of the test images by their nearest training images, and the number of neighbours that vote.

    That number is chosen among powers of 2 by the hits on held-out folds of the training images, the smallest of
    equals; it is 1 where no class has two images.

    Args:
        train: (n, D) and test: (N, D) unit norm, as the store keeps them. labels: (n,) of K classes.
        folds: (n,) as `clipib.metrics.few_shot.assign_folds` gives them.

    Returns:
        (N, K) float32 scores, see `vote`, and k.
    """
    ks = [k for k in KS if k <= len(train)]
    hits = np.zeros(len(ks))
    for fit, held in rounds(folds, most_rows=MOST_ROWS):
        near = find_nearest(train[held], train[fit], min(ks[-1], len(fit)))
        own = labels[fit][near.index]
        for i, k in enumerate(ks):
            scores = vote(near.similarity[:, :k], own[:, :k], n_classes=n_classes)
            hits[i] += (scores.argmax(axis=1) == labels[held]).sum()
    k = ks[int(hits.argmax())] if hits.any() else DEFAULT_K
    near = find_nearest(test, train, k)
    return vote(near.similarity, labels[near.index], n_classes=n_classes), k
