import numpy as np

from clipib.models.checkpoint import Seen, load_seen, recover, save_checkpoint, short_keys
from clipib.models.load import load_model


def test_a_replacement_cut_short_leaves_the_old_checkpoint(tmp_path):
    model = load_model("tiny", "none", device="cpu")
    save_checkpoint(model, tmp_path / "best", {"step": 1})
    (tmp_path / "best").rename(tmp_path / ".best.old")
    (tmp_path / ".best.123.partial").mkdir()
    recover(tmp_path / "best")
    assert (tmp_path / "best" / "clipib.json").is_file()
    assert sorted(p.name for p in tmp_path.iterdir()) == ["best"]


def test_what_a_run_saw_comes_back(tmp_path):
    model = load_model("tiny", "none", device="cpu")
    seen = Seen(short_keys([bytes([255] * 32), bytes(32)]), short_keys([bytes([7] * 32)]))
    save_checkpoint(model, tmp_path / "a", {}, seen=seen)
    back = load_seen(tmp_path / "a")
    assert np.array_equal(back.train, seen.train) and np.array_equal(back.val, seen.val)
    assert load_seen(tmp_path) is None
