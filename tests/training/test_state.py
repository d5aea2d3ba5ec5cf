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


def test_other_settings_are_named():
    with pytest.raises(UserError, match=r"lr: 0.1 before, 0.2 now"):
        check_same_run({"lr": 0.1, "seed": 0}, {"lr": 0.2, "seed": 0})
