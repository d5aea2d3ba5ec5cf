"""From a picture to pixels: the three ways that `--preprocess` names.

`open_clip` is open_clip's own transform, on Pillow pictures. `hf` is the image processor of transformers, which on odd
margins crops one pixel off. `fast` resizes uint8 tensors with antialiasing, and is several times faster on large
photographs: of its pixel values 2 in 1,000 are one 8-bit level from those of `open_clip`, 3 in ten million are two.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import torch
from PIL import Image
from torch import Tensor

from clipib.errors import UserError


def train_transform(preprocess: dict[str, Any]) -> Callable[[Image.Image], Tensor]:
    """open_clip's random crop at this size, with this mean and std."""
    from open_clip.transform import image_transform_v2

    return image_transform_v2(_open_clip_config(preprocess), is_train=True)


def eval_transform(name: str, preprocess: dict[str, Any], image_processor: Any = None) -> Callable[[Any], Tensor]:
    """The transform of one way.

    Args:
        name: one of `PREPROCESS`.
        preprocess: open_clip's preprocess_cfg; `beyond` in it says why open_clip's transform cannot do the same.
        image_processor: the checkpoint's own, where it has one.

    Returns:
        RGB picture -> (3, H, W) float tensor; that of `fast` also takes (3, H, W) uint8 tensors.

    Raises:
        UserError: when the checkpoint's preprocessing cannot be had in this way.
    """
    from open_clip.transform import image_transform_v2

    if name == "hf":
        return ProcessorTransform(image_processor or _clip_processor(preprocess))
    if preprocess.get("beyond"):
        message = f"This checkpoint's image processor {preprocess['beyond']}; open_clip's transform cannot."
        raise UserError(message, hint="Add --preprocess hf.")
    plain = image_transform_v2(_open_clip_config(preprocess), is_train=False)
    return FastTransform(plain, preprocess) if name == "fast" else plain


class FastTransform:
    """Antialiased resizing of uint8 tensors; pictures go through open_clip's transform."""

    def __init__(self, plain: Callable[[Image.Image], Tensor], preprocess: dict[str, Any]) -> None:
        self.plain = plain
        self.height, self.width = _height_width(preprocess)
        self.squash = preprocess["resize_mode"] == "squash"
        if not self.squash and (preprocess["resize_mode"] != "shortest" or self.height != self.width):
            raise UserError(
                f"--preprocess fast does not know the resize mode '{preprocess['resize_mode']}' of this checkpoint "
                f"at {self.height} x {self.width} px.",
                hint="Leave --preprocess out.",
            )
        self.interpolation = preprocess["interpolation"]
        self.mean, self.std = preprocess["mean"], preprocess["std"]

    def __call__(self, picture: Image.Image | Tensor) -> Tensor:
        from torchvision.transforms import functional as F
        from torchvision.transforms.v2.functional import resize

        if isinstance(picture, Image.Image):
            return self.plain(picture)
        bilinear = self.interpolation == "bilinear"
        mode = F.InterpolationMode.BILINEAR if bilinear else F.InterpolationMode.BICUBIC
        size = [self.height, self.width] if self.squash else [self.height]
        pixels = resize(picture, size, interpolation=mode, antialias=True)  # of the v2 kind, which stays in uint8
        if not self.squash:
            pixels = F.center_crop(pixels, [self.height, self.width])
        return F.normalize(pixels.float().div(255), self.mean, self.std)


