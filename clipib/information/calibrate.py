"""What would turn a score into a log density ratio: a scale, offsets per image and per text, a monotone map."""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from clipib.information.table import ScoreTable, as_table

LARGEST_SCALE = 16.0  # where true pairs outscore all others, any scale is better than the one below


class Scale(NamedTuple):
    """alpha: the factor. gain_nats: how much the Donsker-Varadhan value rises by it."""

    alpha: float
    gain_nats: float


def best_scale(scores: Tensor | ScoreTable, *, steps: int = 40, tolerance: float = 1e-7) -> Scale:
    """alpha that maximises DV(alpha s) = alpha E_P[s] - log E_Q[e^(alpha s)].

    Concave in alpha, with E_P[s] = E_Q[s e^(alpha s)] / E_Q[e^(alpha s)] at the maximum: Newton's steps inside a
    bracket. 1 at s = PMI + c, 1/2 for scores twice too large; noise in s pulls it below 1. At most 16.

    Returns:
        alpha, 0 where true pairs score no higher than others, and the gain over alpha = 1 in nats.
    """
    table = as_table(scores).hold()
    low, high, alpha = 0.0, LARGEST_SCALE, 1.0
    at_one = _tilted(table, 1.0)
    now = at_one
    for _ in range(steps):
        slope = now.positive - now.mean
        low, high = (alpha, high) if slope > 0 else (low, alpha)
        proposed = alpha + slope / max(now.variance, 1e-12)
        proposed = proposed if low < proposed < high else (low + high) / 2
        if abs(proposed - alpha) < tolerance * max(1.0, alpha):
            alpha = proposed
            break
        alpha = proposed
        now = _tilted(table, alpha)
    final = _tilted(table, alpha)
    return Scale(alpha, (alpha * final.positive - final.log_mean) - (at_one.positive - at_one.log_mean))


class _Tilted(NamedTuple):
    """E_P[s]; mean and variance of s under Q e^(alpha s); log E_Q[e^(alpha s)]."""

    positive: float
    mean: float
    variance: float
    log_mean: float


def _tilted(table: ScoreTable, alpha: float) -> _Tilted:
    positive, n, largest, count = 0.0, 0, -math.inf, 0
    sums = torch.zeros(3, dtype=torch.float64)  # of w, w s, w s^2 with w = exp(alpha s - largest)
    for _, s, own in table.blocks():
        positive, n, count = positive + float(s[own].sum()), n + int(own.sum()), count + s.numel() - int(own.sum())
        top = float(alpha * s.amax())
        if top > largest:
            sums *= math.exp(largest - top)
            largest = top
        w = (alpha * s - largest).exp_().masked_fill_(own, 0)
        ws = w * s
        sums += torch.stack([w.sum(), ws.sum(), (ws * s).sum()])
    mean = float(sums[1] / sums[0])
    variance = float(sums[2] / sums[0]) - mean**2
    return _Tilted(positive / n, mean, variance, float(sums[0].log()) + largest - math.log(count))


def best_ranking_scale(scores: Tensor | ScoreTable, *, steps: int = 40, tolerance: float = 1e-5) -> float:
    """alpha that maximises how well alpha s picks the image of every text among all N images.

        mean_j [ alpha s_jj - log sum_i e^(alpha s_ij) ]

    Blind to what is added per text, such as the dependence of two pooled texts on each other. Concave; 1 at
    s = PMI + b(y). At most 16.
    """
    table = as_table(scores).hold()
    low, high, alpha = 0.0, LARGEST_SCALE, 1.0
    for _ in range(steps):
        slope, curvature = _ranking_slope(table, alpha)
        low, high = (alpha, high) if slope > 0 else (low, alpha)
        proposed = alpha + slope / max(curvature, 1e-12)
        proposed = proposed if low < proposed < high else (low + high) / 2
        if abs(proposed - alpha) < tolerance * max(1.0, alpha):
            return proposed
        alpha = proposed
    return alpha


