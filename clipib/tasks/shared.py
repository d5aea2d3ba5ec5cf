"""How much the embeddings of images and of texts share: every number a bound or an estimate on images not fitted on."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import torch
from torch import Tensor

from clipib.information.bounds import dv, info_nce, nwj
from clipib.information.calibrate import best_scale
from clipib.information.gaussian import canonical_correlations, gaussian_mi, reduce_width
from clipib.information.gaussian_critic import GaussianCritic, fit_gaussian_critic
from clipib.information.jackknife import (
    Estimate,
    dv_without,
    info_nce_without,
    jackknife,
    jackknife_rows,
    means_without,
    nwj_without,
)
from clipib.information.ksg import ksg_mi
from clipib.information.matrix_entropy import gaussian_gram, matrix_mi
from clipib.information.norms import TESTABLE
from clipib.information.table import ScoreTable, tally
from clipib.tasks.measured import NOT_TESTABLE, NOTE, Report

if TYPE_CHECKING:
    from clipib.information.critic import SeparableCritic

SHARES = (0.5, 0.1, 0.4)  # of the images: to fit, to calibrate, to evaluate
REPLICATES = 5
KSG_WIDTH, KSG_NEIGHBOURS = 4, 3
KERNEL_WIDTH, KERNEL_ITEMS = 0.5, 1_000  # of unit vectors, whose distances lie between 0 and 2
FEWEST_FOR_CRITIC = 2_000
METRIC_OF = {"Gaussian": "shared_gaussian_heldout_nats", "trained": "shared_critic_nats"}
NEAR_CEILING = 1.0  # nats below log N from which a value says little but that there is more


class Split(NamedTuple):
    """Images, by number."""

    fit: Tensor
    calibrate: Tensor
    evaluate: Tensor


class Sides(NamedTuple):
    """image: (N, D) one row per image. text: (M, D'). image_of_text: (M,)."""

    image: Tensor
    text: Tensor
    image_of_text: Tensor


def measure_shared(
    report: Report, table: ScoreTable, sides: Sides, split: Split, *, truth: float | None, critics: bool, seed: int
) -> None:
    """The checkpoint's own score, fitted critics, and closed forms, with the ceiling log N beside them.

    Args:
        table: own scores of N images with their texts. truth: the shared information of the data, where it is known.
        critics: whether a network is trained.
    """
    n = len(split.evaluate)
    ceiling = math.log(n)
    report.add("shared_ceiling_nats", ceiling, n=n)
    own = _own_score(report, table, split, seed)
    if own.value > ceiling - NEAR_CEILING:
        words = f"{own.value:.2f} nats is near log N = {ceiling:.2f}"
        report.say("ceiling", NOTE, f"{words}: more images may show more.")
    if truth is not None:
        share = Estimate(own.value / truth, own.standard_error / truth)
        report.add("shared_fraction_of_true", share, n=n)
        words = f"the score certifies {own.value:.2f} of the {truth:.2f} nats that images and texts share"
        report.say("shared", NOTE, f"{words} ({share.value:.0%}).")
    texts = one_text_each(sides, seed)
    pairs = {part: (sides.image[images], texts[images]) for part, images in split._asdict().items()}
    best = _fitted(report, pairs, critics, seed)
    unused = jackknife(best.value - own.value, best.without - own.without)
    report.add("shared_unused_nats", unused, n=n, critic=best.name)
    if unused.low > 0:
        words = f"a {best.name} critic finds {unused.value:.2f} nats more in the same embeddings"
        report.say("unused", NOTE, f"{words} than the checkpoint's own score uses.")
    _closed_forms(report, pairs)


class _Bound(NamedTuple):
    """InfoNCE on the evaluated images: value, its error, values without each image, and the name of the critic."""

    value: float
    standard_error: float
    without: Tensor
    name: str = "own"


def _own_score(report: Report, table: ScoreTable, split: Split, seed: int) -> _Bound:
    """The bounds of the own score, of which the scale and the constant are fitted on the calibration images."""
    generator = torch.Generator().manual_seed(seed)
    fit = table.take(torch.cat([split.fit, split.calibrate]).sort().values).one_text_each(generator)
    alpha = best_scale(fit.take(torch.arange(min(2_000, len(fit.images)))), tolerance=1e-4).alpha
    c = tally(fit.map(lambda s: alpha * s)).log_mean
    raw, scaled = [], []
    evaluate = table.take(split.evaluate)
    n, m = evaluate.shape
    for _ in range(1 if n == m else REPLICATES):
        square = evaluate.one_text_each(generator).hold()
        raw.append(_bounds(square, 0.0))
        scaled.append(_bounds(square.map(lambda s: alpha * s), c))
    report.add("shared_infonce_nats", _mean(raw, "infonce"), n=n, critic="own")
    own = _mean(scaled, "infonce")
    report.add("shared_own_score_nats", own, n=n, critic="own", scale="fitted")
    for name in ("dv", "nwj", "plugin"):
        report.add(f"shared_{name}_nats", _mean(scaled, name), n=n, critic="own", scale="fitted")
    size = float(np.median([r["negatives"][0] for r in scaled]))
    if size < TESTABLE:
        words = f"DV, NWJ and E[s - c] rest on {size:.0f} negatives in effect, {TESTABLE:.0f} are needed: trust InfoNCE"
        report.say("heavy tails", NOT_TESTABLE, f"not testable at this N: {words}.")
    without = torch.stack([r["infonce"][1] for r in scaled]).mean(0)
    return _Bound(own.value, own.standard_error, without)


def _bounds(square: ScoreTable, c: float) -> dict[str, tuple[float, Tensor]]:
    t = tally(square)
    n = len(t.rows)
    shifted = t.shifted(1 - c)
    mean = means_without(t.positives, t.image_of_text, n)
    return {
        "infonce": (info_nce(t), info_nce_without(square, t)),
        "dv": (dv(t), dv_without(t)),
        "nwj": (nwj(shifted), nwj_without(shifted)),
        "plugin": (float(t.positives.mean()) - c, mean - c),
        "negatives": (t.effective_negatives, mean),
    }


def _mean(replicates: list[dict[str, tuple[float, Tensor]]], name: str) -> Estimate:
    value = float(np.mean([r[name][0] for r in replicates]))
    return jackknife(value, torch.stack([r[name][1] for r in replicates]).mean(0))


def one_text_each(sides: Sides, seed: int) -> Tensor:
    """(N, D') a random text of every image."""
    order = torch.randperm(len(sides.text), generator=torch.Generator().manual_seed(seed + 1))
    chosen = torch.empty(len(sides.image), dtype=torch.int64)
    chosen[sides.image_of_text[order]] = order
    return sides.text[chosen]


def _fitted(report: Report, pairs: dict[str, tuple[Tensor, Tensor]], critics: bool, seed: int) -> _Bound:
    """InfoNCE of critics that were fitted on other images; the one that is better on the calibration images counts."""
    n_fit = len(pairs["fit"][0])
    width = max(2, min(64, n_fit // 20))  # fitted noise costs width^2 / 2n nats
    critics_of: dict[str, GaussianCritic | SeparableCritic] = {}
    critics_of["Gaussian"] = fit_gaussian_critic(*pairs["fit"], width=width)
    if critics and n_fit >= FEWEST_FOR_CRITIC:
        from clipib.information.critic import Pairs, fit_separable_critic

        fit, calibrate = (Pairs(*(x.float() for x in pairs[part])) for part in ("fit", "calibrate"))
        critics_of["trained"] = fit_separable_critic(fit, calibrate, seeds=tuple(seed + i for i in range(3)))
    elif critics:
        report.say("trained critic", NOTE, f"left out: {n_fit:,} images to fit, {FEWEST_FOR_CRITIC:,} are needed.")
    found, on_calibration = {}, {}
    for name, critic in critics_of.items():
        scores = critic_table(critic, *pairs["evaluate"])
        t = tally(scores)
        without = info_nce_without(scores, t)
        estimate = jackknife(info_nce(t), without)
        metric, params = METRIC_OF[name], {"width": width} if name == "Gaussian" else {}
        report.add(metric, estimate, n=len(t.rows), **params)
        found[name] = _Bound(estimate.value, estimate.standard_error, without, name)
        on_calibration[name] = info_nce(tally(critic_table(critic, *pairs["calibrate"])))
    return found[max(on_calibration, key=on_calibration.get)]


def critic_table(critic: GaussianCritic | SeparableCritic, x: Tensor, y: Tensor) -> ScoreTable:
    """The scores of a critic on pairs, tile by tile: both critics are inner products."""
    u, v = critic.embed_x(x), critic.embed_y(y)
    n = torch.arange(len(x))
    return ScoreTable(lambda images, texts: u[images] @ v[texts].T, n, n, n)


def _closed_forms(report: Report, pairs: dict[str, tuple[Tensor, Tensor]]) -> None:
    """The Gaussian plug-in, KSG of the leading canonical directions, and the matrix entropy: no bounds."""
    x, y = (torch.cat(side).double() for side in zip(pairs["fit"], pairs["calibrate"]))
    n = len(x)
    width = max(2, min(64, n // 20))

    def gaussian(a: Tensor, b: Tensor) -> float:
        return gaussian_mi(reduce_width(a, width), reduce_width(b, width))

    report.add("shared_gaussian_nats", jackknife_rows(gaussian, x, y), n=n, width=width)
    plug_in, held_out = report.value("shared_gaussian_nats"), report.value("shared_gaussian_heldout_nats")
    if plug_in > held_out + 1:
        words = f"the Gaussian formula says {plug_in:.2f} nats, its critic on fresh pairs {held_out:.2f}"
        report.say("Gaussian formula", NOTE, f"{words}: the embeddings are not Gaussian, and the first is no bound.")
    left, right = _canonical(x, y, *(side.double() for side in pairs["evaluate"]), width)
    ksg = jackknife_rows(lambda a, b: ksg_mi(a, b, k=KSG_NEIGHBOURS, seed=0), left, right)
    report.add("shared_ksg_nats", ksg, n=len(left), k=KSG_NEIGHBOURS, dims=KSG_WIDTH)
    u, v = (side[:KERNEL_ITEMS].double() for side in pairs["evaluate"])
    value = matrix_mi(gaussian_gram(u, KERNEL_WIDTH), gaussian_gram(v, KERNEL_WIDTH))
    report.add("matrix_mi_nats", value, n=len(u), alpha=1.01, kernel_width=KERNEL_WIDTH)
    rho = canonical_correlations(reduce_width(x, width), reduce_width(y, width))
    report.add("canonical_correlation", float(rho[0]), n=n, width=width)


def _canonical(x: Tensor, y: Tensor, new_x: Tensor, new_y: Tensor, width: int) -> tuple[Tensor, Tensor]:
    """The leading canonical directions of x and y, fitted on them, of new pairs: (n, 4) and (n, 4)."""
    sides = [_whitener(side, width) for side in (x, y)]
    white = [(side - mean) @ w for side, (mean, w) in zip((x, y), sides)]
    u, _, vt = torch.linalg.svd(white[0].T @ white[1] / len(x))
    turns = (u[:, :KSG_WIDTH], vt[:KSG_WIDTH].T)
    return tuple((side - mean) @ w @ turn for side, (mean, w), turn in zip((new_x, new_y), sides, turns))


def _whitener(x: Tensor, width: int) -> tuple[Tensor, Tensor]:
    mean = x.mean(0)
    values, vectors = torch.linalg.eigh(torch.cov(x.T))
    kept = (values > values[-1] * 1e-9).nonzero()[:, 0][-width:]
    return mean, vectors[:, kept] / values[kept].sqrt()
