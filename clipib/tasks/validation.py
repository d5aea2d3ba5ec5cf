"""The numbers that choose the best checkpoint of a run, and the samples behind them."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from clipib.data.dataset import Dataset
from clipib.embeddings.encode import embed_images, embed_texts
from clipib.files import write_aside
from clipib.metrics.bootstrap import bootstrap_mean
from clipib.metrics.catalog import VALIDATION_K
from clipib.metrics.classification import accuracy_at_k, mean_per_class_recall
from clipib.metrics.retrieval import average_precision_at_r, recall_at_k
from clipib.models.model import Model
from clipib.tasks.classifier import build_classifier, classify
from clipib.tasks.paired import outcomes
from clipib.tasks.results import Row
from clipib.tasks.samples import image_samples, retrieval_samples
from clipib.tasks.scores import rank

if TYPE_CHECKING:
    import pandas as pd

FOLDER = ".validation"  # in a run's folder, until it is finished


class Validated(NamedTuple):
    """Metrics by name, and the columns of the per-sample table that they are means over."""

    metrics: dict[str, float]
    samples: dict[str, Any]


def validate(model: Model, val: Dataset, batch_size: int, workers: int) -> Validated:
    """Validation metrics, through the same functions as zeroshot and retrieve, past the store."""
    images = embed_images(model, val, store=None, batch_size=batch_size, workers=workers)
    if val.captions is not None:
        texts = embed_texts(model, val.captions, store=None)
        ranks = rank(model, images.array, texts.array, val.image_of_caption)
        ways = {"image": ranks.text_to_image.numpy(), "text": ranks.image_to_text.numpy()}
        recalls = {
            f"{way}_retrieval_recall@{k}": recall_at_k(found, k) for way, found in ways.items() for k in VALIDATION_K
        }
        precisions = average_precision_at_r(ranks.own_text_ranks.numpy(), val.image_of_caption)
        return Validated(recalls, retrieval_samples(val, ranks, precisions))
    classifier, _ = build_classifier(model, val, store=None)
    predictions = classify(images.array, classifier, model, val.labels)
    accuracies = {f"acc{k}": accuracy_at_k(predictions.target_rank, k) for k in (1, 5) if k <= len(val.classnames)}
    recall = mean_per_class_recall(predictions.predicted, val.labels)
    return Validated({**accuracies, "mean_per_class_recall": recall}, image_samples(val, predictions))


def selection_value(metrics: dict[str, float]) -> float:
    """What chooses the best checkpoint: accuracy, or the mean of the six recalls."""
    if "acc1" in metrics:
        return metrics["acc1"]
    return float(np.mean(list(metrics.values())))


class StageSamples:
    """Validation samples of the stages of a run; they lie on disk, so that a resumed run has those of earlier steps.

    Args:
        out: the run's folder.
        resuming: there are earlier steps; else what an older run left is cleared.
    """

    def __init__(self, out: Path, *, resuming: bool) -> None:
        self._folder, self._started = out / FOLDER, resuming
        self._latest: dict[str, Any] = {}
        if not resuming:
            self.clear()

    def see(self, found: Validated) -> dict[str, float]:
        """Take note of a validation, the first one as that of the start, and give back its metrics."""
        self._latest = found.samples
        if not self._started:
            self.keep("start")
            self._started = True
        return found.metrics

    def keep(self, stage: str) -> None:
        """The latest samples are those of this stage."""
        import pandas as pd

        self._folder.mkdir(parents=True, exist_ok=True)
        frame = pd.DataFrame(self._latest)
        write_aside(self._path(stage), lambda file: frame.to_parquet(file, index=False))

    def of(self, stage: str) -> pd.DataFrame | None:
        """The samples of a stage; None where they are lost or damaged."""
        import pandas as pd

        try:
            return pd.read_parquet(self._path(stage), dtype_backend="numpy_nullable")
        except Exception:  # pyarrow raises several kinds; the rows then have no intervals
            return None

    def clear(self) -> None:
        """The run is finished, or starts anew."""
        shutil.rmtree(self._folder, ignore_errors=True)

    def _path(self, stage: str) -> Path:
        return self._folder / f"{stage}.parquet"


def with_intervals(rows: list[Row], frame: pd.DataFrame) -> list[Row]:
    """The rows with the intervals that their samples give."""
    return [replace(row, ci_low=low, ci_high=high) for row in rows for low, high in [_interval(row, frame)]]


def _interval(row: Row, frame: pd.DataFrame) -> tuple[float | None, float | None]:
    found = outcomes(row, frame)
    ends = bootstrap_mean(found.values, strata=found.strata, clusters=found.clusters) if found else ()
    return tuple(ends) if len(ends) and np.isfinite(ends).all() else (None, None)
