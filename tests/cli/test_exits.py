"""Exit codes and messages: 2 with one panel and what to type, no traceback, no half-written results."""

import os
import subprocess
import sys
from types import SimpleNamespace

import pytest
from made_runs import made_row, made_run
from PIL import Image

from clipib.errors import UserError

HEAVY = [
    "torch",
    "transformers",
    "datasets",
    "faiss",
    "pandas",
    "open_clip",
    "torchvision",
    "sklearn",
    "scipy",
    "pyarrow",
    "matplotlib",
]


def ends_with_2(result, *words):
    said = " ".join(result.stderr.replace("│", " ").split())
    assert result.exit_code == 2, result.stderr
    for word in words:
        assert word in said, said
    assert "Traceback" not in result.stderr and result.stderr.count("╭─ Error") == 1
    return said


def test_a_misspelt_loss(clipib):
    ends_with_2(clipib("finetune", "--loss", "cbir"), "Unknown loss 'cbir'", "Did you mean 'cibr'")


def test_a_misspelt_format_option_and_command(clipib):
    ends_with_2(clipib("list", "losses", "--format", "jsn"), "Did you mean 'json'")
    assert "--batch-size" in clipib("zeroshot", "--bach-size", "5").stderr
    assert "zeroshot" in clipib("zeroshoot").stderr
    ends_with_2(clipib("list", "datsets"), "'datasets'")
    ends_with_2(clipib("zeroshot", "--model", "tiny", "--pretrained", "none", "--precision", "fp23"), "'fp32'")


def test_a_missing_folder(clipib, checkpoint, tmp_path):
    (tmp_path / "photos").mkdir()
    ends_with_2(clipib("zeroshot", "--model", checkpoint, "--datasets", "folder:photo"), "no folder 'photo'", "photos")
    assert not (tmp_path / "runs").exists()


def test_a_table_without_an_image_column(clipib, checkpoint, tmp_path):
    (tmp_path / "t.csv").write_text("url,caption\nx,y\n")
    for more in ((), ("--dry-run",)):
        ends_with_2(clipib("retrieve", "--model", checkpoint, "--split", "csv:t.csv", *more), "--image-column")


def test_a_truncated_jpeg(clipib, checkpoint, tmp_path):
    folder = tmp_path / "p" / "test"
    for c in "ab":
        (folder / c).mkdir(parents=True)
        Image.new("RGB", (64, 64)).save(folder / c / "x.jpg")
    path = folder / "a" / "x.jpg"
    path.write_bytes(path.read_bytes()[:-50])
    said = ends_with_2(clipib("zeroshot", "--model", checkpoint, "--datasets", "folder:p"), "1 of 2 images", "a/x.jpg")
    assert "--max-bad 1" in said and not (tmp_path / "runs/zeroshot/results.csv").exists()
    ends_with_2(clipib("zeroshot", "--model", checkpoint, "--datasets", "folder:p", "--dry-run"), "first image")


def test_an_empty_class_folder(clipib, checkpoint, photo_folder):
    (photo_folder / "test" / "green").mkdir()
    ends_with_2(clipib("zeroshot", "--model", checkpoint, "--datasets", f"folder:{photo_folder}"), "'green'")


def test_an_unknown_pretrained_tag(clipib):
    ends_with_2(clipib("zeroshot", "--pretrained", "opnai"), "Did you mean 'openai'")


def test_names_and_weights_without_network_are_told_together(clipib):
    flags = ("--offline", "--data-root", "data")
    ends_with_2(
        clipib("retrieve", "--split", "flickr30k,flickr8k", *flags), "ViT-B-32/openai", "'flickr30k'", "'flickr8k'"
    )
    said = ends_with_2(clipib("finetune", *flags), "ViT-B-32/openai", "'flickr30k'", "clipib demo")
    assert "--model tiny --pretrained none" in said and "digitworld" in said


def test_the_default_model_offline(clipib):
    ends_with_2(clipib("zeroshot", "--offline"), "Offline", "ViT-B-32/openai", "--model tiny --pretrained none")


def test_a_stray_checkpoint(clipib, shared_data):
    path = shared_data("mira_tiny_clip") / "clip.pt"
    ends_with_2(clipib("zeroshot", "--model", path), "does not say its architecture")
    ends_with_2(clipib("zeroshot", "--model", "ViT-B-32", "--pretrained", path), "no open_clip checkpoint of ViT-B-32")


