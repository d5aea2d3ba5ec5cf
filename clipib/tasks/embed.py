"""Fill the store with the features of a data set and export them."""

from __future__ import annotations

from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from clipib.data.load import one_spec
from clipib.data.prompts import class_prompts
from clipib.embeddings.encode import embed_images, embed_texts
from clipib.embeddings.store import Store
from clipib.files import write_aside
from clipib.models.load import load_model
from clipib.models.preprocess import DEFAULT_PREPROCESS
from clipib.progress import SILENT, Progress
from clipib.tasks.prepare import plan_evaluation
from clipib.tasks.results import ResultsFolder, settings_of


class Exported(NamedTuple):
    """One exported table: what, how many rows, how many of them had to be encoded, the files."""

    what: str
    n: int
    n_encoded: int
    features: Path
    table: Path


def embed(
    model: str = "ViT-B-32",
    data: str = "digitworld",
    *,
    pretrained: str | None = None,
    out: str | Path = "runs/embed",
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
    cache_dir: str | Path | None = None,
    fresh: bool = False,
    dry_run: bool = False,
    settings: dict[str, Any] | None = None,
    progress: Progress = SILENT,
) -> list[Exported]:
    """Encode images and texts into the store and write them out.

    Writes `images.npy` (N, D) with `images.parquet` (sample_id, sha256, label, class) and, where there are captions or
    classes, `texts.npy` (M, D) with `texts.parquet` (text, image or class). Features have unit norm, float32.

    Raises:
        UserError: for everything that the user can mend.
    """
    settings = settings or settings_of(locals())
    out, store = Path(out), Store(cache_dir)
    source, (dataset,) = plan_evaluation(
        "embed",
        model,
        one_spec(data),
        pretrained=pretrained,
        need="",
        out=out,
        store=store,
        name=name,
        data_root=data_root,
        columns=columns,
        device=device,
        precision=precision,
        preprocess=preprocess,
        limit=limit,
        seed=seed,
        dry_run=dry_run,
        progress=progress,
    )
    if dry_run:
        return []
    import pandas as pd

    with ResultsFolder(out, command="embed", settings=settings, fresh=fresh) as folder:
        progress.say(f"loading {source.name}")
        loaded = load_model(source, device=device, precision=precision, preprocess=preprocess, seed=seed)
        folder.begin()
        images = embed_images(
            loaded, dataset, store=store, batch_size=batch_size, workers=workers, max_bad=max_bad, progress=progress
        )
        read = images.dataset
        table = {"sample_id": read.images.ids, "sha256": [key.hex() for key in read.keys]}
        if read.labels is not None:
            table |= {"label": read.labels, "class": [read.classnames[label] for label in read.labels]}
        exported = [_export(out, "images", images.features.numpy(), pd.DataFrame(table), images.n_encoded)]
        texts, table = _texts(read)
        if texts:
            encoded = embed_texts(loaded, texts, store=store, progress=progress)
            table = pd.DataFrame({"text": texts, **table})
            exported.append(_export(out, "texts", encoded.features.numpy(), table, encoded.n_encoded))
    return exported


def _texts(dataset) -> tuple[list[str], dict[str, Any]]:
    """Captions with the image of each, or class prompts with the class of each."""
    if dataset.captions is not None:
        return list(dataset.captions), {"image": dataset.image_of_caption}
    if dataset.classnames:
        prompts = class_prompts(dataset.classnames, dataset.templates)
        return prompts, {"class": np.repeat(np.arange(len(dataset.classnames)), len(dataset.templates))}
    return [], {}


def _export(out: Path, what: str, features: np.ndarray, table, n_encoded: int) -> Exported:
    write_aside(out / f"{what}.npy", lambda file: np.save(file, features))
    write_aside(out / f"{what}.parquet", lambda file: table.to_parquet(file, index=False))
    return Exported(what, len(features), n_encoded, out / f"{what}.npy", out / f"{what}.parquet")
