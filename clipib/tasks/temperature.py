"""The temperature of the probabilities behind nll and ece."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from clipib.data.dataset import Dataset
from clipib.data.fetch import data_home
from clipib.data.load import load_datasets
from clipib.embeddings.encode import embed_images
from clipib.embeddings.store import Store
from clipib.errors import UserError
from clipib.metrics.calibration import fit_temperature
from clipib.progress import Progress
from clipib.tasks.classifier import logits_by
from clipib.tasks.scores import as_number

if TYPE_CHECKING:
    from clipib.models.model import Model

OWN, FIT = "own", "fit"


class Temperatures(NamedTuple):
    """asked: OWN, FIT, or a number. fit_on: data set -> the labelled data that its temperature is chosen on."""

    asked: str | float
    fit_on: dict[str, Dataset]

    def params(self, dataset: Dataset) -> dict[str, str]:
        """What the rows of nll and ece say of it."""
        data = {"temperature_data": self.fit_on[dataset.name].sha256[:12]} if dataset.name in self.fit_on else {}
        return {"temperature": f"{self.asked:g}" if isinstance(self.asked, float) else self.asked, **data}

    def of(self, model: Model, dataset: Dataset, classifier: np.ndarray, encoding: dict[str, Any]) -> float:
        """What the checkpoint's own logits are to be divided by."""
        if self.asked == OWN or dataset.labels.ndim == 2:
            return 1.0
        if self.asked != FIT:
            return self.asked * as_number(model.logit_scale)
        images = embed_images(model, self.fit_on[dataset.name], **encoding)
        divided = fit_temperature(logits_by(classifier, model)(images.array), images.dataset.labels)
        scale = as_number(model.logit_scale) / divided
        encoding["progress"].say(
            f"{dataset.name}: the temperature that fits {self.fit_on[dataset.name].name} is {1 / scale:.4g}, a scale "
            f"of {scale:.4g}; the checkpoint's own is {as_number(model.logit_scale):.4g}"
        )
        return divided


def plan_temperatures(
    asked: str | float,
    fit_data: str | list[str] | None,
    datasets: list[Dataset],
    *,
    store: Store,
    data_root: str | Path | None,
    columns: dict[str, str] | None,
    progress: Progress,
) -> Temperatures:
    """Read `--temperature`, and find for each data set the labelled images that its temperature is chosen on.

    Raises:
        UserError: for a word that is neither own, fit nor a positive number, and where no data, or the very images of
            the test, were given to fit on.
    """
    if asked not in (OWN, FIT):
        return Temperatures(_number(asked), {})
    if asked == OWN or not fit_data:
        if asked == FIT or fit_data:
            raise UserError(
                "--temperature fit and --fit-data go together.",
                hint="Name labelled images that are not the test: --temperature fit --fit-data folder:photos/val.",
            )
        return Temperatures(asked, {})
    root = data_home(data_root, store.cache_dir)
    found = load_datasets(fit_data, role="val", need="label", data_root=root, columns=columns, progress=progress)
    return Temperatures(asked, {d.name: _fitting(d, found) for d in datasets if d.labels.ndim == 1})


def _number(text: str | float) -> float:
    try:
        number = float(text)
    except ValueError:
        number = 0.0
    if not 0 < number < float("inf"):
        raise UserError(f"--temperature '{text}' is neither own, fit nor a positive number.", hint="Try 0.01.")
    return number


def _fitting(dataset: Dataset, candidates: list[Dataset]) -> Dataset:
    """Of these the one with the classes of a data set, and none of its images."""
    fitting = [c for c in candidates if len(c.classnames) == len(dataset.classnames)]
    named = [c for c in fitting if c.classnames == dataset.classnames] or fitting
    if len(named) != 1:
        raise UserError(
            f"Of the data to fit on, {len(named)} have the {len(dataset.classnames)} classes of '{dataset.name}'.",
            hint="Give one data set of the same classes for each that is evaluated.",
        )
    if shared := set(named[0].keys) & set(dataset.keys):
        raise UserError(
            f"{len(shared):,} images of '{dataset.name}' are among those that the temperature is fitted on."
        )
    return named[0]
