"""`clipib data verify|export`."""

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
    help="Look data sets over, and write them for other tools.",
    epilog="Examples:\n\nclipib data verify folder:photos --save sheet.png\n\nclipib data export folder:photos --to shards",
)

Specs = Annotated[list[str], typer.Argument(help="folder:PATH, csv:PATH, digitworld, a name; all their splits.")]


def register(app: typer.Typer) -> None:
    app.add_typer(data_app)


@data_app.command(
    epilog="Examples:\n\nclipib data verify folder:photos --save sheet.png\n\n"
    "clipib data verify cifar10 --data-root data --format json"
)
def verify(
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
    format_: o.Format = "table",
) -> None:
    """Check counts, classes, damaged files, copies and lookalikes; errors end with 2."""
    progress = make_progress()
    from clipib.tasks.verify import NOT_SEEN
    from clipib.tasks.verify import verify as run

    columns = dict(
        image_column=image_column, caption_column=caption_column, label_column=label_column, separator=separator
    )
    report = run(specs, save=save, data_root=data_root, columns=columns, workers=workers, progress=progress)
    table = format_ in ("table", "md")
    print_records([_record(f, table) for f in report.findings], format_)
    progress.say(f"looked at {counted(report.n_images, 'image')}; not seen by this: " + "; ".join(NOT_SEEN))
    if report.sheet:
        progress.say(f"contact sheet in {report.sheet}: look at it")
    if errors := report.errors:
        failed = ", ".join(dict.fromkeys(f"{f.check} ({f.split})" if f.split else f.check for f in errors))
        raise UserError(
            f"{counted(len(errors), 'check')} found what would spoil numbers: {failed}.",
            hint="Mend or remove what is listed and verify again; --format json lists every file.",
        )


def _record(finding, table: bool) -> dict[str, Any]:
    """A finding as a row: a few examples for people, all of them for programs."""
    head = {"verdict": finding.severity, "check": finding.check, "split": finding.split, "found": finding.found}
    if not table:
        return {**head, "about": finding.about, "examples": list(finding.examples)}
    lines = [*filter(None, [finding.about]), *finding.examples[:SHOWN]]
    if len(finding.examples) > SHOWN:
        lines.append(f"and {len(finding.examples) - SHOWN:,} more")
    return {**head, "details": "\n".join(lines)}
