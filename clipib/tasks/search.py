"""Find the images that are nearest to a text: those of a data set, or of what `embed` wrote."""

from __future__ import annotations

from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from PIL import Image, ImageDraw

from clipib.data.dataset import Dataset
from clipib.data.images import Images, content_key
from clipib.data.load import one_spec
from clipib.embeddings.encode import embed_images, embed_texts, text_space
from clipib.embeddings.folder import read_embedded
from clipib.embeddings.index import KINDS
from clipib.embeddings.store import Store
from clipib.errors import UserError
from clipib.models import DEFAULT_MODEL, DEFAULT_PREPROCESS, PRECISIONS
from clipib.models.load import load_model, pick_device
from clipib.models.model import Model
from clipib.progress import SILENT, Progress, counted
from clipib.registry import check_name
from clipib.tasks.embedded import check_unchanged, content_of, first_texts, pictures_of, source_of
from clipib.tasks.neighbours import Searched, find_by_own_score, find_nearest
from clipib.tasks.prepare import describe_model, plan_evaluation

THUMBNAIL, MARGIN, LABEL = 160, 8, 16  # px
ACROSS = 5


class Hit(NamedTuple):
    """rank from 1, score against the query, the image's id, and its first caption or class where it has one.

    similarity: what kind of number the score is: "cosine", or that of a checkpoint with point sets.
    """

    rank: int
    score: float
    sample_id: str
    text: str
    similarity: str = "cosine"


def search(
    query: str,
    model: str | None = None,
    data: str | None = None,
    *,
    pretrained: str | None = None,
    embedded: str | Path | None = None,
    index: str | None = None,
    top: int = 10,
    save: str | Path | None = None,
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
    dry_run: bool = False,
    settings: dict[str, Any] | None = None,
    progress: Progress = SILENT,
) -> list[Hit]:
    """The `top` images with the largest cosine to a text, best first; of a checkpoint with point sets by its own score.

    Args:
        model: left out, ViT-B-32, or the one that wrote `embedded`.
        data: left out, digitworld; not with `embedded`.
        embedded: a folder that `embed` wrote: its features are searched, and no image is read.
        index: "flat" is exact, "ivf" and "hnsw" are approximate, and their recall against exact search is told. Left
            out, the index that lies in `embedded`, else flat.
        save: a PNG or JPEG file for a contact sheet of the hits.

    Raises:
        UserError: for everything that the user can mend.
    """
    _check_request(query, top, save, index)
    store = Store(cache_dir)
    if embedded:
        if data or limit:
            flag = f"--data {data}" if data else f"--limit {limit}"
            raise UserError(f"--embedded '{embedded}' brings its own images; {flag} does not go with it.")
        folder = read_embedded(embedded)
        source, seed = source_of(folder, model, pretrained, seed)
        check_name("precision", precision, PRECISIONS)
        pick_device(device)
        shown = counted(len(folder.features["images"]), "image")
        progress.say(f"search: {describe_model(source)}; {shown} of '{folder.about['dataset']}' in {embedded}")
    else:
        plan = plan_evaluation(
            "search",
            model or DEFAULT_MODEL,
            one_spec(data or "digitworld"),
            pretrained=pretrained,
            need="",
            out=Path(save).parent if save else Path(),
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
    pictures = pictures_of(folder) if embedded and save else None
    if dry_run:
        return []
    if embedded:
        progress.say(f"loading {source.name}")
        loaded = load_model(source, device=device, precision=precision, preprocess=preprocess, seed=seed)
        searched = content_of(folder, loaded)
    else:
        (dataset,), loaded = plan.datasets, plan.checkpoint.open()
        images = embed_images(
            loaded, dataset, store=store, batch_size=batch_size, workers=workers, max_bad=max_bad, progress=progress
        )
        searched, pictures = _of_dataset(images.features.numpy(), images.dataset, loaded, store), images.dataset.images
    text = embed_texts(loaded, [query], store=store, progress=progress).features.numpy()
    gpu = loaded.device.type == "cuda"
    options = {"index": index, "seed": seed, "progress": progress}
    if loaded.has_points:
        found = find_by_own_score(loaded, searched, text, top, **options)
    else:
        found = find_nearest(searched, text, top, gpu=gpu, **options)
    indices = [int(i) for i in found.indices[0]]
    hits = [
        Hit(rank, float(score), searched.ids[i], searched.first_texts[i], loaded.similarity)
        for rank, (score, i) in enumerate(zip(found.scores[0], indices, strict=True), start=1)
    ]
    if save:
        if embedded:
            check_unchanged(folder, pictures, indices)
        sheet = contact_sheet(pictures, indices, [f"{h.rank}  {h.score:.3f}" for h in hits])
        Path(save).parent.mkdir(parents=True, exist_ok=True)
        sheet.save(save)
        progress.say(f"contact sheet in {save}")
    return hits


def contact_sheet(images: Images, indices: list[int], labels: list[str]) -> Image.Image:
    """Thumbnails in rows of five, each with its label below."""
    cell_width, cell_height = THUMBNAIL + MARGIN, THUMBNAIL + LABEL + MARGIN
    rows = -(-len(indices) // ACROSS)
    sheet = Image.new("RGB", (min(ACROSS, len(indices)) * cell_width + MARGIN, rows * cell_height + MARGIN), "white")
    draw = ImageDraw.Draw(sheet)
    for place, (index, label) in enumerate(zip(indices, labels, strict=True)):
        left, top = MARGIN + place % ACROSS * cell_width, MARGIN + place // ACROSS * cell_height
        picture = images.open(index)
        scale = THUMBNAIL / max(picture.size)
        size = tuple(max(1, round(side * scale)) for side in picture.size)
        thumbnail = picture.resize(size, Image.Resampling.NEAREST if scale > 2 else Image.Resampling.BICUBIC)
        sheet.paste(thumbnail, (left + (THUMBNAIL - size[0]) // 2, top + (THUMBNAIL - size[1]) // 2))
        draw.text((left, top + THUMBNAIL + 2), label, fill="black")
    return sheet


def _check_request(query: str, top: int, save: str | Path | None, index: str | None) -> None:
    if not query.strip():
        raise UserError("The query is empty.", hint='Try: clipib search "a red car" --data folder:PATH.')
    if top < 1:
        raise UserError(f"--top {top} is not a number of images.")
    if save and Path(save).suffix.lower() not in (".png", ".jpg", ".jpeg"):
        raise UserError(f"'{save}' is no picture file.", hint="End its name in .png or .jpg.")
    if index:
        check_name("index", index, KINDS)


def _of_dataset(features: np.ndarray, dataset: Dataset, model: Model, store: Store) -> Searched:
    ids, texts = dataset.images.ids, np.empty((0, *features.shape[1:]), dtype=np.float32)
    if dataset.captions is None:
        one_class = dataset.labels is not None and dataset.labels.ndim == 1
        classes = [dataset.classnames[label] for label in dataset.labels] if one_class else None
        return Searched(features, ids, classes or [""] * len(ids), texts)
    stored = text_space(model, store).find([content_key(text.encode()) for text in dataset.captions])
    first = first_texts(len(ids), dataset.captions, dataset.image_of_caption)
    return Searched(features, ids, first, texts if stored.features is None else stored.features[stored.has])
