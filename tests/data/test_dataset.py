import numpy as np
import pytest

from clipib.data.folder import load_folder
from clipib.data.load import load_dataset


def test_take_keeps_captions_with_their_images():
    dataset = load_dataset("digitworld:n=20")
    taken = dataset.take(np.array([7, 3]))
    assert taken.captions == (dataset.captions[7], dataset.captions[3])
    assert taken.image_of_caption.tolist() == [0, 1]
    assert taken.keys == [dataset.keys[7], dataset.keys[3]]
    assert taken.world.scenes.tint.tolist() == dataset.world.scenes.tint[[7, 3]].tolist()


def test_a_sample_is_balanced_over_classes_and_follows_the_seed():
    dataset = load_dataset("digitworld/digit:n=400")
    a, b = (dataset.sample(50, seed=1) for _ in range(2))
    assert np.bincount(a.labels).tolist() == [5] * 10
    assert a.images.ids == b.images.ids != dataset.sample(50, seed=2).images.ids


def test_the_hash_depends_on_images_and_captions():
    one, two = load_dataset("digitworld:n=20"), load_dataset("digitworld:n=20+seed=1")
    assert one.sha256 != two.sha256
    assert one.sha256 == load_dataset("digitworld:n=20").sha256
    assert one.sha256 != load_dataset("digitworld/digit:n=20").sha256


def test_what_was_hashed_is_hashed_once(photo_folder, monkeypatch):
    dataset = load_folder(photo_folder, split="train")
    keys = dataset.keys
    monkeypatch.setattr(type(dataset.images), "content", lambda *_: pytest.fail("read again"))
    for part in (dataset.take(np.arange(12)), dataset.sample(12, seed=0), dataset.changed(name="other")):
        assert part.keys == keys
    assert dataset.sample(5, seed=0).changed(limit=None).keys == dataset.sample(5, seed=0).keys
