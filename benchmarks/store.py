"""What a second run costs: zero-shot on 10,000 images with an empty store and with a full one.

    python benchmarks/store.py --images FOLDER_OR_SPEC --model runs/demo/cibr/best

Each run is a process of its own, as a user starts it. Rows go to benchmarks/results/store.csv: the seconds of the cold
run, of warm runs (median, p20, p80), and within a warm run the share of start-up, hashing, reading and matrix product,
measured by timing those functions. The benchmark stops where warm and cold rows differ.
"""

from __future__ import annotations

import argparse
import csv
import json
import os
import platform
import subprocess
import sys
import tempfile
import time
from importlib.metadata import version
from pathlib import Path

import numpy as np

RESULTS = Path(__file__).parent / "results" / "store.csv"
COLUMNS = ("what", "variant", "n", "threads", "median", "p20", "p80", "unit", "rounds", "device", "versions", "note")

PARTS = """
import json, sys, time
start = time.perf_counter()
import clipib.tasks.zeroshot as z
import clipib.embeddings.rows as rows
from clipib.data.dataset import Dataset
imports = time.perf_counter() - start
spent = {}
def timed(owner, name, what):
    real = getattr(owner, name)
    def call(*a, **k):
        t = time.perf_counter()
        try:
            return real(*a, **k)
        finally:
            spent[what] = spent.get(what, 0.0) + time.perf_counter() - t
    setattr(owner, name, call)
timed(z, "classify", "matrix product and ranks")
timed(z, "plan_evaluation", "finding the data")
timed(z, "embed_images", "hashing and reading image features")
timed(z, "build_classifier", "reading text features")
arguments = json.loads(sys.argv[1])
z.zeroshot(**arguments)
spent["imports"] = imports
spent["whole"] = time.perf_counter() - start
heavy = [m for m in ("torch", "open_clip", "torchvision", "sklearn", "transformers", "pandas") if m in sys.modules]
print(json.dumps({"spent": spent, "heavy": heavy}))
"""


def run(arguments: list[str], env: dict[str, str]) -> tuple[float, str]:
    """Seconds and the CSV of one command."""
    start = time.perf_counter()
    done = subprocess.run([sys.executable, "-m", "clipib", *arguments], env=env, capture_output=True, text=True)
    if done.returncode:
        raise SystemExit(done.stderr)
    return time.perf_counter() - start, done.stdout


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--model", required=True)
    parser.add_argument("--images", required=True, help="data specification of labelled images")
    parser.add_argument("--rounds", type=int, default=7)
    options = parser.parse_args()
    rows = []
    with tempfile.TemporaryDirectory() as home:
        env = {**os.environ, "CLIPIB_CACHE": f"{home}/cache", "CI": "true"}
        command = ["zeroshot", "--model", options.model, "--datasets", options.images, "--format", "csv"]
        cold, expected = run([*command, "--out", f"{home}/cold"], env)
        warm = []
        for i in range(options.rounds):
            seconds, found = run([*command, "--out", f"{home}/warm{i}"], env)
            if found != expected:
                raise SystemExit("the warm run gives other rows than the cold one")
            warm.append(seconds)
        n = int(next(csv.DictReader(expected.splitlines()))["n"])
        rows += [("zeroshot", "cold, empty store", n, [cold]), ("zeroshot", "warm, all stored", n, warm)]
        arguments = {"model": options.model, "datasets": options.images, "cache_dir": f"{home}/cache"}
        parts: dict[str, list[float]] = {}
        for i in range(options.rounds):
            asked = json.dumps({**arguments, "out": f"{home}/parts{i}"})
            done = subprocess.run([sys.executable, "-c", PARTS, asked], env=env, capture_output=True, text=True)
            if done.returncode:
                raise SystemExit(done.stderr)
            found = json.loads(done.stdout)
            for what, seconds in found["spent"].items():
                parts.setdefault(what, []).append(seconds)
        rows += [("part of a warm zeroshot", what, n, seconds) for what, seconds in parts.items()]
        rows.append(("--help", "for comparison", 0, [run(["--help"], env)[0] for _ in range(options.rounds)]))
        note = "heavy modules imported: " + (", ".join(found["heavy"]) or "none")
    write(rows, note)


def write(rows, note: str) -> None:
    """Append the rows, and show them."""
    versions = " ".join(f"{p}={version(p)}" for p in ("clipib", "torch", "numpy"))
    fresh = not RESULTS.exists()
    RESULTS.parent.mkdir(exist_ok=True)
    with RESULTS.open("a", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        if fresh:
            writer.writerow(COLUMNS)
        for what, variant, n, seconds in rows:
            unit = "GiB" if "memory" in variant else "s"
            median, p20, p80 = (f"{np.percentile(seconds, q):.4f}" for q in (50, 20, 80))
            place = f"{platform.machine()} cpu x{os.cpu_count()}"
            writer.writerow(
                (what, variant, n, os.cpu_count(), median, p20, p80, unit, len(seconds), place, versions, note)
            )
            print(f"{what:26} {variant:36} {median} {unit} ({p20} to {p80}, {len(seconds)} rounds)")
    print(note)


if __name__ == "__main__":
    main()
