"""Every loss once on real photographs: `python benchmarks/study_photo.py --setting full --jobs 2`.

It starts from `photo` and trains on two thirds of the COCO photographs with their captions and on three photographs of
each Caltech-101 class with class prompts, with both towers locked and with both open. Before and after: zero-shot
accuracy on five test photographs of each Caltech-101 class, and recalls on the third of the COCO photographs that was
left out. Nothing is tuned: one rate for locked towers, one for open ones, the weight of `cibr` for every penalty.
Finished runs are skipped; `--table` prints what docs/losses.md shows.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd
from study_losses import RECIPES, do, parse_options, print_table, read_rows, train_once

from clipib.data.load import load_dataset
from clipib.data.prompts import class_prompts
from clipib.embeddings.encode import embed_images, embed_texts
from clipib.losses.composed import make_loss
from clipib.metrics.classification import accuracy_at_k
from clipib.metrics.retrieval import recall_at_k
from clipib.models.head import make_head
from clipib.models.load import load_model
from clipib.models.model import Model
from clipib.tasks.classifier import build_classifier, classify
from clipib.tasks.scores import rank
from clipib.training.locking import lock_towers

RESULTS = Path(__file__).parent / "results" / "study_photo.csv"
DATA = Path(os.environ.get("CLIPIB_TEST_DATA") or Path(__file__).parents[2] / "shared" / "data")
RATES = {"both": 3e-4, "none": 3e-5}  # by what is locked
HEAD_RATE = 1e-3
PHOTOS_PER_CLASS, TEST_PER_CLASS = 3, 5
LOSSES = ("clip", "siglip", "cibr-distance", "cibr-logdet", "cibr-mine", "shuffle-distance", "kme", "wpse")


class Setting(NamedTuple):
    steps: int
    batch_size: int
    seeds: tuple[int, ...]
    recipes: tuple[str, ...]


SETTINGS = {
    "small": Setting(2, 8, (1,), ("clip", "kme")),
    "full": Setting(40, 16, (1, 2, 3), LOSSES),
}


class Run(NamedTuple):
    """What identifies a run. "start" is the checkpoint before training, scored on the photographs of that seed."""

    setting: str
    recipe: str
    lock: str
    seed: int
    steps: int


def main() -> None:
    options = parse_options(__doc__, SETTINGS, RESULTS)
    if options.table:
        print_tables(options.results, options.setting)
        return
    if not (DATA / "coco_val2017_ccby").is_dir():
        sys.exit(f"no photographs in {DATA}: name their folder in CLIPIB_TEST_DATA")
    setting = SETTINGS[options.setting]
    runs = []
    for seed in setting.seeds:
        runs.append(Run(options.setting, "start", "none", seed, 0))
        for lock in RATES:
            runs += [Run(options.setting, recipe, lock, seed, setting.steps) for recipe in setting.recipes]
    do(runs, options.results, options.jobs, measure, seconds_each=2.0)


def measure(run: Run) -> dict[str, float]:
    """Train, unless it is the start, and evaluate: metric -> value."""
    setting, model = SETTINGS[run.setting], load_model("photo", device="cpu")
    coco = load_dataset(f"csv:{DATA / 'coco_val2017_ccby' / 'captions.csv'}")
    order = np.random.default_rng(run.seed).permutation(len(coco))
    held_out, train = np.sort(order[: len(coco) // 3]), np.sort(order[len(coco) // 3 :])
    found = {"seconds": 0.0}
    if run.recipe != "start":
        recipe = RECIPES[run.recipe]
        loss = make_loss(recipe.loss, contrast=recipe.contrast, penalty=recipe.penalty, seed=run.seed)
        if loss.needs_points or loss.needs_bias:
            similarity = loss.similarity_name if loss.needs_points else ""
            model.head = make_head(model, similarity=similarity, points=8, bias=loss.needs_bias, seed=run.seed)
        lock_towers(model, run.lock)
        found = train_once(
            model,
            joined(coco.take(train), run.seed),
            loss,
            steps=run.steps,
            batch_size=setting.batch_size,
            lr=RATES[run.lock],
            head_lr=HEAD_RATE,
            seed=run.seed,
        )
    return found | accuracy(model, run.seed) | recalls(model, coco.take(held_out))


def joined(coco, seed: int):
    """COCO photographs with captions and a few of each Caltech class with prompts, as one captioned set."""
    caltech = load_dataset(f"folder:{DATA / 'caltech101_20' / 'train'}")
    caltech = caltech.sample(PHOTOS_PER_CLASS * len(caltech.classnames), seed=seed)
    prompts = class_prompts(caltech.classnames, caltech.templates)
    rows = [
        (str(coco.images.root / coco.images.ids[i]), text)
        for i, text in zip(coco.image_of_caption, coco.captions, strict=True)
    ]
    root = caltech.images.root
    rows += [(str(root / name), prompts[k]) for name, k in zip(caltech.images.ids, caltech.labels, strict=True)]
    table = Path(os.environ.get("TMPDIR", "/tmp")) / f"clipib-study-photo-{os.getpid()}.csv"
    pd.DataFrame(rows, columns=["image", "caption"]).to_csv(table, index=False)
    try:
        return load_dataset(f"csv:{table}", role="train")
    finally:
        table.unlink()


def accuracy(model: Model, seed: int) -> dict[str, float]:
    dataset = load_dataset(f"folder:{DATA / 'caltech101_20' / 'test'}")
    dataset = dataset.sample(TEST_PER_CLASS * len(dataset.classnames), seed=seed)
    images = embed_images(model, dataset, store=None, workers=0, batch_size=32)
    classifier, _ = build_classifier(model, dataset, store=None)
    ranks = classify(images.array, classifier, model, dataset.labels).target_rank
    return {"caltech_acc1": accuracy_at_k(ranks, 1), "caltech_acc5": accuracy_at_k(ranks, 5)}


def recalls(model: Model, dataset) -> dict[str, float]:
    images = embed_images(model, dataset, store=None, workers=0, batch_size=32).array
    ranks = rank(model, images, embed_texts(model, dataset.captions, store=None).array, dataset.image_of_caption)
    ways = {"image_retrieval": ranks.text_to_image.numpy(), "text_retrieval": ranks.image_to_text.numpy()}
    return {f"coco_{way}_recall@{k}": recall_at_k(of, k) for way, of in ways.items() for k in (1, 5)}


METRICS = ["caltech_acc1", "coco_image_retrieval_recall@1", "coco_image_retrieval_recall@5"]
METRICS += ["coco_text_retrieval_recall@1", "coco_text_retrieval_recall@5", "image_effective_points"]


def print_tables(results: Path, name: str) -> None:
    """Markdown, one table for locked and one for open towers."""
    rows = [r for r in read_rows(results) if r["setting"] == name]
    for lock, title in (("both", "both towers locked"), ("none", "both towers open")):
        print_table([r for r in rows if r["lock"] == lock or r["recipe"] == "start"], "recipe", METRICS, title)


if __name__ == "__main__":
    main()
