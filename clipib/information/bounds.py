"""Bounds and estimates of mutual information from a table of scores.

s is the score of an image and a text, the best one being s = PMI + c. All values are in nats and speak of one text per
image. Poole et al. (2019, 1905.06922) survey most of them; Song and Ermon (2020, 1910.06222) their variances. No
lower bound that holds with high probability can exceed O(log N) from N pairs (McAllester and Stratos, 2020).
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from clipib.information.table import ScoreTable, Tally, as_table


def info_nce(t: Tally, *, side: str = "both") -> float:
    """mean_i [ s_ii - log( (1 / (K + 1)) (e^s_ii + sum over the K negatives of e^s_ij) ) ].

    Status: a lower bound of the information on pairs that the scores were not fitted on, and at most log(K + 1), near
    which it saturates. At the optimum it is short by about chi2 / 2N once N is large beside chi2. Low variance.

    Args:
        side: "row" ranks texts for an image and is blind to what is added per image, "column" the other way round,
            "both" is their mean.

    Reference:
        van den Oord et al., 2018, 1807.03748.

    Example:
        >>> from clipib.information.table import tally
        >>> round(info_nce(tally(20 * torch.eye(8))), 4)  # log 8: saturated
        2.0794
    """
    return float(info_nce_terms(t, side=side).mean())


def info_nce_terms(t: Tally, *, side: str = "both") -> Tensor:
    """(M,) what every true pair adds to the mean."""
    if side == "both":
        return (info_nce_terms(t, side="row") + info_nce_terms(t, side="column")) / 2
    own = t.image_of_text
    others, counts = (t.rows[own], t.row_counts[own]) if side == "row" else (t.columns, t.column_counts)
    return t.positives - torch.logaddexp(t.positives, others) + (counts + 1).log()


def leave_one_out(t: Tally) -> float:
    """mean_i [ s_ii - log mean over the negatives of e^s_ij ], the positive left out, both directions averaged.

    Status: an upper bound where s = PMI + c; neither for other scores. A diagnostic: it is what OVA-IB prints.
    """
    own = t.image_of_text
    rows = t.positives - t.rows[own] + t.row_counts[own].log()
    columns = t.positives - t.columns + t.column_counts.log()
    return float((rows + columns).mean() / 2)


def dv(t: Tally) -> float:
    """mean_i s_ii - log mean over all negatives of e^s (Donsker and Varadhan).

    Status: the population value is a lower bound, blind to a constant; that of a sample lies above it by about
    Var(e^s) / (2 n mean(e^s)^2).
    """
    return float(t.positives.mean()) - t.log_mean


def tuba(t: Tally, log_a: float | Tensor) -> float:
    """1 + mean_i [ s_ii - log a(x_i) ] - mean over the negatives of e^s / a(x).

    Status: an unbiased lower bound for any baseline a > 0; tight at a(x) = E over texts of e^s. High variance.

    Args:
        log_a: a number, or (N,) one for every image, which must not come from these pairs.
    """
    log_a = torch.as_tensor(log_a, dtype=torch.float64).expand(len(t.rows))
    log_mean = float((t.rows - log_a).logsumexp(0)) - math.log(t.n_negatives)
    return 1 + float((t.positives - log_a[t.image_of_text]).mean()) - math.exp(log_mean)


def nwj(t: Tally) -> float:
    """mean_i s_ii - (1 / e) mean over the negatives of e^s: `tuba` with a = e (Nguyen, Wainwright, Jordan; f-GAN KL).

    Status: an unbiased lower bound, tight at s = PMI + 1. Its variance is at least (e^I - 1) / n.
    """
    return tuba(t, 1.0)


def club(t: Tally) -> float:
    """mean_i s_ii - mean over the negatives of s, for s = log q(y | x).

    Status: an upper bound where q is the true conditional, else only where q is closer to P than to the product;
    infinite where a mismatched pair is impossible. At s = PMI it is I plus the lautum information.

    Reference:
        Cheng et al., 2020, 2006.12013.
    """
    return float(t.positives.mean() - t.row_sums.sum() / t.n_negatives)


def smile(scores: Tensor | ScoreTable, *, clip: float = 5.0) -> float:
    """`dv` with e^s clipped to [e^-clip, e^clip] in the denominator only.

    Status: no bound. At the exact score and clip = 5 it can exceed the truth; clip = inf is `dv`.

    Reference:
        Song and Ermon, 2020, 1910.06222.
    """
    log_sum, positives, count = -torch.inf, [], 0
    for _, s, own in as_table(scores).blocks():
        positives.append(s[own])
        negatives = s[~own]
        log_sum = torch.logaddexp(torch.as_tensor(log_sum).double(), negatives.clamp(-clip, clip).logsumexp(0))
        count += len(negatives)
    return float(torch.cat(positives).mean() - log_sum) + math.log(count)


def js(scores: Tensor | ScoreTable) -> float:
    """mean_i -softplus(-s_ii) - mean over the negatives of softplus(s).

    Status: a lower bound of 2 JSD - log 4, reached at s = PMI without a free constant; no estimate of the
    information. A stable objective for a critic, whose scores then go to `tuba` with log_a = 0. `nwj` of them is wrong
    by 1 / e, since its optimum is PMI + 1.
    """
    positive, negative, n, k = 0.0, 0.0, 0, 0
    for _, s, own in as_table(scores).blocks():
        mine, others = s[own], s[~own]
        positive -= float(F.softplus(-mine).sum())
        negative += float(F.softplus(others).sum())
        n, k = n + len(mine), k + len(others)
    return positive / n - negative / k


def interpolated(scores: Tensor, *, alpha: float = 0.01, log_q: float | Tensor = 0.0) -> float:
    """Between InfoNCE (alpha = 1) and `tuba` (alpha = 0).

        1 + mean_i [ s_ii - log b_i(x_i) ] - mean over negatives (i, j) of e^s_ij / b_ij,
        b = alpha m + (1 - alpha) q,   m = mean of e^s over K images with the text held fixed

    K = N - 1: in the first mean the own image and all others but one, in the second, where the text must be
    independent of all K, all but its own.

    Status: a lower bound of the information, at most log(K / alpha) or so; alpha trades bias for variance.

    Args:
        scores: (N, N), true pairs on the diagonal.
        log_q: the baseline of `tuba`, a number or (N,) one per text; 0 fits scores that are PMI.

    Reference:
        Poole et al., 2019, 1905.06922, eq. 11.
    """
    n = len(scores)
    if scores.shape != (n, n) or n < 2:
        raise ValueError(f"expected scores (N, N) of at least two pairs, got {tuple(scores.shape)}")
    s = scores.double()
    log_q = torch.as_tensor(log_q, dtype=torch.float64).expand(n)
    own = torch.eye(n, dtype=torch.bool)
    log_alpha = math.log(alpha) if alpha > 0 else -math.inf
    log_rest = math.log1p(-alpha) if alpha < 1 else -math.inf

    def log_baseline(log_m: Tensor) -> Tensor:
        return torch.logaddexp(log_alpha + log_m, log_rest + log_q)

    next_one = own.roll(1, 0)
    joint = s.diagonal() - log_baseline(_column_log_mean(s, next_one))
    ratio = (s - log_baseline(_column_log_mean(s, own)))[~own]
    return 1 + float(joint.mean()) - float(ratio.exp().mean())


def _column_log_mean(scores: Tensor, left_out: Tensor) -> Tensor:
    """(N,) log mean of e^s over the N - 1 images of every text that are not left out."""
    return scores.masked_fill(left_out, -torch.inf).logsumexp(0) - math.log(len(scores) - 1)
