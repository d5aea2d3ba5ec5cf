"""Every loss graded against the truth of digitworld: `python benchmarks/study_losses.py --setting full --jobs 2`.

`tiny` is trained from random weights, by the loop of `clipib finetune`, with one object a scene and with two. All runs
have the same steps, batches and images; a similarity of point sets has as many floats a sample (points x width) as the
cosine that it stands beside. Every run appends its rows to results/study_losses.csv in one step and is skipped when
they are there. `--table` prints what docs/losses.md shows.

Penalties fine-tune: every penalised run goes on from the clip run of its seed for half as many steps, beside
`clip-longer`, which goes on without one. From random weights `distance` holds learning up (trial runs of 300 steps, one
object, validation recall at 10: clip 0.49; distance at weights of 0.03, 0.1, 0.3: 0.21, 0.16, 0.06). `kme-from-clip`
and `wpse-from-clip` go on in the same way from a clip run as wide as one of their points.

Tuned alike, in short runs with one object on a seed that is not reported: every loss at four peak rates, every penalty
at three weights, chosen by the mean of validation recall at 10; see `trials` and `choose`.
"""

from __future__ import annotations

import argparse
import csv
import fcntl
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor, as_completed
from importlib.metadata import version
from multiprocessing import get_context
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch

from clipib.data.digitworld.truth import true_pmi
from clipib.data.load import load_dataset
from clipib.embeddings.encode import embed_images, embed_texts
from clipib.files import write_aside
from clipib.losses.composed import Loss, make_loss
from clipib.metrics.classification import accuracy_at_k
from clipib.metrics.retrieval import recall_at_k
from clipib.models.head import make_head
from clipib.models.load import load_model
from clipib.models.model import Model
from clipib.tasks.classifier import build_classifier, classify
from clipib.tasks.known_truth import true_pmi_recall
from clipib.tasks.scores import rank, score_matrix
from clipib.training.loop import fit

RESULTS = Path(__file__).parent / "results" / "study_losses.csv"
TUNING_SEED = 0
RATES, WEIGHTS = (1e-4, 2e-4, 5e-4, 1e-3), (0.03, 0.1, 0.3)
BASE_RATE = (
    5e-4  # the best of clip's trials; of the clip runs that others go on from, and of what goes on without points
)
ATTRIBUTES = ("digit", "color", "place")


class Recipe(NamedTuple):
    """A row of the study: what `make_loss` is given.

    goes_on: from the clip run of its seed, for half as long. weight: of the penalty where it is not chosen by trials.
    """

    loss: str
    contrast: str | None = None
    penalty: str | None = None
    goes_on: bool = False
    weight: float | None = None


RECIPES = {
    "clip": Recipe("clip"),
    "siglip": Recipe("siglip"),
    "decoupled": Recipe("clip", contrast="decoupled"),
    "clip-longer": Recipe("clip", goes_on=True),
    "cibr-distance": Recipe("cibr", penalty="distance", goes_on=True),
    "cibr-logdet": Recipe("cibr", penalty="logdet", goes_on=True),
    "cibr-mine": Recipe("cibr", penalty="mine", goes_on=True),
    "shuffle-distance": Recipe("cibr", penalty="shuffle", goes_on=True),
    "shuffle-logdet": Recipe("cibr", penalty="shuffle-logdet", goes_on=True),
    "cibr-distance-0.3": Recipe("cibr", penalty="distance", goes_on=True, weight=0.3),
    "cibr-logdet-0.3": Recipe("cibr", penalty="logdet", goes_on=True, weight=0.3),
    "shuffle-distance-0.3": Recipe("cibr", penalty="shuffle", goes_on=True, weight=0.3),
    "kme": Recipe("kme"),
    "wpse": Recipe("wpse"),
    "kme-from-clip": Recipe("kme", goes_on=True),
    "wpse-from-clip": Recipe("wpse", goes_on=True),
}
POINTS = ("kme", "wpse")
SWEEP = {8: (2, 4), 16: (4, 4), 32: (4, 8), 64: (8, 8)}  # floats a sample: points, width


