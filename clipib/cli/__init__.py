"""The command line. Typer and Rich live in this package and nowhere else; each command is one file."""

from __future__ import annotations

import typer

from clipib import __version__
from clipib.cli.exits import ExitCodeGroup

app = typer.Typer(
    cls=ExitCodeGroup,
    name="clipib",
    no_args_is_help=True,
    add_completion=True,
    pretty_exceptions_enable=False,
    context_settings={
        "help_option_names": ["-h", "--help"],
        "token_normalize_func": lambda token: token.replace("_", "-"),  # --batch_size works as --batch-size does
    },
)


def _version(value: bool) -> None:
    if value:
        typer.echo(f"clipib {__version__}")
        raise typer.Exit()


@app.callback()
def root(
    version: bool = typer.Option(False, "--version", callback=_version, is_eager=True, help="Show the version."),
) -> None:
    """Evaluate, fine-tune and explain CLIP checkpoints.

    Start with `clipib demo`: it needs no download.
    """


from clipib.cli import (  # noqa: E402
    cache,
    catalog,
    compare,
    data,
    demo,
    embed,
    finetune,
    gate,
    ib_analyze,
    pmi_probe,
    report,
    retrieve,
    search,
    zeroshot,
)

for _module in (
    demo,
    finetune,
    zeroshot,
    retrieve,
    compare,
    gate,
    report,
    pmi_probe,
    ib_analyze,
    embed,
    search,
    catalog,
    data,
    cache,
):
    _module.register(app)
