"""`clipib cache ls|verify|gc`."""

from __future__ import annotations

import time
from typing import Annotated

import typer

from clipib.cli import options as o
from clipib.cli.output import make_progress, print_records
from clipib.errors import UserError

cache_app = typer.Typer(
    name="cache",
    no_args_is_help=True,
    help="Look after the embedding store.",
    epilog="Examples:\n\nclipib cache ls\n\nclipib cache gc --older-than 30",
)


def register(app: typer.Typer) -> None:
    app.add_typer(cache_app)


@cache_app.command(epilog="Examples:\n\nclipib cache ls\n\nclipib cache ls --format json")
def ls(cache_dir: o.CacheDir = None, format_: o.Format = "table") -> None:
    """List what the store holds, the last used first."""
    from clipib.embeddings.store import Store

    store = Store(cache_dir)
    records = [
        {
            "space": info.name[:12],
            "model": f"{info.about.get('model', '')} ({info.about.get('pretrained', '')})",
            "of": info.about.get("encoding", {}).get("modality", ""),
            "precision": info.about.get("encoding", {}).get("precision", ""),
            "rows": info.rows,
            "MB": round(info.size_bytes / 1e6, 1),
            "used": time.strftime("%Y-%m-%d", time.localtime(info.last_used)),
        }
        for info in store.spaces()
    ]
    if not records and format_ == "table":
        make_progress().say(f"the store in {store.root} is empty")
        return
    print_records(records, format_, title=f"store in {store.root}" if format_ == "table" else "")


@cache_app.command(epilog="Examples:\n\nclipib cache verify\n\nclipib cache verify --cache-dir DIR")
def verify(cache_dir: o.CacheDir = None) -> None:
    """Hash every block again; damaged ones end with 2."""
    from clipib.embeddings.store import Store

    store = Store(cache_dir)
    damaged = store.verify()
    if damaged:
        shown = ", ".join(p.name[:12] for p in damaged[:5])
        hint = "Remove them with `clipib cache gc`; their rows are then encoded again."
        raise UserError(f"{len(damaged)} blocks in '{store.root}' are damaged: {shown}.", hint=hint)
    typer.echo(f"all {sum(info.blocks for info in store.spaces())} blocks are whole")


@cache_app.command(epilog="Examples:\n\nclipib cache gc\n\nclipib cache gc --older-than 30")
def gc(
    cache_dir: o.CacheDir = None,
    older_than: Annotated[
        float | None, typer.Option(min=0, help="Also remove what was not used for this many days.")
    ] = None,
) -> None:
    """Remove damaged blocks and leftovers of killed writers."""
    from clipib.embeddings.store import Store

    freed = Store(cache_dir).gc(older_than_days=older_than)
    typer.echo(f"freed {freed / 1e6:.1f} MB")