class Setting(NamedTuple):
    """How long and how often.

    steps: with one object and with two. tuning_steps: of the trials that choose rate and weight; 0 takes the middle
    ones. sweep: further numbers of floats a sample, for cosine, kme and wpse with two objects.
    """

    steps: tuple[int, int]
    batch_size: int
    images: int
    test: int
    seeds: tuple[int, ...]
    recipes: tuple[str, ...]
    sweep: tuple[int, ...]
    tuning_steps: int


SETTINGS = {
    "small": Setting((12, 12), 16, 128, 100, (1,), ("clip", "cibr-logdet", "kme"), (), 0),
    "full": Setting((400, 800), 64, 40_000, 1000, (1, 2, 3), tuple(RECIPES), (8, 16, 32), 300),
}


class Run(NamedTuple):
    """What identifies a run; all of it stands in every one of its rows."""

    setting: str
    stage: str  # "trial" or "study"
    recipe: str
    objects: int
    points: int
    width: int
    seed: int
    rate: float
    weight: float
    steps: int


def parse_options(about: str, settings: dict, results: Path) -> argparse.Namespace:
    """The command line that the studies share."""
    parser = argparse.ArgumentParser(description=about.partition("\n")[0])
    parser.add_argument("--setting", choices=settings, default="small")
    parser.add_argument("--results", type=Path, default=results)
    parser.add_argument("--jobs", type=int, default=1, help="processes of one thread each")
    parser.add_argument("--table", action="store_true", help="print the tables of the rows that are there")
    return parser.parse_args()


def main() -> None:
    options = parse_options(__doc__, SETTINGS, RESULTS)
    if options.table:
        print_tables(options.results, options.setting)
        return
    setting = SETTINGS[options.setting]
    if setting.tuning_steps:
        do(trials(options.setting), options.results, options.jobs, measure)
    do(plan(options.setting, options.results), options.results, options.jobs, measure)


def trials(name: str) -> list[Run]:
    """Four rates for every loss; three weights for every penalty, and none for `clip-longer`."""
    steps, runs = SETTINGS[name].tuning_steps, []
    for recipe in SETTINGS[name].recipes:
        if not RECIPES[recipe].goes_on or RECIPES[recipe].loss in POINTS:
            pairs = [(rate, 0.0) for rate in RATES]
        elif recipe.startswith("shuffle") or RECIPES[recipe].weight:
            pairs = []
        else:
            pairs = [(BASE_RATE, weight) for weight in (WEIGHTS if RECIPES[recipe].penalty else (0.0,))]
        runs += [
            Run(name, "trial", recipe, 1, *size_of(recipe, 64), TUNING_SEED, *p, length(recipe, steps)) for p in pairs
        ]
    return runs


def size_of(recipe: str, floats: int) -> tuple[int, int]:
    """Points and width at a number of floats a sample."""
    return SWEEP[floats] if RECIPES[recipe].loss in POINTS else (1, floats)


def length(recipe: str, steps: int) -> int:
    return steps // 2 if RECIPES[recipe].goes_on else steps


def choose(name: str, results: Path) -> dict[str, tuple[float, float]]:
    """(rate, weight) of every recipe.

    The rate with the best mean validation recall at 10. Of the weights of a penalty the largest that costs at most a
    hundredth of the recall of `clip-longer`, so that penalties are compared where they do something; where all cost
    more, the smallest. Controls take the weight of what they control. Recipes with a weight of their own stand beside
    them to show what a penalty does where it is strong.
    """
    found: dict[str, dict[tuple[float, float], float]] = {}
    for row in read_rows(results):
        if row["setting"] == name and row["stage"] == "trial" and row["metric"] == "val_recall@10":
            found.setdefault(row["recipe"], {})[float(row["rate"]), float(row["weight"])] = float(row["value"])
    base, chosen = found.get("clip-longer", {}).get((BASE_RATE, 0.0), 0.0), {}
    for recipe in SETTINGS[name].recipes:
        tried = found.get(recipe.replace("shuffle-", "cibr-"), {})
        if RECIPES[recipe].weight:
            chosen[recipe] = BASE_RATE, RECIPES[recipe].weight
        elif not RECIPES[recipe].penalty:
            chosen[recipe] = max(tried, key=tried.get) if tried else (BASE_RATE, 0.0)
        else:
            free = [weight for (_, weight), recall in tried.items() if recall >= base - 0.01]
            chosen[recipe] = BASE_RATE, max(free) if free else min(WEIGHTS) if tried else WEIGHTS[1]
    return chosen


