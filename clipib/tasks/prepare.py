"""What every evaluating task does before its own work: model, data, overlap, plan, dry run."""

from __future__ import annotations

import shutil
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from clipib.data.dataset import Dataset
from clipib.data.images import why
from clipib.data.load import load_datasets
from clipib.embeddings.store import Store
from clipib.errors import UserError, try_all
from clipib.models.checkpoint import Seen, load_seen, short_keys
from clipib.models.load import pick_device
from clipib.models.model import PRECISIONS, RANDOM_WEIGHTS, Model
from clipib.models.preprocess import DEFAULT_PREPROCESS, PREPROCESS
from clipib.models.sources import DEFAULT_MODEL, Source, find_model
from clipib.progress import Progress, counted
from clipib.registry import check_name
from clipib.tasks.results import Row, slug

RESULT_BYTES, FEATURE_BYTES = 1_000, 4_096  # what one item takes on disk, roughly


class Outcome(NamedTuple):
    """What a task gives back: the rows asked for, where they lie, and what had to be encoded for them."""

    rows: list[Row]
    out: Path
    images_encoded: int = 0
    texts_encoded: int = 0


@dataclass(frozen=True)
class RunContext:
    """What all rows of one run share."""

    command: str
    model: Model
    protocol: str
    seed: int

    def row(self, dataset: Dataset, *, prompts_sha256: str = "", n_bad: int = 0, **values: Any) -> Row:
        """A row of this run; `values` are metric, value, params and the like.

        A preprocessing that is not the default is added to the params.
        """
        if self.model.preprocess_name != DEFAULT_PREPROCESS:
            named = [f"preprocess={self.model.preprocess_name}"]
            values["params"] = ";".join(sorted([*filter(None, values.get("params", "").split(";")), *named]))
        blank = dict.fromkeys(("value", "ci_low", "ci_high", "n", "n_ties"))
        return Row(
            **{
                **blank,
                "command": self.command,
                "model": self.model.name,
                "pretrained": self.model.pretrained,
                "checkpoint_sha256": self.model.fingerprint,
                "loss": self.model.loss,
                "similarity": self.model.similarity,
                "dataset": dataset.name,
                "split": dataset.split,
                "protocol": self.protocol,
                "metric": "",
                "params": "",
                "n_bad": n_bad,
                "is_main": False,
                "precision": self.model.precision,
                "device": self.model.device.type,
                "seed": self.seed,
                "data_sha256": dataset.sha256,
                "prompts_sha256": prompts_sha256,
                "limit": dataset.limit,
                **values,
            }
        )


class Planned(NamedTuple):
    """A checked evaluation: where the model comes from, and what it is to be evaluated on."""

    source: Source
    datasets: list[Dataset]


def plan_evaluation(
    command: str,
    model: str,
    datasets: str | list[str],
    *,
    pretrained: str | None,
    need: str,
    out: Path,
    store: Store,
    name: str = "",
    data_root: str | Path | None = None,
    columns: dict[str, str] | None = None,
    device: str = "auto",
    precision: str = "fp32",
    preprocess: str = DEFAULT_PREPROCESS,
    limit: int | None = None,
    seed: int = 0,
    dry_run: bool = False,
    progress: Progress,
) -> Planned:
    """Resolve the model, load the data, say what will be done, check the disks; a dry run also reads first images.

    Args:
        need: "label" or "caption" where the task cannot do without, or "".

    Raises:
        UserError: for whatever is missing or does not fit.
    """
    check_name("precision", precision, PRECISIONS)
    check_name("preprocess", preprocess, PREPROCESS)
    pick_device(device)
    source, loaded = try_all(
        (
            lambda: find_model(model, pretrained),
            lambda: load_datasets(datasets, need=need, data_root=data_root, name=name, columns=columns),
        )
    )
    files = Counter(slug(d.name) for d in {d.name: d for d in loaded}.values())
    if doubled := [f for f, count in files.items() if count > 1]:
        raise UserError(
            f"Two data sets in one call would share the file samples/{doubled[0]}.parquet.",
            hint="Evaluate them apart, with --name.",
        )
    if limit:
        loaded = [d.sample(limit, seed=seed) for d in loaded]
    n_images = sum(map(len, loaded))
    n_texts = sum(len(d.classnames) * len(d.templates) if need == "label" else len(d.captions or ()) for d in loaded)
    progress.say(
        f"{command}: {describe_model(source)}; {counted(len(loaded), 'data set')}, {counted(n_images, 'image')}, "
        f"{counted(n_texts, 'prompt' if need == 'label' else 'caption')}"
    )
    if source.pretrained == RANDOM_WEIGHTS:
        progress.warn(f"{source.name} has random weights, as asked for: its numbers are those of chance.")
    for dataset in loaded:
        for note in dataset.notes:
            progress.say(f"{dataset.name}: {note}")
    check_disk(out, RESULT_BYTES * (n_images + n_texts), "the result")
    check_disk(store.root, FEATURE_BYTES * (n_images + n_texts), "the embedding store")
    if dry_run:
        for dataset in loaded:
            check_first_image(dataset)
    return Planned(source, loaded)


