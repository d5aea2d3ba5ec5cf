"""Evaluation sets known by name: class names, templates and the counts that a reading must reach.

Class names, templates and data-set keys are those of CLIP_benchmark (MIT licence, (c) 2022 Mehdi Cherti), so that
numbers can be compared. Counts: DataComp's task list and the Karpathy splits.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import NamedTuple


class Entry(NamedTuple):
    """One evaluation set.

    task: "classification" or "retrieval".
    counts: images by split; captions: texts by split, where the number is fixed.
    """

    task: str
    about: str
    counts: Mapping[str, int]
    captions: Mapping[str, int] = MappingProxyType({})
    classnames: tuple[str, ...] = ()
    templates: tuple[str, ...] = ()
    main_metric: str = ""


_CIFAR_TEMPLATES = tuple(
    template
    for article in ("a", "the")
    for template in (
        f"a photo of {article} {{c}}.",
        f"a blurry photo of {article} {{c}}.",
        f"a black and white photo of {article} {{c}}.",
        f"a low contrast photo of {article} {{c}}.",
        f"a high contrast photo of {article} {{c}}.",
        f"a bad photo of {article} {{c}}.",
        f"a good photo of {article} {{c}}.",
        f"a photo of {article} small {{c}}.",
        f"a photo of {article} big {{c}}.",
    )
)

CATALOG = {
    "mnist": Entry(
        task="classification",
        about="handwritten digits, 28 px",
        counts={"train": 60000, "test": 10000},
        classnames=tuple("0123456789"),
        templates=('a photo of the number: "{c}".',),
        main_metric="acc1",
    ),
    "cifar10": Entry(
        task="classification",
        about="ten kinds of objects, 32 px",
        counts={"train": 50000, "test": 10000},
        classnames=("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck"),
        templates=_CIFAR_TEMPLATES,
        main_metric="acc1",
    ),
    "stl10": Entry(
        task="classification",
        about="ten kinds of objects, 96 px",
        counts={"train": 5000, "test": 8000},
        classnames=("airplane", "bird", "car", "cat", "deer", "dog", "horse", "monkey", "ship", "truck"),
        templates=("a photo of a {c}.", "a photo of the {c}."),
        main_metric="acc1",
    ),
    "flickr8k": Entry(
        task="retrieval",
        about="photographs with five captions each",
        counts={"train": 6000, "val": 1000, "test": 1000},
        captions={"test": 5000},
    ),
    "flickr30k": Entry(
        task="retrieval",
        about="photographs with five captions each, Karpathy split",
        counts={"train": 29000, "val": 1014, "test": 1000},
        captions={"test": 5000},
    ),
    "mscoco_captions": Entry(
        task="retrieval",
        about="COCO 2014 photographs with five or more captions each, Karpathy split",
        counts={"val": 5000, "test": 5000},
        captions={"test": 25010},
    ),
}
