"""Both probing commands on trained checkpoints: `python benchmarks/study_information.py --setting full --jobs 2`.

`tiny` is trained with clip, siglip and kme on digitworld, with one object a scene and with two, at the rates that
study_losses.py chose, and what `pmi-probe` and `ib-analyze` measure of it on 2,000 test images is kept. Rows go to
results/study_information.csv; finished runs are skipped; `--table` prints what docs/information.md shows.
"""

from __future__ import annotations

import math
import sys
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from study_losses import (
    RECIPES,
    do,
    parse_options,
    print_table,
    read_rows,
    size_of,
    stored,
    tiny_of_width,
    train_once,
)

from clipib.data.digitworld.truth import true_pmi
from clipib.data.load import load_dataset
from clipib.losses.composed import make_loss
from clipib.models.head import make_head
from clipib.tasks.attributes import digitworld_attributes
from clipib.tasks.ib_analyze import flat
from clipib.tasks.ib_analyze import measure as measure_embeddings
from clipib.tasks.measured import FAILED
from clipib.tasks.pairs import Free, score_table
from clipib.tasks.pmi_probe import probe_scores
from clipib.tasks.private import Probes
from clipib.tasks.probing import Encoded

RESULTS = Path(__file__).parent / "results" / "study_information.csv"
RATES = {"clip": 5e-4, "siglip": 5e-4, "kme": 2e-4}


class Setting(NamedTuple):
    """steps: with one object and with two."""

    steps: tuple[int, int]
    batch_size: int
    images: int
    test: int
    seeds: tuple[int, ...]
    losses: tuple[str, ...]


SETTINGS = {
    "small": Setting((4, 4), 16, 128, 60, (1,), ("siglip",)),
    "full": Setting((400, 800), 64, 40_000, 2_000, (1, 2, 3), tuple(RATES)),
}


class Run(NamedTuple):
    """What identifies a run."""

    setting: str
    loss: str
    objects: int
    seed: int
    steps: int


def main() -> None:
    options = parse_options(__doc__, SETTINGS, RESULTS)
    if options.table:
        print_tables(options.results, options.setting)
        return
    setting = SETTINGS[options.setting]
    runs = [
        Run(options.setting, loss, objects, seed, setting.steps[objects - 1])
        for seed in setting.seeds
        for objects in (1, 2)
        for loss in setting.losses
    ]
    do(runs, options.results, options.jobs, measure)


def measure(run: Run) -> dict[str, float]:
    """Train one checkpoint and measure it by both commands' own functions: metric;params -> value."""
    setting = SETTINGS[run.setting]
    world = f"digitworld:objects={run.objects}"
    train = load_dataset(f"{world}+split=train+n={setting.images}+seed={run.seed}")
    loss = make_loss(RECIPES[run.loss].loss, seed=run.seed)
    points, width = size_of(run.loss, 64)
    model = tiny_of_width(width, seed=run.seed)
    if loss.needs_points or loss.needs_bias:
        similarity = loss.similarity_name if loss.needs_points else ""
        model.head = make_head(model, similarity=similarity, points=points, bias=loss.needs_bias, seed=run.seed)
    rate = RATES[run.loss]
    found = train_once(
        model, train, loss, steps=run.steps, batch_size=setting.batch_size, lr=rate, head_lr=rate, seed=run.seed
    )
    test = load_dataset(f"{world}+split=test+n={setting.test}")
    images, texts = stored(model, test)
    fixed = -math.log(setting.batch_size - 1) if loss.needs_bias else None
    truth = true_pmi(test.world.scenes, list(test.captions))
    table = score_table(model, images, texts, test.image_of_caption)
    probed = probe_scores(table, Free(fixed, ""), truth=truth, seed=run.seed)
    sides = {"image": Probes(flat(images), np.arange(len(test)))}
    sides["text"] = Probes(flat(texts), test.image_of_caption)
    attributes = [(a, sides[a.side]) for a in digitworld_attributes(test).attributes]
    encoded = Encoded(model, test, images, texts, None)
    analysed = measure_embeddings(encoded, attributes, critics=True, plots=False, seed=run.seed)
    for command, report in (("pmi", probed), ("ib", analysed)):
        for m in report.measures:
            params = "".join(f";{k}={m.params[k]}" for k in sorted(m.params))
            name = f"{command}/{m.metric}{params}"
            found[name] = m.value
            if m.high is not None:
                found[f"{name}/half"] = (m.high - m.low) / 2
        for finding in report.findings:
            found[f"{command}/failed/{finding.test}"] = float(finding.verdict == FAILED)
    return found


TABLES = {
    "pmi-probe": [
        "pmi/pmi_slope;distribution=Q",
        "pmi/pmi_pearson;distribution=Q",
        "pmi/pmi_rmse_nats;distribution=Q",
        "pmi/pmi_constant_nats;by=normalisation",
        "pmi/pmi_fit_image_nats",
        "pmi/pmi_fit_text_nats",
        "pmi/pmi_fit_noise_nats",
        "pmi/pmi_kl_gap_nats",
        "pmi/pmi_kl_gap_scaled_nats",
        "pmi/pmi_kl_gap_sinkhorn_nats",
        "pmi/pmi_scale",
    ],
    "ib-analyze": [
        "ib/shared_own_score_nats;critic=own;scale=fitted",
        "ib/shared_gaussian_heldout_nats;width=50",
        "ib/shared_fraction_of_true",
        "ib/image_nuisance_v_nats;attribute=tint",
        "ib/text_nuisance_v_nats;attribute=frame",
        "ib/image_unmentioned_v_nats;attribute=color",
        "ib/private_bound_logdet_nats;side=image;sigma=0.3",
        "ib/gap_l2",
        "ib/rankme_image",
    ],
}


def print_tables(results: Path, name: str) -> None:
    """Markdown: mean and half width of the 95 % t-interval over seeds."""
    rows = [r for r in read_rows(results) if r["setting"] == name]
    for objects in ("1", "2"):
        for command, metrics in TABLES.items():
            chosen = [r for r in rows if r["objects"] == objects]
            print_table(chosen, "loss", metrics, f"{command}, {objects} object(s)")


if __name__ == "__main__":
    torch.set_num_threads(1)
    sys.exit(main())
