"""Whether e^s is normalised: for s = PMI its mean over the texts is 1 for every image, and the other way round."""

from __future__ import annotations

from typing import NamedTuple

from torch import Tensor

from clipib.information.table import Tally

TESTABLE = 30.0  # median effective sample size of the means, from which they are worth looking at


class Norms(NamedTuple):
    """One side: images (over texts) or texts (over images).

    log_norms: (N,) log mean over the negatives of e^(s - c), with c for all of them together.
    errors: (N,) the standard error of each, sqrt(chi2 / n) with chi2 the variance of e^(s - c) around its mean.
    sizes: (N,) effective sample sizes (sum w)^2 / sum w^2 with w = e^s.
    """

    log_norms: Tensor
    errors: Tensor
    sizes: Tensor

    @property
    def std_nats(self) -> float:
        return float(self.log_norms.std())

    @property
    def band_nats(self) -> float:
        """The spread that sampling alone gives."""
        return float(self.errors.square().mean().sqrt())

    @property
    def excess_nats(self) -> float:
        """The spread beyond sampling; 0 where there is none."""
        return max(0.0, self.std_nats**2 - self.band_nats**2) ** 0.5

    @property
    def median_size(self) -> float:
        return float(self.sizes.median())

    @property
    def testable(self) -> bool:
        """Whether the means rest on enough draws. Where not, most of their mass sits on pairs that were never drawn."""
        return self.median_size >= TESTABLE


def norms(t: Tally) -> tuple[Norms, Norms]:
    """The normalisation of images and of texts. The texts of one image hang together and count as a single draw.

    A failed identity means that the score is not calibrated or that the data are not those it was trained on; it cannot
    say which. The mean over everything is 1 by the choice of c and tests nothing, except for scores whose constant is
    known.
    """
    c, a_draw = t.log_mean, len(t.columns) / len(t.rows)
    return (
        _norms(t.rows, t.squared_rows, t.row_counts, c, a_draw),
        _norms(t.columns, t.squared_columns, t.column_counts, c, 1.0),
    )


def _norms(log_sums: Tensor, squared: Tensor, counts: Tensor, c: float, a_draw: float) -> Norms:
    sizes = (2 * log_sums - squared).exp() / a_draw
    errors = (1 / sizes - a_draw / counts).clamp_min(0).sqrt()  # relative variance of the mean of n weights
    return Norms(log_sums - counts.log() - c, errors, sizes)
