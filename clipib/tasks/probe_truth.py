"""A score against the true PMI of digitworld."""

from __future__ import annotations

import numpy as np
import torch

from clipib.information.bounds import dv
from clipib.information.calibrate import best_scale, fit_ratio, sinkhorn
from clipib.information.jackknife import Estimate, dv_without, jackknife, means_without
from clipib.information.pmi import Diagnosis, agreement, diagnose, rank_correlation, two_way
from clipib.information.table import ScoreTable, as_table, tally
from clipib.tasks.measured import Report, judge
from clipib.tasks.pairs import Free

GROUPS = 10  # of images that the jackknife leaves out
DIAGNOSED = 600  # images in the table that is taken apart
NOTICEABLE = 0.1  # nats, and of a slope 0.1, that a fault must reach to be named


def probe_truth(
    report: Report, table: ScoreTable, truth: np.ndarray, parts: tuple[torch.Tensor, torch.Tensor], free: Free
) -> None:
    """Agreement under both distributions, residuals by kind, what is wrong in which respect, and the gap in nats.

    Args:
        table: N images with a text each. truth: (N, N) the PMI of every pair.
        parts: images to calibrate and to evaluate on.
    """
    scores = torch.cat([s for _, s, _ in table.blocks()]).numpy()
    calibrate, evaluate = (p.numpy() for p in parts)
    s, t = (m[np.ix_(evaluate, evaluate)] for m in (scores, truth))
    _agreement(report, s, t, free)
    _diagnosis(report, s, t)
    _gap(report, scores, truth, calibrate, evaluate)


def _agreement(report: Report, s: np.ndarray, t: np.ndarray, free: Free) -> None:
    own = np.eye(len(s), dtype=bool)
    groups = _groups(len(s))
    for name, chosen in (("Q", ~own), ("P", own)):
        n = len(s)
        # Under P the free number is that of Q: the loss knows one for all pairs.
        constant = free.constant if name == "Q" or free.constant is not None else float((s - t)[~own].mean())
        whole, *rest = (
            agreement(s[k][chosen[k]], t[k][chosen[k]], constant=constant)
            for k in (np.ix_(keep, keep) for keep in (np.arange(n), *_kept(n, groups)))
        )
        rest = np.array(rest)
        for i, field in enumerate(("pearson", "slope", "calibration_slope", "constant_nats", "rmse_nats")):
            found = jackknife(float(whole[i]), torch.from_numpy(rest[:, i]))
            report.add(f"pmi_{field}", found, n=n, distribution=name)
        report.add("pmi_spearman", rank_correlation(s[chosen], t[chosen]), n=n, distribution=name)
    residuals = [two_way((s - t)[np.ix_(k, k)]) for k in (np.arange(len(s)), *_kept(len(s), groups))]
    for kind in ("row", "column", "interaction"):
        values = [getattr(r, kind) for r in residuals]
        name = {"column": "col"}.get(kind, kind)
        report.add(f"pmi_residual_{name}_nats", jackknife(values[0], torch.tensor(values[1:])), n=len(s))


def _diagnosis(report: Report, s: np.ndarray, t: np.ndarray) -> None:
    """What kind of fault it is, each with the number that is meant for it."""
    n = min(len(s), DIAGNOSED)
    s, t = s[:n, :n], t[:n, :n]
    whole, kept = diagnose(s, t), _kept(n, _groups(n))
    rest = [diagnose(s[np.ix_(k, k)], t[np.ix_(k, k)]) for k in kept]

    def estimate(field: str) -> Estimate:
        return jackknife(getattr(whole, field), torch.tensor([getattr(r, field) for r in rest]))

    slope = estimate("slope")
    bent = _noticed(report, "bend", estimate("bend_nats"), n, "a monotone curve, not a line, links s to PMI")
    report.add("pmi_fit_slope", slope, n=n)
    wrong = abs(slope.value - 1) > NOTICEABLE and not slope.low <= 1 <= slope.high
    judge(
        report,
        "scale",
        wrong and not (bent and _straight_somewhere(whole)),
        good=f"s grows with PMI at the slope {slope.value:.2f}.",
        bad=f"s grows with PMI at the slope {slope.value:.2f} ({slope.low:.2f} to {slope.high:.2f}), not 1.",
    )
    _noticed(report, "image offsets", estimate("image_nats"), n, "a number per image is added to PMI")
    _noticed(report, "text offsets", estimate("text_nats"), n, "a number per text is added to PMI")
    _noticed(report, "noise", estimate("noise_nats"), n, "this is what no curve and no offsets explain")


def _noticed(report: Report, test: str, found: Estimate, n: int, meaning: str) -> bool:
    report.add(f"pmi_fit_{test.replace(' offsets', '')}_nats", found, n=n)
    fails = found.value > NOTICEABLE and found.low > NOTICEABLE / 2
    judge(
        report,
        test,
        fails,
        good=f"{found.value:.2f} nats: nothing to speak of.",
        bad=f"{found.value:.2f} nats ({found.low:.2f} to {found.high:.2f}): {meaning}.",
    )
    return fails


def _straight_somewhere(found: Diagnosis) -> bool:
    """Whether the curve runs at the slope 1 wherever it is not at its floor: then it is cut off, not mis-scaled."""
    above = found.curve > found.curve.min() + 0.1 * np.ptp(found.curve)
    return bool(above.sum() > 1) and abs(np.polyfit(found.knots[above], found.curve[above], 1)[0] - 1) <= NOTICEABLE


def _gap(report: Report, scores: np.ndarray, truth: np.ndarray, calibrate: np.ndarray, evaluate: np.ndarray) -> None:
    """KL(P, Q e^s / Z) = I - DV(s), as a staircase of repairs that were fitted on other images.

    The sample values of DV at the score and at the true PMI are subtracted, so that what sampling does to both cancels.
    """
    s, t = torch.from_numpy(scores), torch.from_numpy(truth)
    fit, n = s[calibrate][:, calibrate], len(evaluate)
    raw, true = s[evaluate][:, evaluate], tally(t[evaluate][:, evaluate])
    alpha = best_scale(fit).alpha
    offsets = sinkhorn(alpha * fit, tolerance=1e-6, steps=50)
    to_texts = alpha * s[evaluate][:, calibrate] + offsets.texts
    to_images = alpha * s[calibrate][:, evaluate] + offsets.images[:, None]
    own = torch.eye(len(fit), dtype=torch.bool)
    ratio = fit_ratio(fit[own], fit[~own])
    staircase = {
        "pmi_kl_gap_nats": raw,
        "pmi_kl_gap_scaled_nats": alpha * raw,
        "pmi_kl_gap_sinkhorn_nats": alpha * raw - _log_mean(to_texts, 1)[:, None] - _log_mean(to_images, 0),
        "pmi_kl_gap_isotonic_nats": ratio(raw),
    }
    for metric, repaired in staircase.items():
        found = tally(as_table(repaired))
        report.add(metric, jackknife(dv(true) - dv(found), dv_without(true) - dv_without(found)), n=n)
    mean = means_without(true.positives, true.image_of_text, n)
    report.add("pmi_true_mi_nats", jackknife(float(true.positives.mean()), mean), n=n)


def _log_mean(x: torch.Tensor, dim: int) -> torch.Tensor:
    return x.logsumexp(dim) - torch.tensor(float(x.shape[dim])).log()


def _groups(n: int) -> list[np.ndarray]:
    return np.array_split(np.random.default_rng(82).permutation(n), GROUPS)


def _kept(n: int, groups: list[np.ndarray]) -> list[np.ndarray]:
    return [np.delete(np.arange(n), g) for g in groups]
