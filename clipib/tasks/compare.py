"""Two runs compared on the same samples: differences with intervals, tests, and the samples that flipped."""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Sequence
from pathlib import Path
from statistics import NormalDist
from typing import Any, NamedTuple

from clipib.errors import UserError
from clipib.files import write_aside
from clipib.metrics.catalog import PROPORTION, metric_of
from clipib.metrics.paired import Difference
from clipib.metrics.power import detectable_difference, detectable_mean_difference
from clipib.progress import SILENT, Progress, counted
from clipib.registry import check_name
from clipib.tasks.adjusted import adjust_over_datasets, family_of, verdict_of
from clipib.tasks.flips import Flip, draw_flips, find_flips
from clipib.tasks.paired import Paired, comparable, join_samples, match, pair
from clipib.tasks.results import Row
from clipib.tasks.run_data import open_run_data
from clipib.tasks.runs import CheckpointName, Run, checkpoints_of, read_run, rows_of_checkpoint

NOT_TESTED = "not tested"
POWER = 0.8
PICTURES = (".png", ".jpg", ".jpeg")


class Line(NamedTuple):
    """One metric on one data set; what is not known is None.

    difference: b - a, on the samples that both runs have, with its interval low to high.
    p: two-sided, of no difference. p_adjusted: by Benjamini and Hochberg over the data sets of this metric.
    n: samples that both have; units: those that are independent, less than n where images have several captions.
    gained, lost: hits of B only and of A only. only_a, only_b: samples that only one has.
    detectable: the smallest difference that such a comparison finds four times in five, if as many samples flip.
    verdict: of B: "better", "worse", "no difference shown" or "not tested".
    note: why there is no interval, or what else is to be known.
    """

    command: str
    dataset: str
    split: str
    protocol: str
    metric: str
    params: str
    is_main: bool
    a: float | None
    b: float | None
    difference: float | None
    low: float | None
    high: float | None
    p: float | None
    p_adjusted: float | None
    n: int | None
    units: int | None
    gained: int | None
    lost: int | None
    only_a: int
    only_b: int
    detectable: float | None
    verdict: str
    note: str


class Comparison(NamedTuple):
    """a, b: the checkpoints; lines: one per data set and metric; flips: the samples that flipped, where asked for."""

    a: CheckpointName
    b: CheckpointName
    alpha: float
    lines: list[Line]
    flips: list[Flip]


