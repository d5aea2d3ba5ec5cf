"""The pictures of `clipib pmi-probe`, from what it has measured."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

from clipib.information.bounds import dv
from clipib.information.calibrate import ratio_calibration
from clipib.information.norms import norms
from clipib.information.spectra import double_centred_spectrum
from clipib.information.table import ScoreTable, tally
from clipib.tasks.measured import Report

DRAWN = 1_000  # images in a picture
SMALLEST = 1 / 16  # best scale that is drawn


def probe_figures(
    report: Report,
    table: ScoreTable,
    parts: tuple[torch.Tensor, torch.Tensor],
    truth: np.ndarray | None,
    *,
    seed: int,
) -> dict[str, Any]:
    """Figures by file name."""
    from clipib.tasks import figures

    chosen = parts[1][:DRAWN]
    square = table.take(chosen).one_text_each(torch.Generator().manual_seed(seed)).hold()
    images, texts = norms(tally(table))
    best = min(max(report.value("pmi_scale"), SMALLEST), 1 / SMALLEST)
    alphas = np.geomspace(min(0.25, best / 2), max(4.0, 2 * best), 25)
    values = np.array([dv(tally(square.map(lambda s, a=a: float(a) * s))) for a in alphas])
    scores = torch.cat([s for _, s, _ in square.blocks()]).numpy()
    curves = {"score": np.asarray(double_centred_spectrum(torch.from_numpy(scores)))}
    found, known = {}, None
    if truth is not None:
        t = truth[np.ix_(chosen.numpy(), chosen.numpy())]
        own = np.eye(len(t), dtype=bool)
        known, s = float(truth.diagonal().mean()), scores - (scores - t)[~own].mean()
        slope = report.value("pmi_slope", distribution="Q")
        found["pmi"] = figures.score_against_pmi(s[own], t[own], s[~own], t[~own], slope=slope, title="Score and PMI")
        curves["true PMI"] = np.asarray(double_centred_spectrum(torch.from_numpy(t)))
    if any(m.metric == "pmi_ratio_calibration_nats" for m in report.measures):
        score, predicted, empirical, error, weight, nats, _ = ratio_calibration(square)
        found["calibration"] = figures.ratio_calibration(
            score, predicted, empirical, error, weight, nats=nats, title="Density ratio"
        )
    found["norms"] = figures.log_norms(
        images.log_norms.numpy(),
        images.band_nats,
        texts.log_norms.numpy(),
        texts.band_nats,
        testable=(images.testable, texts.testable),
        title="Normalisation",
    )
    found["scale"] = figures.scale_gain(alphas, values, best=best, truth=known, title="Best scale")
    found["spectra"] = figures.spectra(curves, title="Singular values")
    return found
