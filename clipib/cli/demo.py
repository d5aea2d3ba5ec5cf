"""`clipib demo`: the whole job on built-in data, as ordinary commands."""

from __future__ import annotations

import shlex
import sys
import time
from pathlib import Path
from typing import Annotated

import typer

from clipib.cli import options as o

EXAMPLES = """Examples:

clipib demo

clipib demo --quick --out runs/quick"""


def register(app: typer.Typer) -> None:
    app.command(epilog=EXAMPLES)(demo)


def demo(
    quick: Annotated[bool, typer.Option("--quick", help="Half a minute: the commands, not the figures.")] = False,
    out: o.OutFolder = Path("runs/demo"),
    cache_dir: o.CacheDir = None,
) -> None:
    """Train a tiny CLIP on built-in data, fine-tune it with CIBR, evaluate both. No download."""
    start = time.monotonic()
    say = lambda text="": print(text, file=sys.stderr, flush=True)  # noqa: E731
    say("digitworld: coloured handwritten digits with captions. A tiny CLIP learns it from nothing,")
    say("then is fine-tuned with the CIBR penalty; both are evaluated on held-out scenes.")
    for command in demo_commands(out, quick=quick, cache_dir=cache_dir):
        say(f"\n$ clipib {shlex.join(command)}")
        code = _run(command)
        if code:
            raise typer.Exit(code)
    say(f"\nDone in {time.monotonic() - start:.0f} s. Checkpoints, metrics.csv and results.csv lie in {out}.")
    best = out / "cibr" / "best"
    say("Next:")
    say(f'  clipib search "the red seven" --model {best} --data digitworld --save sheet.png')
    say(f"  clipib zeroshot --model {best} --datasets folder:YOUR/PHOTOS/test")
    say("  clipib finetune --loss cibr --model ViT-B-32 --train csv:YOUR/captions.csv     (fetches weights)")


def demo_commands(out: Path, *, quick: bool, cache_dir: Path | None = None) -> list[list[str]]:
    """The commands that the demo runs, without the leading `clipib`."""
    steps, more = ("60", "20") if quick else ("700", "100")
    data = "digitworld:n=4000" if quick else "digitworld"
    cache = ["--cache-dir", str(cache_dir)] if cache_dir else []
    learn = ["finetune", "--model", "tiny", "--pretrained", "none", "--train", data, "--loss", "clip"]
    learn += ["--lr", "1e-3", "--steps", steps, "--out", str(out / "clip"), "--fresh"]
    tune = ["finetune", "--model", str(out / "clip" / "last"), "--train", data, "--loss", "cibr"]
    tune += ["--lr", "1e-4", "--steps", more, "--out", str(out / "cibr"), "--fresh"]

    def evaluate(name: str, stage: str) -> list[list[str]]:
        checkpoint = str(out / name / stage)
        return [
            [
                "zeroshot",
                "--model",
                checkpoint,
                "--datasets",
                "digitworld",
                "--out",
                str(out / f"{name}-zeroshot"),
                *cache,
            ],
            [
                "retrieve",
                "--model",
                checkpoint,
                "--split",
                "digitworld",
                "--out",
                str(out / f"{name}-retrieve"),
                *cache,
            ],
        ]

    return [learn, *evaluate("clip", "last"), tune, *evaluate("cibr", "best")]


def _run(arguments: list[str]) -> int:
    """One clipib command in this process, with its exit code."""
    from typer.main import get_command

    from clipib.cli import app

    return get_command(app).main(arguments, prog_name="clipib", standalone_mode=False) or 0
