"""What the ranks of retrieval cost beside CLIP_benchmark's `recall_at_k`, in time and in memory.

    python benchmarks/retrieval.py

Features are made up at the size of COCO: 5,000 images, 25,010 captions, width 512. The recalls of both are compared
first, and nothing is timed where they differ. Then rounds of one call each, in turn; a round is thrown away if a matrix
product after it took a fifth more or less than before it. Memory is what processes of their own need above their
features. Rows go to benchmarks/results/retrieval.csv.
"""

from __future__ import annotations

import argparse
import csv
import json
import os
import platform
import subprocess
import sys
import time
from importlib.metadata import version
from pathlib import Path

import numpy as np
import store as store_benchmark

RESULTS = store_benchmark.RESULTS.with_name("retrieval.csv")
KS = (1, 5, 10)
WIDTH = 512
COCO, LONG = (5_000, 25_010), (1_000, 1_000_000)
SQUARE, NARROW = (200_000, 200_000), 64  # wider features need no more beside themselves
MOVED = 1.2  # of the matrix product, beyond which others have used the machine


def features(n: int, m: int, strength: float | None, width: int = WIDTH):
    """Images (N, D), texts (M, D), each `strength` of its image and noise, and the image of every text.

    Without a strength all of them are equal.
    """
    import torch
    from torch.nn.functional import normalize

    generator = torch.Generator().manual_seed(0)
    images = normalize(torch.randn(n, width, generator=generator), dim=1)
    image_of_text, texts = torch.arange(m) * n // m, torch.empty(m, width)
    for i in range(0, m, 512):  # in place, so that making them takes no more memory than holding them
        noise = normalize(torch.randn(len(texts[i : i + 512]), width, generator=generator), dim=1)
        texts[i : i + 512] = normalize((strength or 0.0) * images[image_of_text[i : i + 512]] + noise, dim=1)
    if strength is None:
        texts[:] = images[:] = images[:1].clone()
    return images, texts, image_of_text


def clipib(images, texts, image_of_text) -> list[float]:
    """Recalls at all K, text to image and image to text."""
    from clipib.metrics.retrieval import recall_at_k
    from clipib.scoring.ranks import retrieval_ranks

    ranks = retrieval_ranks(images, texts, image_of_text)
    return [recall_at_k(of.numpy(), k) for k in KS for of in (ranks.text_to_image, ranks.image_to_text)]


def clip_benchmark(images, texts, image_of_text, batch: int = 64) -> list[float]:
    """The same as its `evaluate` does it once all features are there."""
    import torch
    from clip_benchmark.metrics.zeroshot_retrieval import batchify, recall_at_k

    scores = texts @ images.t()
    positive = torch.zeros_like(scores, dtype=torch.bool)
    positive[torch.arange(len(scores)), image_of_text] = True
    ways = ((scores, positive), (scores.T, positive.T))
    return [(batchify(recall_at_k, *way, batch, "cpu", k=k) > 0).float().mean().item() for k in KS for way in ways]


VARIANTS = {"clipib": clipib, "CLIP_benchmark": clip_benchmark}


def timed(call, *arguments) -> float:
    start = time.perf_counter()
    call(*arguments)
    return time.perf_counter() - start


def time_rounds(strength: float, rounds: int, threads: int) -> None:
    """Print a JSON of seconds per variant, of the kept rounds."""
    import torch

    torch.set_num_threads(threads)
    data = features(*COCO, strength)
    ours, theirs = (call(*data) for call in VARIANTS.values())  # also warms up
    if np.abs(np.subtract(ours, theirs)).max() > 1e-6:  # theirs is a mean in float32
        raise SystemExit(f"recalls differ: {ours} against {theirs}")
    square = torch.randn(2_000, 2_000)

    def probe() -> float:
        return float(np.median([timed(torch.mm, square, square) for _ in range(5)]))

    found: list[tuple[bool, dict[str, float]]] = []
    while sum(quiet for quiet, _ in found) < rounds and len(found) < 2 * rounds:
        before = probe()
        seconds = {name: timed(call, *data) for name, call in VARIANTS.items()}
        found.append((max(before, after := probe()) <= MOVED * min(before, after), seconds))
    quiet = [seconds for is_quiet, seconds in found if is_quiet]
    note = f"{len(found) - len(quiet)} of {len(found)} rounds thrown away"
    if len(quiet) < 2:
        quiet, note = [seconds for _, seconds in found], "the machine was never quiet: all rounds kept"
    print(json.dumps({"seconds": {name: [r[name] for r in quiet] for name in VARIANTS}, "note": note}))


