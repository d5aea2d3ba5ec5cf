"""Find the images of a data set that are nearest to a text."""

from __future__ import annotations

from pathlib import Path
from typing import Any, NamedTuple

from PIL import Image, ImageDraw

from clipib.data.images import Images
from clipib.data.load import one_spec
from clipib.embeddings.encode import embed_images, embed_texts
from clipib.embeddings.index import GPU_MAX_K, build_index, search_index
from clipib.embeddings.store import Store
from clipib.errors import UserError
from clipib.models.load import load_model
from clipib.models.preprocess import DEFAULT_PREPROCESS
from clipib.progress import SILENT, Progress
from clipib.tasks.prepare import plan_evaluation

THUMBNAIL, MARGIN, LABEL = 160, 8, 16  # px
ACROSS = 5


class Hit(NamedTuple):
    """rank from 1, cosine to the query, the image's id, and its first caption or class where it has one."""

    rank: int
    cosine: float
    sample_id: str
    text: str


def search(
    query: str,
    model: str = "ViT-B-32",
    data: str = "digitworld",
    *,
    pretrained: str | None = None,
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
    dry_run: bool = False,
    settings: dict[str, Any] | None = None,
    progress: Progress = SILENT,
) -> list[Hit]:
    """The `top` images with the largest cosine to a text, best first; a FAISS flat index, so exact.

    Args:
        save: a PNG or JPEG file for a contact sheet of the hits.

    Raises:
        UserError: for everything that the user can mend.
    """
    if not query.strip():
        raise UserError("The query is empty.", hint='Try: clipib search "a red car" --data folder:PATH.')
    if top < 1:
        raise UserError(f"--top {top} is not a number of images.")
    if save and Path(save).suffix.lower() not in (".png", ".jpg", ".jpeg"):
        raise UserError(f"'{save}' is no picture file.", hint="End its name in .png or .jpg.")
    store = Store(cache_dir)
    source, (dataset,) = plan_evaluation(
        "search",
        model,
        one_spec(data),
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
        dry_run=dry_run,
        progress=progress,
    )
    if dry_run:
        return []
    progress.say(f"loading {source.name}")
    loaded = load_model(source, device=device, precision=precision, preprocess=preprocess, seed=seed)
    images = embed_images(
        loaded, dataset, store=store, batch_size=batch_size, workers=workers, max_bad=max_bad, progress=progress
    )
    read = images.dataset
    text = embed_texts(loaded, [query], store=store, progress=progress)
    gpu = loaded.device.type == "cuda" and top <= GPU_MAX_K
    found = search_index(build_index(images.features.numpy(), gpu=gpu), text.features.numpy(), top)
    first_text = _first_texts(read)
    hits = [
        Hit(rank, float(score), read.images.ids[i], first_text(int(i)))
        for rank, (score, i) in enumerate(zip(found.scores[0], found.indices[0]), start=1)
    ]
    if save:
        sheet = contact_sheet(
            read.images, [int(i) for i in found.indices[0]], [f"{h.rank}  {h.cosine:.3f}" for h in hits]
        )
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


def _first_texts(dataset):
    """image index -> its first caption, its class, or nothing."""
    if dataset.captions is not None:
        first = {}
        for text, image in zip(dataset.captions, dataset.image_of_caption, strict=True):
            first.setdefault(int(image), text)
        return lambda i: first.get(i, "")
    if dataset.labels is not None:
        return lambda i: dataset.classnames[dataset.labels[i]]
    return lambda i: ""
