"""Fill the store with the features of a data set and export them, whole or in shards, with an index or without."""

from __future__ import annotations

from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from clipib.data.dataset import Dataset
from clipib.data.load import one_spec
from clipib.data.prompts import class_prompts
from clipib.embeddings import index as indexes
from clipib.embeddings.encode import embed_images, embed_texts, image_space, text_space
from clipib.embeddings.folder import write_embedded
from clipib.embeddings.store import Store
from clipib.errors import UserError
from clipib.models import DEFAULT_PREPROCESS
from clipib.models.model import Model
from clipib.progress import SILENT, Progress, counted
from clipib.registry import check_name
from clipib.tasks.neighbours import centres, measure_index
from clipib.tasks.prepare import plan_evaluation
from clipib.tasks.results import ResultsFolder, settings_of
from clipib.tasks.shards import parse_shard, take_in_shards, take_part


class Exported(NamedTuple):
    """What was written: images, texts or index, how many rows, how many of them had to be encoded, the two files."""

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
    index: str | None = None,
    shard: str | None = None,
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
    verify_cache: bool = False,
    fresh: bool = False,
    dry_run: bool = False,
    settings: dict[str, Any] | None = None,
    progress: Progress = SILENT,
) -> list[Exported]:
    """Encode images and texts into the store and write them out.

    Writes `images.npy` (N, D) with `images.parquet` (sample_id, sha256, label, class), where there are captions or
    classes `texts.npy` (M, D) with `texts.parquet` (text, image or class), and `features.json`. Features have unit
    norm, float32; of a checkpoint with point sets (N, m, D + 1), whose last column holds the weights, and an index is
    built over the weighted means.

    Args:
        index: "flat", "ivf" or "hnsw": also write `images.faiss` with `images.index.json`, the recall against exact
            search on 1,000 queries in it (captions or prompts where there are some, else images).
        shard: "2/4" encodes the second of four parts alone, into OUT/shards/002-of-004. The run without takes up the
            shards in OUT; its features equal those of one run up to rounding (1e-6), since batches differ.

    Raises:
        UserError: for everything that the user can mend.
    """
    settings = settings or settings_of(locals())
    out, store = Path(out), Store(cache_dir)
    part = parse_shard(shard) if shard else None
    if index:
        check_name("index", index, indexes.KINDS)
    if index and part:
        raise UserError("An index is built over all images, not over a shard.", hint="Add --index to the last run.")
    plan = plan_evaluation(
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
        verify_cache=verify_cache,
        dry_run=dry_run,
        progress=progress,
    )
    if not plan.datasets:  # a dry run of data that are not here yet
        return []
    (dataset,) = plan.datasets
    place = part.folder(out) if part else out
    if part:
        dataset = take_part(dataset, part)
        progress.say(f"shard {part.number} of {part.of}: {counted(len(dataset), 'image')}")
    if dry_run:
        return []
    import pandas as pd

    with ResultsFolder(place, command="embed", settings=settings, fresh=fresh) as folder:
        loaded = plan.checkpoint.open()
        folder.begin()
        if not part:
            take_in_shards(out, loaded, store, progress)
        images = embed_images(
            loaded, dataset, store=store, batch_size=batch_size, workers=workers, max_bad=max_bad, progress=progress
        )
        features = {"images": images.features.numpy()}
        tables = {"images": pd.DataFrame(_image_table(images.dataset))}
        n_encoded = {"images": images.n_encoded}
        texts = pd.DataFrame(_text_table(images.dataset))
        if part and images.dataset.captions is None:
            texts = texts[part.bounds(len(texts))]
        if len(texts):
            encoded = embed_texts(loaded, list(texts["text"]), store=store, progress=progress)
            features["texts"], tables["texts"] = encoded.features.numpy(), texts
            n_encoded["texts"] = encoded.n_encoded
        about = _about(loaded, images.dataset, store, settings)
        sha256 = write_embedded(place, features, tables, about)
        exported = [
            Exported(what, len(rows), n_encoded[what], place / f"{what}.npy", place / f"{what}.parquet")
            for what, rows in features.items()
        ]
        if index:
            exported.append(_write_index(place, index, features, {**about, "features_sha256": sha256}, seed, progress))
        elif indexes.drop_index(place, unless=sha256):
            progress.say("the index of an earlier run was of other features; it is removed")
    if part:
        progress.say(f"when all {part.of} shards are in {place.parent}, run the same without --shard")
    return exported


def _image_table(dataset: Dataset) -> dict[str, Any]:
    table = {"sample_id": dataset.images.ids, "sha256": [key.hex() for key in dataset.keys]}
    if dataset.labels is not None and dataset.labels.ndim == 1:
        table |= {"label": dataset.labels, "class": [dataset.classnames[label] for label in dataset.labels]}
    return table


def _text_table(dataset: Dataset) -> dict[str, Any]:
    """Captions with the image of each, or class prompts with the class of each."""
    if dataset.captions is not None:
        return {"text": dataset.captions, "image": dataset.image_of_caption}
    prompts = class_prompts(dataset.classnames, dataset.templates)
    return {"text": prompts, "class": np.repeat(np.arange(len(dataset.classnames)), len(dataset.templates))}


def _about(model: Model, dataset: Dataset, store: Store, settings: dict[str, Any]) -> dict[str, Any]:
    """What `features.json` says beside the files: enough to know the features again, and to encode a query for them."""
    return {
        "model": model.name,
        "pretrained": model.pretrained,
        "checkpoint_sha256": model.fingerprint,
        "precision": model.precision,
        "similarity": model.similarity,
        "layout": "points" if model.has_points else "embeddings",
        "spaces": {"images": image_space(model, store).folder.name, "texts": text_space(model, store).folder.name},
        "dataset": dataset.name,
        "split": dataset.split,
        "data_sha256": dataset.sha256,
        "limit": dataset.limit,
        "settings": settings,
    }


def _write_index(
    out: Path, kind: str, features: dict[str, np.ndarray], about: dict[str, Any], seed: int, progress: Progress
) -> Exported:
    """Build, measure and save the index of the images."""
    images = centres(features["images"])
    plan = indexes.plan_index(kind, len(images))
    progress.say(f"index: {plan.describe()}{'; ' * bool(plan.note)}{plan.note}")
    index = indexes.build_index(images, plan, seed=seed)
    content = {key: about[key] for key in ("features_sha256", "checkpoint_sha256", "data_sha256")} | {"seed": seed}
    if plan.kind != "flat":
        measured = measure_index(
            index,
            images,
            centres(features["texts"]) if "texts" in features else images[:0],
            indexes.RECALL_AT,
            seed=seed,
        )
        _, queries, n_queries = measured[indexes.RECALL_AT[0]]
        content |= {"recall": {k: m.recall for k, m in measured.items()}, "queries": queries, "n_queries": n_queries}
        shown = ", ".join(f"recall@{k} {m.recall:.4f}" for k, m in measured.items())
        progress.say(f"index: {shown} against exact search on {n_queries:,} {queries}")
    indexes.save_index(out, index, plan, content)
    return Exported("index", len(images), 0, out / indexes.INDEX_FILE, out / indexes.INDEX_ABOUT_FILE)
