"""Pictures that are altered while they are read: mirrored, cropped, made darker or brighter."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
from PIL import Image

from clipib.data.images import Images, content_key


def mirror(picture: Image.Image) -> Image.Image:
    """Left and right exchanged."""
    return picture.transpose(Image.Transpose.FLIP_LEFT_RIGHT)


def crop_left(picture: Image.Image) -> Image.Image:
    """Three quarters of the width from the left edge, and of the height from the middle."""
    return _crop(picture, 0)


def crop_right(picture: Image.Image) -> Image.Image:
    """Three quarters of the width up to the right edge, and of the height from the middle."""
    return _crop(picture, picture.width - _three_quarters(picture.width))


def darken(picture: Image.Image) -> Image.Image:
    """Every value times 0.6."""
    return picture.point(lambda value: round(0.6 * value))


def brighten(picture: Image.Image) -> Image.Image:
    """Every value times 1.4, at most 255."""
    return picture.point(lambda value: min(255, round(1.4 * value)))


# The names are part of the content keys: whoever changes what one does gives it another name.
ALTERATIONS: dict[str, Callable[[Image.Image], Image.Image]] = {
    "mirror": mirror,
    "crop left 3/4": crop_left,
    "crop right 3/4": crop_right,
    "brightness 0.6": darken,
    "brightness 1.4": brighten,
}


class AlteredImages:
    """Images that go through alterations of their own when they are opened, under content keys of their own.

    Args:
        images: N of them.
        alterations: N tuples of names in ALTERATIONS, applied in their order; an empty one leaves the picture as it is.

    Raises:
        ValueError: when there are not N, or a name is not known.

    Example:
        >>> import io
        >>> from clipib.data.images import BytesImages
        >>> file = io.BytesIO()
        >>> Image.new("RGB", (8, 8), (100, 100, 100)).save(file, "PNG")
        >>> images = AlteredImages(BytesImages(["a"], [file.getvalue()]), [("crop left 3/4", "brightness 0.6")])
        >>> images.open(0).size, images.open(0).getpixel((0, 0))
        ((6, 6), (60, 60, 60))
    """

    def __init__(self, images: Images, alterations: Sequence[tuple[str, ...]]) -> None:
        if len(alterations) != len(images.ids):
            raise ValueError(f"expected alterations of {len(images.ids)} images, got {len(alterations)}")
        if strange := {name for names in alterations for name in names} - set(ALTERATIONS):
            raise ValueError(f"expected alterations among {list(ALTERATIONS)}, got {sorted(strange)}")
        self.images = images
        self.ids = list(images.ids)
        self.alterations = list(alterations)

    def content(self, index: int) -> bytes:
        """The alterations and the hash of what they are applied to.

        Never the file itself, not even where nothing is altered: whoever decodes files by a way of their own (`fast`)
        would see those images through another resampling than their altered neighbours.
        """
        names = "; ".join(self.alterations[index])
        return f"altered: {names}\n".encode() + content_key(self.images.content(index))

    def open(self, index: int) -> Image.Image:
        picture = self.images.open(index)
        for name in self.alterations[index]:
            picture = ALTERATIONS[name](picture)
        return picture

    def take(self, indices: np.ndarray) -> AlteredImages:
        return AlteredImages(self.images.take(indices), [self.alterations[i] for i in indices])


def _crop(picture: Image.Image, left: int) -> Image.Image:
    """The aspect stays, so that resizing treats the part as it treats the whole."""
    width, height = _three_quarters(picture.width), _three_quarters(picture.height)
    top = (picture.height - height) // 2
    return picture.crop((left, top, left + width, top + height))


def _three_quarters(length: int) -> int:
    return max(1, 3 * length // 4)