class ProcessorTransform:
    """An image processor of transformers, one picture at a time.

    Processors of variable resolution (NaFlex) give (P, E) patches, of which the first h * w are the picture: they are
    handed on as (P + 1, E), with h and w in the last row, for `unpack_patches`.
    """

    def __init__(self, image_processor: Any) -> None:
        import transformers

        self.image_processor = image_processor
        described = json.loads(json.dumps(image_processor.to_dict(), sort_keys=True, default=str))
        major = transformers.__version__.partition(".")[0]
        self.about = [f"transformers {major}", type(image_processor).__name__, described]

    def __call__(self, picture: Image.Image) -> Tensor:
        found = self.image_processor(images=picture, return_tensors="pt")
        pixels = found["pixel_values"][0]
        if "spatial_shapes" not in found:
            return pixels
        height, width = (int(side) for side in found["spatial_shapes"][0])
        last = torch.zeros(1, pixels.shape[1])
        last[0, :4] = torch.tensor([height // 256, height % 256, width // 256, width % 256])  # exact in bfloat16
        return torch.cat([pixels, last])


def unpack_patches(packed: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """(n, P + 1, E) from `ProcessorTransform` -> (n, P, E) patches, (n, P) mask, (n, 2) heights and widths."""
    patches, last = packed[:, :-1], packed[:, -1, :4].long()
    shapes = torch.stack([last[:, 0] * 256 + last[:, 1], last[:, 2] * 256 + last[:, 3]], dim=1)
    mask = torch.arange(patches.shape[1], device=packed.device) < shapes.prod(dim=1, keepdim=True)
    return patches, mask.int(), shapes


def describe_processor(image_processor: Any, *, side: int) -> dict[str, Any]:
    """The image processor of a checkpoint as open_clip's preprocess_cfg.

    Args:
        side: the height and width in pixels that the image tower takes.

    Returns:
        size, mode, mean, std, interpolation, resize_mode, fill_color; and `beyond`, in words, where open_clip's
        transform cannot do the same.

    Raises:
        UserError: when the processor makes pictures of another size.
    """
    size, crop = _sides(getattr(image_processor, "size", None)), None
    if getattr(image_processor, "do_center_crop", False):
        crop = _sides(image_processor.crop_size)
    interpolation = {2: "bilinear", 3: "bicubic"}.get(int(getattr(image_processor, "resample", None) or 0))
    beyond = []
    made = crop or size
    if hasattr(image_processor, "max_num_patches"):  # NaFlex: a square of as many patches
        size = made = (side, side)
    elif not image_processor.do_resize:
        beyond.append("does not resize")
    elif crop and size not in (crop, crop[:1]):
        beyond.append(f"resizes to {size} px and crops to {crop}")
    elif not crop and len(size) == 1:
        beyond.append("resizes without cropping to a square")
    if interpolation is None:
        beyond.append("resizes by a filter that is neither bilinear nor bicubic")
    if not image_processor.do_rescale or abs(image_processor.rescale_factor * 255 - 1) > 1e-3:
        beyond.append("does not divide pixels by 255")
    normalize = image_processor.do_normalize
    if made and tuple(made) != (side, side) and tuple(made) != (side,):
        raise UserError(f"The image processor makes pictures of {made} px, the image tower takes {side} px.")
    return {
        "size": (side, side),
        "mode": "RGB",
        "mean": tuple(image_processor.image_mean) if normalize else (0.0, 0.0, 0.0),
        "std": tuple(image_processor.image_std) if normalize else (1.0, 1.0, 1.0),
        "interpolation": interpolation or "bicubic",
        "resize_mode": "shortest" if crop else "squash",
        "fill_color": 0,
        **({"beyond": " and ".join(beyond)} if beyond else {}),
    }


def _sides(size: Any) -> tuple[int, ...]:
    """(shortest,) or (height, width) of a processor's size."""
    if size is None or isinstance(size, int):
        return () if size is None else (size,)
    shortest = size.get("shortest_edge")
    return (shortest,) if shortest else tuple(side for side in (size.get("height"), size.get("width")) if side)


def _clip_processor(preprocess: dict[str, Any]) -> Any:
    """CLIP's image processor with the numbers of an open_clip checkpoint."""
    from transformers import CLIPImageProcessor

    height, width = _height_width(preprocess)
    mode = preprocess["resize_mode"]
    if mode not in ("squash", "shortest") or (mode == "shortest" and height != width):
        message = f"--preprocess hf does not know the resize mode '{mode}' of this checkpoint at {height} x {width} px."
        raise UserError(message, hint="Leave --preprocess out.")
    whole = {"height": height, "width": width}
    return CLIPImageProcessor(
        size=whole if mode == "squash" else {"shortest_edge": height},
        do_center_crop=mode == "shortest",
        crop_size=whole,
        resample=Image.Resampling.BILINEAR if preprocess["interpolation"] == "bilinear" else Image.Resampling.BICUBIC,
        image_mean=list(preprocess["mean"]),
        image_std=list(preprocess["std"]),
    )


def _open_clip_config(preprocess: dict[str, Any]) -> Any:
    from open_clip.transform import PreprocessCfg

    return PreprocessCfg(**{key: value for key, value in preprocess.items() if key != "beyond"})


def _height_width(preprocess: dict[str, Any]) -> tuple[int, int]:
    size = preprocess["size"]
    return (size, size) if isinstance(size, int) else (size[0], size[-1])
