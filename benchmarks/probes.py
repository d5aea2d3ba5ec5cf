"""What the probing commands cost on 5,000 images and 25,000 captions whose 512 wide features are stored.

    python benchmarks/probes.py

The features are made up and put into a store under a random ViT-B-32; every run is a process of its own, as a user
starts it. Rows go to benchmarks/results/probes.csv: wall seconds and peak memory.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
import time
from multiprocessing import get_context
from pathlib import Path

import store as store_benchmark

RESULTS = store_benchmark.RESULTS.with_name("probes.csv")
COMMANDS = {
    "pmi-probe": ["pmi-probe", "--no-plots"],
    "pmi-probe with figures": ["pmi-probe"],
    "ib-analyze": ["ib-analyze", "--no-critics", "--no-plots", "--attributes", "none"],
}


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--images", type=int, default=5_000)
    parser.add_argument("--captions", type=int, default=5, help="of each image")
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()
    rows = []
    with tempfile.TemporaryDirectory() as home:
        place = Path(home)
        # A child counts the memory of the process that starts it, which therefore stays small.
        worker = get_context("spawn").Process(target=prepare, args=(place, options.images, options.captions))
        worker.start()
        worker.join()
        env = {**os.environ, "CLIPIB_CACHE": f"{home}/cache", "CI": "true"}
        for what, command in COMMANDS.items():
            asked = [*command, "--model", f"{home}/model", "--data", f"csv:{home}/pairs.csv", "--format", "csv"]
            run([*asked, "--out", f"{home}/cold"], env)  # remembers the model, and encodes the joined texts
            found = [run([*asked, "--out", f"{home}/{what}{i}"], env) for i in range(options.rounds)]
            rows.append((what, "wall", options.images, [seconds for seconds, _ in found]))
            rows.append((what, "peak memory", options.images, [memory for _, memory in found]))
    store_benchmark.RESULTS = RESULTS
    store_benchmark.write(rows, f"{options.captions} captions an image, width 512")


def prepare(place: Path, n: int, captions: int) -> None:
    """A checkpoint, a table of pairs, and a store that holds all features."""
    import numpy as np
    from PIL import Image

    import clipib.embeddings.encode as encode
    from clipib.data.load import load_dataset
    from clipib.embeddings.rows import Rows
    from clipib.embeddings.store import Store
    from clipib.models.checkpoint import save_checkpoint
    from clipib.models.load import load_model

    rng = np.random.default_rng(0)
    lines = ["image,caption"]
    (place / "images").mkdir()
    for i in range(n):
        Image.fromarray(rng.integers(0, 256, (8, 8, 3), dtype=np.uint8)).save(place / "images" / f"{i}.png")
        lines += [f"images/{i}.png,caption {k} of image {i}" for k in range(captions)]
    (place / "pairs.csv").write_text("\n".join(lines) + "\n")
    model = load_model("ViT-B-32", "none", device="cpu", seed=0)
    save_checkpoint(model, place / "model", {"loss": "clip"})
    model = load_model(str(place / "model"), device="cpu")
    dataset = load_dataset(f"csv:{place / 'pairs.csv'}")
    latent = rng.normal(size=(n, 32))
    basis = 0.3 * rng.normal(size=(32, 512))
    images = latent @ basis + 3 * rng.normal(size=(n, 512))
    texts = latent[dataset.image_of_caption] @ basis + 6 * rng.normal(size=(n * captions, 512))
    store = Store(place / "cache")
    text_keys = [encode.content_key(c.encode()) for c in dataset.captions]
    sides = (encode.image_space, dataset.keys, images), (encode.text_space, text_keys, texts)
    for space_of, keys, features in sides:
        unit = (features / np.linalg.norm(features, axis=1, keepdims=True)).astype(np.float32)
        with Rows(space_of(model, store), keys) as stored:
            for todo in stored.passes():
                for chunk in stored.claimed(todo, 1024):
                    stored.add(chunk, unit[chunk])


def run(arguments: list[str], env: dict[str, str]) -> tuple[float, float]:
    """Wall seconds and peak GiB of one command."""
    start = time.perf_counter()
    process = subprocess.Popen(
        [sys.executable, "-m", "clipib", *arguments], env=env, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE
    )
    errors = process.stderr.read().decode()
    _, status, usage = os.wait4(process.pid, 0)
    if status:
        raise SystemExit(errors)
    return time.perf_counter() - start, usage.ru_maxrss / 2**20


if __name__ == "__main__":
    main()