def measure_memory(variant: str, n: int, m: int, strength: float | None, threads: int, width: int = WIDTH) -> None:
    """Print a JSON of the seconds, and of the MiB that the process reached above its features."""
    import torch

    torch.set_num_threads(threads)
    small = features(50, 250, strength, width)
    VARIANTS[variant](*small)  # imports and the libraries' own buffers
    data = features(n, m, strength, width)
    Path("/proc/self/clear_refs").write_text("5")  # forget the peak of making them
    before = resident("VmRSS")
    seconds = timed(VARIANTS[variant], *data)
    print(json.dumps({"seconds": seconds, "mib": resident("VmHWM") - before}))


def resident(field: str) -> float:
    """MiB of this process, now (VmRSS) or at most (VmHWM)."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(field)) / 2**10


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    parser.add_argument("--only", choices=("time", "memory", "equal", "long", "square"), help="one of the parts")
    parser.add_argument("--child", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.child:
        what, *arguments = json.loads(options.child)
        return {"time": time_rounds, "memory": measure_memory}[what](*arguments)
    rows, threads, notes = [], options.threads, []
    for strength, kind in ((0.25, "captions near their image"), (0.0, "random features")):
        if options.only in (None, "time"):
            found = child("time", strength, options.rounds, threads)
            seconds = found["seconds"]
            ratios = [b / a for a, b in zip(*seconds.values(), strict=True)]
            what = f"ranks for k = 1, 5, 10, {kind}"
            rows += [(what, name, COCO[1], "s", s) for name, s in seconds.items()]
            rows.append((what, "CLIP_benchmark / clipib", COCO[1], "ratio", ratios))
            notes.append(f"{kind}: {found['note']}")
        if options.only in (None, "memory"):
            for name in VARIANTS:
                mib = [child("memory", name, *COCO, strength, threads)["mib"] for _ in range(options.rounds)]
                rows.append((f"memory above the features, {kind}", name, COCO[1], "MiB", mib))
    if options.only in (None, "equal"):
        found = child("memory", "clipib", *COCO, None, threads)
        rows.append(("memory above the features, all equal", "clipib", COCO[1], "MiB", [found["mib"]]))
        rows.append(("ranks, all features equal", "clipib", COCO[1], "s", [found["seconds"]]))
    if options.only in (None, "long"):
        found = child("memory", "clipib", *LONG, 0.25, threads)
        what = "1,000,000 texts of 1,000 images"
        rows.append((f"memory above the features, {what}", "clipib", LONG[1], "MiB", [found["mib"]]))
        rows.append((f"ranks, {what}", "clipib", LONG[1], "s", [found["seconds"]]))
    if options.only in (None, "square"):
        found = child("memory", "clipib", *SQUARE, 0.5, threads, NARROW)
        what = f"200,000 texts of as many images, width {NARROW}"
        rows.append((f"memory above the features, {what}", "clipib", SQUARE[1], "MiB", [found["mib"]]))
        rows.append((f"ranks, {what}", "clipib", SQUARE[1], "s", [found["seconds"]]))
    write(rows, threads, "; ".join(notes))


def child(what: str, *arguments) -> dict:
    """A part as a process of its own, started from this small one, whose memory it would otherwise report."""
    asked = json.dumps([what, *arguments])
    done = subprocess.run([sys.executable, __file__, "--child", asked], capture_output=True, text=True)
    if done.returncode:
        raise SystemExit(done.stderr)
    return json.loads(done.stdout)


def write(rows, threads: int, note: str, results: Path = RESULTS) -> None:
    """Append the rows, and show them."""
    versions = " ".join(f"{p}={version(p)}" for p in ("clipib", "torch", "numpy", "open_clip_torch", "clip-benchmark"))
    fresh = not results.exists()
    with results.open("a", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        if fresh:
            writer.writerow(store_benchmark.COLUMNS)
        for what, variant, n, unit, values in rows:
            median, p20, p80 = (f"{np.percentile(values, q):.4g}" for q in (50, 20, 80))
            place = f"{platform.machine()} cpu x{os.cpu_count()}"
            writer.writerow((what, variant, n, threads, median, p20, p80, unit, len(values), place, versions, note))
            print(f"{what:58} {variant:24} {median} {unit} ({p20} to {p80}, {len(values)} rounds)")


if __name__ == "__main__":
    main()
