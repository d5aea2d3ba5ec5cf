import numpy as np
import pytest

from clipib.data.load import load_dataset
from clipib.errors import UserError
from clipib.models.checkpoint import Seen, short_keys
from clipib.tasks.parts import all_seen, split_parts


def split(dataset, val=None, seen=None, **options):
    return split_parts(dataset, val, seen, **{"seed": 0, "allow": False, **options})


def test_a_tenth_is_held_out_by_the_seed_and_balanced_over_classes():
    dataset = load_dataset("digitworld/digit:n=400", role="train")
    parts, again, other = split(dataset), split(dataset), split(dataset, seed=1)
    assert len(parts.val) == 40 and len(parts.train) == 360
    assert np.bincount(parts.val.labels).tolist() == [4] * 10
    assert parts.val.keys == again.val.keys != other.val.keys
    assert not set(parts.train.keys) & set(parts.val.keys)


def test_copies_of_a_held_out_image_are_not_trained_on(photo_folder):
    for i in range(6):
        (photo_folder / "train" / "blue_dot" / f"copy{i}.png").write_bytes(
            (photo_folder / "train" / "blue_dot" / f"{i}.png").read_bytes()
        )
    for seed in range(5):
        parts = split(load_dataset(f"folder:{photo_folder}", role="train"), seed=seed)
        assert not set(parts.train.keys) & set(parts.val.keys)


def test_images_that_the_checkpoint_was_trained_on_are_not_held_out_if_others_are_there():
    dataset = load_dataset("digitworld:n=100", role="train")
    seen = Seen(short_keys(dataset.keys[:80]), np.array([], dtype="<u8"))
    parts = split(dataset, seen=seen)
    assert parts.overlap == {} and not set(parts.val.keys) & set(dataset.keys[:80])
    everything = Seen(short_keys(dataset.keys), seen.val)
    with pytest.raises(UserError, match="was trained on 10 images"):
        split(dataset, seen=everything)
    assert split(dataset, seen=everything, allow=True).overlap == {"overlap": "train"}


def test_validation_images_of_the_run_before_are_marked():
    dataset, val = load_dataset("digitworld:n=50", role="train"), load_dataset("digitworld:n=20", role="val")
    seen = Seen(np.array([], dtype="<u8"), short_keys(val.keys))
    parts = split(dataset, val, seen)
    assert parts.overlap == {"overlap": "val"}
    assert set(all_seen(parts, seen).val) == set(seen.val)
