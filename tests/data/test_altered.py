import io

import numpy as np
import pytest
from PIL import Image

from clipib.data.altered import ALTERATIONS, AlteredImages
from clipib.data.dataset import Dataset
from clipib.data.images import BytesImages, decode_jpeg


def photos(n=1, *, size=(7, 5), form="PNG"):
    """n pictures of random pixels, and the pixels (n, H, W, 3)."""
    pixels = np.random.default_rng(0).integers(0, 256, (n, size[1], size[0], 3), dtype=np.uint8)
    files = [io.BytesIO() for _ in range(n)]
    for file, array in zip(files, pixels):
        Image.fromarray(array).save(file, form)
    return BytesImages([f"p{i}" for i in range(n)], [file.getvalue() for file in files]), pixels


def opened(images, index=0):
    return np.asarray(images.open(index))


@pytest.mark.parametrize("size", [(7, 5), (8, 8), (1, 1), (2, 63)])
def test_every_alteration_is_what_it_says(size):
    images, (pixels,) = photos(size=size)
    width, height = (max(1, 3 * side // 4) for side in size)
    top = (size[1] - height) // 2
    expected = {
        "mirror": pixels[:, ::-1],
        "crop left 3/4": pixels[top : top + height, :width],
        "crop right 3/4": pixels[top : top + height, size[0] - width :],
        "brightness 0.6": np.rint(pixels * 0.6),
        "brightness 1.4": np.minimum(255, np.rint(pixels * 1.4)),
    }
    assert set(expected) == set(ALTERATIONS)
    for name, array in expected.items():
        assert np.array_equal(opened(AlteredImages(images, [(name,)])), array), name


def test_alterations_are_applied_in_their_order():
    images, (pixels,) = photos()
    mirrored_first = opened(AlteredImages(images, [("mirror", "crop left 3/4")]))
    cut_first = opened(AlteredImages(images, [("crop left 3/4", "mirror")]))
    assert np.array_equal(mirrored_first, pixels[1:4, ::-1][:, :5])
    assert np.array_equal(cut_first, pixels[1:4, :5][:, ::-1])
    assert np.array_equal(opened(AlteredImages(images, [()])), pixels)


def test_keys_differ_by_picture_and_alterations_and_do_not_hang_on_order_or_company():
    images, _ = photos(2)
    ways = [(), *((name,) for name in ALTERATIONS), ("mirror", "crop left 3/4"), ("crop left 3/4", "mirror")]
    keys = [Dataset("d", "", AlteredImages(images, [way, way])).keys for way in ways]
    flat = [key for pair in keys for key in pair] + Dataset("d", "", images).keys
    assert len(set(flat)) == 2 * len(ways) + 2
    mixed = Dataset("d", "", AlteredImages(images, [ways[1], ways[2]]))
    assert mixed.keys == [keys[1][0], keys[2][1]]
    assert Dataset("d", "", mixed.images.take(np.array([1]))).keys == [keys[2][1]]


def test_keys_are_the_same_in_every_version():
    """The store keeps features under them; the sha256 of these bytes, written out."""
    images = AlteredImages(BytesImages(["a"], [b"x"]), [("mirror", "brightness 0.6")])
    key = Dataset("d", "", images).keys[0].hex()
    assert key == "56088a5854cd3754aff27d0e00604a4f4606c3456d93fbb3b2062b0e8b12a5e1"


def test_the_content_is_never_a_file_that_others_would_decode_themselves():
    images, _ = photos(size=(16, 16), form="JPEG")
    assert decode_jpeg(images.content(0)) is not None
    for way in ((), ("mirror",)):
        assert decode_jpeg(AlteredImages(images, [way]).content(0)) is None


def test_mistakes_are_named():
    images, _ = photos(2)
    with pytest.raises(ValueError, match="of 2 images, got 1"):
        AlteredImages(images, [()])
    with pytest.raises(ValueError, match=r"among \['mirror', .*\], got \['turn'\]"):
        AlteredImages(images, [("turn",), ()])


def test_a_damaged_file_is_an_oserror_as_it_is_without_alterations():
    with pytest.raises(OSError):
        AlteredImages(BytesImages(["a"], [b"no image"]), [("mirror",)]).open(0)
