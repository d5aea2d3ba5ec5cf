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

ONE_EACH = "Name one with --train-data for each, in the same order."


class TrainParts:
    """Where each tested data set is learnt from, and what was loaded of it.

    Args:
        specs: what is tested on.
        train_data: what to learn from, one specification for each; left out, the same ones without their split.
            `folder:photos/test` and `wds:photos/test` stand for `photos`, where there is a `photos/train`.
        options: those of `load_datasets`.

    Raises:
        UserError: when they are not as many.
    """

    def __init__(self, specs: list[Spec], train_data: str, **options: Any) -> None:
        self._tested = runnable(specs)
        self._learnt = parse_specs(train_data, "label") if train_data else [_without_split(s) for s in self._tested]
        if len(self._learnt) != len(self._tested):
            named = counted(len(self._learnt), "data set")
            raise UserError(f"{named} to learn from, {len(self._tested)} to test on.", hint=ONE_EACH)
        self._options = options
        self._found: dict[tuple[str, str], Dataset] = {}

    def load(self, specs: list[Spec], tests: list[Dataset]) -> None:
        """The train part of each test part, with its classes numbered as those.

        Args:
            specs: some of those that are tested on. tests: all data sets that these name.

        Raises:
            UserError: when there is none, or its classes are others.
        """
        learn_from = [self._learnt[self._tested.index(spec)] for spec in specs]
        found = load_datasets(learn_from, role="train", need="label", **self._options)
        if len(found) == len(tests):
            for test, train in zip(tests, found, strict=True):
                self._found[test.name, test.split] = _with_classes_of(test, train)
        elif not self._options.get("dry_run"):  # which leaves out what is not fetched yet
            raise UserError(f"{counted(len(found), 'data set')} to learn from, {len(tests)} to test on.", hint=ONE_EACH)

    def of(self, test: Dataset) -> Dataset | None:
        """What this one is learnt from; None in a dry run for what is not fetched yet."""
        found = self._found.get((test.name, test.split))
        return None if found is None else found.changed(manifest=test.manifest)


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
