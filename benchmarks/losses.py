"""Forward and backward of a loss alone: time and memory against open_clip and the naive forms.

`python benchmarks/losses.py` checks that all variants of a case agree, then times them in turn (one warm-up, rounds
A B C A B C, medians), then measures what each adds to the peak memory of a fresh process (Linux). Rows go to
results/losses.csv. On a busy machine trust the ratios, not the seconds.
"""

from __future__ import annotations

import argparse
import csv
import subprocess
import sys
import time
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from clipib.losses.contrast import SIGMOID, SOFTMAX, Contrast
from clipib.scoring.cosine import COSINE
from clipib.scoring.features import Features, as_features
from clipib.scoring.kme import KME
from clipib.scoring.similarity import Similarity
from clipib.scoring.tiles import reduce_logits

RESULTS = Path(__file__).parent / "results" / "losses.csv"
SCALE, BIAS = 1 / 0.07, -10.0
# what, pairs, points a side, width, rounds
CASES = [
    ("clip", 1024, 1, 512, 9),
    ("clip", 4096, 1, 512, 5),
    ("siglip", 4096, 1, 512, 5),
    ("clip", 16384, 1, 512, 3),
    ("kme", 256, 8, 64, 9),
    ("kme", 256, 16, 64, 9),
    ("kme", 1024, 8, 64, 5),
    ("kme", 4096, 8, 64, 3),
]
NAIVE_AT_MOST = 2**26  # kernel values that the naive form may hold at once


def variants(what: str, n: int, points: int) -> dict[str, Callable[..., Tensor]]:
    """The baseline first. Each takes (image points, image weights, text points, text weights)."""
    if what == "kme":
        made = {"einsum + logsumexp": naive_kme} if (n * points) ** 2 <= NAIVE_AT_MOST else {}
        whole = {"whole": ours(KME, SOFTMAX, tile=n)} if (n * points) ** 2 <= NAIVE_AT_MOST else {}
        return made | whole | {"tiles": ours(KME, SOFTMAX, tile=None if (n * points) ** 2 > 2**22 else tile_of(points))}
    contrast, baseline = (SOFTMAX, open_clip_loss) if what == "clip" else (SIGMOID, open_clip_sigmoid)
    return {
        "open_clip": baseline,
        "whole": ours(COSINE, contrast, tile=None, whole=True),
        "tiles": ours(COSINE, contrast, tile=1024),
    }


