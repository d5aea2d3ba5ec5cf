"""Retrieval both ways between images and their captions."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from clipib.data.dataset import Dataset
from clipib.embeddings.encode import embed_images, embed_texts
from clipib.embeddings.store import Store
from clipib.errors import UserError
from clipib.metrics.retrieval import recall_at_k
from clipib.metrics.statistics import wilson_interval
from clipib.models import DEFAULT_PREPROCESS
from clipib.progress import SILENT, Progress, counted
from clipib.scoring.ranks import Ranks
from clipib.tasks.compositional import answer_contrasts, contrast_metrics, contrast_rows, contrast_samples
from clipib.tasks.known_truth import true_pmi_recall
from clipib.tasks.prepare import Outcome, RunContext, check_overlap, plan_evaluation, say_encoded
from clipib.tasks.results import ResultsFolder, Row, join_params, settings_of
from clipib.tasks.scores import rank
from clipib.tasks.suites import average_rows

PROTOCOL = "strict"
TRUTH_LIMIT = 4_000  # images up to which the recall of the true PMI is computed beside the model's


def retrieve(
    model: str = "ViT-B-32",
    datasets: str | list[str] = "digitworld",
    *,
    pretrained: str | None = None,
    out: str | Path = "runs/retrieve",
    recall_k: tuple[int, ...] = (1, 5, 10),
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
) -> Outcome:
    """Rank all images for every caption and all captions for every image, by the checkpoint's own score.

    Recalls are exact and a tie goes to the lowest index. Text to image is a mean over captions, image to text over
    images: a hit is any own caption among the first k. A table with wrong captions beside the right ones, or with pairs
    of images, is not ranked: each image is scored with its two captions, see `clipib.tasks.compositional`.

    Args:
        recall_k: the cut-offs. The others as for `clipib.tasks.zeroshot`.

    Returns:
        Rows `image_retrieval_recall@k` (text to image) and `text_retrieval_recall@k` (image to text), in [0, 1]. The
        interval of the former is left empty where images have several captions, which are not independent. Of contrasts
        `text_acc`, of pairs of images also `image_acc` and `group_acc`, over all of them and by kind.

    Raises:
        UserError: for everything that the user can mend.
    """
    settings = settings or settings_of(locals())
    out, store = Path(out), Store(cache_dir)
    if not recall_k or min(recall_k) < 1:
        raise UserError(f"Recall at {recall_k} is not defined.", hint="Give whole numbers from 1: --recall-k 1,5,10.")
    recall_k = tuple(dict.fromkeys(recall_k))
    checkpoint, planned, specs = plan_evaluation(
        "retrieve",
        model,
        datasets,
        pretrained=pretrained,
        need="caption",
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
    for dataset in planned:
        if max(recall_k) >= len(dataset) and dataset.contrasts is None:
            progress.warn(
                f"{dataset.name}: recall at {max(recall_k)} among {counted(len(dataset), 'image')} is always 1"
            )
    if dry_run:
        return Outcome([], out)
    rows: list[Row] = []
    images_encoded = texts_encoded = 0
    with ResultsFolder(out, command="retrieve", settings=settings, fresh=fresh) as folder:
        loaded_model = checkpoint.open()
        overlaps = [check_overlap(loaded_model, d, allow=allow_overlap, progress=progress) for d in planned]
        folder.begin()
        run = RunContext("retrieve", loaded_model, PROTOCOL, seed)
        for dataset, overlap in zip(planned, overlaps, strict=True):
            asked = [f"{way}_retrieval_recall@{k}" for way in ("image", "text") for k in recall_k]
            asked = contrast_metrics(dataset) if dataset.contrasts else asked
            if kept := folder.kept(run.row(dataset), asked, max_bad=max_bad):
                progress.say(f"{dataset.name}: kept from an earlier run")
                rows += kept
                continue
            images = embed_images(
                loaded_model,
                dataset,
                store=store,
                batch_size=batch_size,
                workers=workers,
                max_bad=max_bad,
                progress=progress,
            )
            read = images.dataset
            if read.contrasts is not None:
                answered = answer_contrasts(loaded_model, read, images.array, store=store, progress=progress)
                images_encoded += images.n_encoded
                texts_encoded += answered.n_encoded
                found = contrast_rows(run, dataset, read, answered.answers, len(images.bad), overlap)
                folder.add(found, contrast_samples(read, answered))
                rows += found
                continue
            texts = embed_texts(loaded_model, read.captions, store=store, progress=progress)
            images_encoded += images.n_encoded
            texts_encoded += texts.n_encoded
            ranks = rank(loaded_model, images.array, texts.array, read.image_of_caption)
            found = _rows(run, dataset, read, ranks, recall_k, len(images.bad), overlap)
            folder.add(found, _samples(read, ranks))
            rows += found
        if averages := average_rows(run, specs, rows, progress):
            folder.add(averages)
            rows += averages
    say_encoded(images_encoded, texts_encoded, progress)
    return Outcome(rows, out, images_encoded, texts_encoded)


def _rows(
    run: RunContext,
    dataset: Dataset,
    read: Dataset,
    ranks: Ranks,
    recall_k: tuple[int, ...],
    n_bad: int,
    overlap: dict[str, str],
) -> list[Row]:
    """Both recalls at every k; on digitworld beside those of the true PMI."""
    independent = len(read.captions) == len(read)
    rows = []
    for way, found, tied in (
        ("image", ranks.text_to_image, ranks.tied_texts),
        ("text", ranks.image_to_text, ranks.tied_images),
    ):
        for k in recall_k:
            value, n = recall_at_k(found.numpy(), k), len(found)
            low, high = wilson_interval(value, n) if way == "text" or independent else (None, None)
            rows.append(
                run.row(
                    dataset,
                    metric=f"{way}_retrieval_recall@{k}",
                    params=join_params(overlap),
                    value=value,
                    ci_low=low,
                    ci_high=high,
                    n=n,
                    n_bad=n_bad,
                    n_ties=int(tied.sum()),
                    is_main=k == 1,
                )
            )
    if read.world is not None and len(read) <= TRUTH_LIMIT:
        params = join_params({**overlap, "scores": "true_pmi", "ties": "expected"})
        for way, by_k in true_pmi_recall(read, recall_k).items():
            for k, value in by_k.items():
                rows.append(run.row(dataset, metric=f"{way}_recall@{k}", params=params, value=value, n=len(read)))
    return rows


def _samples(read: Dataset, ranks: Ranks) -> dict[str, Any]:
    """One line per query: captions look for their image, images for their captions."""
    ids = np.array(read.images.ids, dtype=object)
    return {
        "direction": ["text_to_image"] * len(read.captions) + ["image_to_text"] * len(read),
        "sample_id": [*ids[read.image_of_caption], *ids],
        "caption": [*read.captions, *[""] * len(read)],
        "rank": [*ranks.text_to_image.tolist(), *ranks.image_to_text.tolist()],
        "tied": [*ranks.tied_texts.tolist(), *ranks.tied_images.tolist()],
    }
