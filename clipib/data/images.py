"""Lists of images: where the bytes come from, and what identifies each."""

from __future__ import annotations

import hashlib
import io
import os
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Protocol, runtime_checkable

import numpy as np
from PIL import Image

from clipib.files import file_stamp

if TYPE_CHECKING:
    from torch import Tensor

warnings.filterwarnings("ignore", "Palette images with Transparency", UserWarning)

EXTENSIONS = (".jpg", ".jpeg", ".png", ".webp", ".bmp", ".gif", ".tif", ".tiff", ".ppm", ".pgm", ".pnm")


class Images(Protocol):
    """N images that can be read one at a time, from any thread.

    ids: (N,) names that are stable across machines. content(i): the bytes that identify image i.
    open(i): the picture in RGB.
    """

    ids: list[str]

    def content(self, index: int) -> bytes: ...

    def open(self, index: int) -> Image.Image: ...

    def take(self, indices: np.ndarray) -> Images: ...


@runtime_checkable
class StampedImages(Images, Protocol):
    """Images that lie in files, or inside of larger ones, so that unchanged ones need not be hashed again.

    root: the folder below which `ids` are distinct names. stamps(): (N, 6) int64, of each image the `Stamp` of the
    file that holds it (-1 where there is none), then offset and length of its bytes in that file: 0 and the size where
    it is the whole file.
    """

    root: Path

    def stamps(self) -> np.ndarray: ...


def content_key(content: bytes) -> bytes:
    """(32,) sha256 of the bytes of one image or text."""
    return hashlib.sha256(content).digest()


def file_stamps(paths: Sequence[str | Path]) -> np.ndarray:
    """(n, 4) int64: the `Stamp` of each file, a row of -1 where there is none."""

    def stamp(path: str | Path) -> Sequence[int]:
        try:
            return file_stamp(path)
        except OSError:
            return (-1,) * 4

    return np.array([stamp(path) for path in paths], dtype=np.int64).reshape(-1, 4)


def why(error: OSError) -> str:
    """The reason of a failed reading in a few words, without the path."""
    return (error.strerror or str(error).split(" <")[0] or type(error).__name__)[:120]


def decode_rgb(content: bytes) -> Image.Image:
    """Decode and convert to RGB *before* any transform, as webdataset and torchvision do; EXIF rotation is not applied.

    Grey pictures of 16 bits are scaled to 8; Pillow's own conversion would clip them to white.

    Raises:
        OSError: when the bytes are no complete image, or one of 32-bit numbers, which have no agreed range.
    """
    try:
        with Image.open(io.BytesIO(content)) as picture:
            if picture.mode in ("I", "F"):
                raise OSError(f"a picture of 32-bit numbers (mode {picture.mode})")
            if picture.mode.startswith("I;16"):
                picture = Image.fromarray(((np.asarray(picture).astype(np.uint32) + 128) // 257).astype(np.uint8))
            return picture.convert("RGB")
    except (SyntaxError, ValueError, EOFError, Image.DecompressionBombError) as error:
        raise OSError(str(error)) from error


def decode_jpeg(content: bytes) -> Tensor | None:
    """(3, H, W) uint8 of a grey or colour JPEG, equal to `decode_rgb` and without its copies.

    Returns:
        None for what torchvision decodes otherwise or not at all: CMYK, other formats, damaged files.
    """
    import torch
    from torchvision.io import ImageReadMode
    from torchvision.io import decode_jpeg as decode

    try:
        with Image.open(io.BytesIO(content)) as picture:
            if picture.format not in ("JPEG", "MPO") or picture.mode not in ("RGB", "L"):
                return None
        return decode(torch.frombuffer(bytearray(content), dtype=torch.uint8), mode=ImageReadMode.RGB)
    except (OSError, SyntaxError, ValueError, EOFError, RuntimeError, Image.DecompressionBombError):
        return None  # whoever decodes it next says why


class FileImages:
    """Image files below a root; the id is the path relative to it."""

    def __init__(self, root: Path, paths: list[str]) -> None:
        self.root = Path(root)
        self.ids = list(paths)

    def content(self, index: int) -> bytes:
        return (self.root / self.ids[index]).read_bytes()

    def open(self, index: int) -> Image.Image:
        return decode_rgb(self.content(index))

    def stamps(self) -> np.ndarray:
        files = file_stamps([os.path.join(self.root, name) for name in self.ids])
        return np.column_stack([files, np.zeros(len(files), dtype=np.int64), files[:, 0]])

    def take(self, indices: np.ndarray) -> FileImages:
        return FileImages(self.root, [self.ids[i] for i in indices])


class BytesImages:
    """Encoded images that lie in memory, as in a parquet column."""

    def __init__(self, ids: list[str], contents: list[bytes]) -> None:
        self.ids = ids
        self.contents = contents

    def content(self, index: int) -> bytes:
        return self.contents[index]

    def open(self, index: int) -> Image.Image:
        return decode_rgb(self.contents[index])

    def take(self, indices: np.ndarray) -> BytesImages:
        return BytesImages([self.ids[i] for i in indices], [self.contents[i] for i in indices])
