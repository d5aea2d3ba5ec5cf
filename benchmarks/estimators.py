"""Every estimator of mutual information on every task of `mi_tasks`: `python benchmarks/estimators.py --setting full`.

Each run draws n pairs of one task with one seed and appends its rows to results/estimators.csv: truth and estimates in
nats, and seconds. What is there is skipped. An estimator that refuses a sample leaves the row `refused`; one
whose package is not installed is left out with a line that says so. `--table` prints estimates beside the truth.

Critics are fitted on a half of the pairs, chosen on a tenth, and judged on the rest: their numbers are lower bounds,
so the best is the highest that is not above the truth by more than its noise.
"""

from __future__ import annotations

import sys
import time
from importlib.util import find_spec
from pathlib import Path
from typing import NamedTuple

import torch
from mi_tasks import TASKS
from study_losses import do, parse_options, print_table, read_rows
from torch import Tensor

from clipib.information.bounds import dv, info_nce, smile, tuba
from clipib.information.critic import Pairs, fit_separable_critic
from clipib.information.table import tally

RESULTS = Path(__file__).parent / "results" / "estimators.csv"
SECONDS_A_PAIR = 2e-3


class Setting(NamedTuple):
    sizes: tuple[int, ...]
    seeds: tuple[int, ...]
    critic_seeds: tuple[int, ...]
    tasks: tuple[str, ...]
    estimators: tuple[str, ...]


class Run(NamedTuple):
    """What identifies a run; all of it stands in every one of its rows."""

    setting: str
    estimator: str
    task: str
    n: int
    seed: int


def main() -> None:
    options = parse_options(__doc__, SETTINGS, RESULTS)
    if options.table:
        print_tables(options.results, options.setting)
        return
    do(plan(options.setting), options.results, options.jobs, measure, SECONDS_A_PAIR, size="n")


def plan(name: str) -> list[Run]:
    """Critics, which take half a minute each, after all else, and seeds outermost: a cut leaves all tasks covered."""
    setting = SETTINGS[name]
    there = [estimator for estimator in setting.estimators if is_there(estimator)]
    quick, slow = ([e for e in there if (e in CRITICS) == trained] for trained in (False, True))
    return [
        Run(name, estimator, task, n, seed)
        for there, seeds in ((quick, setting.seeds), (slow, setting.critic_seeds))
        for seed in seeds
        for n in setting.sizes
        for task in setting.tasks
        for estimator in there
        if estimator not in ONE_DIMENSIONAL or TASKS[task].dim_x == TASKS[task].dim_y == 1
    ]


def is_there(estimator: str) -> bool:
    """Whether what the estimator needs can be imported; else a line says what is missing."""
    needed = NEEDS.get(estimator)
    if needed is None or find_spec(needed.module):
        return True
    print(f"{estimator}: left out, {needed.module} is not there ({needed.hint})", flush=True)
    return False


def measure(run: Run) -> dict[str, float]:
    """Draw and estimate: metric -> value."""
    task = TASKS[run.task]
    x, y = task.sample(run.n, run.seed)
    start = time.monotonic()
    try:
        found = ESTIMATORS[run.estimator](x, y, run.seed)
    except ValueError as refusal:
        print(f"{run.estimator} on {run.task}, n = {run.n}: {refusal}", flush=True)
        found = {"refused": 1.0}
    return {"true_nats": task.mi_nats} | found | {"seconds": time.monotonic() - start}


# Every estimator: x (n, dx), y (n, dy), float64, and a seed -> estimates in nats by name.


def separable_infonce(x: Tensor, y: Tensor, seed: int) -> dict[str, float]:
    return held_out_bounds(x, y, seed, "infonce")


def separable_js(x: Tensor, y: Tensor, seed: int) -> dict[str, float]:
    """Its scores have no free constant, so that NWJ (of s + 1) and SMILE are defined as well."""
    return held_out_bounds(x, y, seed, "js")


def held_out_bounds(x: Tensor, y: Tensor, seed: int, objective: str) -> dict[str, float]:
    fit, calibrate, (x, y) = split(x, y)
    critic = fit_separable_critic(fit, calibrate, objective=objective, seeds=(seed, seed + 100, seed + 200))
    scores = critic(x, y).double()
    absolute = {"nwj_nats": tuba(tally(scores), 0.0), "smile_nats": smile(scores)} if objective == "js" else {}
    return bounds_of(scores) | absolute


def gaussian_critic(x: Tensor, y: Tensor, seed: int) -> dict[str, float]:
    from clipib.information.gaussian_critic import fit_gaussian_critic

    fit, calibrate, (x, y) = split(x, y)
    chosen = (torch.cat(sides) for sides in zip(fit, calibrate))  # nothing to choose here: it is fitted on both
    return bounds_of(fit_gaussian_critic(*chosen)(x, y))


