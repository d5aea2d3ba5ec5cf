"""What one side's embedding keeps that the other does not support."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from clipib.information.conditional import conditional_bounds
from clipib.information.jackknife import Estimate, jackknife, means_without
from clipib.information.prequential import prequential_code
from clipib.information.v_information import Labelled, v_information
from clipib.progress import SILENT, Progress
from clipib.tasks.attributes import Attribute
from clipib.tasks.measured import NOTE, Report
from clipib.tasks.shared import Sides, Split, one_text_each

SIGMAS = (0.1, 0.3, 1.0)
CODED = 1_000  # rows that the prequential code is made of
FEWEST = 20  # rows to judge an attribute on


class Probes(NamedTuple):
    """Where an attribute's embeddings lie.

    features: (n, d) of its side. image_of_row: (n,) the image that each belongs to.
    """

    features: Tensor
    image_of_row: np.ndarray


def measure_private(
    report: Report, attribute: Attribute, probes: Probes, split: Split, *, seed: int, progress: Progress = SILENT
) -> None:
    """V-information and prequential code of one attribute in the embeddings of its side.

    Never clipped: of an attribute that is not there the expectation is slightly below 0.
    """
    parts = {name: set(images.tolist()) for name, images in split._asdict().items()}
    image = probes.image_of_row[attribute.rows]
    labelled, judged = {}, None
    for name, images in parts.items():
        kept = np.array([i in images for i in image], dtype=bool)
        rows, labels = attribute.rows[kept], attribute.labels[kept]
        given = None if attribute.given is None else attribute.given[kept]
        if name != "evaluate" and len(attribute.more_rows):
            more = np.array([i in images for i in probes.image_of_row[attribute.more_rows]], dtype=bool)
            rows = np.concatenate([rows, attribute.more_rows[more]])
            labels = np.concatenate([labels, attribute.more_labels[more]])
        judged = kept if name == "evaluate" else judged
        side = None if given is None else torch.from_numpy(given)
        labelled[name] = Labelled(probes.features[torch.from_numpy(rows)], torch.from_numpy(labels), side)
    stem, n = f"{attribute.side}_{attribute.kind}", len(labelled["evaluate"].labels)
    if n < FEWEST or any(len(part.labels.unique()) < 2 for part in labelled.values()):
        progress.warn(f"{attribute.name}: {n} rows to judge are too few; left out")
        return
    found = v_information(*labelled.values(), seed=seed)
    owners, groups = np.unique(image[judged], return_inverse=True)
    error = found.standard_error_nats
    if len(owners) < n:  # rows of one image hang together
        without = means_without(found.differences, torch.from_numpy(groups), len(owners))
        error = jackknife(found.value_nats, without).standard_error
    params = {"attribute": attribute.name}
    estimate = Estimate(found.value_nats, error)
    report.add(f"{stem}_v_nats", estimate, n=n, **params)
    report.add(f"{stem}_fraction", Estimate(found.entropy_share, error / found.h_without_nats), n=n, **params)
    report.add(f"{stem}_entropy_nats", found.h_without_nats, n=n, **params)
    report.add(f"{stem}_accuracy", found.accuracy, n=n, **params)
    report.add(f"{stem}_chance", found.majority_share, n=n, **params)
    if attribute.entropy_floor_nats is not None:
        report.add(f"{stem}_floor_nats", attribute.entropy_floor_nats, **params)
    if attribute.given is None:
        rows = torch.from_numpy(np.random.default_rng([seed, 85]).permutation(attribute.rows)[:CODED])
        place = {int(r): int(v) for r, v in zip(attribute.rows, attribute.labels)}
        labels = torch.tensor([place[int(r)] for r in rows])
        code = prequential_code(probes.features[rows], labels, seed=seed)
        report.add(f"{stem}_mdl_nats", code.code_nats, n=code.n, laplace=f"{code.laplace_nats:.4f}", **params)
    kept = "tells" if estimate.low > 0 else "does not tell"
    words = f"the {attribute.side} embedding {kept} it: {found.value_nats:.2f} of {found.h_without_nats:.2f} nats"
    known = attribute.entropy_floor_nats
    beside = "" if known is None else f"; beyond the other side it is worth up to {known:.2f}"
    report.say(f"{attribute.kind} {attribute.name}", NOTE, f"{words}{beside}.")


def measure_bounds(report: Report, sides: Sides, split: Split, *, seed: int) -> None:
    """The conditional bounds of both sides through Gaussian noise: three predictors, and the log det form.

    They speak of a noised embedding: compare checkpoints at equal sigma only, and at unit norm.
    """
    texts = one_text_each(sides, seed)
    both = {"image": (sides.image, texts), "text": (texts, sides.image)}
    fit = torch.cat([split.fit, split.calibrate])
    for side, (own, other) in both.items():
        if own.shape[1] != other.shape[1]:
            continue
        found = conditional_bounds(own, [other], fit_rows=fit, evaluate_rows=split.evaluate, sigmas=SIGMAS)
        for at in found:
            n = len(at.samples)
            errors = at.samples.std(0) / n**0.5
            for i, name in enumerate(("raw", "centred", "ridge", "logdet")):
                value = Estimate(float(getattr(at, f"{name}_nats")), float(errors[i]))
                report.add(f"private_bound_{name}_nats", value, n=n, side=side, sigma=at.sigma)
