"""`clipib cache ls|verify|gc`."""

from __future__ import annotations

import re
import time
from typing import Annotated

import typer

from clipib.cli import options as o
from clipib.cli.output import make_progress, print_records
from clipib.errors import UserError
from clipib.files import size_text
from clipib.progress import counted

UNITS = {"": 1, **{unit: 1000**power for power, unit in enumerate("KMGT", start=1)}}
BINARY_UNITS = {unit: 1024**power for power, unit in enumerate("KMGT", start=1)}

cache_app = typer.Typer(
    name="cache",
    no_args_is_help=True,
    help="Look after the embedding store.",
    epilog="Examples:\n\nclipib cache ls\n\nclipib cache gc --max-size 50G",
)


def register(app: typer.Typer) -> None:
    app.add_typer(cache_app)


@cache_app.command(epilog="Examples:\n\nclipib cache ls\n\nclipib cache ls --format json")
def ls(cache_dir: o.CacheDir = None, format_: o.RecordsFormat = "table") -> None:
    """List what the store holds, the last used first."""
    from clipib.embeddings.housekeeping import cache_size, list_spaces
    from clipib.embeddings.store import Store

    store = Store(cache_dir)
    table = format_ in ("table", "md")
    records = [
        {
            **({} if table else {"space": info.name}),
            "model": f"{info.about.get('model', '')} ({info.about.get('pretrained', '')})",
            "of": info.about.get("encoding", {}).get("modality", ""),
            "precision": info.about.get("encoding", {}).get("precision", ""),
            "rows": info.rows,
            "width": "x".join(map(str, info.item_shape)),
            "blocks": info.blocks,
            **({"size": size_text(info.size_bytes)} if table else {"bytes": info.size_bytes}),
            "used": time.strftime("%Y-%m-%d", time.localtime(info.last_used)),
        }
        for info in list_spaces(store)
    ]
    if not records and format_ == "table":
        make_progress().say(f"the store in {store.root} is empty")
        return
    title = f"store in {store.root}, {size_text(cache_size(store))} with file hashes"
    print_records(records, format_, title=title if format_ == "table" else "")


@cache_app.command(epilog="Examples:\n\nclipib cache verify\n\nclipib cache verify --cache-dir DIR")
def verify(cache_dir: o.CacheDir = None) -> None:
    """Hash every block; damaged ones end with 2."""
    from clipib.embeddings.housekeeping import find_damaged, list_spaces
    from clipib.embeddings.store import Store

    store = Store(cache_dir)
    damaged = find_damaged(store)
    if damaged:
        shown = ", ".join(str(p.relative_to(store.root)) for p in damaged[:5])
        raise UserError(
            f"{counted(len(damaged), 'damaged block')} in '{store.root}': {shown}.",
            hint="No number comes of that: such rows are encoded again when next asked for. "
            "`clipib cache gc` removes them now.",
        )
    typer.echo(f"{counted(sum(info.blocks for info in list_spaces(store)), 'block')}, all whole")


@cache_app.command(epilog="Examples:\n\nclipib cache gc\n\nclipib cache gc --max-size 50G --older-than 30")
def gc(
    cache_dir: o.CacheDir = None,
    max_size: Annotated[
        str | None, typer.Option(help="Also remove the least recently used until it fits: 500M, 50G, 1.5TiB.")
    ] = None,
    older_than: Annotated[
        float | None, typer.Option(min=0, help="Also remove what was not used for this many days.")
    ] = None,
) -> None:
    """Remove damaged blocks and leftovers of killed writers, and merge small blocks; others may go on working."""
    from clipib.embeddings.housekeeping import collect_garbage
    from clipib.embeddings.store import Store

    max_bytes = None if max_size is None else n_bytes(max_size)
    done = collect_garbage(Store(cache_dir), older_than_days=older_than, max_bytes=max_bytes)
    removed, merged = counted(done.removed, "block"), counted(done.merged, "small block")
    typer.echo(
        f"freed {size_text(done.freed_bytes)}: {removed} removed, {merged} merged; {size_text(done.left_bytes)} left"
    )


def n_bytes(text: str) -> int:
    """`50G` and `50GB` are 50 * 1000^3 bytes, `50GiB` is 50 * 1024^3.

    Raises:
        UserError: when this is no size.
    """
    found = re.fullmatch(r"(\d+(?:\.\d+)?)\s*([KMGT]?)(I?)B?", text.strip().upper())
    if not found or (found[3] and not found[2]):
        raise UserError(f"--max-size '{text}' is no size.", hint="Write a number with K, M, G or T: --max-size 50G.")
    return int(float(found[1]) * (BINARY_UNITS if found[3] else UNITS)[found[2]])