def plan(name: str, results: Path) -> list[Run]:
    """Seeds outermost, two objects first, so that what is there after a cut is of use."""
    setting, chosen, runs = SETTINGS[name], choose(name, results), []

    def add(seed: int, recipe: str, objects: int, floats: int) -> None:
        steps = length(recipe, setting.steps[objects - 1])
        runs.append(Run(name, "study", recipe, objects, *size_of(recipe, floats), seed, *chosen[recipe], steps))

    for seed in setting.seeds:
        for floats in setting.sweep:
            for recipe in ("clip", *POINTS):
                add(seed, recipe, 2, floats)
        for objects in (2, 1):
            for recipe in setting.recipes:
                add(seed, recipe, objects, 64)
    return runs


def do(
    runs: list, results: Path, jobs: int, measure: Callable, seconds_each: float = 0.15, *, size: str = "steps"
) -> None:
    """Do what is missing, in parallel, and say how long it will take.

    Args:
        runs: named tuples, which identify their rows.
        measure: run -> {metric: value}, "seconds" among them.
        seconds_each: a guess, for one of `size`, while there are no rows.
        size: the field of a run that its seconds grow with.
    """
    rows = read_rows(results)
    done = {tuple(row[field] for field in runs[0]._fields) for row in rows}
    left = [run for run in runs if tuple(map(str, run)) not in done]
    speed = [float(r["value"]) / int(r[size]) for r in rows if r["metric"] == "seconds"]
    seconds = (np.mean(speed) if speed else seconds_each) * sum(getattr(run, size) for run in left) / jobs
    print(f"{len(left)} of {len(runs)} runs left, about {seconds / 3600:.2f} hours", flush=True)
    if jobs == 1:
        for run in left:
            append(results, run, measure(run))
        return
    context = get_context("spawn")
    with ProcessPoolExecutor(jobs, mp_context=context, initializer=torch.set_num_threads, initargs=(1,)) as pool:
        pending = {pool.submit(measure, run): run for run in left}
        for number, future in enumerate(as_completed(pending), start=1):
            append(results, pending[future], future.result())
            print(f"{number}/{len(left)} {pending[future]}", flush=True)


def measure(run: Run) -> dict[str, float]:
    """Train and evaluate one run: metric -> value."""
    setting, recipe = SETTINGS[run.setting], RECIPES[run.recipe]
    world = f"digitworld:objects={run.objects}"
    train = load_dataset(f"{world}+split=train+n={setting.images}+seed={run.seed}")
    loss = make_loss(
        recipe.loss,
        contrast=recipe.contrast,
        penalty=recipe.penalty,
        penalty_weight=run.weight if recipe.penalty else None,
        seed=run.seed,
    )
    model = tiny_of_width(run.width, seed=run.seed)
    if recipe.goes_on:
        model.module.load_state_dict(clip_weights(run))
    if loss.needs_points or loss.needs_bias:
        similarity = loss.similarity_name if loss.needs_points else ""
        model.head = make_head(model, similarity=similarity, points=run.points, bias=loss.needs_bias, seed=run.seed)
    found = train_once(
        model, train, loss, steps=run.steps, batch_size=setting.batch_size, lr=run.rate, head_lr=run.rate, seed=run.seed
    )
    if run.recipe == "clip" and run.rate == BASE_RATE:
        keep_clip(run, run.steps, model)
    if run.stage == "trial":
        return found | {"val_recall@10": np.mean(list(recalls(model, f"{world}+split=val+n=500", (10,)).values()))}
    found |= recalls(model, f"{world}+split=test+n={setting.test}", (1, 10), truth=True)
    found |= pmi_fit(model, f"{world}+split=test+n={setting.test}", loss, setting.batch_size)
    found |= probes(model, world, n_fit=2 * setting.test, n_test=setting.test)
    if run.objects == 1:
        found |= {f"acc1/{name}": zero_shot(model, name, setting.test) for name in ATTRIBUTES}
    return found


