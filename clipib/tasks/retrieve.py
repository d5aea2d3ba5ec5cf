"""Retrieval both ways between images and their captions."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from clipib.data.dataset import Dataset
from clipib.embeddings.batches import embed_image_batches, embed_text_batches
from clipib.embeddings.encode import embed_images, embed_texts
from clipib.embeddings.store import Store
from clipib.errors import UserError
from clipib.metrics.bootstrap import bootstrap_mean
from clipib.metrics.retrieval import average_precision_at_r, mean_rank, median_rank
from clipib.metrics.statistics import wilson_interval
from clipib.models import DEFAULT_PREPROCESS
from clipib.progress import SILENT, Progress, counted
from clipib.scoring.ranks import Ranks
from clipib.tasks.compositional import answer_contrasts, contrast_metrics, contrast_rows, contrast_samples
from clipib.tasks.evaluation import Evaluated, Job, Kind, encoder_of_several, evaluate
from clipib.tasks.known_truth import true_pmi_recall
from clipib.tasks.prepare import Outcome, RunContext, plan_evaluation
from clipib.tasks.protocol import AUTO, DATACOMP, STRICT, Protocol, choose_protocol
from clipib.tasks.results import Row, join_params, settings_of
from clipib.tasks.samples import retrieval_samples
from clipib.tasks.scores import rank

MEAN_RECALL = "mean_recall@1"  # DataComp's main metric of retrieval
TRUTH_LIMIT = 4_000  # images up to which the recall of the true PMI is computed beside the model's


def retrieve(
    model: str | list[str] = "ViT-B-32",
    datasets: str | list[str] = "digitworld",
    *,
    pretrained: str | None = None,
    out: str | Path = "runs/retrieve",
    protocol: str = STRICT,
    recall_k: tuple[int, ...] = (1, 5, 10),
    name: str = "",
    data_root: str | Path | None = None,
    columns: dict[str, str] | None = None,
    device: str = "auto",
    precision: str = AUTO,
    preprocess: str = DEFAULT_PREPROCESS,
    batch_size: int | None = 64,
    workers: int = 2,
    limit: int | None = None,
    seed: int = 0,
    max_bad: int = 0,
    allow_overlap: bool = False,
    keep_going: bool = False,
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
        recall_k: the cut-offs. The others as for `clipib.tasks.zeroshot.zeroshot`.

    Returns:
        Rows `image_retrieval_recall@k` (text to image) and `text_retrieval_recall@k` (image to text), in [0, 1]. Their
        intervals are Wilson's; where images have several captions, which are not independent, that of the former is a
        bootstrap over images. Of contrasts `text_acc`, of pairs of images also `image_acc`
        and `group_acc`, over all of them and by kind.

    Raises:
        UserError: for everything that the user can mend.
    """
    settings = settings or settings_of(locals())
    out, store = Path(out), Store(cache_dir)
    if not recall_k or min(recall_k) < 1:
        raise UserError(f"Recall at {recall_k} is not defined.", hint="Give whole numbers from 1: --recall-k 1,5,10.")
    recall_k = tuple(dict.fromkeys(recall_k))
    rules = choose_protocol(protocol, precision, "caption")
    planned = plan_evaluation(
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
        precision=rules.precision,
        preprocess=preprocess,
        limit=limit,
        seed=seed,
        verify_cache=verify_cache,
        dry_run=dry_run,
        keep_going=keep_going,
        progress=progress,
    )
    for dataset in planned.datasets:
        if max(recall_k) >= len(dataset) and dataset.contrasts is None:
            progress.warn(
                f"{dataset.name}: recall at {max(recall_k)} among {counted(len(dataset), 'image')} is always 1"
            )
    if dry_run:
        return Outcome([], out, failures=tuple(planned.failures))
    size = rules.batch_size(batch_size)
    encoding = {"store": store, "batch_size": size, "workers": workers, "progress": progress}

    def work(job: Job) -> Evaluated:
        if not rules.is_strict:
            return _as_clip_benchmark(job, rules, recall_k, **encoding)
        images = embed_images(job.run.model, job.dataset, max_bad=max_bad, **encoding)
        read = images.dataset
        if read.contrasts is not None:
            found = answer_contrasts(job.run.model, read, images.array, store=store, progress=progress)
            rows = contrast_rows(job.run, job.dataset, read, found.answers, len(images.bad), job.overlap)
            return Evaluated(rows, contrast_samples(read, found), images.n_encoded, found.n_encoded)
        texts = embed_texts(job.run.model, read.captions, store=store, progress=progress)
        ranks = rank(job.run.model, images.array, texts.array, read.image_of_caption)
        precisions = average_precision_at_r(ranks.own_text_ranks.numpy(), read.image_of_caption)
        rows = _rows(job, read, ranks, precisions, recall_k, len(images.bad))
        return Evaluated(rows, retrieval_samples(read, ranks, precisions), images.n_encoded, texts.n_encoded)

    kind = Kind(
        work,
        like=lambda run, dataset: run.row(dataset),
        asked=lambda dataset: contrast_metrics(dataset) if dataset.contrasts else _asked(recall_k, rules),
        context=lambda loaded: RunContext("retrieve", loaded, protocol, seed, rules.row_params(size)),
        together=encoder_of_several(rules, encoding),
    )
    shared = {"max_bad": max_bad, "allow_overlap": allow_overlap, "fresh": fresh, "keep_going": keep_going}
    return evaluate("retrieve", planned, kind, out=out, settings=settings, progress=progress, **shared)


