"""The three ways from a file to pixels, against open_clip's transform and transformers' processors."""

import io

import numpy as np
import open_clip
import pytest
import torch
from PIL import Image

from clipib.data.images import decode_jpeg, decode_rgb
from clipib.errors import UserError
from clipib.models.preprocess import FastTransform, eval_transform, train_transform

SIDE = 48
CONFIG = {
    "size": (SIDE, SIDE),
    "mode": "RGB",
    "mean": (0.48, 0.46, 0.41),
    "std": (0.27, 0.26, 0.28),
    "interpolation": "bicubic",
    "resize_mode": "shortest",
    "fill_color": 0,
}
SIZES = [(97, 64), (48, 131), (333, 251), (200, 49), (512, 389), (51, 48)]  # width, height; odd margins among them


def photograph(width, height, seed=0):
    """Slopes, edges and grain, as in a photograph."""
    rng = np.random.default_rng([seed, width, height])
    coarse = Image.fromarray(rng.integers(0, 255, (9, 7, 3), dtype=np.uint8)).resize((width, height), 3)
    return Image.fromarray(np.clip(np.asarray(coarse) + rng.normal(0, 8, (height, width, 3)), 0, 255).astype(np.uint8))


def encoded(picture, kind="JPEG", **options):
    out = io.BytesIO()
    picture.save(out, kind, **options)
    return out.getvalue()


def levels(pixels):
    """Normalised pixels -> 8-bit levels."""
    mean, std = (torch.tensor(CONFIG[k]).view(3, 1, 1) for k in ("mean", "std"))
    return (pixels * std + mean) * 255


@pytest.mark.parametrize("mode", ["shortest", "squash"])
@pytest.mark.parametrize("interpolation", ["bicubic", "bilinear"])
def test_fast_is_at_most_one_level_from_open_clip(mode, interpolation):
    config = {**CONFIG, "resize_mode": mode, "interpolation": interpolation}
    plain, fast = eval_transform("open_clip", config), eval_transform("fast", config)
    worst, differing = 0.0, 0.0
    for size in SIZES:
        content = encoded(photograph(*size), quality=90)
        pixels = fast(decode_jpeg(content))
        difference = (levels(pixels) - levels(plain(decode_rgb(content)))).abs()
        assert pixels.shape == (3, SIDE, SIDE)
        worst = max(worst, float(difference.max()))
        differing = max(differing, float((difference > 0.5).float().mean()))
    assert worst < 1.01 and differing < 0.1


def test_fast_on_shared_photographs(shared_data):
    folder = shared_data("coco_val2017_ccby")
    plain, fast = (eval_transform(name, {**CONFIG, "size": (224, 224)}) for name in ("open_clip", "fast"))
    for path in sorted(folder.rglob("*.jpg"))[:20]:
        content = path.read_bytes()
        pixels = decode_jpeg(content)
        assert np.array_equal(pixels.permute(1, 2, 0), np.asarray(decode_rgb(content)))
        assert (levels(fast(pixels)) - levels(plain(decode_rgb(content)))).abs().max() < 1.01


def test_fast_without_a_resize_is_equal_to_the_bit():
    plain, fast = eval_transform("open_clip", CONFIG), eval_transform("fast", CONFIG)
    for size in ((SIDE, SIDE), (SIDE, SIDE + 7), (SIDE + 12, SIDE)):
        content = encoded(photograph(*size))
        assert torch.equal(fast(decode_jpeg(content)), plain(decode_rgb(content)))


@pytest.mark.parametrize(
    "options", [{}, {"progressive": True}, {"subsampling": 0}, {"subsampling": 1}, {"quality": 30}]
)
@pytest.mark.parametrize("mode", ["RGB", "L"])
def test_what_torchvision_decodes_is_equal_to_pillow(mode, options):
    content = encoded(photograph(67, 45).convert(mode), **options)
    assert np.array_equal(decode_jpeg(content).permute(1, 2, 0), np.asarray(decode_rgb(content)))


def test_everything_else_is_left_to_pillow():
    picture = photograph(67, 45)
    exif = Image.Exif()
    exif[0x0112] = 6  # turned by a quarter; neither applies it
    turned = encoded(picture, exif=exif)
    assert np.array_equal(decode_jpeg(turned).permute(1, 2, 0), np.asarray(decode_rgb(turned)))
    whole = encoded(picture)
    sixteen = Image.fromarray((np.arange(67 * 45, dtype=np.uint16) * 20).reshape(45, 67))
    for content in (
        encoded(picture.convert("CMYK")),
        encoded(picture.convert("P"), "PNG", transparency=3),
        encoded(sixteen, "PNG"),
        encoded(picture, "PNG"),
        encoded(picture, "WEBP", quality=80),
        encoded(picture, "GIF"),
        whole[: len(whole) // 2],
        whole[:2],
        b"",
        b"\xff\xd8\xff" + bytes(3069),
    ):
        assert decode_jpeg(content) is None


def test_fast_on_a_picture_is_open_clips_transform():
    picture = photograph(97, 64)
    assert torch.equal(eval_transform("fast", CONFIG)(picture), eval_transform("open_clip", CONFIG)(picture))


def test_hf_is_the_processor_with_the_same_numbers():
    from transformers import CLIPImageProcessor

    processor = CLIPImageProcessor(
        size={"shortest_edge": SIDE},
        crop_size={"height": SIDE, "width": SIDE},
        image_mean=CONFIG["mean"],
        image_std=CONFIG["std"],
    )
    own, plain = eval_transform("hf", CONFIG), eval_transform("open_clip", CONFIG)
    for size in SIZES:
        picture = photograph(*size)
        expected = processor(images=picture, return_tensors="pt")["pixel_values"][0]
        assert torch.equal(own(picture), expected)
        scaled = max(size) * SIDE // min(size)
        if (scaled - SIDE) % 2 == 0:  # on odd margins the two crop one pixel apart
            assert (levels(expected) - levels(plain(picture))).abs().max() < 1.6
    given = eval_transform("hf", CONFIG, image_processor=processor)
    assert torch.equal(given(picture), expected) and given.about == own.about


def test_squash_and_odd_modes_of_hf_and_fast():
    squash = {**CONFIG, "resize_mode": "squash"}
    picture = photograph(97, 64)
    difference = levels(eval_transform("hf", squash)(picture)) - levels(eval_transform("open_clip", squash)(picture))
    assert difference.abs().max() < 1.6  # tensors against Pillow
    for name in ("hf", "fast"):
        for odd in ({"resize_mode": "longest"}, {"size": (48, 32)}):
            with pytest.raises(UserError, match=f"--preprocess {name} does not know the resize mode"):
                eval_transform(name, {**CONFIG, **odd})


def test_what_open_clip_cannot_do_is_refused():
    config = {**CONFIG, "beyond": "resizes to (64,) px and crops to (48, 48)"}
    for name in ("open_clip", "fast"):
        with pytest.raises(UserError, match=r"resizes to \(64,\) px and crops") as error:
            eval_transform(name, config)
        assert "--preprocess hf" in error.value.hint
    assert eval_transform("hf", config) is not None
    assert train_transform(config)(photograph(97, 64)).shape == (3, SIDE, SIDE)


def test_open_clip_is_open_clips_own():
    config = open_clip.transform.PreprocessCfg(**CONFIG)
    assert repr(eval_transform("open_clip", CONFIG)) == repr(open_clip.transform.image_transform_v2(config, False))
    assert isinstance(eval_transform("fast", CONFIG), FastTransform)
