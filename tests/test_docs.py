"""The README is true: its commands exist, its Python runs."""

import re
import shlex
from pathlib import Path

import pytest

README = (Path(__file__).parents[1] / "README.md").read_text()
CI = (Path(__file__).parents[1] / ".ci" / "run").read_text()


def blocks(language):
    return re.findall(rf"```{language}\n(.*?)```", README, flags=re.S)


def test_the_two_set_up_commands_stand_first_and_ci_runs_the_second():
    commands = [line for block in blocks("sh") for line in block.splitlines()]
    assert commands[:2] == [
        "python -m pip install -e . && clipib demo",
        "python -m pip install -e '.[test]' && python -m pytest",
    ]
    assert commands[1] in CI.splitlines()


def test_every_command_in_the_readme_parses():
    from typer.main import get_command

    from clipib.cli import app

    group = get_command(app)
    lines = [
        line for block in blocks("sh") for line in block.replace("\\\n", " ").splitlines() if line.startswith("clipib ")
    ]
    assert len(lines) > 5
    for line in lines:
        _, name, *arguments = shlex.split(line, comments=True)
        command = group.commands[name]
        if hasattr(command, "commands"):
            command, arguments = command.commands[arguments[0]], arguments[1:]
        command.make_context(name, arguments)


def test_every_command_has_help_with_two_examples(clipib):
    from typer.main import get_command

    from clipib.cli import app

    for name, command in get_command(app).commands.items():
        for sub in getattr(command, "commands", {"": command}).values():
            assert sub.epilog.count("\n\nclipib ") >= 2, name
        result = clipib(name, "--help")
        assert result.exit_code == 0 and "Examples:" in result.stdout


@pytest.mark.parametrize("number", range(len(blocks("python"))))
def test_the_python_of_the_readme_runs(number, tmp_path, monkeypatch, photo_folder, trained):
    monkeypatch.chdir(tmp_path)
    code = blocks("python")[number].replace("folder:photos", f"folder:{photo_folder}").replace("runs/a", str(trained))
    exec(compile(code, "README.md", "exec"), {})
