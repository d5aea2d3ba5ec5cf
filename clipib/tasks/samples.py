"""What paired tests and reports need of every image and every caption: the columns of the per-sample tables."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from clipib.data.dataset import Dataset
from clipib.metrics.classification import Predictions

if TYPE_CHECKING:
    from clipib.scoring.ranks import Ranks


def image_samples(read: Dataset, predictions: Predictions) -> dict[str, Any]:
    """One line per image.

    Args:
        read: N images, each of one class, in the order of the predictions.
    """
    return {
        "sample_id": read.images.ids,
        "target": read.labels,
        "target_name": [read.classnames[i] for i in read.labels],
        "predicted": predictions.predicted,
        "predicted_name": [read.classnames[i] for i in predictions.predicted],
        "target_rank": predictions.target_rank,
        "correct": predictions.target_rank == 0,
        "tied": predictions.tied,
        "confidence": predictions.confidence,
        "top5": [row.tolist() for row in predictions.top5],
    }


def retrieval_samples(read: Dataset, ranks: Ranks, precisions: np.ndarray) -> dict[str, Any]:
    """One line per query: captions look for their image, images for their captions.

    Args:
        precisions: (N,) average precision at R of each image.
    """
    ids = np.array(read.images.ids, dtype=object)
    return {
        "direction": ["text_to_image"] * len(read.captions) + ["image_to_text"] * len(read),
        "sample_id": [*ids[read.image_of_caption], *ids],
        "caption": [*read.captions, *[""] * len(read)],
        "rank": [*ranks.text_to_image.tolist(), *ranks.image_to_text.tolist()],
        "average_precision": [*[None] * len(read.captions), *precisions.tolist()],
        "tied": [*(ranks.tied_texts > 0).tolist(), *(ranks.tied_images > 0).tolist()],
    }