def say_encoded(images: int, texts: int, progress: Progress) -> None:
    """What of a run's features was new."""
    if images or texts:
        progress.say(f"encoded {counted(images, 'image')} and {counted(texts, 'text')}; the rest came from the store")
    else:
        progress.say("nothing was encoded: everything came from the store")


def describe_model(source: Source) -> str:
    """The model as the plan line names it."""
    text = source.describe()
    if source.name == DEFAULT_MODEL and source.pretrained == "openai":
        return text.replace("(openai", "(the default; openai", 1)
    return text


def find_overlap(seen: Seen | None, dataset: Dataset) -> tuple[int, int]:
    """How many of these images a checkpoint was trained on, and how many chose it; reads them only if it must."""
    if seen is None:
        return 0, 0
    short = short_keys(dataset.keys)
    return int(np.isin(short, seen.train).sum()), int(np.isin(short, seen.val).sum())


def check_overlap(model: Model, dataset: Dataset, *, allow: bool, progress: Progress) -> dict[str, str]:
    """Refuse to evaluate a checkpoint on images that it was trained on.

    Args:
        allow: do it all the same; the rows are marked.

    Returns:
        `{"overlap": "train"}` or `{"overlap": "val"}` for the rows' params, or nothing.

    Raises:
        UserError: when training images are among the data and `allow` is not set.
    """
    seen = load_seen(model.folder) if model.folder else None
    in_train, in_val = find_overlap(seen, dataset)
    if in_train and not allow:
        raise UserError(
            f"{in_train:,} of the {len(dataset):,} images of '{dataset.name}' are among those that "
            f"'{model.pretrained}' was trained on.",
            hint="Evaluate on held-out data, or add --allow-overlap to mark the rows with overlap=train.",
        )
    if in_train:
        return {"overlap": "train"}
    if in_val:
        progress.warn(f"{dataset.name}: {in_val:,} images chose the checkpoint in validation; rows say overlap=val.")
        return {"overlap": "val"}
    return {}


def check_first_image(dataset: Dataset) -> None:
    """Decode the first image, as a dry run does.

    Raises:
        UserError: when it cannot be read.
    """
    try:
        dataset.images.open(0)
    except OSError as error:
        name = dataset.images.ids[0]
        raise UserError(f"The first image of '{dataset.name}', '{name}', cannot be read: {why(error)}.") from error


def check_disk(folder: Path, needed_bytes: int, what: str) -> None:
    """Make sure that what is about to be written has room.

    Raises:
        UserError: when the disk below `folder` has too little free space.
    """
    place = Path(folder).absolute()
    while not place.exists():
        place = place.parent
    if not place.is_dir():
        raise UserError(f"'{place}' is a file where a folder is wanted, for {what}.", hint="Name another folder.")
    free = shutil.disk_usage(place).free
    if free < needed_bytes:
        raise UserError(
            f"The disk of '{place}' has {_size(free)} free; {what} needs about {_size(needed_bytes)}.",
            hint="Free some space, or name another folder.",
        )


def _size(n_bytes: int) -> str:
    for unit, scale in (("GB", 1e9), ("MB", 1e6)):
        if n_bytes >= scale:
            return f"{n_bytes / scale:.1f} {unit}"
    return f"{n_bytes / 1e3:.0f} kB"