def compare(
    run_a: str | Path,
    run_b: str | Path,
    *,
    alpha: float = 0.05,
    metrics: Sequence[str] = (),
    datasets: Sequence[str] = (),
    checkpoint_a: str | None = None,
    checkpoint_b: str | None = None,
    seed: int = 0,
    out: str | Path | None = None,
    flips: str | Path | None = None,
    save: str | Path | None = None,
    data: str | list[str] | None = None,
    data_root: str | Path | None = None,
    cache_dir: str | Path | None = None,
    progress: Progress = SILENT,
) -> Comparison:
    """Compare two runs of `zeroshot` or `retrieve`, joined sample by sample.

    Hits and misses are tested by mid-p McNemar, other means and mean average precision by a paired bootstrap; p values
    are adjusted over the data sets of each metric by Benjamini and Hochberg.

    Args:
        run_a, run_b: two `--out` folders, or one that holds several checkpoints, twice.
        alpha: intervals have level 1 - alpha; a verdict needs an adjusted p of at most alpha.
        metrics, datasets: only these; a metric with cut-offs may be named without one.
        checkpoint_a, checkpoint_b: which checkpoint, see `clipib.tasks.runs.rows_of_checkpoint`.
        seed: of the bootstrap.
        out: a folder for `comparison.csv` and `flips.csv`.
        flips: a CSV file for the samples that flipped in the main metrics, or in those named.
        save: a picture file for the same samples.
        data, data_root: where the pictures lie, if no longer where the run found them.

    Raises:
        UserError: when a run is missing or has no rows, a checkpoint is not told apart, or rows that belong together
            differ in protocol, data, class names, precision or limit.
    """
    if not 0 < alpha < 1:
        raise UserError(f"--alpha {alpha} is no level between 0 and 1.", hint="Write --alpha 0.05.")
    if save and Path(save).suffix.lower() not in PICTURES:
        raise UserError(f"'{save}' is no picture file.", hint="End its name in .png or .jpg.")
    a, b = read_run(run_a), read_run(run_b)
    rows_a = rows_of_checkpoint(a, checkpoint_a, flag="--checkpoint-a")
    rows_b = rows_of_checkpoint(b, checkpoint_b, flag="--checkpoint-b")
    name_a, name_b = checkpoints_of(rows_a)[0], checkpoints_of(rows_b)[0]
    if a.samples.resolve() == b.samples.resolve() and name_a == name_b:
        raise UserError(
            f"A and B are the same rows: {name_a} of '{a.path}'.",
            hint="Name two runs, or two checkpoints of one with --checkpoint-a and --checkpoint-b.",
        )
    for run in (a, b):
        if run.status == "running":
            progress.warn(f"'{run.path}' is not finished, or was cut off: only what stands in its rows is compared")
    pairs = _matched(a, b, rows_a, rows_b, datasets, metrics, progress)
    paired = [pair(a, b, x, y, alpha=alpha, seed=seed) for x, y in pairs]
    lines = [_line(x, y, found, alpha) for (x, y), found in zip(pairs, paired, strict=True)]
    lines = _adjusted(lines, [family_of(x, y) for x, y in pairs], alpha)
    _say_what_is_left_out(lines, progress)
    found = _flips(a, b, pairs, lines, named=bool(metrics)) if out or flips or save else []
    if save:
        shown = {f[:2] for f in found}
        rows = [x for x, _ in pairs if (x.dataset, x.split) in shown]
        opened = open_run_data(a, rows, data=data, data_root=data_root, cache_dir=cache_dir, progress=progress)
        sheet = draw_flips(found, opened, name_a=str(name_a), name_b=str(name_b))
        Path(save).parent.mkdir(parents=True, exist_ok=True)
        kind = "PNG" if Path(save).suffix.lower() == ".png" else "JPEG"
        write_aside(Path(save), lambda file: sheet.save(file, kind))
        progress.say(f"{counted(len(found), 'flip')} in {save}")
    flip_records = [f.record() for f in found]
    if flips:
        _write_csv(Path(flips), flip_records, Flip._fields[:-1])
        progress.say(f"{counted(len(found), 'flip')} in {flips}")
    if out:
        _write_csv(Path(out) / "comparison.csv", [line._asdict() for line in lines], Line._fields)
        _write_csv(Path(out) / "flips.csv", flip_records, Flip._fields[:-1])
        progress.say(f"comparison in {Path(out) / 'comparison.csv'}")
    return Comparison(name_a, name_b, alpha, lines, found)


def _matched(
    a: Run,
    b: Run,
    rows_a: list[Row],
    rows_b: list[Row],
    datasets: Sequence[str],
    metrics: Sequence[str],
    progress: Progress,
) -> list[tuple[Row, Row]]:
    """The rows to compare, of the data sets and metrics asked for."""
    sides = [[r for r in rows if comparable(r)] for rows in (rows_a, rows_b)]
    both = [r for rows in sides for r in rows]
    for name in datasets:
        check_name("data set", name, dict.fromkeys(r.dataset for r in both))
    known = dict.fromkeys(name for r in both for name in (r.metric, r.metric.partition("@")[0]))
    for name in metrics:
        check_name("metric", name, known)
    sides = [
        [
            r
            for r in rows
            if (not datasets or r.dataset in datasets)
            and (not metrics or r.metric in metrics or r.metric.partition("@")[0] in metrics)
        ]
        for rows in sides
    ]
    matched = match(*sides, settings_a=a.settings, settings_b=b.settings)
    if not matched.pairs:
        shown = "\n".join(f"- {side}: {_about(rows)}" for side, rows in zip("AB", sides, strict=True))
        raise UserError(f"The two runs have no data set and metric in common:\n{shown}")
    for side, lone in (("A", matched.only_a), ("B", matched.only_b)):
        if lone:
            progress.say(f"only in {side}, and left out: {_about(lone)}")
    return matched.pairs