def clip_weights(run: Run) -> dict[str, torch.Tensor]:
    """What clip ends at with the seed and width of a run after twice its steps."""
    steps = 2 * run.steps
    if not clip_file(run, steps).exists():
        setting, model = SETTINGS[run.setting], tiny_of_width(run.width, seed=run.seed)
        world = f"digitworld:objects={run.objects}+split=train+n={setting.images}+seed={run.seed}"
        options = {"batch_size": setting.batch_size, "lr": BASE_RATE, "head_lr": BASE_RATE, "seed": run.seed}
        train_once(model, load_dataset(world), make_loss("clip"), steps=steps, **options)
        keep_clip(run, steps, model)
    return torch.load(clip_file(run, steps), weights_only=True)


def keep_clip(run: Run, steps: int, model: Model) -> None:
    write_aside(clip_file(run, steps), lambda f: torch.save(model.module.state_dict(), f))


def clip_file(run: Run, steps: int) -> Path:
    """A temporary file: the weights of a clip run that others go on from."""
    folder = Path(tempfile.gettempdir()) / "clipib-study-losses"
    folder.mkdir(exist_ok=True)
    return folder / f"{run.setting}-{run.objects}-{run.width}-{run.seed}-{steps}.pt"


def train_once(
    model: Model, dataset, loss: Loss, *, steps: int, batch_size: int, lr: float, head_lr: float, seed: int
) -> dict[str, float]:
    """Train by the loop of `finetune` without validation: seconds and the terms of the loss at the last step."""
    start = time.monotonic()
    with tempfile.TemporaryDirectory() as folder:
        fit(
            model,
            dataset,
            loss,
            out=Path(folder),
            steps=steps,
            batch_size=batch_size,
            lr=lr,
            head_lr=head_lr,
            weight_decay=0.1,
            warmup=steps // 10,
            clip_norm=1.0,
            eval_every=steps,
            save_every=steps,
            seed=seed,
            workers=0,
            evaluate=lambda _: {},
            select=lambda _: 0.0,
            save_checkpoint=lambda *_: "",
            identity={},
        )
        with (Path(folder) / "metrics.csv").open(encoding="utf-8") as file:
            last = list(csv.DictReader(file))[-1]
    found = {"seconds": time.monotonic() - start}
    return found | {name: float(last[name]) for name in ("loss_total", *loss.term_names, "logit_scale")}


def tiny_of_width(width: int, *, seed: int) -> Model:
    """`tiny` with random weights and embeddings of another width."""
    model = load_model("tiny", "none", device="cpu", seed=seed)
    generator = torch.Generator().manual_seed(seed)
    for holder, name in ((model.module.visual, "proj"), (model.module, "text_projection")):
        rows = getattr(holder, name).shape[0]
        setattr(holder, name, torch.nn.Parameter(torch.randn(rows, width, generator=generator) * rows**-0.5))
    return model


def recalls(model: Model, spec: str, ks: tuple[int, ...], *, truth: bool = False) -> dict[str, float]:
    dataset = load_dataset(spec)
    images, texts = stored(model, dataset)
    ranks = rank(model, images, texts, dataset.image_of_caption)
    ways = {"image_retrieval": ranks.text_to_image.numpy(), "text_retrieval": ranks.image_to_text.numpy()}
    found = {f"{way}_recall@{k}": recall_at_k(of, k) for way, of in ways.items() for k in ks}
    if truth:
        for way, by_k in true_pmi_recall(dataset, ks).items():
            found |= {f"{way}_recall@{k}/true_pmi": value for k, value in by_k.items()}
    return found


def stored(model: Model, dataset) -> tuple[np.ndarray, np.ndarray]:
    """Images and captions as the store would keep them."""
    return embed_images(model, dataset, store=None, workers=0).array, embed_texts(
        model, dataset.captions, store=None
    ).array


def pmi_fit(model: Model, spec: str, loss: Loss, batch_size: int) -> dict[str, float]:
    """How well the scores are the true PMI, over all pairs of a test image and a test caption, which are draws from Q.

    The free number of a softmax is the mean difference; a sigmoid leaves none: PMI = s + log(B - 1).
    """
    dataset = load_dataset(spec)
    truth = true_pmi(dataset.world.scenes, list(dataset.captions))
    scores = score_matrix(model, *stored(model, dataset)).astype(np.float64)
    found = agreement(scores, truth)
    if loss.needs_bias:
        found["pmi_rmse_fixed_nats"] = float(np.sqrt(np.mean((scores + np.log(batch_size - 1) - truth) ** 2)))
    return found


