"""Zero-shot from start to end, clipib's command beside CLIP_benchmark's: `python benchmarks/zeroshot.py --home DIR`.

Caltech-101's 1,010 test photographs of 101 objects, ImageNet's 80 templates, ViT-B-32 with random weights in float32,
both tools on the same shards. Every run is a process of its own, as a user starts it, imports included. In a round
CLIP_benchmark runs once, clipib once with an empty store and then three times with what that run stored. Rows go to
benchmarks/results/zeroshot.csv: seconds by the clock, processor seconds, the largest resident memory, and ratios round
by round. The benchmark stops where acc1 or acc5 of the two tools differ by more than one image, or where a warm run's
rows are not the cold one's. A round is marked where a matrix product took a fifth more or less after it than before.

CLIP_benchmark's `accuracy` fails on NumPy 2.4 and is replaced by one that does not; it runs with `--no_amp`, as its
autocast is several times slower on a CPU.
"""

from __future__ import annotations

import argparse
import csv
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import NamedTuple

import numpy as np
import parity_clip_benchmark as parity
import retrieval

RESULTS = retrieval.RESULTS.with_name("zeroshot.csv")
N, WARM = 1_010, 3


class Run(NamedTuple):
    """One finished process: seconds by the clock and of processors, MiB at most, and its accuracies."""

    wall: float
    cpu: float
    mib: float
    accuracies: dict[str, float]


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--home", type=Path, help="where data, checkpoint and the store are made, and kept")
    parser.add_argument("--child", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.child:
        home, *places = map(Path, json.loads(options.child))
        print(json.dumps(parity.their_metrics(home, *places, "objects101", amp=False) if places else prepare(home)))
        return
    with tempfile.TemporaryDirectory() as made:
        measure(options.home or Path(made), options.rounds)


def measure(home: Path, rounds: int) -> None:
    # Not in this process, whose memory those that it starts would report as theirs.
    checkpoint, shards = map(Path, child(home)[1])
    kept: dict[str, list[Run]] = {"CLIP_benchmark": [], "clipib, cold": [], "clipib, warm": []}
    moved = 0
    clipib_run(home, checkpoint, shards, "help")  # so that all bytecode is there
    for _ in range(rounds):
        before = probe()
        theirs = peer_run(home, checkpoint, shards)
        shutil.rmtree(home / "cache", ignore_errors=True)
        cold = clipib_run(home, checkpoint, shards, "cold")
        warm = [clipib_run(home, checkpoint, shards, "warm") for _ in range(WARM)]
        moved += not 1 / retrieval.MOVED < probe() / before < retrieval.MOVED
        check(theirs, cold, warm)
        kept["CLIP_benchmark"].append(theirs)
        kept["clipib, cold"].append(cold)
        kept["clipib, warm"].append(sorted(warm)[WARM // 2])
        print(theirs, cold, *warm, sep="\n", flush=True)
    write(kept, f"the machine's speed moved by a fifth in {moved} of {rounds} rounds")


def prepare(home: Path) -> tuple[str, str]:
    """The checkpoint, and the photographs as a webdataset with ImageNet's templates."""
    from clipib.tasks.export import export

    shards = home / "shards" / "objects101"
    if not shards.exists():
        export(f"folder:{parity.DATA / 'caltech101_20'}", shards, task="classification")
        templates = parity.registry_templates("imagenet1k")
        (shards / "zeroshot_classification_templates.txt").write_text("\n".join(templates) + "\n")
    return str(parity.checkpoint_folder(home, "ViT-B-32")), str(shards)


def child(*places: Path) -> tuple[tuple[float, float, float], object]:
    """What a process of this script spent, and what it printed last."""
    spent, out = process([sys.executable, __file__, "--child", json.dumps(list(map(str, places)))])
    return spent, json.loads(out.splitlines()[-1])


def peer_run(home: Path, checkpoint: Path, shards: Path) -> Run:
    spent, found = child(home, checkpoint, shards)
    return Run(*spent, {name: found[name] for name in ("acc1", "acc5")})


def clipib_run(home: Path, checkpoint: Path, shards: Path, what: str) -> Run:
    command = [sys.executable, "-m", "clipib", "zeroshot"]
    if what == "help":
        return Run(*process([*command, "--help"])[0], {})
    places = ["--out", str(home / "ours"), "--cache-dir", str(home / "cache"), "--fresh"]
    spent, out = process([*command, "-m", str(checkpoint), "-d", f"wds:{shards}", *places, "--format", "csv"])
    found = {row["metric"]: float(row["value"]) for row in csv.DictReader(out.splitlines())}
    return Run(*spent, {name: found[name] for name in ("acc1", "acc5")})


def process(command: list[str]) -> tuple[tuple[float, float, float], str]:
    """Seconds by the clock, processor seconds and largest MiB of one command and what it starts, and its output."""
    with tempfile.TemporaryFile("w+") as out, tempfile.TemporaryFile("w+") as err:
        start = time.perf_counter()
        running = subprocess.Popen(command, stdout=out, stderr=err)
        _, status, used = os.wait4(running.pid, 0)
        wall = time.perf_counter() - start
        for file in (out, err):
            file.seek(0)
        if status:
            raise SystemExit(err.read())
        return (wall, used.ru_utime + used.ru_stime, used.ru_maxrss / 2**10), out.read()


def probe() -> float:
    """Seconds of a matrix product."""
    square = np.random.default_rng(0).standard_normal((2_000, 2_000), dtype=np.float32)

    def seconds() -> float:
        start = time.perf_counter()
        _ = square @ square
        return time.perf_counter() - start

    return float(np.median([seconds() for _ in range(5)]))


def check(theirs: Run, cold: Run, warm: list[Run]) -> None:
    off = max(abs(theirs.accuracies[name] - cold.accuracies[name]) for name in cold.accuracies)
    if off * N > 1.001 or any(run.accuracies != cold.accuracies for run in warm):
        raise SystemExit(f"accuracies differ: {theirs}, {cold}, {warm}")


def write(kept: dict[str, list[Run]], note: str) -> None:
    """Append the rows, and show them."""
    peer = kept["CLIP_benchmark"]
    off = max(
        abs(a.accuracies[m] - b.accuracies[m]) * N for a, b in zip(peer, kept["clipib, cold"]) for m in a.accuracies
    )
    note = f"{note}; accuracies apart by {off:.0f} images at most"
    rows, what = [], "zero-shot from start to end"
    for variant, runs in kept.items():
        for unit, values in (("wall s", [r.wall for r in runs]), ("cpu s", [r.cpu for r in runs])):
            rows.append((what, variant, N, unit, values))
        rows.append((what, variant, N, "MiB", [r.mib for r in runs]))
        if runs is not peer:
            for unit, of in (("wall ratio", lambda r: r.wall), ("cpu ratio", lambda r: r.cpu)):
                rows.append((what, f"CLIP_benchmark / {variant}", N, unit, [of(a) / of(b) for a, b in zip(peer, runs)]))
    retrieval.write(rows, os.cpu_count(), note, RESULTS)


if __name__ == "__main__":
    main()
