import clipib.cli.output as output
from clipib.cli.output import PlainProgress, make_progress, print_records


def test_plain_progress_gives_one_line_at_the_end_of_a_short_job(capsys):
    with PlainProgress().track("encoding x", 100) as advance:
        for _ in range(10):
            advance(10)
    out, err = capsys.readouterr()
    assert out == "" and err.count("\n") == 1 and err.startswith("encoding x: 100 images in ")


def test_plain_progress_tells_the_time_left_of_a_long_job(capsys, monkeypatch):
    clock = iter(range(0, 10_000, 10))
    monkeypatch.setattr(output.time, "monotonic", lambda: float(next(clock)))
    with PlainProgress().track("training", 5, unit="steps") as advance:
        for _ in range(5):
            advance(1, note="loss 1")
    lines = capsys.readouterr().err.splitlines()
    assert lines[1] == "training: 3 of 5 steps, about 20 s left, loss 1"
    assert lines[-1].startswith("training: 5 steps in")


def test_under_ci_there_are_no_bars(monkeypatch):
    monkeypatch.setenv("CI", "true")
    monkeypatch.setattr("sys.stderr.isatty", lambda: True, raising=False)
    assert isinstance(make_progress(), PlainProgress)


def test_markup_in_names_is_text(capsys):
    print_records([{"name": "[red]x[/red]", "n": 1}], "table")
    assert "[red]x[/red]" in capsys.readouterr().out
