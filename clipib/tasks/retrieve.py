"""Retrieval both ways between images and their captions."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from clipib.data.dataset import Dataset
from clipib.embeddings.encode import embed_images, embed_texts
from clipib.embeddings.store import Store
from clipib.errors import UserError
from clipib.metrics.retrieval import average_precision_at_r, mean_rank, median_rank, recall_at_k
from clipib.metrics.statistics import wilson_interval
from clipib.models import DEFAULT_PREPROCESS
from clipib.progress import SILENT, Progress, counted
from clipib.scoring.ranks import Ranks
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
    images: a hit is any own caption among the first k.

    Args:
        recall_k: the cut-offs. The others as for `clipib.tasks.zeroshot`.

    Returns:
        Rows `image_retrieval_recall@k` (text to image) and `text_retrieval_recall@k` (image to text), in [0, 1]. The
        interval of the former is left empty where images have several captions, which are not independent.

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
        if max(recall_k) >= len(dataset):
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
            if kept := folder.kept(run.row(dataset), asked(dataset, recall_k), max_bad=max_bad):
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


def asked(dataset: Dataset, recall_k: tuple[int, ...]) -> list[str]:
    """The metrics that a data set gets, whatever its captions."""
    of_both = [*(f"recall@{k}" for k in recall_k), "median_rank", "mean_rank"]
    return [*(f"{way}_retrieval_{metric}" for way in ("image", "text") for metric in of_both), "text_retrieval_map@r"]


def _rows(
    run: RunContext,
    dataset: Dataset,
    read: Dataset,
    ranks: Ranks,
    recall_k: tuple[int, ...],
    n_bad: int,
    overlap: dict[str, str],
) -> list[Row]:
    """All metrics both ways, for a recall that ties decide also its bounds; on digitworld recalls of the true PMI."""
    independent = len(read.captions) == len(read)
    precisions = average_precision_at_r(ranks.own_text_ranks.numpy(), read.image_of_caption)
    rows = []
    for way, found, ahead, tied, others in (
        ("image", ranks.text_to_image, ranks.ahead_texts, ranks.tied_texts, {}),
        ("text", ranks.image_to_text, ranks.ahead_images, ranks.tied_images, {"map@r": float(precisions.mean())}),
    ):
        of_way = {"n": len(found), "n_bad": n_bad, "n_ties": int((tied > 0).sum())}
        for k in recall_k:
            values = {"": recall_at_k(found.numpy(), k)}
            bounds = {
                "optimistic": recall_at_k(ahead.numpy(), k),
                "pessimistic": recall_at_k((ahead + tied).numpy(), k),
            }
            if bounds["optimistic"] != bounds["pessimistic"]:
                values |= bounds
            for ties, value in values.items():
                low, high = wilson_interval(value, len(found)) if way == "text" or independent else (None, None)
                rows.append(
                    run.row(
                        dataset,
                        metric=f"{way}_retrieval_recall@{k}",
                        params=join_params(overlap | ({"ties": ties} if ties else {})),
                        value=value,
                        ci_low=low,
                        ci_high=high,
                        is_main=k == 1 and not ties,
                        **of_way,
                    )
                )
        more = {"median_rank": median_rank(found.numpy()), "mean_rank": mean_rank(found.numpy()), **others}
        for metric, value in more.items():
            params = join_params(overlap)
            rows.append(run.row(dataset, metric=f"{way}_retrieval_{metric}", params=params, value=value, **of_way))
    if read.world is not None and len(read) <= TRUTH_LIMIT:
        params = join_params({**overlap, "scores": "true_pmi", "ties": "expected"})
        for way, by_k in true_pmi_recall(read, recall_k).items():
            for k, value in by_k.items():
                rows.append(run.row(dataset, metric=f"{way}_recall@{k}", params=params, value=value, n=len(read)))
    return rows


def _samples(read: Dataset, ranks: Ranks) -> dict[str, Any]:
    """One line per query: captions look for their image, images for their captions."""
    ids = np.array(read.images.ids, dtype=object)
    precisions = average_precision_at_r(ranks.own_text_ranks.numpy(), read.image_of_caption)
    return {
        "direction": ["text_to_image"] * len(read.captions) + ["image_to_text"] * len(read),
        "sample_id": [*ids[read.image_of_caption], *ids],
        "caption": [*read.captions, *[""] * len(read)],
        "rank": [*ranks.text_to_image.tolist(), *ranks.image_to_text.tolist()],
        "average_precision": [*[None] * len(read.captions), *precisions.tolist()],
        "tied": [*(ranks.tied_texts > 0).tolist(), *(ranks.tied_images > 0).tolist()],
    }