def test_two_runs_with_one_out(clipib, checkpoint, tmp_path):
    from clipib.tasks.results import ResultsFolder

    with ResultsFolder(tmp_path / "o", command="zeroshot", settings={}):
        ends_with_2(
            clipib("zeroshot", "--model", checkpoint, "--datasets", "digitworld:n=9", "--out", "o"), "Another run"
        )


def test_an_out_that_is_a_file(clipib, checkpoint, tmp_path):
    (tmp_path / "o").write_text("")
    ends_with_2(clipib("zeroshot", "--model", checkpoint, "--datasets", "digitworld:n=9", "--out", "o"), "is a file")


@pytest.mark.parametrize(
    "error, code",
    [
        (UserError("x"), 2),
        (OSError(28, "No space left on device"), 2),
        (OSError(30, "Read-only file system", "x"), 2),
        (RuntimeError("CUDA error: out of memory"), 2),
        (RuntimeError("cannot allocate a name"), 70),
        (MemoryError(), 2),
        (RuntimeError("a bug"), 70),
        (ImportError("no module"), 70),
        (KeyboardInterrupt(), 130),
    ],
)
def test_every_error_has_its_code(clipib, monkeypatch, error, code):
    def fail(*_, **__):
        raise error

    monkeypatch.setattr("clipib.tasks.zeroshot.zeroshot", fail)
    result = clipib("zeroshot")
    assert result.exit_code == code
    assert ("Traceback" in result.stderr) == (code == 70)


def test_the_start_imports_nothing_heavy():
    code = (
        "import sys\nfrom typer.testing import CliRunner\nfrom clipib.cli import app\n"
        "for arguments in (['--help'], ['zeroshot', '--help'], ['list', 'losses']):\n"
        "    assert CliRunner().invoke(app, arguments).exit_code == 0\n"
        f"print([m for m in {HEAVY} if m in sys.modules])"
    )
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout.strip() == "[]"


def test_a_broken_installation_is_70():
    code = "import sys; sys.modules['typer'] = None\nfrom clipib.__main__ import main\nmain()"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert result.returncode == 70 and "installation is broken" in result.stderr


def test_a_reader_that_goes_away_is_no_failure():
    command = f"set -o pipefail; {sys.executable} -m clipib list losses --format csv | head -c 1"
    assert subprocess.run(["bash", "-c", command], capture_output=True).returncode == 0


@pytest.mark.parametrize("command", ["zeroshot --datasets", "retrieve --split", "embed --data", "finetune --train"])
@pytest.mark.parametrize("more", [(), ("--dry-run",)])
def test_a_disk_without_room_is_found_before_work(clipib, checkpoint, tmp_path, monkeypatch, command, more):
    monkeypatch.setattr("clipib.files.shutil.disk_usage", lambda place: SimpleNamespace(free=0))
    result = clipib(*command.split(), "digitworld:n=60+seed=8", "--model", checkpoint, *more)
    ends_with_2(result, "0 kB free", "Free some space")
    assert not (tmp_path / "runs").exists()


def test_a_disk_that_fills_up_leaves_no_half_written_results(clipib, checkpoint, tmp_path, monkeypatch):
    import clipib.tasks.results as results

    write = results.write_aside

    def full(path, content):
        if path.suffix == ".csv":
            raise OSError(28, "No space left on device", str(path))
        write(path, content)

    monkeypatch.setattr(results, "write_aside", full)
    ends_with_2(clipib("zeroshot", "--model", checkpoint, "--datasets", "digitworld:n=9"), "The disk is full")
    assert not (tmp_path / "runs" / "zeroshot" / "results.csv").exists()


@pytest.mark.skipif(os.name == "nt", reason="a shell with PIPESTATUS")
@pytest.mark.parametrize("reader", ["head -1", "true"])
@pytest.mark.parametrize("way", ["|", "2>&1 |"])
def test_a_reader_that_goes_away_changes_no_exit_code(tmp_path, way, reader):
    made_run(tmp_path / "a", [made_row("acc1", 0.5)])
    gate = f"gate {tmp_path}/a --fail-under d.acc1="
    for command, code in (("list datasets", 0), (gate + "0.4", 0), (gate + "0.6", 1), ("gate b --fail-under d.x=1", 2)):
        line = f"{sys.executable} -m clipib {command} {way} {reader} > /dev/null; echo ${{PIPESTATUS[0]}}"
        env = {**os.environ, "PYTHONUNBUFFERED": "1" if way == "|" else ""}
        done = subprocess.run(["bash", "-c", line], capture_output=True, text=True, env=env)
        assert done.stdout.strip() == str(code) and "Traceback" not in done.stderr