def agreement(scores: np.ndarray, truth: np.ndarray) -> dict[str, float]:
    """Correlation, slope of the scores against the truth, and the error after one free number."""
    s, t = scores - scores.mean(), truth - truth.mean()
    return {
        "pmi_pearson": float((s * t).sum() / np.sqrt((s * s).sum() * (t * t).sum())),
        "pmi_slope": float((s * t).sum() / (t * t).sum()),
        "pmi_rmse_nats": float(np.sqrt(np.mean((s - t) ** 2))),
        "pmi_spread_nats": float(truth.std()),
    }


def zero_shot(model: Model, attribute: str, n: int) -> float:
    """Accuracy by the prompts of one attribute, of images that are not grey."""
    dataset = load_dataset(f"digitworld/{attribute}:split=test+n={n}")
    dataset = dataset.take(np.flatnonzero(~dataset.world.scenes.grey[:, 0]))
    images = embed_images(model, dataset, store=None, workers=0)
    classifier, _ = build_classifier(model, dataset, store=None)
    return accuracy_at_k(classify(images.array, classifier, model, dataset.labels).target_rank, 1)


def probes(model: Model, world: str, *, n_fit: int, n_test: int) -> dict[str, float]:
    """Test accuracy of linear probes, each beside the share of the most frequent value.

    Of images: the tint, which no caption tells (nuisance), and the digit, colour and place of images whose caption left
    them out, ungreyed and of one object. Of texts: frame and synonym of the digit (nuisance). Point sets are probed as
    their points and weights side by side.
    """
    fitted, tested = (load_dataset(f"{world}+split={s}+n={n}+seed=99") for s, n in (("train", n_fit), ("test", n_test)))
    (image_x, text_x), (image_y, text_y) = (map(flat, stored(model, d)) for d in (fitted, tested))
    a, b = fitted.world.scenes, tested.world.scenes
    found = probe("probe_image_nuisance/tint", image_x, a.tint, image_y, b.tint)
    found |= probe("probe_text_nuisance/frame", text_x, a.frame, text_y, b.frame)
    said = a.synonym[:, 0] >= 0, b.synonym[:, 0] >= 0
    found |= probe(
        "probe_text_nuisance/synonym",
        text_x[said[0]],
        a.synonym[said[0], 0],
        text_y[said[1]],
        b.synonym[said[1], 0],
    )
    if a.digit.shape[1] == 1:
        for i, name in enumerate(ATTRIBUTES):
            unsaid = ~b.mention[:, i] & ~b.grey[:, 0]
            values = getattr(a, name)[:, 0], getattr(b, name)[unsaid, 0]
            found |= probe(f"probe_image_unmentioned/{name}", image_x, values[0], image_y[unsaid], values[1])
    return found


def flat(array: np.ndarray) -> np.ndarray:
    return array.reshape(len(array), -1)


def probe(
    name: str, x: np.ndarray, labels: np.ndarray, test_x: np.ndarray, test_labels: np.ndarray
) -> dict[str, float]:
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    if not len(test_labels):
        return {}
    classifier = make_pipeline(StandardScaler(), LogisticRegression(C=1.0, max_iter=500)).fit(x, labels)
    most = np.bincount(labels).argmax()
    return {name: classifier.score(test_x, test_labels), f"{name}/chance": float((test_labels == most).mean())}


def read_rows(results: Path) -> list[dict[str, str]]:
    if not results.exists():
        return []
    with results.open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def append(results: Path, run: NamedTuple, found: dict[str, float]) -> None:
    """All rows of a run, in one write under a lock."""
    about = {"torch": version("torch"), "clipib": version("clipib"), "device": "cpu", "commit": commit()}
    results.parent.mkdir(parents=True, exist_ok=True)
    with results.open("a", encoding="utf-8", newline="") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        writer = csv.writer(file, lineterminator="\n")
        if not file.tell():
            writer.writerow([*run._fields, "metric", "value", *about])
        writer.writerows([*run, metric, f"{value:.6g}", *about.values()] for metric, value in found.items())


def commit() -> str:
    command = ["git", "-C", str(Path(__file__).parent), "rev-parse", "--short", "HEAD"]
    return subprocess.run(command, capture_output=True, text=True, check=False).stdout.strip()


