"""What a score says of itself where no truth is known: is e^s a density ratio of the data at hand?"""

from __future__ import annotations

import math

import numpy as np
import torch

from clipib.information.bounds import dv, nwj
from clipib.information.calibrate import best_ranking_scale, best_scale, ratio_calibration, sinkhorn
from clipib.information.jackknife import (
    Estimate,
    dv_without,
    jackknife,
    jackknife_groups,
    log_means_without,
    means_without,
    nwj_without,
)
from clipib.information.norms import TESTABLE, Norms, norms
from clipib.information.table import ScoreTable, Tally, tally
from clipib.tasks.measured import NOT_TESTABLE, NOTE, Report, judge
from clipib.tasks.pairs import Free

REPLICATES = 5  # random choices of one text per image, where images have several
SQUARE, POOLED = 2_000, 1_000  # images in a table that is computed many times over
GROUPS = 20
NOTICEABLE = 0.1  # nats
SHIFTED = "miscalibrated, or the data are not those that it was trained on"


def probe_blind(
    report: Report, table: ScoreTable, parts: tuple[torch.Tensor, torch.Tensor], free: Free, *, seed: int
) -> Norms:
    """Normalisation, scale, agreement of bounds and calibration of the ratio.

    Args:
        table: N images with all their texts. parts: images to calibrate and to evaluate on.

    Returns:
        The norms of images, of which the effective sample size says what this N can test.
    """
    everything = tally(table)
    images = _norms(report, everything)
    _constant(report, everything, free)
    calibrate, evaluate = (_squares(table.take(p), seed) for p in parts)
    _agreement(report, calibrate, evaluate)
    first = evaluate[0].take(torch.arange(min(SQUARE, len(evaluate[0].images)))).hold()
    _scale(report, first)
    _ratio(report, first)
    _offsets(report, first, images)
    return images


def _squares(table: ScoreTable, seed: int) -> list[ScoreTable]:
    """Tables of one text per image: one where there is no choice, else several."""
    n, m = table.shape
    generator = torch.Generator().manual_seed(seed)
    return [table.one_text_each(generator) for _ in range(1 if n == m else REPLICATES)]


def _norms(report: Report, t: Tally) -> Norms:
    """Whether e^s has one mean for every image, and one for every text."""
    sides = dict(zip(("row", "col"), norms(t)))
    for side, found in sides.items():
        n, what, other = len(found.sizes), *(("image", "texts") if side == "row" else ("text", "images"))
        error = found.std_nats / math.sqrt(2 * n)
        report.add(f"pmi_{side}_norm_std_nats", Estimate(found.std_nats, error), n=n)
        report.add(f"pmi_{side}_norm_std_nats", found.band_nats, n=n, of="sampling")
        report.add("pmi_norm_ess", found.median_size, n=n, side="images" if side == "row" else "texts")
        test = f"norms of {what}s"
        if not found.testable:
            report.say(
                test,
                NOT_TESTABLE,
                f"not testable at this N: the mean of e^s over the {other} rests on {found.median_size:.0f} draws "
                f"in effect (median), {TESTABLE:.0f} are needed.",
            )
            continue
        # The spread of n norms has a relative standard error of 1 / sqrt(2 n).
        beyond = found.std_nats**2 > found.band_nats**2 * (1 + 4 * math.sqrt(2 / n))
        judge(
            report,
            test,
            beyond and found.excess_nats > NOTICEABLE,
            good=f"e^s has the same mean over the {other} for every {what}, up to {found.excess_nats:.2f} nats.",
            bad=f"the mean of e^s over the {other} differs from {what} to {what} by {found.excess_nats:.2f} nats "
            f"beyond sampling: {SHIFTED}.",
        )
    return sides["row"]


def _constant(report: Report, t: Tally, free: Free) -> None:
    """log E_Q[e^s], which is the free number of a softmax and a real test of a sigmoid."""
    found = jackknife(t.log_mean, log_means_without(t))
    report.add("pmi_constant_nats", found, n=len(t.rows), by="normalisation")
    if free.constant is None:
        report.say("constant", "free", f"log E[e^s] = {found.value:.2f}: whatever it is, it is no fault.")
        return
    off = found.value - free.constant
    within = found.low <= free.constant <= found.high
    judge(
        report,
        "normalisation",
        abs(off) > NOTICEABLE and not within,
        good=f"log E[e^s] = {found.value:.2f}, and the loss fixes {free.constant:.2f}.",
        bad=f"log E[e^s] = {found.value:.2f}, but the loss fixes {free.constant:.2f}: {SHIFTED}.",
    )


