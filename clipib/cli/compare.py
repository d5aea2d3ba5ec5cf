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

NAME_WIDTH = 16  # letters of a name in one line of the table; with it six columns have room in 80 letters


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
    from clipib.tasks.adjusted import NOT_SHOWN
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
    if any(line.verdict == NOT_SHOWN for line in found.lines):
        progress.say(
            f"'{NOT_SHOWN}' is no proof that there is none; to rule a drop out: "
            f"clipib gate {run_b} --baseline {run_a} --non-inferior 0.003"
        )


def _tables(lines: Sequence[Line]) -> Iterable[tuple[str, list[Line]]]:
    """A table per data set; of many data sets one per main metric."""
    data_sets = dict.fromkeys((x.dataset, x.split, x.protocol) for x in lines)
    if len(data_sets) <= MANY:
        for dataset, split, protocol in data_sets:
            own = [x for x in lines if (x.dataset, x.split, x.protocol) == (dataset, split, protocol)]
            counts = {x.n for x in own if x.n}
            n = f", {counts.pop():,} samples" if len(counts) == 1 else ""
            part = f" ({split})" if split and not dataset.endswith(split) else ""
            yield f"{dataset}{part}, {protocol}{n}", own
        return
    main = [x for x in lines if x.is_main]
    for metric in dict.fromkeys(x.metric for x in main):
        yield f"{metric}; other metrics: --format csv", [x for x in main if x.metric == metric]


def _cells(lines: Sequence[Line], found: Comparison, *, stacked: bool) -> list[dict[str, Any]]:
    """The lines as a table shows them; stacked, with two lines to a cell, they fit 80 columns."""
    first = "data set" if len({x.dataset for x in lines}) > 1 else "metric"
    level = f"{100 * (1 - found.alpha):g} % interval"
    adjusted = any(x.p_adjusted != x.p for x in found.lines)
    records = []
    for x in lines:
        name, params = (x.dataset, "") if first == "data set" else (x.metric, x.params)
        a, b, difference = _number(x.a), _number(x.b), _number(x.difference, "+")
        flipped = x.gained is not None
        if stacked:
            interval = "no interval" if x.low is None else f"{x.low:.4f}, {x.high:.4f}"
            record = {first: _folded(name, params), "A\nB": f"{a}\n{b}", f"B - A\n{level}": f"{difference}\n{interval}"}
            record |= {"p\n(BH)" if adjusted else "p": _p(x.p_adjusted)}
            record |= {"flips": f"+{x.gained:,}\n-{x.lost:,}" if flipped else ""}
            record |= {"B is": x.verdict.replace("difference ", "difference\n")}
        else:
            interval = x.note if x.low is None else f"{x.low:.4f} to {x.high:.4f}"
            record = {first: name + f" ({params})" * bool(params), "A": a, "B": b, "B - A": difference}
            record |= {level: interval, "p (BH)" if adjusted else "p": _p(x.p_adjusted)}
            record |= {"flips": f"{x.gained:,} gained, {x.lost:,} lost" if flipped else "", "B is": x.verdict}
        records.append(record)
    return records


def _detectable(found: Comparison) -> list[dict[str, Any]]:
    """The smallest difference that was in reach, of every data set's main metrics, or of all where none is compared."""
    tested = [x for x in found.lines if x.n is not None]
    with_main = {(x.dataset, x.split) for x in tested if x.is_main}
    records = []
    for x in tested:
        if x.is_main or (x.dataset, x.split) not in with_main:
            record = {"data set": x.dataset, "metric": x.metric, "difference": _number(x.detectable) or "none"}
            n = f"{x.n:,}" + (f" of {x.units:,} images" if x.units != x.n and x.command == "retrieve" else "")
            records.append({**record, "n": n})
    return records


def _folded(name: str, params: str = "") -> str:
    """A long name on two lines, and params on lines of their own.

    Example:
        >>> _folded("image_retrieval_recall@10", "kind=swap")
        'image_retrieval_\\nrecall@10\\nkind=swap'
    """
    cut = max(name.rfind(mark, 0, NAME_WIDTH) for mark in "_/-:") + 1
    if len(name) > NAME_WIDTH and cut:
        name = f"{name[:cut]}\n{name[cut:]}"
    return "\n".join([name, *filter(None, params.split(";"))])


def _number(value: float | None, sign: str = "") -> str:
    return "" if value is None else f"{value:{sign}.4f}"


def _p(p: float | None) -> str:
    return "" if p is None else "<0.0001" if p < 0.0001 else f"{p:.4f}"
