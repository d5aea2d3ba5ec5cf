"""What a zero-shot classifier costs: CLIP_benchmark's, clipib's with texts cut, and with shared heads.

    python benchmarks/classifier.py

Caltech-101's 101 objects, ImageNet's 80 templates, ViT-B-32 with random weights in float32. In every round all three
build classifiers in turn, tokenising included: clipib for the same few classes, CLIP_benchmark for one of them, whose
time is multiplied, since it takes one class after another. Then clipib builds the whole classifier once. Rows go to
benchmarks/results/classifier.csv, as wall seconds, which other work on the machine stretches, and as processor
seconds, which it does not. The benchmark stops where unit features differ by more than 1e-6.
"""

from __future__ import annotations

import argparse
import csv
import time
from collections.abc import Callable
from dataclasses import fields
from importlib.metadata import version
from pathlib import Path

import numpy as np
import torch
from clip_benchmark.metrics.zeroshot_classification import zero_shot_classifier

from clipib.data.catalog import CATALOG
from clipib.embeddings.encode import embed_texts
from clipib.models.load import load_model
from clipib.models.model import Model
from clipib.models.shared_head import text_order, text_tree

RESULTS = Path(__file__).parent / "results" / "classifier.csv"
COLUMNS = ("what", "variant", "n", "threads", "median", "p20", "p80", "unit", "rounds", "max_diff", "versions", "note")
CLOCKS = {"wall": time.perf_counter, "cpu": time.process_time}


class Cutting(Model):
    """The same model with every text encoded whole up to its end."""

    shares_heads = False


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--classes", type=int, default=8, help="in every round")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--threads", type=int, default=2)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    sharing = load_model("ViT-B-32", "none", device="cpu")
    cutting = Cutting(**{f.name: getattr(sharing, f.name) for f in fields(sharing)})
    classnames, templates = names_and_templates()
    few = classnames[:: len(classnames) // options.classes][: options.classes]
    texts = prompts(few, templates)
    differences = max_differences(sharing, cutting, texts, n_plain=len(templates))
    print(f"largest differences of unit features: {differences}")
    if max(differences.values()) > 1e-6:
        raise SystemExit("the features differ by more than rounding")

    def peer(k: int) -> None:
        zero_shot_classifier(sharing.module, sharing.tokenizer, few[k : k + 1], templates, "cpu", amp=False)

    spent: dict[str, list[dict[str, float]]] = {"clip_benchmark": [], "cut": [], "shared heads": []}
    for k in range(options.rounds):
        theirs = seconds(lambda k=k: peer(k % len(few)))
        spent["clip_benchmark"].append({clock: s * len(few) for clock, s in theirs.items()})
        spent["cut"].append(seconds(lambda: embed_texts(cutting, texts, store=None)))
        spent["shared heads"].append(seconds(lambda: embed_texts(sharing, texts, store=None)))
    rows = []
    note = f"{len(few)} classes; clip_benchmark scaled linearly from one class a round"
    for clock in CLOCKS:
        of = {variant: np.array([found[clock] for found in all_rounds]) for variant, all_rounds in spent.items()}
        rows += [row(v, len(texts), s, f"{clock} s", differences.get(v), note) for v, s in of.items()]
        for slow, fast in (("clip_benchmark", "cut"), ("clip_benchmark", "shared heads"), ("cut", "shared heads")):
            rows.append(row(f"{slow} / {fast}", len(texts), of[slow] / of[fast], f"{clock} ratio", None, note))
    whole = prompts(classnames, templates)
    once = seconds(lambda: embed_texts(sharing, whole, store=None))
    counts = token_counts(sharing.tokenize(whole))
    rows += [row("shared heads", len(whole), [once[clock]], f"{clock} s", None, "the whole set") for clock in CLOCKS]
    rows += [row(variant, len(whole), [n], "tokens", None, "the whole set") for variant, n in counts.items()]
    write(rows, options.threads)


def names_and_templates() -> tuple[list[str], list[str]]:
    """The objects without the background class, and templates as CLIP_benchmark writes them, with {c} for the name."""
    return list(CATALOG["caltech101"].classnames[1:]), list(CATALOG["imagenet1k"].templates)


def prompts(classnames: list[str], templates: list[str]) -> list[str]:
    return [template.format(c=name) for name in classnames for template in templates]


def max_differences(sharing: Model, cutting: Model, texts: list[str], *, n_plain: int) -> dict[str, float]:
    """From what the module itself gives for the first of the texts, and of the two forms from each other for all."""
    shared, cut = (embed_texts(model, texts, store=None).features for model in (sharing, cutting))
    with torch.inference_mode():
        whole = sharing.encode_texts(sharing.tokenize(texts[:n_plain]), cut=False)
    found = {"cut": cut[:n_plain] - whole, "shared heads": shared[:n_plain] - whole, "cut to shared": cut - shared}
    return {what: float(difference.abs().max()) for what, difference in found.items()}


def token_counts(tokens: torch.Tensor) -> dict[str, int]:
    """How many tokens pass through the tower in each way, where no batch ends."""
    ends = tokens.argmax(dim=-1)
    tree = text_tree(tokens[text_order(tokens)])
    return {"clip_benchmark": tokens.numel(), "cut": int((ends + 1).sum()), "shared heads": len(tree.ids)}


def seconds(work: Callable[[], object]) -> dict[str, float]:
    started = {name: clock() for name, clock in CLOCKS.items()}
    work()
    return {name: clock() - started[name] for name, clock in CLOCKS.items()}


def row(variant: str, n: int, values: object, unit: str, difference: float | None, note: str) -> dict[str, object]:
    low, median, high = (f"{np.percentile(values, q):.4g}" for q in (20, 50, 80))
    found = {"what": "zero-shot classifier", "variant": variant, "n": n, "median": median, "p20": low, "p80": high}
    off = "" if difference is None else f"{difference:.2g}"
    return {**found, "unit": unit, "rounds": np.size(values), "max_diff": off, "note": note}


def write(rows: list[dict[str, object]], threads: int) -> None:
    """Append the rows, and show them."""
    versions = " ".join(f"{p}={version(p)}" for p in ("clipib", "torch", "open_clip_torch", "clip_benchmark"))
    fresh = not RESULTS.exists()
    with RESULTS.open("a", newline="") as file:
        writer = csv.DictWriter(file, COLUMNS, lineterminator="\n")
        if fresh:
            writer.writeheader()
        for found in rows:
            writer.writerow({**found, "threads": threads, "versions": versions})
            print(f"{found['variant']:30} {found['n']:6,} {found['median']:>9} {found['unit']}")


if __name__ == "__main__":
    main()