def _agreement(report: Report, calibrate: list[ScoreTable], evaluate: list[ScoreTable]) -> None:
    """E_P[s - c] = DV(s) = NWJ(s - c + 1) = I for a calibrated score, with c from other pairs."""
    values, without, sizes = {}, {}, []
    n = len(evaluate[0].images)
    for fit, judged in zip(calibrate, evaluate):
        c = tally(fit).log_mean
        t = tally(judged)
        sizes.append(t.effective_negatives)
        shifted = t.shifted(1 - c)
        plain = means_without(t.positives, t.image_of_text, n) - c
        for name, value, rest in (
            ("plugin", float(t.positives.mean()) - c, plain),
            ("dv", dv(t), dv_without(t)),
            ("nwj", nwj(shifted), nwj_without(shifted)),
        ):
            values.setdefault(name, []).append(value)
            without.setdefault(name, []).append(rest)
    found = {k: jackknife(float(np.mean(v)), torch.stack(without[k]).mean(0)) for k, v in values.items()}
    for name, estimate in found.items():
        report.add(f"shared_{name}_nats", estimate, n=n)
    report.add("shared_ceiling_nats", math.log(n), n=n)
    if min(sizes) < TESTABLE:
        words = f"the mean of e^s rests on {min(sizes):.0f} negatives in effect, {TESTABLE:.0f} are needed"
        report.say("agreement of bounds", NOT_TESTABLE, f"not testable at this N: {words}.")
        return
    gap = found["plugin"].value - found["dv"].value
    spread = jackknife(gap, torch.stack(without["plugin"]).mean(0) - torch.stack(without["dv"]).mean(0))
    judge(
        report,
        "agreement of bounds",
        max(abs(gap), abs(found["nwj"].value - found["dv"].value)) > NOTICEABLE + 2 * spread.standard_error,
        good=f"E[s - c], DV and NWJ agree: {', '.join(f'{e.value:.2f}' for e in found.values())} nats.",
        bad=f"E[s - c], DV and NWJ differ: {', '.join(f'{e.value:.2f}' for e in found.values())} nats; heavy tails of "
        f"e^s, or {SHIFTED}.",
    )


def _scale(report: Report, table: ScoreTable) -> None:
    alpha = jackknife_groups(lambda t: best_scale(t, tolerance=1e-4).alpha, table, groups=GROUPS)
    n = len(table.images)
    report.add("pmi_scale", alpha, n=n)
    report.add("pmi_scale_gain_nats", best_scale(table).gain_nats, n=n)
    size = "too large, or noisy" if alpha.value < 1 else "too small"
    judge(
        report,
        "best scale",
        abs(alpha.value - 1) > 0.1 and not alpha.low <= 1 <= alpha.high,
        good=f"scores are most telling at {alpha.value:.2f} times their size.",
        bad=f"scores are most telling at {alpha.value:.2f} ({alpha.low:.2f} to {alpha.high:.2f}) times their size: "
        f"they are {size}.",
    )


