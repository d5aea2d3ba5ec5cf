"""Compositional understanding: does an image score higher with its caption than with one that is nearly the same."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from clipib.data.contrasts import Contrasts
from clipib.data.dataset import Dataset
from clipib.embeddings.encode import embed_texts
from clipib.embeddings.store import Store
from clipib.metrics.bootstrap import bootstrap_mean
from clipib.metrics.contrasts import Answers, answer
from clipib.metrics.statistics import wilson_interval
from clipib.progress import SILENT, Progress
from clipib.tasks.prepare import RunContext
from clipib.tasks.results import Row, join_params
from clipib.tasks.scores import score_matrix

if TYPE_CHECKING:
    from clipib.models.model import Model

BLOCK = 32  # questions scored at once, of which only a part of the matrix is wanted


class Answered(NamedTuple):
    """Scores (G, I, 2) of a data set's questions and what they say; how many texts had to be encoded."""

    scores: np.ndarray
    answers: Answers
    n_encoded: int


def contrast_metrics(dataset: Dataset) -> list[str]:
    """`text_acc` of captions with wrong ones; of pairs of images also `image_acc` and `group_acc`, the main one."""
    pairs = dataset.contrasts.images.shape[1] == 2
    return ["text_acc", "image_acc", "group_acc"] if pairs else ["text_acc"]


def answer_contrasts(
    model: Model, read: Dataset, images: np.ndarray, *, store: Store | None, progress: Progress = SILENT
) -> Answered:
    """Score the images of every question with both captions, by the checkpoint's own similarity.

    Args:
        images: (N, D) or (N, m, D + 1) stored rows of the images of `read`.
    """
    contrasts: Contrasts = read.contrasts
    place = {text: i for i, text in enumerate(dict.fromkeys(t for pair in contrasts.captions for t in pair))}
    texts = embed_texts(model, tuple(place), store=store, progress=progress)
    text_of = np.array([[place[t] for t in pair] for pair in contrasts.captions])  # (G, 2)
    n, width = contrasts.images.shape
    scores = np.empty((n, width, 2), dtype=np.float32)
    for start in range(0, n, BLOCK):
        block = slice(start, start + BLOCK)
        high, wide = contrasts.images[block], text_of[block]
        matrix = score_matrix(model, images[high.ravel()], texts.array[wide.ravel()])
        g = np.arange(len(high))
        scores[block] = matrix.reshape(len(g), width, len(g), 2)[g, :, g]
    return Answered(scores, answer(scores), texts.n_encoded)


def contrast_rows(
    run: RunContext, dataset: Dataset, read: Dataset, answers: Answers, n_bad: int, overlap: dict[str, str]
) -> list[Row]:
    """The metrics over all questions and, where there are kinds, over those of each (`kind=swap_att`).

    The intervals are Wilson's; where several questions are asked of an image they count together.
    """
    metrics = contrast_metrics(dataset)
    kinds = np.array(read.contrasts.kinds, dtype=object)
    everything = np.ones(len(kinds), dtype=bool)
    parts = {"": everything} | {kind: kinds == kind for kind in sorted(set(kinds) - {""})}
    rows = []
    for kind, chosen in parts.items():
        for metric in metrics:
            hits = getattr(answers, metric.removesuffix("_acc"))[chosen]
            value, n, images = float(hits.mean()), len(hits), read.contrasts.images[chosen, 0]
            independent = len(np.unique(images)) == n
            low, high = wilson_interval(value, n) if independent else bootstrap_mean(hits, clusters=images)
            rows.append(
                run.row(
                    dataset,
                    metric=metric,
                    params=join_params({**({"kind": _one_word(kind)} if kind else {}), **overlap}),
                    value=value,
                    ci_low=low,
                    ci_high=high,
                    n=n,
                    n_bad=n_bad,
                    n_ties=int(answers.tied[chosen].sum()),
                    is_main=not kind and metric == metrics[-1],
                )
            )
    return rows


def contrast_samples(read: Dataset, found: Answered) -> dict[str, Any]:
    """One line per question; its id is that of its images."""
    contrasts, answers = read.contrasts, found.answers
    ids = read.images.ids
    columns = {
        "sample_id": [" ".join(ids[i] for i in images) for images in contrasts.images],
        "caption": [own for own, _ in contrasts.captions],
        "negative_caption": [other for _, other in contrasts.captions],
        "kind": list(contrasts.kinds),
        "text_acc": answers.text,
        "tied": answers.tied,
    }
    if contrasts.images.shape[1] == 2:
        columns |= {"image_acc": answers.image, "group_acc": answers.group}
    for i in range(contrasts.images.shape[1]):
        columns |= {f"score_{i}{c}": found.scores[:, i, c] for c in (0, 1)}
    return columns


def _one_word(kind: str) -> str:
    """A kind as the value of a param, which `;` and `=` would cut."""
    return kind.replace(";", ",").replace("=", ":")
