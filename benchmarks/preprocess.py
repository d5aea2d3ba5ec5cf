"""What `--preprocess fast` saves: decoding and transforming JPEGs of one size, both ways in turn, on one thread.

    python benchmarks/preprocess.py --images FOLDER_OF_PHOTOGRAPHS

Photographs are resized to each long side first. Rows go to benchmarks/results/preprocess.csv: milliseconds per image
(median, p20, p80 over rounds) and the ratio of each round. The benchmark stops where more than one pixel value in
100,000 is two levels off, or any is three.
"""

from __future__ import annotations

import argparse
import csv
import io
import time
from importlib.metadata import version
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from clipib.data.images import decode_jpeg, decode_rgb
from clipib.models.load import load_model

RESULTS = Path(__file__).parent / "results" / "preprocess.csv"
COLUMNS = ("what", "variant", "long_side", "n", "threads", "median", "p20", "p80", "unit", "rounds", "versions")


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--images", required=True, type=Path)
    parser.add_argument("--sides", default="336,800,1600")
    parser.add_argument("--n", type=int, default=20)
    parser.add_argument("--rounds", type=int, default=7)
    options = parser.parse_args()
    torch.set_num_threads(1)
    plain = load_model("ViT-B-32", "none", device="cpu")
    fast = load_model("ViT-B-32", "none", device="cpu", preprocess="fast")
    std = torch.tensor(plain.preprocess["std"])[:, None, None]
    rows = []
    for side in map(int, options.sides.split(",")):
        photos = [_jpeg(path, side) for path in sorted(options.images.rglob("*.jpg"))[: options.n]]
        ways = {
            "open_clip": lambda c: plain.preprocess_eval(decode_rgb(c)),
            "fast": lambda c: fast.preprocess_eval(decode_jpeg(c)),
        }
        off = torch.stack([((ways["fast"](c) - ways["open_clip"](c)) * std * 255).abs().round() for c in photos])
        share = [float((off >= level).double().mean()) for level in (1, 2, 3)]
        print(f"{side} px: off by 1 level or more {share[0]:.2e}, by 2 or more {share[1]:.2e}")
        if share[1] > 1e-5 or share[2] > 0:
            raise SystemExit("the two ways differ by more than rounding")
        times = {name: [] for name in ways}
        for _ in range(options.rounds):
            for name, way in ways.items():
                start = time.perf_counter()
                for content in photos:
                    way(content)
                times[name].append(1e3 * (time.perf_counter() - start) / len(photos))
        ratios = np.array(times["open_clip"]) / np.array(times["fast"])
        for name, values, unit in [*((n, t, "ms") for n, t in times.items()), ("open_clip / fast", ratios, "ratio")]:
            low, median, high = (f"{np.percentile(values, q):.3f}" for q in (20, 50, 80))
            versions = " ".join(f"{p}={version(p)}" for p in ("clipib", "torch", "torchvision", "pillow"))
            head = ("decode and transform", name, side, len(photos), 1)
            rows.append((*head, median, low, high, unit, options.rounds, versions))
            print(*rows[-1][1:3], median, unit)
    fresh = not RESULTS.exists()
    with RESULTS.open("a", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerows([COLUMNS, *rows] if fresh else rows)


def _jpeg(path: Path, side: int) -> bytes:
    picture = Image.open(path).convert("RGB")
    scale = side / max(picture.size)
    out = io.BytesIO()
    picture.resize([round(s * scale) for s in picture.size], Image.Resampling.BICUBIC).save(out, "JPEG", quality=88)
    return out.getvalue()


if __name__ == "__main__":
    main()
