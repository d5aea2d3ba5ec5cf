"""What every reported metric is: which way is better, and what kind of number it is.

Gates, comparisons and reports ask here, so that none of them needs to know a metric by name.

Example:
    >>> metric_of("image_retrieval_recall@5").better, metric_of("ece").better
    ('higher', 'lower')
"""

from __future__ import annotations

import re
from typing import NamedTuple

HIGHER, LOWER, NEITHER = "higher", "lower", ""
PROPORTION, MEAN, STATISTIC = "proportion", "mean", "statistic"
VALIDATION_K = (1, 5, 10)  # the cut-offs of recall that choose the best step of a training run


class Metric(NamedTuple):
    """better: HIGHER, LOWER, or NEITHER for a number that only describes and cannot be gated.

    kind: PROPORTION of samples, MEAN over samples (of classes, of clusters), or STATISTIC of all samples at once.
    """

    better: str
    kind: str
    words: str


# A name with @ stands for every cut-off K.
METRICS = {
    "acc1": Metric(HIGHER, PROPORTION, "share of images whose class is ranked first"),
    "acc5": Metric(HIGHER, PROPORTION, "share of images whose class is among the first five"),
    "mean_per_class_recall": Metric(HIGHER, MEAN, "mean over classes of the share of their images that were hit"),
    "mean_average_precision": Metric(HIGHER, STATISTIC, "mean over classes of average precision, several labels"),
    "macro_f1": Metric(HIGHER, STATISTIC, "mean over classes of F1"),
    "worst_group_acc1": Metric(HIGHER, STATISTIC, "acc1 of the group where it is smallest"),
    "worst_group_acc5": Metric(HIGHER, STATISTIC, "acc5 of the group where it is smallest"),
    "nll": Metric(LOWER, MEAN, "mean negative log-likelihood of the right class, in nats"),
    "ece": Metric(LOWER, STATISTIC, "expected calibration error"),
    "image_retrieval_recall@": Metric(HIGHER, PROPORTION, "share of captions whose image is among the first K"),
    "text_retrieval_recall@": Metric(HIGHER, PROPORTION, "share of images with an own caption among the first K"),
    "mean_recall@": Metric(HIGHER, STATISTIC, "mean of both retrieval recalls at K, which DataComp reports"),
    "image_retrieval_median_rank": Metric(LOWER, STATISTIC, "median rank of a caption's image, from 1"),
    "text_retrieval_median_rank": Metric(LOWER, STATISTIC, "median rank of an image's best own caption, from 1"),
    "image_retrieval_mean_rank": Metric(LOWER, MEAN, "mean rank of a caption's image, from 1"),
    "text_retrieval_mean_rank": Metric(LOWER, MEAN, "mean rank of an image's best own caption, from 1"),
    "text_retrieval_map@r": Metric(
        HIGHER, MEAN, "mean over images of average precision at R, their number of captions"
    ),
    "image_acc": Metric(
        HIGHER, PROPORTION, "share of pairs of images of which both captions score higher with their own"
    ),
    "text_acc": Metric(HIGHER, PROPORTION, "share of questions whose images all score higher with their own caption"),
    "group_acc": Metric(HIGHER, PROPORTION, "share of pairs of images right in both directions"),
    "probe_c": Metric(NEITHER, STATISTIC, "C of the logistic regression that validation chose"),
    "probe_k": Metric(NEITHER, STATISTIC, "number of neighbours that validation chose"),
    "average_main_metric": Metric(HIGHER, STATISTIC, "mean of the main metrics of a suite"),
}


def metric_of(name: str) -> Metric | None:
    """The metric of that name, with or without its cut-off; None for one that only describes.

    Example:
        >>> metric_of("text_retrieval_recall@5").words
        'share of images with an own caption among the first 5'
    """
    if name in METRICS:
        return METRICS[name]
    family, at, k = name.rpartition("@")
    found = METRICS.get(family + at) if k.isdecimal() else None
    return found and found._replace(words=re.sub(r"\bK\b", k, found.words))


def is_retrieval(name: str) -> bool:
    """Whether a metric tells of finding images and texts in each other."""
    return "_retrieval_" in name or name.startswith("mean_recall@")
