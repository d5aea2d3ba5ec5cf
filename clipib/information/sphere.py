"""How rows of length 1 lie on the sphere: pairs close together (alignment), all apart (uniformity, anisotropy).

Rows are brought to length 1 in float64 first. None of these numbers is a bound on information.
"""

from __future__ import annotations

import math

from torch import Tensor

from clipib.information.checks import unit_features, unit_pairs

BLOCK = 1024  # rows of a tile: 8 MB of float64


def alignment(image: Tensor, text: Tensor) -> float:
    """Mean squared distance of an image and its text.

        mean_i ||z_i - t_i||^2 = 2 (1 - mean_i cos(z_i, t_i))

    Status: unbiased.

    Args:
        image: (n, d) features.
        text: (n, d) features, row i of image i.

    Returns:
        In [0, 4]; smaller is closer. 0 is also reached by a model that maps everything to one point.

    Raises:
        ValueError: for shapes that differ, fewer than two rows, NaN or a row of zeros.

    Reference:
        Wang and Isola, 2020, Alignment and uniformity on the hypersphere, 2005.10242;
        exponent 2.
    """
    image, text = unit_pairs(image, text)
    return float((image - text).square().sum(1).mean())


def uniformity(features: Tensor) -> float:
    """Log of the mean Gaussian potential of two distinct items.

        log mean_{i<j} exp(-2 ||z_i - z_j||^2)

    Tiles of pairs are summed one after another, O(n^2 d) time and O(n d) memory.

    Status: consistent, a log of an unbiased mean and so slightly low. No population goes below
    `uniformity_floor(d)`; the distinct pairs of a finite sample can, two opposite points reach -8.

    Args:
        features: (n, d) of one modality.

    Returns:
        In [-8, 0]; 0 when all items are one point, smaller is more evenly spread.

    Raises:
        ValueError: for fewer than two rows, NaN or a row of zeros.

    Reference:
        Wang and Isola, 2020, 2005.10242; t = 2.

    Example:
        >>> import torch
        >>> uniformity(torch.tensor([[1.0, 0.0], [0.0, 1.0]]))
        -4.0
    """
    blocks = unit_features(features).split(BLOCK)
    total = 0.0
    for i, rows in enumerate(blocks):
        for j in range(i, len(blocks)):
            potential = (rows @ blocks[j].T).sub_(1).mul_(4).exp_()  # -2 ||z - z'||^2 = 4 (cos - 1)
            if i == j:
                potential = potential.fill_diagonal_(0).div_(2)  # both orders of a pair lie in this tile
            total += float(potential.sum())
    n = len(features)
    return math.log(total / (n * (n - 1) / 2))


def uniformity_floor(width: int) -> float:
    """The `uniformity` of points spread evenly over the whole sphere, which no distribution undercuts.

        -4 + log 0F1(; d/2; 4)

    It is E exp(4 (cos - 1)) for two independent uniform directions.

    Args:
        width: d, the number of coordinates.

    Returns:
        From -4 + log cosh 4 = -0.69 at d = 1 down to -4 at infinite width.

    Raises:
        ValueError: for a width below 1.

    Reference:
        Mardia and Jupp, Directional statistics, 2000, sec. 9.3 (the constant of von Mises and Fisher).

    Example:
        >>> round(uniformity_floor(512), 3), round(uniformity_floor(8), 3)
        (-3.984, -3.083)
    """
    from scipy.special import hyp0f1

    if width < 1:
        raise ValueError(f"expected a width of at least 1, got {width}")
    return -4 + math.log(hyp0f1(width / 2, 4.0))


def anisotropy(features: Tensor) -> float:
    """Mean cosine of two distinct items, in O(n d).

        (n ||zbar||^2 - 1) / (n - 1),   zbar = mean_i z_i

    n^2 ||zbar||^2 is the sum over all ordered pairs, of which the n pairs of an item with itself give 1 each.

    Status: unbiased.

    Args:
        features: (n, d) of one modality.

    Returns:
        In [-1/(n-1), 1]: 0 without a common direction, 1 when all items are one point.

    Raises:
        ValueError: as `uniformity`.

    Reference:
        Ethayarajh, 2019, How contextual are contextualized word representations?, 1909.00512.

    Example:
        >>> import torch
        >>> anisotropy(torch.tensor([[1.0, 0.0], [-1.0, 0.0]]))
        -1.0
    """
    features = unit_features(features)
    n = len(features)
    return float((n * features.mean(0).square().sum() - 1) / (n - 1))
