"""Coverage of every interval and size of every test: `python benchmarks/intervals.py --setting full`.

Each run draws one kind of sample `repetitions` times, at n = 100 and n = 1,000 (the gates from 1,000 to 50,000), and
appends to results/intervals.csv the mean of what each draw showed, and beside it, as `.../error`, the Monte Carlo
error of that mean. What is there is skipped. `--table` prints it all.

    covered        the nominal 95 % interval holds the truth        below, above   the truth lies outside, on that side
    alarm          p < 0.05 though there is no difference           width          of the interval

Beside the interval or test that clipib reports stand others, with a name after the slash. Bootstraps have 500 draws,
those of statistics that are no means 200; the slow one of these has fewer repetitions.
"""

from __future__ import annotations

import sys
import time
import zlib
from collections.abc import Callable
from functools import partial
from pathlib import Path
from statistics import NormalDist
from typing import NamedTuple

import numpy as np
from scipy.special import expit, logit, ndtri
from study_losses import do, parse_options, read_rows

from clipib.metrics.bootstrap import bootstrap_mean, draw_mean, draw_statistic, interval_of
from clipib.metrics.calibration import debiased_calibration_error, expected_calibration_error
from clipib.metrics.classification import macro_f1
from clipib.metrics.multilabel import mean_average_precision
from clipib.metrics.paired import paired_means, paired_proportions, tango_interval
from clipib.metrics.sampling import make_design, proportion_interval
from clipib.metrics.statistics import Interval, wilson_interval

RESULTS = Path(__file__).parent / "results" / "intervals.csv"
SECONDS_A_SAMPLE = 0.01
DRAWS = 500
MARGIN = 0.003
Rng = np.random.Generator


class Setting(NamedTuple):
    repetitions: int
    slow_repetitions: int
    sizes: tuple[int, ...]
    gate_sizes: tuple[int, ...]


class Run(NamedTuple):
    """What identifies a run; all of it stands in every one of its rows."""

    setting: str
    what: str
    case: str
    n: int
    repetitions: int


def main() -> None:
    options = parse_options(__doc__, SETTINGS, RESULTS)
    if options.table:
        print_tables(options.results, options.setting)
        return
    do(plan(options.setting), options.results, options.jobs, measure, SECONDS_A_SAMPLE, size="n")


def plan(name: str) -> list[Run]:
    s = SETTINGS[name]
    return [
        Run(name, what, case, n, s.slow_repetitions if case in SLOW else s.repetitions)
        for what, cases in STUDIES.items()
        for case in cases
        for n in (s.gate_sizes if what == "gates" else s.sizes)
    ]


def measure(run: Run) -> dict[str, float]:
    """Mean over repetitions of what a draw shows, and the standard error of that mean."""
    start = time.monotonic()
    draw, seed = STUDIES[run.what][run.case], zlib.crc32(f"{run.what}/{run.case}".encode())
    shown = [draw(np.random.default_rng((seed, run.n, i)), run.n) for i in range(run.repetitions)]
    found: dict[str, float] = {}
    for key in shown[0]:
        values = np.array([s[key] for s in shown], dtype=float)
        found |= {key: values.mean(), f"{key}/error": values.std() / len(values) ** 0.5}
    return found | {"seconds": time.monotonic() - start}


def outcome(truth: float, interval: Interval, name: str = "") -> dict[str, float]:
    low, high = interval[:2]
    covered = {f"covered{name}": low <= truth <= high}
    return covered if name else covered | {"below": truth < low, "above": truth > high, "width": high - low}


# Intervals of one run. Every function: a generator and n -> what this draw shows.


def proportion(p: float, rng: Rng, n: int) -> dict[str, float]:
    return outcome(p, wilson_interval(rng.binomial(n, p) / n, n))


def mean_per_class_recall(sizes: tuple[int, ...], recall: float, rng: Rng, n: int) -> dict[str, float]:
    """Classes differ in recall: Beta of the given mean and concentration 3, the same in every draw."""
    strata, chance = classes(sizes, recall, n)
    hits = rng.random(len(strata)) < chance[strata]
    return outcome(chance.mean(), proportion_interval(hits, strata=strata))


