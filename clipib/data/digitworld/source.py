"""`digitworld`: the built-in world as a data set, rendered on the fly."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from PIL import Image

from clipib.data.dataset import Dataset
from clipib.data.digitworld.render import draw_pictures, write_captions
from clipib.data.digitworld.scene import ATTRIBUTES, TEMPLATES, VALUES, Scenes, sample_scenes
from clipib.errors import UserError

LABEL_VIEWS = ATTRIBUTES
DEFAULT_SIZE = {"train": 20_000, "val": 1_000, "test": 2_000}
BLOCK = 256  # pictures drawn at once
KEPT_BLOCKS = 512  # about 400 MB; larger sets are drawn one picture at a time


@dataclass(frozen=True)
class DigitworldView:
    """The scenes of a data set, for whoever wants the truth."""

    scenes: Scenes
    attribute: str = ""

    @property
    def objects(self) -> int:
        return self.scenes.digit.shape[1]

    def take(self, indices: np.ndarray) -> DigitworldView:
        return DigitworldView(Scenes(*(part[indices] for part in self.scenes)), self.attribute)


class DigitworldImages:
    """Pictures of scenes; the content that identifies one is its pixels."""

    def __init__(self, scenes: Scenes, ids: list[str]) -> None:
        self.scenes = scenes
        self.ids = ids
        self._blocks: dict[int, np.ndarray] = {}

    def picture(self, index: int) -> np.ndarray:
        """(32, 32, 3) uint8; blocks are drawn together and kept."""
        if len(self.ids) > KEPT_BLOCKS * BLOCK:
            return draw_pictures(Scenes(*(part[index : index + 1] for part in self.scenes)))[0]
        block = index // BLOCK
        pictures = self._blocks.get(block)
        if pictures is None:
            rows = slice(block * BLOCK, (block + 1) * BLOCK)
            pictures = draw_pictures(Scenes(*(part[rows] for part in self.scenes)))
            self._blocks[block] = pictures
        return pictures[index % BLOCK]

    def content(self, index: int) -> bytes:
        return self.picture(index).tobytes()

    def open(self, index: int) -> Image.Image:
        return Image.fromarray(self.picture(index))

    def take(self, indices: np.ndarray) -> DigitworldImages:
        return DigitworldImages(Scenes(*(part[indices] for part in self.scenes)), [self.ids[i] for i in indices])


def load_digitworld(view: str = "", *, split: str, options: dict[str, str] | None = None, name: str = "") -> Dataset:
    """The built-in world of handwritten digits in small coloured scenes.

    Args:
        view: "" for images with captions; "digit", "color" or "place" for that label set as well.
        split: "train", "val" or "test"; they share no handwritten digit.
        options: `objects` (1 or 2), `n` (images), `seed`, as strings.

    Raises:
        UserError: for an option out of range, or labels of scenes with two objects.
    """
    options = options or {}
    objects = _whole_number("objects", options.get("objects", "1"), 1, 2)
    n = _whole_number("n", options.get("n", str(DEFAULT_SIZE[split])), 1, 100_000_000)
    seed = _whole_number("seed", options.get("seed", "0"), 0, 2**31)
    if view and objects > 1:
        hint = "Use digitworld with one object for zeroshot, or retrieve for two."
        raise UserError(f"digitworld with {objects} objects has captions but no class labels.", hint=hint)
    scenes = sample_scenes(np.arange(n), split=split, objects=objects, seed=seed)
    return Dataset(
        name=name or world_name(view, objects=objects, seed=seed),
        split=split,
        images=DigitworldImages(scenes, [f"{split}/{i:06d}" for i in range(n)]),
        labels=getattr(scenes, view)[:, 0].astype(np.int64) if view else None,
        classnames=tuple(VALUES[view]) if view else (),
        templates=tuple(TEMPLATES[view]) if view else (),
        captions=tuple(write_captions(scenes)),
        image_of_caption=np.arange(n),
        augment=False,  # a crop or a flip would falsify the truth
        world=DigitworldView(scenes, view),
    )


def world_name(view: str, *, objects: int = 1, seed: int = 0) -> str:
    """The name in the results: what is another world, not how much of it was drawn.

    Example:
        >>> world_name("digit"), world_name("", objects=2)
        ('digitworld/digit', 'digitworld:objects=2')
    """
    stem = "digitworld" + (f":objects={objects}" if objects > 1 else "") + (f":seed={seed}" if seed else "")
    return f"{stem}/{view}" if view else stem


def _whole_number(key: str, text: str, low: int, high: int) -> int:
    if not text.isdecimal() or not low <= int(text) <= high:
        raise UserError(f"digitworld's option {key}={text} is not a whole number from {low} to {high:,}.")
    return int(text)
