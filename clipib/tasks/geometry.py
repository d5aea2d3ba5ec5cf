"""The shape of both clouds of embeddings, one text for each image."""

from __future__ import annotations

import torch
from torch import Tensor

from clipib.information.cka import cka_unbiased
from clipib.information.gap import gap_cos, gap_l2, gap_linear_accuracy, gap_rmg
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
    report.add("gap_l2", gap_l2(image, text), n=n)
    report.add("gap_cos", gap_cos(image, text), n=n)
    report.add("gap_rmg", gap_rmg(image, text), n=n)
    report.add("gap_linear_acc", gap_linear_accuracy(image, text, seed=seed), n=n)
    report.add("alignment", alignment(image, text), n=n)
    for side, z in (("image", image), ("text", text)):
        singular = singular_values(z)
        report.add(f"uniformity_{side}", uniformity(z), n=n, floor=f"{uniformity_floor(z.shape[1]):.3f}")
        report.add(f"anisotropy_{side}", anisotropy(z), n=n)
        report.add(f"participation_ratio_{side}", participation_ratio(covariance_eigenvalues(z)), n=n)
        report.add(f"rankme_{side}", rankme(singular), n=n)
        report.add(f"vn_rank_{side}", von_neumann_rank(singular), n=n)
    report.add("cka_unbiased", cka_unbiased(image, text), n=n)
    k = min(NEIGHBOURS, n - 1)
    report.add(f"mutual_knn@{k}", mutual_knn(image, text, k=k, seed=seed), n=n, chance=f"{k / (n - 1):.4f}")


def spectra_of(image: Tensor, text: Tensor) -> dict[str, Tensor]:
    """Singular values of the centred features of both sides, for a picture."""
    return {
        "image embeddings": torch.as_tensor(covariance_eigenvalues(image)).clamp_min(0).sqrt(),
        "text embeddings": torch.as_tensor(covariance_eigenvalues(text)).clamp_min(0).sqrt(),
    }