def _ranking_slope(table: ScoreTable, alpha: float) -> tuple[float, float]:
    """First derivative of the objective, and minus the second: means over texts of E and Var under the softmax."""
    m = table.shape[1]
    log_sums = torch.full((m,), -torch.inf, dtype=torch.float64)
    for _, s, _ in table.blocks():
        log_sums = torch.logaddexp(log_sums, (alpha * s).logsumexp(0))
    own_scores, first, second = torch.empty(m).double(), torch.zeros(m).double(), torch.zeros(m).double()
    for _, s, own in table.blocks():
        p = (alpha * s - log_sums).exp_()
        first, second = first + (p * s).sum(0), second + (p * s * s).sum(0)
        own_scores[own.nonzero()[:, 1]] = s[own]
    return float((own_scores - first).mean()), float((second - first**2).mean())


class Offsets(NamedTuple):
    """images: (N,) a(x). texts: (M,) b(y), so that s + a + b is normalised. error: how far the last step moved a(x)."""

    images: Tensor
    texts: Tensor
    error: float


def sinkhorn(
    scores: Tensor | ScoreTable,
    *,
    log_p_images: Tensor | None = None,
    log_p_texts: Tensor | None = None,
    steps: int = 200,
    tolerance: float = 1e-10,
) -> Offsets:
    """a(x) and b(y) for which exp(s + a + b) has mean 1 over the negatives of every image and of every text.

        a_i = -log mean_j e^(s_ij + b_j),   b_j = -log mean_i e^(s_ij + a_i),   in turn

    PMI is the only matrix s + a(x) + b(y) whose exponential has these means, so from any s = PMI + a + b it comes back
    exactly, without knowing the truth. From N samples each mean is known only as far as its effective sample size
    allows, see `norms`.

    Args:
        log_p_images, log_p_texts: (N,), (M,) log probabilities of a discrete table; with them every entry counts. Left
            out, images and texts are draws, and true pairs do not count.

    Returns:
        Offsets with mean(a) = 0; `error` is the largest |log mean| of a row before the last step.
    """
    table = as_table(scores).hold()
    n, m = table.shape
    whole = log_p_images is not None
    if whole:
        row_weights, column_weights = log_p_texts.double(), log_p_images.double()
    else:
        own_texts = torch.bincount(table.image_of_text, minlength=n)
        row_weights, column_weights = torch.zeros(m, dtype=torch.float64), -torch.full((n,), n - 1.0).double().log()
        log_counts = (m - own_texts).double().log()
    a, b, error = torch.zeros(n, dtype=torch.float64), torch.zeros(m, dtype=torch.float64), math.inf
    for _ in range(steps):
        new, columns = torch.empty_like(a), torch.full((m,), -torch.inf, dtype=torch.float64)
        for r, s, own in table.blocks():
            s = s if whole else s.masked_fill(own, -torch.inf)
            new[r] = -(s + (b + row_weights)).logsumexp(1)
            if not whole:
                new[r] += log_counts[r]
            columns = torch.logaddexp(columns, (s + (new + column_weights)[r, None]).logsumexp(0))
        error, a, b = float((new - a).abs().max()), new, -columns
        if error < tolerance:
            break
    shift = float(a.mean())
    return Offsets(a - shift, b + shift, error)


class RatioMap(NamedTuple):
    """A monotone map of scores to log density ratios: knots (K,), log ratios (K,), linear in between."""

    scores: np.ndarray
    log_ratios: np.ndarray

    def __call__(self, scores: Tensor) -> Tensor:
        return torch.from_numpy(np.interp(scores.numpy(), self.scores, self.log_ratios))


def fit_ratio(positives: Tensor, negatives: Tensor, *, bins: int = 200) -> RatioMap:
    """The log ratio of the laws of a score under P and under Q as a monotone function of the score.

    Isotonic regression of "true pair" on the score, both kinds weighted to equal totals; its odds are the ratio. Both
    counts of a bin get half a draw more, so that no ratio is infinite.

    Args:
        positives: (n,) scores of true pairs. negatives: (k,) scores of others.
    """
    from sklearn.isotonic import IsotonicRegression

    p, q = positives.double().numpy(), negatives.double().numpy()
    cuts = np.linspace(0, 1, bins + 1)
    edges = np.unique(np.concatenate([np.quantile(p, cuts), np.quantile(q, cuts)]))
    if len(edges) < 2:
        raise ValueError(f"all scores are {edges[0]}: a constant tells nothing")
    in_p, in_q = _Bins(p, edges), _Bins(q, edges)
    counts = in_p.counts + in_q.counts
    kept = counts > 0
    scores = (in_p.sums(p) + in_q.sums(q))[kept] / counts[kept]
    share_p, share_q = ((side.counts[kept] + 0.5) / (side.counts.sum() + 0.5 * kept.sum()) for side in (in_p, in_q))
    weights = share_p + share_q
    odds = IsotonicRegression(y_min=1e-9, y_max=1 - 1e-9).fit(scores, share_p / weights, weights).predict(scores)
    return RatioMap(scores, np.log(odds) - np.log1p(-odds))


