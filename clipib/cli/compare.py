"""`clipib compare`."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from clipib.cli import options as o
from clipib.cli.output import MANY, make_progress, print_records

if TYPE_CHECKING:
    from clipib.tasks.compare import Comparison, Line

EXAMPLES = """Examples:

clipib compare runs/before runs/after --save flips.png

clipib compare runs/all runs/all --checkpoint-a openai --checkpoint-b laion2b --metrics acc1 --format csv"""

NAME_WIDTH = 18  # letters of a metric in one line of the table
CLOSING = (
    "'no difference shown' is no proof that there is none. To rule out a drop: clipib gate RUN_B --baseline RUN_A "
    "--non-inferior 0.003"
)


def register(app: typer.Typer) -> None:
    app.command(epilog=EXAMPLES)(compare)


def compare(
    run_a: Annotated[Path, typer.Argument(help="A: the folder that --out of zeroshot or retrieve has written.")],
    run_b: Annotated[Path, typer.Argument(help="B: the other; differences are B - A.")],
    metrics: Annotated[list[str] | None, typer.Option(help="Only these; also without @K. Commas or repeated.")] = None,
    datasets: Annotated[
        list[str] | None, typer.Option("--datasets", "-d", help="Only these. Commas or repeated.")
    ] = None,
    checkpoint_a: Annotated[
        str | None, typer.Option(help="Where A has several: a part of its name, or the beginning of its hash.")
    ] = None,
    checkpoint_b: Annotated[str | None, typer.Option(help="The same of B.")] = None,
    alpha: Annotated[float, typer.Option(help="Level of the tests; intervals have 1 - alpha.")] = 0.05,
    seed: Annotated[int, typer.Option(min=0, max=2**31 - 1, help="Of the bootstrap.")] = 0,
    save: Annotated[
        Path | None,
        typer.Option(help="Picture of the samples that flipped, .png or .jpg.", rich_help_panel=o.OUTPUT),
    ] = None,
    flips: Annotated[
        Path | None, typer.Option(help="CSV file of the samples that flipped.", rich_help_panel=o.OUTPUT)
    ] = None,
    data: Annotated[
        list[str] | None,
        typer.Option(help="For --save: where the pictures lie, if not where A found them.", rich_help_panel=o.DATA),
    ] = None,
    data_root: o.DataRoot = None,
    offline: o.Offline = False,
    cache_dir: o.CacheDir = None,
    out: Annotated[
        Path | None,
        typer.Option("--out", "-o", help="Folder for comparison.csv and flips.csv.", rich_help_panel=o.OUTPUT),
    ] = None,
    format_: o.RecordsFormat = "table",
) -> None:
    """Compare two runs sample by sample: differences with intervals and tests, and what flipped.

    Ends with 0 whatever it finds, and with 2 where the two cannot be compared.
    """
    progress = make_progress()
    from clipib.tasks.compare import compare as run

    found = run(
        run_a,
        run_b,
        alpha=alpha,
        metrics=o.split_commas(metrics or []),
        datasets=o.split_commas(datasets or []),
        checkpoint_a=checkpoint_a,
        checkpoint_b=checkpoint_b,
        seed=seed,
        out=out,
        flips=flips,
        save=save,
        data=data or None,
        data_root=data_root,
        cache_dir=cache_dir,
        progress=progress,
    )
    if format_ in ("csv", "json"):
        print_records([line._asdict() for line in found.lines], format_)
        return
    bullet = "- " if format_ == "md" else ""
    print(f"{bullet}A: {run_a}, {found.a}\n{bullet}B: {run_b}, {found.b}\n")
    for title, lines in _tables(found.lines):
        print_records(_cells(lines, found, stacked=format_ == "table"), format_, title=title)
    if records := _detectable(found):
        title = f"What these samples could have shown, with 80 % power at {found.alpha:g}"
        print_records(records, format_, title=title)
    progress.say(CLOSING)


def _tables(lines: Sequence[Line]) -> Iterable[tuple[str, list[Line]]]:
    """A table per data set; of many data sets one per main metric."""
    data_sets = dict.fromkeys((x.dataset, x.split, x.protocol) for x in lines)
    if len(data_sets) <= MANY:
        for dataset, split, protocol in data_sets:
            own = [x for x in lines if (x.dataset, x.split, x.protocol) == (dataset, split, protocol)]
            n = max((x.n for x in own if x.n), default=None)
            part = f" ({split})" if split and not dataset.endswith(split) else ""
            yield f"{dataset}{part}, {protocol}{f', {n:,} samples' if n else ''}", own
        return
    main = [x for x in lines if x.is_main]
    for metric in dict.fromkeys(x.metric for x in main):
        yield f"{metric}; other metrics: --format csv", [x for x in main if x.metric == metric]


def _cells(lines: Sequence[Line], found: Comparison, *, stacked: bool) -> list[dict[str, Any]]:
    """The lines as a table shows them; stacked in 80 columns, with two lines to a cell."""
    by_metric = len({x.metric for x in lines}) > 1 or len({x.dataset for x in lines}) == 1
    several = any(x.p_adjusted != x.p for x in found.lines)
    p_name = "p, adjusted" if several else "p"
    level = f"{100 * (1 - found.alpha):g} % interval"
    records = []
    for x in lines:
        name = x.metric + (f" ({x.params})" if x.params else "") if by_metric else x.dataset
        interval = "" if x.low is None else f"{x.low:.4f} to {x.high:.4f}"
        flips = ("\n" if stacked else ", ").join([f"{x.gained:,} gained", f"{x.lost:,} lost"] * (x.gained is not None))
        verdict = f"{x.verdict} ({x.note})" if x.note and not stacked else x.verdict
        if stacked:
            record = {"metric" if by_metric else "data set": _folded(name)}
            record |= {"A\nB": f"{_number(x.a)}\n{_number(x.b)}"}
            record |= {f"B - A\n{level}": f"{_number(x.difference, '+')}\n{interval or x.note}"}
            record |= {p_name.replace(" ", "\n"): _p(x.p_adjusted), "flips": flips}
        else:
            record = {"metric" if by_metric else "data set": name, "A": _number(x.a), "B": _number(x.b)}
            record |= {"B - A": _number(x.difference, "+"), level: interval, p_name: _p(x.p_adjusted), "flips": flips}
        records.append(
            {**record, "B is": verdict.replace("difference shown", "difference\nshown") if stacked else verdict}
        )
    return records


def _detectable(found: Comparison) -> list[dict[str, Any]]:
    """Of every data set's main metrics the smallest difference that was in reach."""
    return [
        {
            "data set": x.dataset,
            "metric": x.metric,
            "difference": _number(x.detectable) or "none",
            "n": f"{x.n:,}",
        }
        for x in found.lines
        if x.is_main and x.n is not None
    ]


def _folded(name: str) -> str:
    """A long name on two lines, cut after an underscore or at its params.

    Example:
        >>> _folded("image_retrieval_recall@10")
        'image_retrieval_\\nrecall@10'
    """
    head, space, params = name.partition(" ")
    if len(head) > NAME_WIDTH and "_" in head[:NAME_WIDTH]:
        cut = head.rindex("_", 0, NAME_WIDTH) + 1
        head = f"{head[:cut]}\n{head[cut:]}"
    return head + space.replace(" ", "\n") + params


def _number(value: float | None, sign: str = "") -> str:
    return "" if value is None else f"{value:{sign}.4f}"


def _p(p: float | None) -> str:
    return "" if p is None else "<0.0001" if p < 0.0001 else f"{p:.4f}"