def tile_of(points: int) -> int:
    return max(1, 1024 // points)


def ours(similarity: Similarity, contrast: Contrast, *, tile: int | None, whole: bool = False) -> Callable[..., Tensor]:
    def loss(u: Tensor, w: Tensor, v: Tensor, a: Tensor) -> Tensor:
        bias = torch.tensor(BIAS) if contrast.needs_bias else None
        images, texts = Features(u, w), Features(v, a)
        if whole or tile == len(u):
            logits = similarity.logits(
                images, texts, logit_scale=torch.tensor(SCALE), logit_bias=BIAS if contrast.needs_bias else 0.0
            )
            return contrast(logits)
        return contrast.loss(
            reduce_logits(
                similarity,
                images,
                texts,
                logit_scale=torch.tensor(SCALE),
                logit_bias=bias,
                statistic=contrast.statistic,
                tile=tile,
            )
        )

    return loss


def naive_kme(u: Tensor, w: Tensor, v: Tensor, a: Tensor) -> Tensor:
    exponents = SCALE * (torch.einsum("bid,cjd->bcij", u, v) - 1) + w.log()[:, None, :, None] + a.log()[None, :, None]
    logits = exponents.logsumexp(dim=(2, 3))
    target = torch.arange(len(logits))
    return (torch.nn.functional.cross_entropy(logits, target) + torch.nn.functional.cross_entropy(logits.T, target)) / 2


def open_clip_loss(u: Tensor, w: Tensor, v: Tensor, a: Tensor) -> Tensor:
    from open_clip.loss import ClipLoss

    return ClipLoss()(u[:, 0], v[:, 0], torch.tensor(SCALE))


def open_clip_sigmoid(u: Tensor, w: Tensor, v: Tensor, a: Tensor) -> Tensor:
    from open_clip.loss import SigLipLoss

    return SigLipLoss()(u[:, 0], v[:, 0], torch.tensor(SCALE), torch.tensor(BIAS))


def inputs(n: int, points: int, width: int) -> list[Tensor]:
    generator = torch.Generator().manual_seed(0)
    made = []
    for _ in range(2):
        u = torch.nn.functional.normalize(torch.randn(n, points, width, generator=generator), dim=-1)
        w = (
            torch.softmax(torch.randn(n, points, generator=generator), dim=-1)
            if points > 1
            else as_features(u[:, 0]).weights
        )
        made += [u.requires_grad_(), w.requires_grad_(points > 1)]
    return made


def once(loss: Callable[..., Tensor], made: list[Tensor]) -> tuple[float, Tensor]:
    """Value, and the gradient by the image points."""
    for t in made:
        t.grad = None
    value = loss(*made)
    value.backward()
    return float(value.detach()), made[0].grad


def seconds(loss: Callable[..., Tensor], made: list[Tensor]) -> float:
    start = time.perf_counter()
    once(loss, made)
    return time.perf_counter() - start


def peak_mib(what: str, n: int, points: int, width: int, name: str) -> float:
    """What one step adds to the peak of a fresh process."""
    command = [sys.executable, __file__, "--peak", what, str(n), str(points), str(width), name]
    return float(subprocess.run(command, capture_output=True, text=True, check=True).stdout)


def print_peak(what: str, n: str, points: str, width: str, name: str) -> None:
    loss = variants(what, int(n), int(points))[name]
    once(variants(what, 8, int(points))[name], inputs(8, int(points), int(width)))  # libraries, threads
    made = inputs(int(n), int(points), int(width))
    Path("/proc/self/clear_refs").write_text("5")  # the peak so far is that of the imports; forget it
    before = memory_kib("VmRSS")
    once(loss, made)
    print((memory_kib("VmHWM") - before) / 1024)


def memory_kib(field: str) -> int:
    """A line of /proc/self/status: VmRSS is now, VmHWM the peak."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(field))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--largest", type=int, default=16384, help="leave out cases of more pairs")
    parser.add_argument("--results", type=Path, default=RESULTS)
    parser.add_argument("--peak", nargs=5, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.peak:
        print_peak(*options.peak)
        return
    for what, n, points, width, rounds in CASES:
        if n > options.largest:
            continue
        made, kinds = inputs(n, points, width), variants(what, n, points)
        (value, gradient), *others = [once(loss, made) for loss in kinds.values()]
        differences = [0.0]
        for other, its_gradient in others:
            differences.append(float((its_gradient - gradient).abs().max() / gradient.abs().max()))
            if abs(other - value) > 1e-5 * abs(value) or differences[-1] > 1e-4:
                sys.exit(
                    f"{what} {n}: the variants differ ({value}, {other}, gradients by {differences[-1]}); not timed"
                )
        times = np.array([[seconds(loss, made) for loss in kinds.values()] for _ in range(rounds)])  # (rounds, kinds)
        for k, name in enumerate(kinds):
            row = {
                "what": what,
                "variant": name,
                "n": n,
                "points": points,
                "width": width,
                "threads": torch.get_num_threads(),
                "median_s": f"{np.median(times[:, k]):.4g}",
                "p20_s": f"{np.percentile(times[:, k], 20):.4g}",
                "p80_s": f"{np.percentile(times[:, k], 80):.4g}",
                "times_faster": f"{np.median(times[:, 0] / times[:, k]):.3g}",
                "peak_mib": f"{peak_mib(what, n, points, width, name):.0f}",
                "gradient_difference": f"{differences[k]:.2g}",
                "device": "cpu",
                "torch": version("torch"),
                "open_clip": version("open_clip_torch"),
            }
            print(row, flush=True)
            append(options.results, row)


def append(results: Path, row: dict[str, object]) -> None:
    results.parent.mkdir(parents=True, exist_ok=True)
    with results.open("a", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, row, lineterminator="\n")
        if not file.tell():
            writer.writeheader()
        writer.writerow(row)


if __name__ == "__main__":
    main()
