"""What every evaluating task does before its own work: model, data, overlap, plan, dry run."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, TypeVar

import numpy as np

from clipib.data.dataset import Dataset
from clipib.data.fetch import data_home
from clipib.data.images import why
from clipib.data.load import load_datasets, runnable
from clipib.data.manifest import Manifest
from clipib.data.specs import Spec, parse_specs
from clipib.embeddings.store import Store
from clipib.errors import UserError, try_all
from clipib.files import check_disk
from clipib.models import DEFAULT_MODEL, DEFAULT_PREPROCESS, PRECISIONS, PREPROCESS, RANDOM_WEIGHTS
from clipib.models.checkpoint import Seen, load_seen, short_keys
from clipib.models.sources import Source
from clipib.progress import Progress, counted
from clipib.registry import check_name
from clipib.tasks.checkpoint import Checkpoint, named_checkpoints
from clipib.tasks.results import Row, slug
from clipib.tasks.suites import announce_suites, say_duration

if TYPE_CHECKING:
    from clipib.models.model import Model

T = TypeVar("T")
RESULT_BYTES, FEATURE_BYTES = 1_000, 4_096  # what one item takes on disk, roughly


class Failure(NamedTuple):
    """What could not be done under `keep_going`; model or dataset is "" where it concerns all of them."""

    model: str
    dataset: str
    error: UserError

    @property
    def place(self) -> str:
        return " on ".join(filter(None, (self.model, self.dataset)))

    def __str__(self) -> str:
        return f"{self.place}: {self.error.message}"


class Outcome(NamedTuple):
    """What a task gives back: the rows asked for, where they lie, what had to be encoded for them, and what failed."""

    rows: list[Row]
    out: Path
    images_encoded: int = 0
    texts_encoded: int = 0
    failures: tuple[Failure, ...] = ()


@dataclass(frozen=True)
class RunContext:
    """What all rows of one run share.

    own_params: what they say in `params`, beside a preprocessing that is not the default.
    """

    command: str
    model: Model
    protocol: str
    seed: int
    own_params: Mapping[str, str] = field(default_factory=dict)

    def row(self, dataset: Dataset, *, prompts_sha256: str = "", n_bad: int = 0, **values: Any) -> Row:
        """A row of this run; `values` are metric, value, params and the like.

        A preprocessing that is not the default is added to the params. An interval without ends, as that of one sample,
        or without a width, as that of draws that happen to agree, is left out.
        """
        ends = [values[c] for c in ("ci_low", "ci_high") if values.get(c) is not None]
        if not np.isfinite(ends).all() or len(set(ends)) == 1:
            values = {**values, "ci_low": None, "ci_high": None}
        own = {
            "dataset": dataset.name,
            "split": dataset.split,
            "n_bad": n_bad,
            "data_sha256": dataset.sha256,
            "prompts_sha256": prompts_sha256,
            "limit": dataset.limit,
        }
        return Row(**{**self.blank(), **own, **values, "params": self.params(values.get("params", ""))})

    def params(self, of_metric: str) -> str:
        """The params of a metric with those of the run."""
        own = dict(self.own_params)
        if self.model.preprocess_name != DEFAULT_PREPROCESS:
            own["preprocess"] = self.model.preprocess_name
        return ";".join(sorted([*filter(None, of_metric.split(";")), *(f"{k}={v}" for k, v in own.items())]))

    def blank(self) -> dict[str, Any]:
        """What a row of this run holds beside its data set and its metric."""
        return {
            **dict.fromkeys(("value", "ci_low", "ci_high", "n", "n_ties", "limit")),
            "command": self.command,
            "model": self.model.name,
            "pretrained": self.model.pretrained,
            "checkpoint_sha256": self.model.fingerprint,
            "loss": self.model.loss,
            "similarity": self.model.similarity,
            "protocol": self.protocol,
            "metric": "",
            "params": "",
            "n_bad": 0,
            "is_main": False,
            "precision": self.model.precision,
            "device": self.model.device.type,
            "seed": self.seed,
            "prompts_sha256": "",
        }


class Planned(NamedTuple):
    """A checked evaluation: the models, what they are to be evaluated on, how that was named, and what is missing."""

    checkpoints: list[Checkpoint]
    datasets: list[Dataset]
    specs: list[Spec]
    failures: list[Failure]

    def change_datasets(self, change: Callable[[Dataset], Dataset], *, keep_going: bool) -> Planned:
        """The plan with its data sets changed.

        Raises:
            UserError: for the first that cannot be; under `keep_going` it is one more failure, unless none is left.
        """
        failures = list(self.failures)
        changed = [attempt(partial(change, d), failures, keep_going, dataset=d.name) for d in self.datasets]
        if self.datasets and all(d is None for d in changed):
            raise nothing_done(failures)
        return self._replace(datasets=[d for d in changed if d is not None], failures=failures)

    @property
    def checkpoint(self) -> Checkpoint:
        """The only one.

        Raises:
            UserError: when several were named.
        """
        if len(self.checkpoints) > 1:
            raise UserError(f"{len(self.checkpoints)} checkpoints are named where one is wanted.")
        return self.checkpoints[0]


def plan_evaluation(
    command: str,
    models: str | list[str],
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
    verify_cache: bool = False,
    dry_run: bool = False,
    keep_going: bool = False,
    alongside: Callable[[list[Spec], list[Dataset]], object] | None = None,
    progress: Progress,
) -> Planned:
    """Resolve the models, load the data, say what will be done, check the disks; a dry run also reads first images.

    Args:
        models, pretrained: see `clipib.tasks.checkpoint.named_checkpoints`.
        need: "label" or "caption" where the task cannot do without, or "".
        verify_cache: hash all image files again, past what is remembered of them.
        keep_going: go on without the models and data sets that cannot be had; what failed is given back.
        alongside: called with specifications and the data sets they name, to load what belongs to these.

    Raises:
        UserError: for whatever is missing or does not fit; under `keep_going` only where nothing is left.
    """
    check_name("precision", precision, PRECISIONS)
    check_name("preprocess", preprocess, PREPROCESS)
    if device not in ("auto", "cpu"):
        from clipib.models.load import pick_device

        pick_device(device)
    specs = parse_specs(datasets, need)
    checkpoints = [
        Checkpoint(
            spec,
            weights,
            device=device,
            precision=precision,
            preprocess=preprocess,
            seed=seed,
            cache_dir=store.cache_dir,
            verify=verify_cache,
            progress=progress,
        )
        for spec, weights in named_checkpoints(models, pretrained)
    ]
    if any(spec.suite for spec in specs):
        announce_suites(specs, progress)
        first = checkpoints[0]
        say_duration(specs, first.known_seconds if dry_run else first.seconds_per_image(), progress)
    failures: list[Failure] = []

    def load(some: list[Spec]) -> list[Dataset]:
        found = load_datasets(
            some,
            need=need,
            data_root=data_home(data_root, store.cache_dir),
            name=name,
            columns=columns,
            dry_run=dry_run,
            progress=progress,
        )
        if alongside:
            alongside(some, found)
        return found

    if keep_going:
        checkpoints = [
            c for c in checkpoints if attempt(c.source, failures, True, model=" ".join(filter(None, c.words)))
        ]
        found = [attempt(partial(load, [spec]), failures, True, dataset=spec.text) for spec in runnable(specs)]
        loaded = [dataset for group in found for dataset in group or ()]
        if not checkpoints or (not loaded and not dry_run):
            raise nothing_done(failures)
    else:
        *_, loaded = try_all((*(c.source for c in checkpoints), lambda: load(runnable(specs))))
    files = Counter(slug(d.name) for d in {d.name: d for d in loaded}.values())
    if doubled := [f for f, count in files.items() if count > 1]:
        raise UserError(
            f"Two data sets in one call would share the file samples/{doubled[0]}.parquet.",
            hint="Evaluate them apart, with --name.",
        )
    manifest = Manifest(store.cache_dir, verify=verify_cache)
    loaded = [d.changed(manifest=manifest) for d in loaded]
    if limit:
        loaded = [d.sample(limit, seed=seed) for d in loaded]
    _say_plan(command, [c.source() for c in checkpoints], loaded, need, progress)
    n_items = sum(len(d) + _n_texts(d, need) for d in loaded)
    check_disk(out, RESULT_BYTES * len(checkpoints) * n_items, "the result")
    check_disk(store.root, FEATURE_BYTES * len(checkpoints) * n_items, "the embedding store")
    if dry_run:
        for dataset in loaded:
            check_first_image(dataset)
    elif verify_cache:
        for dataset in loaded:
            _ = dataset.keys  # hashed once, and kept
        say_verified(manifest, progress)
    return Planned(checkpoints, loaded, specs, failures)


def attempt(
    step: Callable[[], T], failures: list[Failure], keep_going: bool, *, model: str = "", dataset: str = ""
) -> T | None:
    """What the step returns; where that cannot be had, under `keep_going` None and one more failure.

    Raises:
        UserError: that of the step, without `keep_going`.
    """
    try:
        return step()
    except UserError as error:
        if not keep_going:
            raise
        failures.append(Failure(model, dataset, error))
        return None


def nothing_done(failures: Sequence[Failure]) -> UserError:
    """The error of a run under `keep_going` that has nothing to show."""
    hints = dict.fromkeys(f.error.hint for f in failures if f.error.hint)
    return UserError("Nothing could be evaluated.\n" + "\n".join(f"- {f}" for f in failures), hint="\n".join(hints))


def _say_plan(command: str, sources: list[Source], datasets: list[Dataset], need: str, progress: Progress) -> None:
    n_images, n_texts = sum(map(len, datasets)), sum(_n_texts(d, need) for d in datasets)
    one = len(sources) == 1
    progress.say(
        f"{command}: {describe_model(sources[0]) if one else counted(len(sources), 'checkpoint')}; "
        f"{counted(len(datasets), 'data set')}, {counted(n_images, 'image')}, "
        f"{counted(n_texts, 'prompt' if need == 'label' else 'caption')}"
    )
    for source in () if one else sources:
        progress.say(f"- {describe_model(source)}")
    for name in dict.fromkeys(s.name for s in sources if s.pretrained == RANDOM_WEIGHTS):
        progress.warn(f"{name} has random weights, as asked for: its numbers are those of chance.")
    for dataset in datasets:
        for note in dataset.notes:
            progress.say(f"{dataset.name}: {note}")


def _n_texts(dataset: Dataset, need: str) -> int:
    return len(dataset.classnames) * len(dataset.templates) if need == "label" else len(dataset.captions or ())


def say_verified(manifest: Manifest, progress: Progress) -> None:
    """What `--verify-cache` found, where it was asked for."""
    if not manifest.verify:
        return
    hashed = f"hashed {counted(manifest.n_hashed, 'image file')} again"
    if manifest.n_stale:
        progress.warn(f"{hashed}: of {manifest.n_stale:,} another content was remembered; mended")
    else:
        progress.say(f"{hashed}: what was remembered holds")


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


def check_overlap(model: Model | Source, dataset: Dataset, *, allow: bool, progress: Progress) -> dict[str, str]:
    """Refuse to evaluate a checkpoint on images that it was trained on.

    Args:
        model: the checkpoint, or where it comes from.
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
