"""How far the cloud of images lies from the cloud of texts.

Rows are brought to length 1 in float64 first. One caption per image: row i of the texts belongs to row i of the images.
None of these numbers is a bound on information. Moving one modality by a vector changes each score by a function of the
other side alone, so a gap by itself is no error of the scores as pointwise mutual information.
"""

from __future__ import annotations

import torch
from torch import Tensor

from clipib.information.checks import CONSTANT, unit_pairs
from clipib.information.sphere import anisotropy


def gap_l2(image: Tensor, text: Tensor) -> float:
    """Distance between the mean image and the mean text.

        || mean_i z_i - mean_i t_i ||

    Status: consistent; biased up, by about sqrt(2 / n) in all where the two means are equal and rows are spread out.

    Args:
        image: (n, d) features.
        text: (n, d) features, row i of image i.

    Returns:
        In [0, 2]; 2 when each modality is one point and the points are opposite.

    Raises:
        ValueError: for shapes that differ, fewer than two rows, NaN or a row of zeros.

    Reference:
        Liang et al., 2022, Mind the gap, 2203.02053.

    Example:
        >>> gap_l2(torch.tensor([[1.0, 0.0], [0.0, 1.0]]), torch.tensor([[-1.0, 0.0], [0.0, 1.0]]))
        1.0
    """
    image, text = unit_pairs(image, text)
    return float((image.mean(0) - text.mean(0)).norm())


def gap_cos(image: Tensor, text: Tensor) -> float:
    """Cosine of the mean image and the mean text.

        <m, m'> / (|m| |m'|),   m = mean_i z_i,  m' = mean_i t_i

    Status: consistent; pulled to 0 by the noise of the means, |mean noise|^2 being about 1/n.

    Args:
        image: (n, d) features.
        text: (n, d) features, row i of image i.

    Returns:
        In [-1, 1]; 1 when the modalities lie around the same direction.

    Raises:
        ValueError: as `gap_l2`, and where a mean is 0, which has no direction.
    """
    image, text = unit_pairs(image, text)
    means = image.mean(0), text.mean(0)
    norms = [float(mean.norm()) for mean in means]
    if min(norms) <= CONSTANT:
        raise ValueError(f"expected means with a direction, got lengths {norms[0]:.1e} and {norms[1]:.1e}")
    return float(means[0] @ means[1]) / (norms[0] * norms[1])


def gap_rmg(image: Tensor, text: Tensor) -> float:
    """Relative modality gap: distance within pairs against the distance within modalities.

        d_p / (d_p + (d_ii + d_tt) / 2),   d(u, v) = (1 - cos(u, v)) / 2

    d_p is the mean over pairs, d_ii and d_tt the means over distinct images and over distinct texts.

    Status: consistent; the three means are unbiased, their ratio is off by O(1/n).

    Args:
        image: (n, d) features.
        text: (n, d) features, row i of image i.

    Returns:
        In [0, 1]: 0 when each text lies on its image, 1 when each modality is a single point and the points differ;
        1/2 when a partner is as far as any item of the own modality.

    Raises:
        ValueError: as `gap_l2`, and where all rows of both are one point.

    Reference:
        Schrodi et al., 2024, Two effects, one trigger, 2404.07983.

    Example:
        >>> gap_rmg(torch.tensor([[1.0, 0.0], [-1.0, 0.0]]), torch.tensor([[0.0, 1.0], [0.0, -1.0]]))
        0.3333333333333333
    """
    image, text = unit_pairs(image, text)
    paired = float((image - text).square().sum(1).mean()) / 4  # (1 - cos) / 2, with no loss near cos = 1
    own = ((1 - anisotropy(image)) / 2 + (1 - anisotropy(text)) / 2) / 2
    if paired + own <= CONSTANT:
        raise ValueError("expected images and texts that differ somewhere, got a single point")
    return paired / (paired + own)


def gap_linear_accuracy(image: Tensor, text: Tensor, *, seed: int) -> float:
    """Held-out accuracy of a logistic classifier that tells images from texts.

    Half of the pairs fit it, both members of each; the other half judge it. Columns are standardised by the fitting
    half, so that the penalty (scikit-learn's, C = 1) does not hide a gap along a direction of small spread.

    Status: a lower bound of the best accuracy in expectation, whatever the classifier; 1/2 where the modalities have
    one law. It saturates at 1 for nearly every CLIP model and then says nothing of how wide the gap is.

    Args:
        image: (n, d) features.
        text: (n, d) features, row i of image i.
        seed: of the split.

    Returns:
        Share of the 2 ceil(n / 2) held-out rows, in [0, 1]; its standard error is at most sqrt(1 / (4 ceil(n / 2))).

    Raises:
        ValueError: as `gap_l2`.
    """
    from sklearn.linear_model import LogisticRegression

    image, text = unit_pairs(image, text)
    order = torch.randperm(len(image), generator=torch.Generator().manual_seed(seed)).to(image.device)
    fit, held_out = order[: len(order) // 2], order[len(order) // 2 :]
    x = torch.cat([image[fit], text[fit]])
    mean, std = x.mean(0), x.std(0, correction=0)
    std = torch.where(std <= CONSTANT, 1.0, std)
    classifier = LogisticRegression(max_iter=1000)
    classifier.fit(((x - mean) / std).cpu().numpy(), [0] * len(fit) + [1] * len(fit))
    x = (torch.cat([image[held_out], text[held_out]]) - mean) / std
    return float(classifier.score(x.cpu().numpy(), [0] * len(held_out) + [1] * len(held_out)))
