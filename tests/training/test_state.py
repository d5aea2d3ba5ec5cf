import pytest
import torch

from clipib.errors import UserError
from clipib.training.state import check_same_run, load_state, save_state


def test_state_round_trip_and_damage(tmp_path):
    save_state(tmp_path / "s.pt", {"step": 3, "w": torch.ones(2)})
    assert load_state(tmp_path / "s.pt")["step"] == 3
    (tmp_path / "s.pt").write_bytes(b"cut")
    with pytest.raises(UserError, match="cannot be read"):
        load_state(tmp_path / "s.pt")
    assert [p.name for p in tmp_path.iterdir()] == ["s.pt"]


def test_a_full_disk_is_told_as_such_and_keeps_the_older_state(tmp_path, monkeypatch):
    path = tmp_path / "s.pt"
    save_state(path, {"step": 1})
    open_file = type(path).open

    class Full:
        """A file on a disk that has room for 100 bytes."""

        def __init__(self, file):
            self.file, self.room = file, 100

        def write(self, data):
            self.room -= len(data)
            if self.room < 0:
                raise OSError(28, "No space left on device")
            return self.file.write(data)

        def __getattr__(self, name):
            return getattr(self.file, name)

        def __enter__(self):
            return self

        def __exit__(self, *_):
            self.file.close()

    monkeypatch.setattr(type(path), "open", lambda self, *a, **k: Full(open_file(self, *a, **k)))
    with pytest.raises(OSError, match="No space left"):
        save_state(path, {"w": torch.ones(10_000)})
    monkeypatch.undo()
    assert load_state(path) == {"step": 1} and [p.name for p in tmp_path.iterdir()] == ["s.pt"]


def test_other_settings_are_named():
    with pytest.raises(UserError, match=r"lr: 0.1 before, 0.2 now"):
        check_same_run({"lr": 0.1, "seed": 0}, {"lr": 0.2, "seed": 0})
