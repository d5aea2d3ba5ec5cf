"""The labelled images that a probe learns from: the train part of what it is tested on."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from clipib.data.dataset import Dataset
from clipib.data.folder import SPLIT_FOLDERS
from clipib.data.load import load_datasets, runnable
from clipib.data.specs import Spec, parse_specs
from clipib.errors import UserError
from clipib.progress import Progress, counted


def train_specs(specs: list[Spec], train_data: str) -> list[Spec]:
    """What to learn from: `train_data`, else the same specifications without their split.

    `folder:photos/test` and `wds:photos/test` stand for `photos`, where there is a `photos/train`.
    """
    return parse_specs(train_data, "label") if train_data else [_without_split(s) for s in runnable(specs)]


def load_train_parts(tests: list[Dataset], specs: list[Spec], *, progress: Progress, **options: Any) -> list[Dataset]:
    """The train part of each data set, with its classes numbered as the test part numbers them.

    Args:
        options: those of `load_datasets`.

    Raises:
        UserError: when there is none, or its classes are others.
    """
    found = load_datasets(specs, role="train", need="label", progress=progress, **options)
    if options.get("dry_run") and len(found) != len(tests):
        return []  # some of them are not fetched yet
    if len(found) != len(tests):
        raise UserError(
            f"{counted(len(found), 'data set')} to learn from, {len(tests)} to test on.",
            hint="Name one with --train-data for each, in the same order.",
        )
    return [_with_classes_of(test, train) for test, train in zip(tests, found, strict=True)]


def without_test_images(train: Dataset, test: Dataset, progress: Progress) -> Dataset:
    """The images to learn from that are not tested on, by their content.

    Raises:
        UserError: when none is left.
    """
    tested = set(test.keys)
    kept = np.array([i for i, key in enumerate(train.keys) if key not in tested], dtype=np.int64)
    dropped = len(train) - len(kept)
    if not len(kept):
        raise UserError(
            f"All {len(train):,} images to learn '{test.name}' from are among those it is tested on.",
            hint="Name its train part: --train-data folder:PATH/train, csv:PATH with a column split, ...",
        )
    if dropped:
        progress.warn(
            f"{test.name}: {counted(dropped, 'train image')} left out that {'is' if dropped == 1 else 'are'} "
            "tested on too"
        )
    return train.take(kept) if dropped else train


def _without_split(spec: Spec) -> Spec:
    path = Path(spec.argument).expanduser()
    if spec.kind in ("folder", "wds") and path.resolve().name.lower() in SPLIT_FOLDERS["test"] + SPLIT_FOLDERS["val"]:
        path = path.resolve()
        if any((path.parent / name).is_dir() for name in SPLIT_FOLDERS["train"]):
            return spec._replace(argument=str(path.parent), split="")
    return spec._replace(split="")


def _with_classes_of(test: Dataset, train: Dataset) -> Dataset:
    for part in (test, train):
        if part.labels.ndim == 2:
            raise UserError(f"An image of '{part.name}' may be of several classes, which a probe does not learn.")
    train = train.changed(manifest=test.manifest)
    if train.classnames == test.classnames:
        return train
    place = {name: k for k, name in enumerate(test.classnames)}
    if set(place) != set(train.classnames) or len(place) != len(train.classnames):
        only_train = sorted(set(train.classnames) - set(place))
        only_test = sorted(set(place) - set(train.classnames))
        differ = [
            f"only {part} has '{names[0]}'" for part, names in (("train", only_train), ("test", only_test)) if names
        ]
        raise UserError(
            f"'{test.name}' is tested on {len(test.classnames)} classes and learnt from {len(train.classnames)}: "
            f"{', '.join(differ) or 'names stand twice'}.",
            hint="Both parts need the same class names.",
        )
    return train.changed(
        labels=np.array([place[n] for n in train.classnames])[train.labels], classnames=test.classnames
    )
