"""What a set of features must be before a number is taken of it."""

from __future__ import annotations

import torch
from torch import Tensor

CONSTANT = 1e-12  # spread over size below which float64 sees only its own rounding


def checked_features(features: Tensor, name: str = "features", *, least: int = 2) -> Tensor:
    """The features in float64 and without gradient.

    Args:
        features: (n, d) of any float dtype, one item per row.
        name: how a message calls them.
        least: the smallest n for which the caller's number exists.

    Returns:
        (n, d) float64, on the same device, or on the CPU where the device has no float64.

    Raises:
        ValueError: for another shape or dtype, fewer than `least` rows, NaN or infinity.
    """
    if features.ndim != 2 or features.shape[1] == 0:
        raise ValueError(f"expected {name} of shape (n, d), got {tuple(features.shape)}")
    if not features.is_floating_point():
        raise ValueError(f"expected {name} of a float dtype, got {features.dtype}")
    if len(features) < least:
        raise ValueError(f"expected at least {least} rows of {name}, got {len(features)}")
    bad = int((~features.isfinite()).any(1).sum())
    if bad:
        raise ValueError(f"expected finite {name}, got NaN or infinity in {bad} of {len(features)} rows")
    device = torch.device("cpu") if features.device.type == "mps" else features.device
    return features.detach().to(device, torch.float64)


def unit_features(features: Tensor, name: str = "features", *, least: int = 2) -> Tensor:
    """The features in float64 with rows of length 1, which float16 and bfloat16 keep only roughly.

    Raises:
        ValueError: as `checked_features`, and for a row of zeros.
    """
    features = checked_features(features, name, least=least)
    norms = features.norm(dim=1, keepdim=True)
    zeros = int((norms == 0).sum())
    if zeros:
        raise ValueError(f"expected {name} with a direction, got {zeros} of {len(features)} rows of zeros")
    return features / norms


def centred_features(features: Tensor, name: str = "features", *, least: int = 2) -> Tensor:
    """The features in float64 with column means 0.

    Raises:
        ValueError: as `checked_features`, and where all rows are the same.
    """
    features = checked_features(features, name, least=least)
    centred = features - features.mean(0)
    if centred.abs().max() <= CONSTANT * features.abs().max():
        raise ValueError(f"expected {name} that vary, got the same row {len(features)} times")
    return centred


def unit_pairs(image: Tensor, text: Tensor) -> tuple[Tensor, Tensor]:
    """Images and texts in float64 with rows of length 1, row i of one paired with row i of the other.

    Raises:
        ValueError: as `unit_features`, and for shapes that differ.
    """
    image, text = unit_features(image, "image features"), unit_features(text, "text features")
    if image.shape != text.shape:
        raise ValueError(
            f"expected image and text features of one shape, got {tuple(image.shape)} and {tuple(text.shape)}"
        )
    return image, text


def check_same_items(x: Tensor, y: Tensor) -> None:
    """Two sets of features of the same items, each of its own width.

    Raises:
        ValueError: for different numbers of rows.
    """
    if len(x) != len(y):
        raise ValueError(f"expected features of the same items, got {len(x)} and {len(y)} rows")