def _about(rows: Sequence[Row]) -> str:
    """Data sets and metrics in a few words."""
    found: dict[str, list[str]] = {}
    for r in rows:
        found.setdefault(r.dataset, []).append(r.metric)
    parts = [f"{name}: {', '.join(dict.fromkeys(metrics))}" for name, metrics in found.items()]
    return "; ".join(parts[:4]) + (f"; and {len(parts) - 4} more" if len(parts) > 4 else "") or "nothing"


def _line(a: Row, b: Row, paired: Paired, alpha: float) -> Line:
    found = paired.difference
    value = found.value if found else None if None in (a.value, b.value) else b.value - a.value
    return Line(
        command=a.command,
        dataset=a.dataset,
        split=a.split,
        protocol=a.protocol,
        metric=a.metric,
        params=";".join(p for p in a.params.split(";") if p in b.params.split(";")),
        is_main=a.is_main,
        a=a.value,
        b=b.value,
        difference=value,
        low=found.low if found else None,
        high=found.high if found else None,
        p=found.p if found else None,
        p_adjusted=None,
        n=paired.n if found else None,
        units=found.n if found else None,
        gained=found.gained if found else None,
        lost=found.lost if found else None,
        only_a=paired.only_a,
        only_b=paired.only_b,
        detectable=_detectable(a.metric, found, paired.n, alpha) if found else None,
        verdict=NOT_TESTED,
        note=paired.why,
    )


def _detectable(metric: str, found: Difference, n: int, alpha: float) -> float | None:
    """The difference that this comparison would find with 80 % power; of anything but plain hits from its interval."""
    if metric_of(metric).kind == PROPORTION and found.n == n:
        d = detectable_difference(n, (found.gained + found.lost) / n, alpha=alpha, power=POWER)
    else:
        error = (found.high - found.low) / (2 * NormalDist().inv_cdf(1 - alpha / 2))
        d = detectable_mean_difference(1, error, alpha=alpha, power=POWER)
    return d if 0 < d < math.inf else None


def _adjusted(lines: list[Line], families: list[tuple[str, ...]], alpha: float) -> list[Line]:
    """With p values adjusted over the data sets of each metric, and verdicts from those."""
    adjusted = adjust_over_datasets([line.p for line in lines], families)
    return [
        line
        if p is None
        else line._replace(p_adjusted=p, verdict=verdict_of(line.metric, line.difference, p, alpha=alpha))
        for line, p in zip(lines, adjusted, strict=True)
    ]


def _flips(a: Run, b: Run, pairs: list[tuple[Row, Row]], lines: list[Line], *, named: bool) -> list[Flip]:
    """The flips of the metrics that were named; else of each data set's main ones, or of acc1 where those are none."""
    found = []
    hits = [i for i, line in enumerate(lines) if line.gained is not None]
    for key in dict.fromkeys((lines[i].dataset, lines[i].split, lines[i].protocol) for i in hits):
        own = [i for i in hits if (lines[i].dataset, lines[i].split, lines[i].protocol) == key]
        main = own if named else [i for i in own if lines[i].is_main]
        for i in main or [i for i in own if lines[i].metric == "acc1" and not lines[i].params]:
            joined, _ = join_samples(a, b, *pairs[i])
            found += find_flips(pairs[i][0], joined)
    return found


def _say_what_is_left_out(lines: Sequence[Line], progress: Progress) -> None:
    """What of the samples did not enter, and which rows have no test."""
    for name, only_a, only_b in dict.fromkeys((x.dataset, x.only_a, x.only_b) for x in lines if x.only_a or x.only_b):
        progress.warn(
            f"{name}: {counted(only_a, 'sample')} only in A and {only_b:,} only in B; differences leave them out"
        )
    for why in dict.fromkeys(x.note for x in lines if "file" in x.note or "in common" in x.note):
        names = list(dict.fromkeys(x.dataset for x in lines if x.note == why))
        shown = ", ".join(names[:4]) + (f" and {len(names) - 4} more" if len(names) > 4 else "")
        progress.warn(f"{shown}: {why}; differences stand without interval and test")


def _write_csv(path: Path, records: Sequence[dict[str, Any]], columns: Sequence[str]) -> None:
    out = io.StringIO()
    writer = csv.DictWriter(out, columns, lineterminator="\n")
    writer.writeheader()
    writer.writerows(records)
    path.parent.mkdir(parents=True, exist_ok=True)
    write_aside(path, lambda file: file.write(out.getvalue().encode()))
