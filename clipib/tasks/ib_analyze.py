"""What the embeddings of a checkpoint share, and what each side keeps for itself."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from clipib.data.digitworld.truth import shared_information
from clipib.data.specs import parse_specs
from clipib.embeddings.encode import embed_images, embed_texts
from clipib.embeddings.store import Store
from clipib.errors import UserError
from clipib.models import DEFAULT_PREPROCESS
from clipib.progress import SILENT, Progress
from clipib.scoring.features import unpack
from clipib.tasks.attributes import Attribute, column_attributes, digitworld_attributes, made_attributes
from clipib.tasks.geometry import measure_geometry, spectra_of
from clipib.tasks.ib_figures import bars_of, plane_of
from clipib.tasks.measured import Report
from clipib.tasks.pairs import score_table, split_images
from clipib.tasks.private import Probes, measure_bounds, measure_private
from clipib.tasks.probing import Encoded, ProbeOutcome, probe_checkpoints
from clipib.tasks.results import settings_of, slug
from clipib.tasks.shared import SHARES, Sides, Split, measure_shared

if TYPE_CHECKING:
    from clipib.models.model import Model

MAIN = ("shared_own_score_nats",)
MADE, NONE = "made", "none"


def ib_analyze(
    models: str | list[str] = "ViT-B-32",
    datasets: str | list[str] = "digitworld",
    *,
    pretrained: str | None = None,
    out: str | Path = "runs/ib-analyze",
    attributes: Sequence[str] = (),
    critics: bool = True,
    plots: bool = True,
    name: str = "",
    data_root: str | Path | None = None,
    columns: dict[str, str] | None = None,
    device: str = "auto",
    precision: str = "fp32",
    preprocess: str = DEFAULT_PREPROCESS,
    batch_size: int = 64,
    workers: int = 2,
    limit: int | None = None,
    seed: int = 0,
    max_bad: int = 0,
    allow_overlap: bool = False,
    cache_dir: str | Path | None = None,
    verify_cache: bool = False,
    fresh: bool = False,
    dry_run: bool = False,
    settings: dict[str, Any] | None = None,
    progress: Progress = SILENT,
) -> ProbeOutcome:
    """Shared and private information and the geometry of one or more checkpoints' embeddings.

    Images are split with all their texts: half to fit on, a tenth to calibrate, four tenths to judge.

    Args:
        attributes: columns of the table of pairs (`tint`, `text:frame`, `unmentioned:colour`), "made" for alterations
            of the pictures and texts, "none". Left out, digitworld has its own and everything else is altered.
        critics: whether a critic network is trained, from 2,000 images to fit on.
        plots: whether figures are drawn. The others as for `clipib.tasks.retrieve`.

    Returns:
        Rows with intervals over images, and findings.

    Raises:
        UserError: for everything that the user can mend.
    """
    settings = settings or settings_of(locals())
    chosen = tuple(attributes)
    table = _check_attributes(chosen, datasets)

    def work(encoded: Encoded) -> tuple[Report, str]:
        probed = _attributes(encoded, chosen, table, columns, seed, batch_size, workers, progress)
        return measure(encoded, probed, critics=critics, plots=plots, seed=seed, progress=progress), ABOUT

    return probe_checkpoints(
        "ib-analyze",
        models,
        datasets,
        work,
        main=MAIN,
        planning={
            "pretrained": pretrained,
            "store": Store(cache_dir),
            "name": name,
            "data_root": data_root,
            "columns": columns,
            "device": device,
            "precision": precision,
            "preprocess": preprocess,
            "limit": limit,
            "verify_cache": verify_cache,
            "dry_run": dry_run,
        },
        out=Path(out),
        batch_size=batch_size,
        workers=workers,
        max_bad=max_bad,
        allow_overlap=allow_overlap,
        fresh=fresh,
        seed=seed,
        settings=settings,
        progress=progress,
        finish=_pictures if plots else None,
    )


ABOUT = "All shared numbers are of one text per image; bounds say at least, and none can exceed log N."


def measure(
    encoded: Encoded,
    attributes: list[tuple[Attribute, Probes]],
    *,
    critics: bool,
    plots: bool,
    seed: int,
    progress: Progress = SILENT,
) -> Report:
    """All numbers of one checkpoint on one data set, from stored features."""
    report, dataset = Report(), encoded.dataset
    table = score_table(encoded.model, encoded.images, encoded.texts, dataset.image_of_caption)
    sides = Sides(flat(encoded.images), flat(encoded.texts), torch.from_numpy(dataset.image_of_caption))
    split = Split(*split_images(len(dataset), SHARES, seed))
    truth = shared_information(dataset.world.objects) if dataset.world is not None else None
    measure_shared(report, table, sides, split, truth=truth, critics=critics, seed=seed)
    for attribute, probes in attributes:
        measure_private(report, attribute, probes, split, seed=seed, progress=progress)
    unit = Sides(pooled(encoded.images), pooled(encoded.texts), sides.image_of_text)
    measure_bounds(report, unit, split, seed=seed)
    first = torch.from_numpy(np.unique(dataset.image_of_caption, return_index=True)[1])
    measure_geometry(report, unit.image, unit.text[first], seed=seed)
    if plots:
        from clipib.tasks import figures

        curves = {k: v.numpy() for k, v in spectra_of(unit.image, unit.text[first]).items()}
        report.figures["spectra"] = figures.spectra(curves, title="Spread of embeddings")
    return report


def flat(array: np.ndarray) -> torch.Tensor:
    """Stored rows as vectors; points and weights of a set side by side."""
    return torch.from_numpy(array.reshape(len(array), -1))


def pooled(array: np.ndarray) -> torch.Tensor:
    """(N, D) unit norm: stored embeddings themselves; of point sets the weighted mean, normalised."""
    points, weights = unpack(torch.from_numpy(array))
    return torch.nn.functional.normalize((points * weights[..., None]).sum(1), dim=-1)


def _check_attributes(chosen: tuple[str, ...], datasets: str | list[str]) -> str:
    """The table whose columns are named, "" where none are; the two words stand alone."""
    words = [a for a in chosen if a in (MADE, NONE)]
    if words and len(chosen) > 1:
        raise UserError(f"--attributes {words[0]} stands alone, without columns.")
    if not chosen or words:
        return ""
    specs = parse_specs(datasets, "caption")
    if len(specs) != 1 or specs[0].kind != "csv":
        what = f"--attributes {','.join(chosen)} names columns, which needs one table of pairs."
        raise UserError(what, hint="Give --data csv:PATH, or --attributes made.")
    return specs[0].argument


def _attributes(
    encoded: Encoded,
    chosen: tuple[str, ...],
    table: str,
    columns: dict[str, str] | None,
    seed: int,
    batch_size: int,
    workers: int,
    progress: Progress,
) -> list[tuple[Attribute, Probes]]:
    """Attributes with the embeddings that they are read from."""
    dataset, model = encoded.dataset, encoded.model
    rows = {"image": np.arange(len(dataset)), "text": dataset.image_of_caption}
    stored = {
        "image": Probes(flat(encoded.images), rows["image"]),
        "text": Probes(flat(encoded.texts), rows["text"]),
    }
    if chosen == (NONE,):
        return []
    if not chosen and dataset.world is not None:
        found = digitworld_attributes(dataset)
        for name, reason in found.skipped.items():
            progress.say(f"{dataset.name}: attribute {name} is left out: {reason}")
        return [(a, stored[a.side]) for a in found.attributes]
    if chosen and chosen != (MADE,):
        found = column_attributes(dataset, table, chosen, options=columns)
        return [(a, stored[a.side]) for a in found]
    made = made_attributes(dataset, seed)
    images = embed_images(
        model, made.images, store=encoded.store, batch_size=batch_size, workers=workers, progress=progress
    )
    altered = {"image": Probes(flat(images.array), rows["image"])}
    if made.texts is not None:
        texts = embed_texts(model, made.texts.captions, store=encoded.store, progress=progress)
        altered["text"] = Probes(flat(texts.array), rows["text"])
    return [(a, altered[a.side]) for a in made.attributes if a.side in altered]


def _pictures(reports: dict[str, list[tuple[Model, Report]]]) -> dict[str, Any]:
    """The information plane and the bars of what is kept, one of each per data set."""
    found = {}
    for dataset, measured in reports.items():
        found[f"{slug(dataset)}-plane"] = plane_of(measured)
        bars = bars_of(measured)
        found |= {f"{slug(dataset)}-kept": bars} if bars is not None else {}
    return found