def _ratio(report: Report, table: ScoreTable) -> None:
    try:
        found = ratio_calibration(table)
    except ValueError as error:
        report.say("ratio calibration", NOT_TESTABLE, f"not testable at this N: {error}.")
        return
    nats = jackknife_groups(lambda t: ratio_calibration(t).nats, table, groups=GROUPS // 2)
    report.add("pmi_ratio_calibration_nats", nats, n=len(table.images), bins=len(found.score))
    judge(
        report,
        "ratio calibration",
        found.p_value < 1e-3 and found.nats > NOTICEABLE / 2,
        good=f"e^(s - c) and the density ratio that its bins show are {found.nats:.2f} nats apart, within sampling.",
        bad=f"e^(s - c) is off the density ratio that its bins show by {found.nats:.2f} nats on average.",
    )


def _offsets(report: Report, table: ScoreTable, images: Norms) -> None:
    """What has to be added per image and per text for PMI, scale aside."""
    found = sinkhorn(table, tolerance=1e-6, steps=50)
    value = float(found.images.std() + found.texts.std())
    kept = "yes" if images.testable else "no"
    report.add("pmi_sinkhorn_std_nats", value, n=len(table.images), testable=kept)


def probe_pools(report: Report, table: ScoreTable) -> None:
    """The scale at which the summed scores of m texts of an image rank images best.

    It stays 1 where s is PMI and the texts are independent given the image; below, they repeat each other.
    """
    table = table.take(torch.arange(min(POOLED, len(table.images))))
    n = len(table.images)
    order = torch.argsort(table.image_of_text, stable=True)
    counts = torch.bincount(table.image_of_text, minlength=n)
    firsts = counts.cumsum(0) - counts
    for m in [m for m in (1, 2, 3, 5) if m <= int(counts.min())]:
        chosen = torch.stack([order[firsts + k] for k in range(m)])  # (m, N) texts

        def score(rows: torch.Tensor, columns: torch.Tensor, chosen=chosen) -> torch.Tensor:
            return sum(table.score(table.images[rows], table.texts[c[columns]]) for c in chosen)

        pooled = ScoreTable(score, torch.arange(n), torch.arange(n), torch.arange(n)).hold()
        report.add(f"pmi_pool_scale@{m}", jackknife_groups(best_ranking_scale, pooled, groups=GROUPS // 2), n=n)
    if int(counts.min()) >= 2:
        one, many = report.value("pmi_pool_scale@1"), report.value(f"pmi_pool_scale@{m}")
        words = f"summed over {m} texts of an image, scores rank images best at {many:.2f} times their size, those of"
        report.say("pooled texts", NOTE, f"{words} one text at {one:.2f}: what falls is what texts repeat.")


def probe_chain(report: Report, single: torch.Tensor, second: torch.Tensor, joined: torch.Tensor) -> None:
    """Whether s(x, y1 + y2) - s(x, y1) - s(x, y2) is constant in x, as for PMI where y1, y2 are independent given x.

    Args:
        single, second, joined: (N, J) scores of all images with J texts, with J others, and with both joined.
    """
    rest = joined - single - second
    share = float(rest.var(0).mean() / joined.var(0).mean())
    report.add("pmi_chain_residual", share, n=rest.shape[1])
    words = f"{share:.2f} of the variance of a joined text's score is not the sum of its parts'"
    report.say("chain", NOTE, f"{words} (0 for PMI, if joined texts were trained on).")


def probe_prior(report: Report, logits: np.ndarray, labels: np.ndarray, *, seed: int, repeats: int = 5) -> None:
    """Whether the class priors of a long-tailed subsample appear in the intercepts, as they do for PMI.

    Logits alpha s + b_c are fitted on the subsample; regressing b_c on the log prior gives 1 and no residual where s is
    PMI, up to a number per image.

    Args:
        logits: (N, K) scores of images with class prompts. labels: (N,) classes.
    """
    slopes, residuals = [], []
    k, rng = logits.shape[1], np.random.default_rng([seed, 83])
    for _ in range(repeats):
        prior = np.geomspace(1, 0.1, k)[rng.permutation(k)]
        kept = rng.random(len(labels)) < prior[labels]
        counts = np.bincount(labels[kept], minlength=k)
        if (counts < 2).any():
            report.say("class prior", NOT_TESTABLE, f"{len(labels):,} images are too few for {k} classes.")
            return
        log_prior = np.log(counts / counts.sum())
        intercepts = _fit_intercepts(torch.from_numpy(logits[kept]).double(), torch.from_numpy(labels[kept]))
        slope = np.cov(intercepts, log_prior)[0, 1] / log_prior.var(ddof=1)
        slopes.append(slope)
        residuals.append(float(np.std(intercepts - log_prior)))
    error = float(np.std(slopes, ddof=1))
    found = Estimate(float(np.mean(slopes)), error)
    report.add("pmi_prior_slope", found, n=len(labels), repeats=repeats)
    report.add("pmi_prior_residual_nats", float(np.mean(residuals)), n=len(labels), repeats=repeats)
    judge(
        report,
        "class prior",
        not found.low <= 1 <= found.high,
        good=f"the intercepts follow the class prior at the slope {found.value:.2f}; besides it classes differ by "
        f"{np.mean(residuals):.2f} nats.",
        bad=f"the intercepts follow the class prior at the slope {found.value:.2f}, not 1.",
    )


def _fit_intercepts(logits: torch.Tensor, labels: torch.Tensor) -> np.ndarray:
    """b_c of the best logits alpha s + b_c."""
    scores = logits - logits.mean(1, keepdim=True)
    scale = torch.ones((), dtype=torch.float64, requires_grad=True)
    b = torch.zeros(logits.shape[1], dtype=torch.float64, requires_grad=True)
    optimizer = torch.optim.LBFGS([scale, b], max_iter=200, line_search_fn="strong_wolfe")

    def loss() -> torch.Tensor:
        optimizer.zero_grad()
        value = torch.nn.functional.cross_entropy(scale * scores + b, labels)
        value.backward()
        return value

    optimizer.step(loss)
    return b.detach().numpy()
