"""Shared fixtures: the real data, one small trained checkpoint per session, and the command line."""

import os
from pathlib import Path

import pytest

if "PYTEST_XDIST_WORKER" in os.environ:  # before torch is imported: as many workers as cores, a thread each
    os.environ.setdefault("OMP_NUM_THREADS", "1")

SHARED = Path(os.environ.get("CLIPIB_TEST_DATA") or Path(__file__).parents[2] / "shared" / "data")


@pytest.fixture(autouse=True)
def own_surroundings(tmp_path_factory, monkeypatch):
    """No test reads or writes the user's store, data or switches."""
    monkeypatch.setenv("CLIPIB_CACHE", str(tmp_path_factory.getbasetemp() / "cache"))
    for variable in ("CLIPIB_DATA", "CLIPIB_OFFLINE", "HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE", "CI"):
        monkeypatch.delenv(variable, raising=False)


@pytest.fixture(scope="session")
def shared_data():
    """A function from a folder name to its path; the test is skipped where the folder is absent."""

    def folder(name: str) -> Path:
        if not (SHARED / name).is_dir():
            pytest.skip(f"no {name} in {SHARED}; set CLIPIB_TEST_DATA")
        return SHARED / name

    return folder


@pytest.fixture(scope="session")
def trained(tmp_path_factory) -> Path:
    """The folder of a run that trained `tiny` on digitworld for a few seconds; its checkpoint is in `last`."""
    from clipib import finetune

    out = tmp_path_factory.mktemp("trained")
    finetune("tiny", "digitworld:n=2000", pretrained="none", out=out, steps=200, lr=1e-3, batch_size=32, seed=3)
    return out


@pytest.fixture(scope="session")
def checkpoint(trained) -> Path:
    return trained / "last"


@pytest.fixture
def clipib(tmp_path, monkeypatch):
    """Run a command in this process, in an empty folder; the result has exit_code, stdout and stderr."""
    from typer.testing import CliRunner

    from clipib.cli import app

    monkeypatch.chdir(tmp_path)

    def run(*arguments: object):
        return CliRunner().invoke(app, [str(a) for a in arguments], env={"COLUMNS": "100"})

    return run


@pytest.fixture
def hub(monkeypatch):
    """A hub on loopback that serves what the test adds; see hub.py."""
    from hub import Hub

    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    with Hub() as hub:
        yield hub


@pytest.fixture
def photo_folder(tmp_path) -> Path:
    """Class folders of small pictures: PATH/{train,test}/{red square,blue_dot}/N.png."""
    import numpy as np
    from PIL import Image

    rng = np.random.default_rng(0)
    for split, n in (("train", 6), ("test", 4)):
        for name, color in (("red square", (200, 30, 30)), ("blue_dot", (30, 30, 200))):
            folder = tmp_path / "photos" / split / name
            folder.mkdir(parents=True)
            for i in range(n):
                pixels = np.clip(np.array(color) + rng.integers(-30, 30, (40, 48, 3)), 0, 255).astype(np.uint8)
                Image.fromarray(pixels).save(folder / f"{i}.png")
    return tmp_path / "photos"