def print_tables(results: Path, name: str) -> None:
    """Markdown: mean over seeds and, where there are two or more, the half width of its 95 % t-interval."""
    rows = [r for r in read_rows(results) if r["setting"] == name and r["stage"] == "study"]
    seeds = sorted({int(r["seed"]) for r in rows})
    print(f"Seeds {seeds}; mean and half width of the 95 % t-interval over seeds.\n")
    main = [r for r in rows if int(r["points"]) * int(r["width"]) == 64]
    for objects in ("2", "1"):
        of_objects = [r for r in main if r["objects"] == objects]
        print_table(of_objects, "recipe", TABLES[objects], f"{objects} object(s)")
        paired = less_clip_longer(of_objects)
        print_table(paired, "recipe", PAIRED[objects], f"{objects} object(s), difference from clip-longer of the seed")
    for metric in ("pmi_pearson", "pmi_rmse_nats", "image_retrieval_recall@10"):
        sweep = [dict(r, metric=f"{int(r['points']) * int(r['width'])} floats") for r in rows if r["metric"] == metric]
        sweep = [r for r in sweep if r["objects"] == "2" and r["recipe"] in ("clip", *POINTS)]
        print_table(sweep, "recipe", [f"{floats} floats" for floats in SWEEP], f"{metric}, two objects")


def less_clip_longer(rows: list[dict[str, str]]) -> list[dict[str, str]]:
    """What goes on from a clip run without points, less `clip-longer`, which goes on from the same one."""
    longer = {(r["seed"], r["metric"]): float(r["value"]) for r in rows if r["recipe"] == "clip-longer"}
    kinds = [k for k, recipe in RECIPES.items() if recipe.goes_on and recipe.penalty]
    return [
        dict(r, value=str(float(r["value"]) - longer[r["seed"], r["metric"]]))
        for r in rows
        if r["recipe"] in kinds and (r["seed"], r["metric"]) in longer
    ]


PAIRED = {
    "2": [
        "image_retrieval_recall@10",
        "text_retrieval_recall@10",
        "pmi_rmse_nats",
        "probe_image_nuisance/tint",
        "probe_text_nuisance/frame",
    ],
    "1": [
        "acc1/digit",
        "image_retrieval_recall@10",
        "pmi_rmse_nats",
        "probe_image_nuisance/tint",
        "probe_text_nuisance/frame",
        "probe_text_nuisance/synonym",
        "probe_image_unmentioned/digit",
        "probe_image_unmentioned/color",
    ],
}
TABLES = {
    "2": [
        "image_retrieval_recall@1",
        "image_retrieval_recall@10",
        "text_retrieval_recall@1",
        "text_retrieval_recall@10",
        "pmi_pearson",
        "pmi_slope",
        "pmi_rmse_nats",
        "probe_image_nuisance/tint",
        "probe_text_nuisance/frame",
        "image_effective_points",
    ],
    "1": [
        "acc1/digit",
        "acc1/color",
        "acc1/place",
        "image_retrieval_recall@10",
        "pmi_pearson",
        "pmi_rmse_nats",
        "probe_image_nuisance/tint",
        "probe_text_nuisance/frame",
        "probe_text_nuisance/synonym",
        "probe_image_unmentioned/digit",
        "probe_image_unmentioned/color",
        "probe_image_unmentioned/place",
    ],
}


def print_table(rows: list[dict[str, str]], by: str, metrics: list[str], title: str) -> None:
    from scipy.stats import t

    values: dict[tuple[str, str], list[float]] = {}
    for r in rows:
        values.setdefault((r[by], r["metric"]), []).append(float(r["value"]))
    kinds = list(dict.fromkeys(r[by] for r in rows))
    print(f"**{title}**\n\n| {by} | {' | '.join(metrics)} |\n|{'---|' * (len(metrics) + 1)}")
    for kind in kinds:
        cells = []
        for metric in metrics:
            of = values.get((kind, metric), [])
            half = t.ppf(0.975, len(of) - 1) * np.std(of, ddof=1) / len(of) ** 0.5 if len(of) > 1 else None
            cells.append("" if not of else f"{np.mean(of):.3f}" + (f" ± {half:.3f}" if half is not None else ""))
        print(f"| {kind} | {' | '.join(cells)} |")
    print()


if __name__ == "__main__":
    sys.exit(main())
