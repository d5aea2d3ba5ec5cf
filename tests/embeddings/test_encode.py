from dataclasses import fields, replace

import numpy as np
import pytest
import torch
from PIL import Image

from clipib.data.folder import load_folder
from clipib.embeddings.encode import embed_images, embed_texts
from clipib.embeddings.store import Store
from clipib.errors import UserError
from clipib.models.load import load_model


@pytest.fixture(scope="module")
def model():
    return load_model("tiny", "none", device="cpu")


def read(photo_folder):
    return load_folder(photo_folder, split="test")


def test_features_equal_those_of_one_plain_batch(model, photo_folder):
    dataset = read(photo_folder)
    pixels = torch.stack([model.preprocess_eval(dataset.images.open(i)) for i in range(len(dataset))])
    with torch.inference_mode():
        expected = torch.nn.functional.normalize(model.module.encode_image(pixels), dim=-1)
    for workers in (0, 2):
        found = embed_images(model, dataset, store=None, batch_size=3, workers=workers)
        assert (found.features - expected).abs().max() < 1e-6
        assert found.n_encoded == len(dataset)


def test_the_second_time_nothing_is_encoded(model, photo_folder, tmp_path):
    store = Store(tmp_path / "c")
    first = embed_images(model, read(photo_folder), store=store)
    second = embed_images(model, read(photo_folder), store=store)
    assert (first.n_encoded, second.n_encoded) == (8, 0)
    assert torch.equal(first.features, second.features)


def test_a_moved_folder_and_a_renamed_checkpoint_change_nothing(model, photo_folder, tmp_path):
    store = Store(tmp_path / "c")
    embed_images(model, read(photo_folder), store=store)
    photo_folder.rename(tmp_path / "elsewhere")
    renamed = replace(model, name="other", pretrained="runs/x")
    assert embed_images(renamed, read(tmp_path / "elsewhere"), store=store).n_encoded == 0


def test_whatever_the_features_depend_on_gives_new_ones(model, photo_folder, tmp_path):
    store = Store(tmp_path / "c")
    embed_images(model, read(photo_folder), store=store)
    assert embed_images(replace(model, precision="amp"), read(photo_folder), store=store).n_encoded == 8
    other = {**model.preprocess, "interpolation": "bilinear"}
    assert embed_images(replace(model, preprocess=other), read(photo_folder), store=store).n_encoded == 8
    assert (
        embed_images(load_model("tiny", "none", device="cpu", seed=1), read(photo_folder), store=store).n_encoded == 8
    )
    path = photo_folder / "test" / "blue_dot" / "0.png"
    picture = Image.open(path)
    pixel = picture.getpixel((0, 0))
    picture.putpixel((0, 0), (pixel[0] ^ 1, *pixel[1:]))
    picture.save(path)
    assert embed_images(model, read(photo_folder), store=store).n_encoded == 1


def test_texts_are_encoded_once_each_and_short_ones_as_the_long_ones(model, tmp_path):
    store = Store(tmp_path / "c")
    texts = ["a", "a much longer text than the other one", "a", "b"]
    first = embed_texts(model, texts, store=store)
    assert first.n_encoded == 3 and torch.equal(first.features[0], first.features[2])
    with torch.inference_mode():
        expected = model.encode_texts(model.tokenize(texts), cut=False)
    assert (first.features - expected).abs().max() < 1e-6
    assert embed_texts(model, [*texts, "c"], store=store).n_encoded == 1


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_texts_that_begin_alike_keep_their_places(model, tmp_path, monkeypatch, precision):
    monkeypatch.setattr("clipib.embeddings.encode.SHARED_TEXTS", 7)
    texts = [f"a {kind} of a {name}" for name in ("zebra", "cat", "ant") for kind in ("photo", "drawing", "photo", "b")]
    model = load_model("tiny", "none", device="cpu", precision=precision)
    assert model.shares_heads == (precision == "fp32")
    with torch.inference_mode():
        expected = model.encode_texts(model.tokenize(texts), cut=False)
    found = embed_texts(model, texts, store=Store(tmp_path / "c"))
    assert found.n_encoded == 9
    assert (found.features - expected).abs().max() < (1e-6 if precision == "fp32" else 0.05)  # 8 bits of mantissa


def test_unreadable_images_are_counted_and_named(model, photo_folder):
    for name in ("blue_dot/1.png", "red square/2.png"):
        (photo_folder / "test" / name).write_bytes(b"no image")
    with pytest.raises(
        UserError, match=r"2 of 8 images cannot be read .*blue_dot/1.png .cannot identify image file., red square/2.png"
    ) as error:
        embed_images(model, read(photo_folder), store=None, batch_size=2)
    assert "--max-bad 2" in error.value.hint
    found = embed_images(model, read(photo_folder), store=None, max_bad=2)
    assert found.bad == ["blue_dot/1.png", "red square/2.png"]
    assert found.kept.tolist() == [0, 2, 3, 4, 5, 7] and found.features.shape[0] == 6


def test_a_file_that_vanished_counts_as_unreadable(model, photo_folder):
    dataset = read(photo_folder)
    (photo_folder / "test" / "blue_dot" / "0.png").unlink()
    with pytest.raises(UserError, match=r"1 of 8 images cannot be read .*blue_dot/0.png"):
        embed_images(model, dataset, store=None)


def test_what_was_encoded_before_an_interruption_is_kept(model, photo_folder, tmp_path, monkeypatch):
    store = Store(tmp_path / "c")
    calls = []

    class Stops(type(model)):
        def encode_images(self, pixels, **options):
            calls.append(len(pixels))
            if len(calls) == 3:
                raise KeyboardInterrupt
            return super().encode_images(pixels, **options)

    stops = Stops(**{f.name: getattr(model, f.name) for f in fields(model)})
    with pytest.raises(KeyboardInterrupt):
        embed_images(stops, read(photo_folder), store=store, batch_size=2)
    rest = embed_images(model, read(photo_folder), store=store, batch_size=2)
    assert rest.n_encoded == 8 - 4
    assert (rest.features - embed_images(model, read(photo_folder), store=None).features).abs().max() < 1e-6


def test_features_that_are_not_finite_are_an_error(model, photo_folder):
    broken = load_model("tiny", "none", device="cpu")
    with torch.no_grad():
        broken.module.visual.proj.fill_(np.nan)
    with pytest.raises(UserError, match="not finite"):
        embed_images(broken, read(photo_folder), store=None)


def test_what_memory_does_not_hold_is_cut_and_the_size_remembered(model, photo_folder, monkeypatch):
    whole = embed_images(model, read(photo_folder), store=None)
    plain, sizes = type(model).encode_images, []

    def small(self, pixels):
        sizes.append(len(pixels))
        if len(pixels) > 2:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return plain(self, pixels)

    monkeypatch.setattr(type(model), "encode_images", small)
    fresh = replace(model)
    found = embed_images(fresh, read(photo_folder), store=None, batch_size=None)
    assert sizes == [8, 4, 2, 2, 2, 2] and np.allclose(found.features, whole.features, atol=1e-6)
    sizes.clear()
    embed_images(fresh, read(photo_folder), store=None, batch_size=None)
    assert sizes == [2, 2, 2, 2]
    monkeypatch.setattr(type(model), "encode_images", lambda self, pixels: small(self, torch.cat([pixels] * 3)))
    with pytest.raises(torch.OutOfMemoryError):
        embed_images(replace(model), read(photo_folder), store=None, batch_size=None)
