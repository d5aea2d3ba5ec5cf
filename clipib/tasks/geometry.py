"""The shape of both clouds of embeddings, one text for each image."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor

from clipib.information.cka import cka_unbiased
from clipib.information.gap import gap_cos, gap_l2, gap_linear_accuracy, gap_rmg
from clipib.information.jackknife import Estimate, jackknife_rows
from clipib.information.neighbours import mutual_knn
from clipib.information.spectra import (
    covariance_eigenvalues,
    participation_ratio,
    rankme,
    singular_values,
    von_neumann_rank,
)
from clipib.information.sphere import alignment, anisotropy, uniformity, uniformity_floor
from clipib.tasks.measured import Report

NEIGHBOURS = 10


def measure_geometry(report: Report, image: Tensor, text: Tensor, *, seed: int) -> None:
    """Gap, alignment, uniformity, spectra and agreement of unit-norm features (N, D) and (N, D)."""
    n = len(image)

    def add(metric: str, statistic: Callable[..., float], *sides: Tensor, **params: object) -> None:
        report.add(metric, jackknife_rows(statistic, *sides, seed=seed), n=n, **params)

    for metric, statistic in (("gap_l2", gap_l2), ("gap_cos", gap_cos), ("gap_rmg", gap_rmg), ("alignment", alignment)):
        add(metric, statistic, image, text)
    right = gap_linear_accuracy(image, text, seed=seed)
    judged = 2 * (n - n // 2)
    error = math.sqrt(right * (1 - right) / judged)
    report.add("gap_linear_acc", Estimate(right, error), n=judged)
    for side, z in (("image", image), ("text", text)):
        add(f"uniformity_{side}", uniformity, z, floor=f"{uniformity_floor(z.shape[1]):.3f}")
        add(f"anisotropy_{side}", anisotropy, z)
        add(f"participation_ratio_{side}", lambda x: participation_ratio(covariance_eigenvalues(x)), z)
        add(f"rankme_{side}", lambda x: rankme(singular_values(x)), z)
        add(f"vn_rank_{side}", lambda x: von_neumann_rank(singular_values(x)), z)
    add("cka_unbiased", cka_unbiased, image, text)
    k = min(NEIGHBOURS, n // 2)
    add(f"mutual_knn@{k}", lambda x, y: mutual_knn(x, y, k=k, seed=seed), image, text, chance=f"{k / (n - 1):.4f}")


def spectra_of(image: Tensor, text: Tensor) -> dict[str, Tensor]:
    """Singular values of the centred features of both sides, for a picture."""
    return {
        "image embeddings": torch.as_tensor(covariance_eigenvalues(image)).clamp_min(0).sqrt(),
        "text embeddings": torch.as_tensor(covariance_eigenvalues(text)).clamp_min(0).sqrt(),
    }