class _Bins:
    """Where values fall among edges; the last bin holds its right edge."""

    def __init__(self, values: np.ndarray, edges: np.ndarray) -> None:
        self.size = len(edges) - 1
        self.place = np.clip(np.searchsorted(edges, values, side="right") - 1, 0, self.size - 1)
        self.counts = np.bincount(self.place, minlength=self.size).astype(float)

    def sums(self, of: np.ndarray) -> np.ndarray:
        return np.bincount(self.place, of, self.size)


class RatioCalibration(NamedTuple):
    """Bins of the score: (B,) each.

    score: the mean score in the bin. predicted: log mean over Q of e^(s - c) in the bin. empirical: log of the share
    of P over the share of Q there. error: standard error of the latter. weight: share of P.
    nats: mean over P of |empirical - predicted|. p_value: of a chi-squared test that they are equal.
    """

    score: np.ndarray
    predicted: np.ndarray
    empirical: np.ndarray
    error: np.ndarray
    weight: np.ndarray
    nats: float
    p_value: float


def ratio_calibration(scores: Tensor | ScoreTable, *, bins: int = 20) -> RatioCalibration:
    """Whether e^(s - c) is the density ratio that its bins show: log [P(bin) / Q(bin)] = log E_Q[e^(s - c) | bin].

    c is log E_Q[e^s]. Bins hold equal shares of P plus Q; one in which either side has no draw joins its neighbour.
    It tests E_Q[r | s] = e^s, which is necessary and not sufficient for s = PMI.

    Raises:
        ValueError: where all scores are equal.
    """
    from scipy.stats import chi2

    table = as_table(scores).hold()
    parts = [(s[own], s[~own]) for _, s, own in table.blocks()]
    p, q = (torch.cat(side).numpy() for side in zip(*parts))
    largest = q.max()
    c = largest + math.log(np.exp(q - largest).mean())
    edges = _shared_edges(p, q, bins)
    in_p, in_q = _Bins(p, edges), _Bins(q, edges)
    if in_p.size < 2:
        raise ValueError(f"nearly all scores are {np.median(q)}: there is nothing to calibrate")
    weights = np.exp(q - c)
    ratio, mean = in_q.sums(weights) / in_q.counts, in_q.sums(q) / in_q.counts - c
    empirical = np.log(in_p.counts / len(p)) - np.log(in_q.counts / len(q))
    # The predicted means are estimates as well; few draws with a large e^s carry them.
    relative = np.clip(in_q.sums(weights**2) / in_q.counts / ratio**2 - 1, 0, None) / in_q.counts
    error = np.sqrt(1 / in_p.counts + 1 / in_q.counts + relative)
    off = empirical - np.log(ratio)
    weight = in_p.counts / len(p)
    p_value = float(chi2.sf(float((off**2 / error**2).sum()), in_p.size - 1))
    return RatioCalibration(mean, np.log(ratio), empirical, error, weight, float((weight * abs(off)).sum()), p_value)


def _shared_edges(p: np.ndarray, q: np.ndarray, bins: int) -> np.ndarray:
    """Edges between which P plus Q are equally heavy and both have draws; the last one is open."""
    x = np.concatenate([p, q])
    w = np.concatenate([np.full(len(p), 1 / len(p)), np.full(len(q), 1 / len(q))])
    order = np.argsort(x, kind="stable")
    heights = np.cumsum(w[order])
    inner = x[order][np.searchsorted(heights, heights[-1] * np.arange(1, bins) / bins)]
    edges = np.unique(np.concatenate([[-np.inf], inner, [np.inf]]))
    kept, have_p, have_q = [-np.inf], 0, 0
    for right, here_p, here_q in zip(edges[1:], _Bins(p, edges).counts, _Bins(q, edges).counts):
        have_p, have_q = have_p + here_p, have_q + here_q
        if have_p and have_q:
            kept.append(right)
            have_p = have_q = 0
    kept[-1] = np.inf  # what is left over joins the last bin
    return np.array(kept)
