"""Imports run one way: cli -> tasks -> training, embeddings -> models, data, losses -> scoring, ... -> registry."""

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1] / "clipib"
LAYERS = [
    {"__main__"},
    {"cli"},
    {"tasks"},
    {"training", "embeddings"},
    {"models", "data", "losses"},
    {"scoring", "information", "metrics"},
    {"hub"},
    {"registry", "progress", "files"},
    {"errors"},
]
LEVEL = {name: level for level, names in enumerate(LAYERS) for name in names}


def part_of(module: str) -> str:
    return module.split(".")[1] if module.count(".") else ""


def imports(path: Path):
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            yield node.module


@pytest.mark.parametrize("path", sorted(ROOT.rglob("*.py")), ids=lambda p: str(p.relative_to(ROOT)))
def test_imports_run_rightwards(path):
    own = path.relative_to(ROOT).parts[0].removesuffix(".py")
    if own == "__init__":
        return
    for module in imports(path):
        if module.startswith("clipib.") and (other := part_of(module)) != own:
            assert LEVEL[own] < LEVEL[other], f"{own} must not import {module}"


@pytest.mark.parametrize("path", sorted(ROOT.rglob("*.py")), ids=lambda p: str(p.relative_to(ROOT)))
def test_only_cli_knows_typer_and_rich_or_prints(path):
    part = path.relative_to(ROOT).parts[0]
    if part in ("cli", "__main__.py"):
        return
    heads = {module.partition(".")[0] for module in imports(path)}
    assert not heads & {"typer", "rich", "click"}
    calls = [n for n in ast.walk(ast.parse(path.read_text())) if isinstance(n, ast.Call)]
    assert not any(isinstance(c.func, ast.Name) and c.func.id == "print" for c in calls)