def gaussian(x: Tensor, y: Tensor, seed: int) -> dict[str, float]:
    from clipib.information.gaussian import gaussian_mi

    return {"mi_nats": float(gaussian_mi(x, y))}


def ksg(x: Tensor, y: Tensor, seed: int) -> dict[str, float]:
    """On columns of one scale, since the neighbours are those of the largest distance."""
    from clipib.information.ksg import ksg_mi

    return {"mi_nats": float(ksg_mi(x / x.std(0), y / y.std(0), k=3))}


def sklearn_ksg(x: Tensor, y: Tensor, seed: int) -> dict[str, float]:
    from sklearn.feature_selection import mutual_info_regression

    return {"mi_nats": float(mutual_info_regression(x.numpy(), y[:, 0].numpy(), n_neighbors=3, random_state=seed)[0])}


def bmi_ksg(x: Tensor, y: Tensor, seed: int) -> dict[str, float]:
    from bmi.estimators import KSGEnsembleFirstEstimator

    return {"mi_nats": float(KSGEnsembleFirstEstimator(neighborhoods=(3,)).estimate(x.numpy(), y.numpy()))}


def bmi_cca(x: Tensor, y: Tensor, seed: int) -> dict[str, float]:
    from bmi.estimators import CCAMutualInformationEstimator

    return {"mi_nats": float(CCAMutualInformationEstimator().estimate(x.numpy(), y.numpy()))}


def split(x: Tensor, y: Tensor) -> tuple[Pairs, Pairs, Pairs]:
    """50 % to fit, 10 % to calibrate, 40 % held out; the pairs are independent, so in the order they come."""
    sizes = [len(x) // 2, len(x) // 10, len(x) - len(x) // 2 - len(x) // 10]
    return tuple(Pairs(*sides) for sides in zip(x.split(sizes), y.split(sizes)))


def bounds_of(scores: Tensor) -> dict[str, float]:
    """The bounds of held-out scores (N, N)."""
    t = tally(scores.double())
    return {"infonce_nats": info_nce(t), "dv_nats": dv(t)}


ESTIMATORS = {
    "separable-infonce": separable_infonce,
    "separable-js": separable_js,
    "gaussian-critic": gaussian_critic,
    "gaussian": gaussian,
    "ksg": ksg,
    "sklearn-ksg": sklearn_ksg,
    "bmi-ksg": bmi_ksg,
    "bmi-cca": bmi_cca,
}
ONE_DIMENSIONAL = ("sklearn-ksg",)
CRITICS = ("separable-infonce", "separable-js")


class Needed(NamedTuple):
    module: str
    hint: str


BMI = Needed("bmi", "pip install benchmark-mi, which wants Python < 3.12, jax 0.4.28 and numpy < 2")
NEEDS = {
    "gaussian-critic": Needed("clipib.information.gaussian_critic", "part of clipib"),
    "gaussian": Needed("clipib.information.gaussian", "part of clipib"),
    "ksg": Needed("clipib.information.ksg", "part of clipib"),
    "bmi-ksg": BMI,
    "bmi-cca": BMI,
}
SETTINGS = {
    "small": Setting((300,), (1,), (1,), ("normal", "2pair-2"), ("separable-infonce", "sklearn-ksg", "bmi-cca")),
    "full": Setting((1000, 10_000), (1, 2, 3, 4, 5), (1, 2), tuple(TASKS), tuple(ESTIMATORS)),
}


def print_tables(results: Path, name: str) -> None:
    """For every n the estimates of every task: mean over seeds and half width of the 95 % t-interval."""
    rows = [r for r in read_rows(results) if r["setting"] == name and r["metric"].endswith("_nats")]
    for n in SETTINGS[name].sizes:
        of_n = [r | {"metric": column_of(r)} for r in rows if int(r["n"]) == n]
        truths = {r["task"]: r for r in of_n if r["metric"] == "truth"}  # one each, or they would have an interval
        estimates = [r for r in of_n if r["metric"] != "truth"]
        columns = list(dict.fromkeys(r["metric"] for r in estimates))
        print_table([*truths.values(), *estimates], "task", ["truth", *columns], f"nats, n = {n:,}")


def column_of(row: dict[str, str]) -> str:
    bound = row["metric"].removesuffix("_nats")
    return {"true": "truth", "mi": row["estimator"]}.get(bound, f"{row['estimator']} {bound}")


if __name__ == "__main__":
    sys.exit(main())