def recall_by_bootstrap(sizes: tuple[int, ...], recall: float, rng: Rng, n: int) -> dict[str, float]:
    """The same by the bootstrap: BCa with the variance corrected, and plain percentiles."""
    strata, chance = classes(sizes, recall, n)
    hits = rng.random(len(strata)) < chance[strata]
    drawn = draw_mean(hits, make_design(len(hits), strata=strata), DRAWS, int(rng.integers(2**31)))
    plain = Interval(*np.quantile(drawn.draws, [0.025, 0.975]))
    return outcome(chance.mean(), interval_of(drawn, 0.05)) | outcome(chance.mean(), plain, "/percentile")


def classes(sizes: tuple[int, ...], recall: float, n: int) -> tuple[np.ndarray, np.ndarray]:
    """The class of every sample, some n of them, and the recall of every class."""
    counts = np.tile(sizes, max(1, n // sum(sizes)))
    chance = np.random.default_rng(0).beta(3 * recall, 3 * (1 - recall), len(counts))
    return np.repeat(np.arange(len(counts)), counts), chance


def captions(p: float, alike: float, rng: Rng, n: int) -> dict[str, float]:
    """Recall of captions, five of each image; `alike` is the correlation within an image before the threshold."""
    images = np.arange(n) // 5
    hits = caption_scores(images, alike, rng) < ndtri(p)
    naive = wilson_interval(hits.mean(), n)
    return outcome(p, proportion_interval(hits, clusters=images)) | outcome(p, naive, "/as if independent")


def caption_scores(images: np.ndarray, alike: float, rng: Rng) -> np.ndarray:
    of_image = rng.normal(size=images.max() + 1)[images]
    return np.sqrt(alike) * of_image + np.sqrt(1 - alike) * rng.normal(size=len(images))


def nll(shape: float, rng: Rng, n: int) -> dict[str, float]:
    """Gamma losses: the smaller the shape, the more skewed (2 / sqrt(shape))."""
    losses = rng.gamma(shape, size=n)
    return outcome(shape, bootstrap_mean(losses, draws=DRAWS, seed=int(rng.integers(2**31))))


def ece(temperature: float, rng: Rng, n: int) -> dict[str, float]:
    """Confidences of Beta(4, 0.7), right as often as at another temperature; `true` is that of a million samples."""
    if temperature not in TRUE_ECE:
        TRUE_ECE[temperature] = binned_ece(temperature)
    truth = TRUE_ECE[temperature]
    confidence = confidences(rng, n)
    correct = rng.random(n) < expit(logit(confidence) / temperature)
    draws = draw_statistic(
        lambda rows: expected_calibration_error(confidence[rows], correct[rows]), make_design(n), 200, 0
    )
    low, high = np.quantile(draws.draws, [0.025, 0.975])
    debiased = debiased_calibration_error(confidence, correct)
    half = 1.96 * float(draws.draws.std())
    return {
        "true": truth,
        "ece": draws.value,
        "debiased": debiased,
        "covered/percentile": low <= truth <= high,
        "covered/reflected": 2 * draws.value - high <= truth <= 2 * draws.value - low,
        "covered/debiased +- 1.96 se": debiased - half <= truth <= debiased + half,
    }


TRUE_ECE: dict[float, float] = {}


def confidences(rng: Rng, n: int) -> np.ndarray:
    return np.clip(rng.beta(4, 0.7, n), 0.01, 1 - 1e-9)


def binned_ece(temperature: float) -> float:
    confidence = confidences(np.random.default_rng(1), 1_000_000)
    return expected_calibration_error(confidence, expit(logit(confidence) / temperature))


def average_precision(rng: Rng, n: int) -> dict[str, float]:
    return statistic(tagged, lambda scores, tags: mean_average_precision(scores, tags), rng, n)


def f1(rng: Rng, n: int) -> dict[str, float]:
    return statistic(classified, macro_f1, rng, n)


def median_rank(rng: Rng, n: int) -> dict[str, float]:
    return statistic(lambda rng, n: (rng.geometric(0.08, n),), lambda ranks: float(np.median(ranks)), rng, n)


def statistic(sample: Callable, value: Callable, rng: Rng, n: int) -> dict[str, float]:
    """`true` is the value of 100,000 samples."""
    key = (sample.__name__, value.__name__)
    if key not in TRUE_STATISTIC:
        TRUE_STATISTIC[key] = value(*sample(np.random.default_rng(1), 100_000))
    truth, arrays = TRUE_STATISTIC[key], sample(rng, n)
    drawn = draw_statistic(lambda rows: value(*(a[rows] for a in arrays)), make_design(n), 200, 0)
    moved = drawn._replace(
        bias=NormalDist().inv_cdf((np.sum(drawn.draws < drawn.value) + 0.5) / (len(drawn.draws) + 1))
    )
    return (
        outcome(truth, interval_of(drawn, 0.05))
        | outcome(truth, interval_of(moved, 0.05), "/bias-corrected")
        | {"true": truth, "value": drawn.value}
    )


TRUE_STATISTIC: dict[tuple[str, str], float] = {}


def tagged(rng: Rng, n: int) -> tuple[np.ndarray, np.ndarray]:
    tags = rng.random((n, 5)) < np.linspace(0.15, 0.5, 5)
    return tags * 1.2 + rng.normal(size=tags.shape), tags


def classified(rng: Rng, n: int) -> tuple[np.ndarray, np.ndarray]:
    targets = rng.integers(0, 5, n)
    right = rng.random(n) < np.linspace(0.5, 0.95, 5)[targets]
    return np.where(right, targets, rng.integers(0, 5, n)), targets


# Two checkpoints on the same samples.


def flips(discordant: float, difference: float, rng: Rng, n: int) -> tuple[np.ndarray, np.ndarray]:
    """Hits of two checkpoints: b has `difference` more, and `discordant` is the share that flips."""
    kind = rng.random(n)
    gain, loss = (discordant + difference) / 2, (discordant - difference) / 2
    a = np.where(kind < gain, False, np.where(kind < gain + loss, True, rng.random(n) < 0.7))
    return a, np.where(kind < gain + loss, ~a, a)


def proportions(discordant: float, difference: float, rng: Rng, n: int) -> dict[str, float]:
    d = paired_proportions(*flips(discordant, difference, rng, n))
    other = bonett_price(d.lost, d.gained, n)
    shown = outcome(difference, d[1:3]) | outcome(difference, other, "/Bonett-Price")
    return shown | ({} if difference else {"alarm": d.p < 0.05})


def bonett_price(lost: int, gained: int, n: int) -> Interval:
    """Wald's interval with one more flip each way (Bonett and Price, 2012)."""
    gain, loss = (gained + 1) / (n + 2), (lost + 1) / (n + 2)
    half = 1.959964 * ((gain + loss - (gain - loss) ** 2) / (n + 2)) ** 0.5
    return Interval(gain - loss - half, gain - loss + half)


def recalls(sizes: tuple[int, ...], discordant: float, rng: Rng, n: int) -> dict[str, float]:
    """Mean per-class recall; classes differ in how many of their samples flip."""
    strata, share = classes(sizes, discordant, n)
    kind = rng.random(len(strata))
    a = np.where(kind < share[strata], kind < share[strata] / 2, rng.random(len(strata)) < 0.7)
    b = np.where(kind < share[strata], ~a, a)
    d = paired_means(a, b, strata=strata)
    by_bootstrap = interval_of(draw_mean(b.astype(float) - a, make_design(len(a), strata=strata), DRAWS, 0), 0.05)
    return outcome(0, d[1:3]) | outcome(0, by_bootstrap, "/bootstrap") | {"alarm": d.p < 0.05}


def caption_recalls(p: float, alike: float, rng: Rng, n: int) -> dict[str, float]:
    images = np.arange(n) // 5
    shared = caption_scores(images, alike, rng)
    a, b = (0.9 * shared + 0.19**0.5 * caption_scores(images, alike, rng) < ndtri(p) for _ in range(2))
    d = paired_means(a, b, clusters=images)
    naive = paired_proportions(a, b)
    return outcome(0, d[1:3]) | outcome(0, naive[1:3], "/as if independent") | {"alarm": d.p < 0.05}


def losses(shape: float, rng: Rng, n: int) -> dict[str, float]:
    shared = rng.gamma(shape, size=n)
    a, b = (shared * rng.gamma(5, 0.2, size=n) for _ in range(2))
    d = paired_means(a, b, draws=DRAWS, seed=int(rng.integers(2**31)))
    return outcome(0, d[1:3]) | {"alarm": d.p < 0.05}


def gates(discordant: float, drop: float, rng: Rng, n: int) -> dict[str, float]:
    """Gates at a margin of 0.003 and alpha of 0.05, which are one-sided."""
    gained, lost, _ = rng.multinomial(n, [(discordant - drop) / 2, (discordant + drop) / 2, 1 - discordant])
    low, high = tango_interval(lost, gained, n, alpha=0.1)
    return {
        "fails --max-drop": (gained - lost) / n < -MARGIN,
        "fails --significant": high < -MARGIN,
        "fails --non-inferior": not low > -MARGIN,
    }


FIVE, TWENTY, MIXED = (5,), (20,), (5,) * 9 + (10, 20, 25)
STUDIES: dict[str, dict[str, Callable]] = {
    "proportion": {f"p = {p}": partial(proportion, p) for p in (0.05, 0.1, 0.2, 0.3, 0.5, 0.7, 0.8, 0.9, 0.95)},
    "mean_per_class_recall": {
        f"{name} per class, recall {recall}": partial(mean_per_class_recall, sizes, recall)
        for name, sizes in (("5", FIVE), ("20", TWENTY), ("5 to 25", MIXED))
        for recall in (0.1, 0.3, 0.6, 0.9)
    },
    "mean_per_class_recall by bootstrap": {
        f"5 per class, recall {recall}": partial(recall_by_bootstrap, FIVE, recall) for recall in (0.6, 0.9)
    },
    "recall of 5 captions an image": {
        f"recall {p}, alike {alike}": partial(captions, p, alike) for p in (0.1, 0.3, 0.6, 0.9) for alike in (0.3, 0.6)
    },
    "nll": {f"skewness {name}": partial(nll, shape) for name, shape in (("1.4", 2.0), ("2.8", 0.5))},
    "paired proportions": {
        f"flips {discordant}, difference {difference}": partial(proportions, discordant, difference)
        for discordant, difference in ((0.1, 0.0), (0.2, 0.0), (0.4, 0.0), (0.02, 0.01), (0.1, 0.05), (0.2, -0.1))
    },
    "paired mean_per_class_recall": {
        f"5 per class, flips {discordant}": partial(recalls, FIVE, discordant) for discordant in (0.1, 0.3)
    },
    "paired recall of 5 captions an image": {f"recall {p}": partial(caption_recalls, p, 0.5) for p in (0.3, 0.6)},
    "paired nll": {"skewness 1.4": partial(losses, 2.0)},
    "gates": {
        f"flips {discordant}, drop {drop}": partial(gates, discordant, drop)
        for discordant in (0.02, 0.06)
        for drop in (0.0, MARGIN, 2 * MARGIN)
    },
    "ece": {"calibrated": partial(ece, 1.0), "too sure, T = 1.3": partial(ece, 1.3)},
    "other statistics": {"mean_average_precision": average_precision, "macro_f1": f1, "median rank": median_rank},
}
SLOW = ("mean_average_precision",)
SETTINGS = {
    "small": Setting(20, 2, (100,), (1000,)),
    "full": Setting(2000, 300, (100, 1000), (1000, 10_000, 50_000)),
}


def print_tables(results: Path, name: str) -> None:
    """Markdown: every study a table, shares and widths with their Monte Carlo error."""
    rows = [r for r in read_rows(results) if r["setting"] == name]
    for what in STUDIES:
        found: dict[tuple[str, int, int], dict[str, float]] = {}
        for r in (r for r in rows if r["what"] == what):
            run = r["case"], int(r["n"]), int(r["repetitions"])
            found.setdefault(run, {})[r["metric"]] = float(r["value"])
        metrics = list(dict.fromkeys(m for values in found.values() for m in values if f"{m}/error" in values))
        print(f"**{what}**\n\n| | n | draws | {' | '.join(metrics)} |\n|{'---|' * (len(metrics) + 3)}")
        for (case, n, repetitions), values in found.items():
            cells = [f"{values[m]:.3f} ± {values[f'{m}/error']:.3f}" if m in values else "" for m in metrics]
            print(f"| {case} | {n:,} | {repetitions:,} | {' | '.join(cells)} |")
        print()


if __name__ == "__main__":
    sys.exit(main())