def _as_clip_benchmark(
    job: Job, rules: Protocol, recall_k: tuple[int, ...], *, batch_size: int, **encoding: Any
) -> Evaluated:
    """The job by the operations of CLIP_benchmark: the texts of a batch of images are encoded at once."""
    from clipib.tasks.clip_benchmark import retrieval_hits

    model, dataset = job.run.model, job.dataset
    if dataset.contrasts is not None:
        raise UserError(f"'{dataset.name}' holds contrasts, which are answered under --protocol strict only.")
    images = embed_image_batches(model, dataset, amp=rules.image_amp, batch_size=batch_size, **encoding)
    order = np.argsort(dataset.image_of_caption, kind="stable")  # image by image, as its reader gives them
    of_image = dataset.image_of_caption[order]
    cuts = np.searchsorted(of_image, np.arange(batch_size, len(dataset), batch_size))
    batches = [[dataset.captions[i] for i in part] for part in np.split(order, cuts)]
    del encoding["workers"]
    texts = embed_text_batches(model, batches, amp=rules.text_amp, **encoding)
    to_image, to_text = retrieval_hits(
        images.array,
        texts.array,
        of_image,
        recall_k,
        device=model.device.type,
        amp=rules.image_amp,
        batch_size=batch_size,
    )
    rows = []
    for way, hits, clusters in (("image", to_image, of_image), ("text", to_text, None)):
        for k in recall_k:
            value, low, high = _proportion(hits[k], None if len(hits[k]) == len(dataset) else clusters)
            rows.append(
                job.run.row(
                    dataset,
                    metric=f"{way}_retrieval_recall@{k}",
                    params=join_params(job.overlap),
                    value=value,
                    ci_low=low,
                    ci_high=high,
                    n=len(hits[k]),
                    is_main=k == 1 and rules.name != DATACOMP,
                )
            )
    if rules.name == DATACOMP and 1 in recall_k:
        both = float(to_image[1].mean() + to_text[1].mean()) / 2
        about = {"n": len(dataset), "params": join_params(job.overlap), "is_main": True}
        rows.append(job.run.row(dataset, metric=MEAN_RECALL, value=both, **about))
    ids = np.array(dataset.images.ids, dtype=object)
    samples = {
        "direction": ["text_to_image"] * len(order) + ["image_to_text"] * len(dataset),
        "sample_id": [*ids[of_image], *ids],
        "caption": [*(dataset.captions[i] for i in order), *[""] * len(dataset)],
        "rank": [*_first_hit(to_image), *_first_hit(to_text)],
    }
    return Evaluated(rows, samples, images.n_encoded, texts.n_encoded)


def _first_hit(hits: dict[int, np.ndarray]) -> list[int]:
    """For each query one less than the smallest k that hit; the largest k where none did."""
    found = np.full(len(next(iter(hits.values()))), max(hits))
    for k in sorted(hits, reverse=True):
        found[hits[k]] = k - 1
    return found.tolist()


def _asked(recall_k: tuple[int, ...], rules: Protocol) -> list[str]:
    """The metrics that a data set gets, whatever its captions."""
    of_both = [f"recall@{k}" for k in recall_k] + ["median_rank", "mean_rank"] * rules.is_strict
    both = [f"{way}_retrieval_{metric}" for way in ("image", "text") for metric in of_both]
    return (
        both + ["text_retrieval_map@r"] * rules.is_strict + [MEAN_RECALL] * (rules.name == DATACOMP and 1 in recall_k)
    )


def _proportion(hits: np.ndarray, clusters: np.ndarray | None) -> tuple[float, float, float]:
    """Share and its interval: Wilson's, or where queries come in clusters a bootstrap over those."""
    value = float(hits.mean())
    return value, *(wilson_interval(value, len(hits)) if clusters is None else bootstrap_mean(hits, clusters=clusters))


def _rows(
    job: Job, read: Dataset, ranks: Ranks, precisions: np.ndarray, recall_k: tuple[int, ...], n_bad: int
) -> list[Row]:
    """All metrics both ways, for a recall that ties decide also its bounds; on digitworld recalls of the true PMI."""
    dataset, run, overlap = job.dataset, job.run, job.overlap
    of_captions = None if len(read.captions) == len(read) else read.image_of_caption
    rows = []
    for way, found, ahead, tied, clusters in (
        ("image", ranks.text_to_image, ranks.ahead_texts, ranks.tied_texts, of_captions),
        ("text", ranks.image_to_text, ranks.ahead_images, ranks.tied_images, None),
    ):
        found, ahead, tied = found.numpy(), ahead.numpy(), tied.numpy()
        of_way = {"n": len(found), "n_bad": n_bad, "n_ties": int((tied > 0).sum())}
        for k in recall_k:
            hits = {"": found < k}
            optimistic, pessimistic = ahead < k, ahead + tied < k
            if (optimistic != pessimistic).any():
                hits |= {"optimistic": optimistic, "pessimistic": pessimistic}
            for ties, hit in hits.items():
                value, low, high = _proportion(hit, clusters)
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
        low, high = bootstrap_mean(found + 1.0, clusters=clusters, proportion=False)
        more = [("median_rank", median_rank(found), None, None), ("mean_rank", mean_rank(found), low, high)]
        more += [("map@r", float(precisions.mean()), *bootstrap_mean(precisions))] * (way == "text")
        for metric, value, low, high in more:
            values = {"value": value, "ci_low": low, "ci_high": high, "params": join_params(overlap)}
            rows.append(run.row(dataset, metric=f"{way}_retrieval_{metric}", **values, **of_way))
    if read.world is not None and len(read) <= TRUTH_LIMIT:
        params = join_params({**overlap, "scores": "true_pmi", "ties": "expected"})
        for way, by_k in true_pmi_recall(read, recall_k).items():
            for k, value in by_k.items():
                rows.append(run.row(dataset, metric=f"{way}_recall@{k}", params=params, value=value, n=len(read)))
    return rows
