"""The nearest images to a query by whichever index, and what an approximate one misses."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from clipib.embeddings import index as indexes
from clipib.embeddings.folder import Embedded
from clipib.embeddings.index import FLAT, GPU_MAX_K, IndexPlan, Neighbours, build_index, search_index
from clipib.models.model import Model
from clipib.progress import Progress, counted
from clipib.tasks.scores import score_matrix

CANDIDATES = 10  # for every hit, where an index over the centres of point sets proposes them


class Searched(NamedTuple):
    """What is searched.

    rows: (N, D) or (N, m, D + 1) of the images, as the store keeps them. ids: (N,) their names.
    first_texts: (N,) caption or class of each, or "".
    texts: rows of texts that are known already; an approximate index is measured by them. May be empty.
    folder: the embed folder that they come from, or None.
    """

    rows: np.ndarray
    ids: list[str]
    first_texts: list[str]
    texts: np.ndarray
    folder: Embedded | None = None


def centres(rows: np.ndarray) -> np.ndarray:
    """(N, D) unit vectors that an index can hold: plain embeddings as they are, of point sets the weighted mean."""
    if rows.ndim == 2:
        return rows
    mean = np.einsum("nm,nmd->nd", rows[..., -1], rows[..., :-1])
    return np.ascontiguousarray(mean / np.maximum(np.linalg.norm(mean, axis=1, keepdims=True), 1e-12), dtype=np.float32)


def find_by_own_score(
    model: Model,
    searched: Searched,
    query: np.ndarray,
    top: int,
    *,
    index: str | None,
    seed: int,
    progress: Progress,
) -> Neighbours:
    """The `top` images with the best score of a checkpoint with point sets, for one text (1, m, D + 1).

    Every image is scored where the index is flat, or ivf finds too few images. Another one holds the centres of the
    sets and proposes ten candidates for every hit; their order is that of their exact scores.
    """
    n = len(searched.rows)
    saved = indexes.saved_kind(searched.folder.folder) if searched.folder else ""
    plan = indexes.plan_index(index or saved or "flat", n)
    candidates = np.arange(n)
    if plan.kind == "flat":
        if plan.note:
            progress.say(f"index: {plan.note}")
    else:
        few = min(n, CANDIDATES * top)
        found = find_nearest(searched, centres(query), few, index=index, seed=seed, gpu=False, progress=progress)
        candidates = np.sort(found.indices[0])
        progress.say(
            f"index: it knows the centres of the sets; the best of its {few:,} candidates by {model.similarity} are "
            "shown, --index flat looks at all"
        )
    scores = score_matrix(model, searched.rows[candidates], query)[:, 0]
    order = np.argsort(-scores, kind="stable")[:top]
    return Neighbours(scores[None, order], candidates[None, order])


class Measured(NamedTuple):
    """recall of an approximate index at some k, on n queries of this kind ("texts" or "images")."""

    recall: float
    queries: str
    n: int


def find_nearest(
    searched: Searched, query: np.ndarray, top: int, *, index: str | None, seed: int, gpu: bool, progress: Progress
) -> Neighbours:
    """The `top` nearest images to a query (1, D); of an approximate index the recall is told.

    Where such an index finds fewer than there are, the search is made again, exactly.

    Args:
        index: "flat", "ivf", "hnsw", or None for the one in the embed folder, else flat.
        seed: of the lists of ivf and of the queries that it is measured on.
        gpu: search exactly on the GPU.

    Raises:
        UserError: when the index in the folder cannot be used.
    """
    features, texts = centres(searched.rows), centres(searched.texts)
    saved = indexes.saved_kind(searched.folder.folder) if searched.folder and index != "flat" else ""
    if saved and index in (None, saved):
        built, plan, measured = _load(searched.folder, features, top)
    else:
        plan, measured = indexes.plan_index(index or "flat", len(features)), None
        if plan.note:
            progress.say(f"index: {plan.note}")
        built = build_index(features, plan, seed=seed, gpu=gpu and top <= GPU_MAX_K)
    found = search_index(built, query, top)
    if plan.kind == "flat":
        return found
    recall, queries, n = measured or measure_index(built, features, texts, (top,), seed=seed)[top]
    progress.say(f"index: {plan.describe()}; recall@{top} {recall:.4f} against exact search on {n:,} {queries}")
    if (found.indices < 0).any():
        progress.say(f"index: it finds only {counted(int((found.indices >= 0).sum()), 'image')}; searched exactly")
        return search_index(build_index(features, FLAT), query, top)
    return found


def measure_index(
    index, features: np.ndarray, texts: np.ndarray, ks: tuple[int, ...], *, seed: int
) -> dict[int, Measured]:
    """Recall against exact search for each k, on 1,000 of the texts (M, D), or of the images where there are none."""
    known, what = (texts, "texts") if len(texts) else (features, "images")
    queries = indexes.sample_queries(known, seed=seed)
    recall = indexes.measure_recall(index, features, queries, ks)
    return {k: Measured(value, what, len(queries)) for k, value in recall.items()}


def _load(folder: Embedded, features: np.ndarray, top: int) -> tuple[object, IndexPlan, Measured | None]:
    """The index of a folder, and its recall where that was measured for this `top`."""
    saved = indexes.load_index(folder.folder, features, folder.about["files"]["images.npy"])
    recall = saved.about.get("recall", {}).get(str(top))
    measured = Measured(recall, saved.about["queries"], saved.about["n_queries"]) if recall is not None else None
    return saved.index, saved.plan, measured
