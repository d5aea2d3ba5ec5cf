"""Contrasts: what makes a loss of the logits of a batch, whose pairs stand on the diagonal.

A contrast is a function of the sums over rows and columns that `clipib.scoring.tiles` gives, so that it never needs
the whole matrix. With several positives in a batch (`groups`) the positive term is their mean; only one positive a
pair, `identity`, leaves the optimum at the pointwise mutual information (PMI).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

from torch import Tensor

from clipib.scoring.tiles import Reduced, reduce_matrix


class Contrast(NamedTuple):
    """statistic: of the logits, see `Reduced`. loss: what it makes of that. needs_bias: its logits have a bias."""

    statistic: str
    loss: Callable[[Reduced], Tensor]
    needs_bias: bool = False

    def __call__(self, logits: Tensor, groups: Tensor | None = None) -> Tensor:
        """The loss of a matrix of logits (B, B), images in rows, texts in columns, pairs on the diagonal.

        Example:
            >>> import torch
            >>> round(float(SOFTMAX(torch.zeros(4, 4))), 4)
            1.3863
        """
        return self.loss(reduce_matrix(logits, groups, self.statistic))


def softmax_loss(reduced: Reduced) -> Tensor:
    """Symmetric InfoNCE: each image picks its text among the batch, and each text its image.

        1/2 [ mean_i (lse_j s_ij - s_ii) + mean_j (lse_i s_ij - s_jj) ]

    Use it as the standard loss of CLIP. At its optimum s is the PMI up to one constant.

    Args:
        reduced: of the statistic `log_sum_exp`.

    Returns:
        The loss in nats, a float32 scalar; log B when the logits say nothing.

    Reference:
        Radford et al., 2021, 2103.00020, fig. 3; van den Oord et al., 2018, 1807.03748. Several positives: their mean
        outside the logarithm, as in Khosla et al., 2020, 2004.11362, eq. 2.
    """
    return ((reduced.rows + reduced.columns) / 2 - reduced.positives).mean()


def sigmoid_loss(reduced: Reduced) -> Tensor:
    """Every image with every text as a yes-or-no question, summed over texts and averaged over images.

        1/B sum_ij log(1 + exp(-y_ij s_ij)),  y_ij = 1 for positives and -1 for all others

    Use it where batches are small or spread over devices: no sum runs over the batch inside a logarithm. The logits
    have a bias; at the optimum s is the PMI less log(B - 1), with nothing free.

    Args:
        reduced: of the statistic `softplus`.

    Reference:
        Reproduction of Zhai et al., 2023, Sigmoid loss for language image pre-training, 2303.15343, algorithm 1.
    """
    return reduced.rows.mean()


def decoupled_loss(reduced: Reduced) -> Tensor:
    """InfoNCE without the positive in the denominator: pulling a pair together does not weaken its own negatives.

        1/2 [ mean_i (lse_{j not positive} s_ij - s_ii) + mean_j (lse_{i not positive} s_ij - s_jj) ]

    Use it with small batches or sharp temperatures, where the softmax saturates. It is no bound on information and is
    not bounded below.

    Args:
        reduced: of the statistic `log_sum_exp_foreign`.

    Reference:
        Yeh et al., 2022, Decoupled contrastive learning, 2110.06848, eq. 6; the form that OVA-IB prints (2605.29900,
        eq. 9).
    """
    return softmax_loss(reduced)


SOFTMAX = Contrast("log_sum_exp", softmax_loss)
SIGMOID = Contrast("softplus", sigmoid_loss, needs_bias=True)
DECOUPLED = Contrast("log_sum_exp_foreign", decoupled_loss)
