"""`clipib data fetch|list|info|verify|export`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from clipib.cli import options as o
from clipib.cli.output import make_progress, print_records
from clipib.errors import UserError
from clipib.progress import counted

SHOWN = 4  # examples in a table; machine formats hold all

data_app = typer.Typer(
    name="data",
    no_args_is_help=True,
    help="Fetch data sets, look them over, and write them for other tools.",
    epilog="Examples:\n\nclipib data fetch cifar10,flickr30k --data-root data\n\n"
    "clipib data verify folder:photos --save sheet.png",
)

Specs = Annotated[list[str], typer.Argument(help="folder:, csv:, wds:PATH, a name; all their splits.")]


def register(app: typer.Typer) -> None:
    app.add_typer(data_app)


@data_app.command(
    epilog="Examples:\n\nclipib data fetch cifar10,flickr30k --data-root data\n\n"
    "clipib data fetch suite:vtab+ --data-root data --format csv"
)
def fetch(
    names: Annotated[list[str], typer.Argument(help="Names, suites, wds:ORG/NAME@REVISION; commas or several.")],
    data_root: o.DataRoot = None,
    split: Annotated[str, typer.Option(help="Of the names that say none.")] = "test",
    update: Annotated[bool, typer.Option("--update", help="The newest commit in place of the locked one.")] = False,
    offline: o.Offline = False,
    format_: o.RecordsFormat = "table",
) -> None:
    """Fetch data sets of the hub, and lock their revision and hashes in data.lock."""
    progress = make_progress()
    from clipib.tasks.fetch import fetch_data

    records = fetch_data(names, data_root=data_root, split=split, update=update, progress=progress)
    print_records(records, format_)
    from clipib.data.fetch import data_home
    from clipib.data.lock import LOCK_FILE

    progress.say(f"locked in {data_home(data_root) / LOCK_FILE}")


@data_app.command("list", epilog="Examples:\n\nclipib data list --data-root data\n\nclipib data list --format json")
def list_(data_root: o.DataRoot = None, format_: o.RecordsFormat = "table") -> None:
    """Show what lies in a data root, and whether it is what data.lock names."""
    from clipib.data.fetch import data_home
    from clipib.tasks.fetch import list_data

    records = list_data(data_root)
    if not records and format_ == "table":
        make_progress().say(f"nothing in {data_home(data_root)}; `clipib data fetch NAME` brings a data set")
        return
    print_records(records, format_)


@data_app.command(epilog="Examples:\n\nclipib data info cifar10\n\nclipib data info datacomp/svhn --format json")
def info(
    name: Annotated[str, typer.Argument(help="A name of the registry.")],
    data_root: o.DataRoot = None,
    format_: o.RecordsFormat = "table",
) -> None:
    """Show everything that the registry knows of one data set."""
    from clipib.tasks.fetch import describe_data

    facts = describe_data(name, data_root)
    if format_ == "table":
        print_records([{"what": k, "is": v} for k, v in facts.items() if v != ""], format_)
    else:
        print_records([facts], format_)


@data_app.command(
    epilog="Examples:\n\nclipib data verify folder:photos --save sheet.png\n\n"
    "clipib data verify cifar10 --data-root data --format json"
)
def verify(
    ctx: typer.Context,
    specs: Specs,
    save: Annotated[
        Path | None, typer.Option(help="Write a contact sheet, .png or .jpg.", rich_help_panel=o.OUTPUT)
    ] = None,
    data_root: o.DataRoot = None,
    image_column: o.ImageColumn = "",
    caption_column: o.CaptionColumn = "",
    label_column: o.LabelColumn = "",
    separator: o.Separator = "",
    workers: o.Workers = 2,
    format_: o.RecordsFormat = "table",
) -> None:
    """Check counts, classes, damaged files, copies and lookalikes; errors end with 2."""
    progress = make_progress()
    from clipib.tasks.verify import NOT_SEEN
    from clipib.tasks.verify import verify as run

    report = run(specs, **_options(ctx), progress=progress)
    print_records([_record(f, format_) for f in report.findings], format_)
    progress.say(f"looked at {counted(report.n_images, 'image')}; not seen by this: " + "; ".join(NOT_SEEN))
    if report.sheet:
        progress.say(f"contact sheet in {report.sheet}: look at it")
    if errors := report.errors:
        failed = ", ".join(dict.fromkeys(f"{f.check} ({f.split})" if f.split else f.check for f in errors))
        raise UserError(
            f"{counted(len(errors), 'check')} found what would spoil numbers: {failed}.",
            hint="Mend or remove what is listed and verify again; --format json lists every file.",
        )


@data_app.command(
    epilog="Examples:\n\nclipib data export folder:photos --to shards\n\n"
    "clipib data export csv:coco/captions.csv --to shards --shard-size 500"
)
def export(
    ctx: typer.Context,
    specs: Specs,
    to: Annotated[Path, typer.Option(help="Folder for the shards.", rich_help_panel=o.OUTPUT)],
    task: Annotated[str, typer.Option(help="classification or retrieval, where there are labels and captions.")] = "",
    shard_size: Annotated[int, typer.Option(min=1, help="Images per shard at most.", rich_help_panel=o.OUTPUT)] = 1000,
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="Replace an earlier export.", rich_help_panel=o.OUTPUT)
    ] = False,
    data_root: o.DataRoot = None,
    image_column: o.ImageColumn = "",
    caption_column: o.CaptionColumn = "",
    label_column: o.LabelColumn = "",
    separator: o.Separator = "",
    workers: o.Workers = 2,
    dry_run: o.DryRun = False,
    format_: o.RecordsFormat = "table",
) -> None:
    """Write webdataset shards in the layout that CLIP_benchmark reads."""
    progress = make_progress()
    from clipib.tasks.export import export as run

    written = run(specs, **_options(ctx), progress=progress)
    if dry_run:
        progress.say("dry run: nothing was written")
        return
    records = [
        {
            "split": w.folder.name,
            "images": w.n,
            "shards": w.n_shards,
            "encoded anew": w.n_encoded,
            "folder": str(w.folder),
        }
        for w in written
    ]
    print_records(records, format_)
    shown = written[-1]
    progress.say(
        f"next: clip_benchmark eval --dataset wds/{shown.folder.parent.name} --dataset_root {shown.folder.parent} "
        f"--split {shown.folder.name} --task zeroshot_{shown.task}"
    )


def _record(finding, format_: str) -> dict[str, Any]:
    """A finding as a row: a few examples for people, all of them for programs."""
    head = {"verdict": finding.severity, "check": finding.check, "split": finding.split, "found": finding.found}
    if format_ == "json":
        return {**head, "about": finding.about, "examples": finding.examples}
    if format_ == "csv":
        return {**head, "about": finding.about, "examples": "; ".join(finding.examples)}
    lines = [*filter(None, [finding.about]), *finding.examples[:SHOWN]]
    if len(finding.examples) > SHOWN:
        lines.append(f"and {len(finding.examples) - SHOWN:,} more")
    return {**head, "details": ("; " if format_ == "md" else "\n").join(lines)}


def _options(ctx: typer.Context) -> dict[str, Any]:
    """The options of a command as the arguments of its task."""
    options = o.task_options(ctx)
    return {k: v for k, v in options.items() if k not in ("specs", "settings")}
