import pytest
import torch

from clipib.data.folder import load_folder
from clipib.data.load import load_dataset
from clipib.models.load import load_model
from clipib.training.batches import iterate_batches, plan_epoch


def test_an_epoch_brings_every_image_once_and_drops_what_fills_no_batch():
    dataset = load_dataset("digitworld:n=23")
    batches = plan_epoch(dataset, batch_size=5, seed=0, epoch=0)
    seen = [p.image for batch in batches for p in batch]
    assert len(batches) == 4 and len(set(seen)) == 20
    assert all(p.text == dataset.captions[p.image] for batch in batches for p in batch)
    assert batches != plan_epoch(dataset, batch_size=5, seed=0, epoch=1)


def test_class_folders_bring_prompts_of_their_class(photo_folder):
    dataset = load_folder(photo_folder, split="train")
    texts = {(dataset.labels[p.image], p.text) for b in plan_epoch(dataset, batch_size=4, seed=0, epoch=0) for p in b}
    assert texts == {(0, "a photo of a blue dot."), (1, "a photo of a red square.")}


@pytest.mark.parametrize("workers", [0, 2])
def test_a_later_start_gives_the_same_batches(photo_folder, workers):
    model, dataset = load_model("tiny", "none", device="cpu"), load_folder(photo_folder, split="train")
    options = {"batch_size": 5, "seed": 1, "steps": 7}
    whole = list(iterate_batches(model, dataset, first_step=0, workers=0, **options))
    rest = list(iterate_batches(model, dataset, first_step=3, workers=workers, **options))
    assert len(whole) == 7 and len(rest) == 4
    for a, b in zip(whole[3:], rest, strict=True):
        assert torch.equal(a.pixels, b.pixels) and a.texts == b.texts


def test_digitworld_is_never_cropped():
    model, dataset = load_model("tiny", "none", device="cpu"), load_dataset("digitworld:n=8")
    (batch,) = iterate_batches(model, dataset, batch_size=8, seed=0, first_step=0, steps=1, workers=0)
    (plan,) = plan_epoch(dataset, batch_size=8, seed=0, epoch=0)
    expected = torch.stack([model.preprocess_eval(dataset.images.open(p.image)) for p in plan])
    assert torch.equal(batch.pixels, expected)
