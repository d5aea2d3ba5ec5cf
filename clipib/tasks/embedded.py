"""What `embed` wrote, as `search` needs it: the checkpoint, the features, the pictures."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np

from clipib.data.images import Images, content_key
from clipib.data.load import load_dataset
from clipib.embeddings.folder import Embedded
from clipib.errors import UserError
from clipib.models.model import Model
from clipib.models.sources import Source, find_model
from clipib.progress import counted
from clipib.tasks.neighbours import Searched


def content_of(folder: Embedded, model: Model) -> Searched:
    """The content of an embed folder, which must be of the model that encodes the query.

    Raises:
        UserError: when it is of another.
    """
    about, table = folder.about, folder.tables["images"]
    if model.fingerprint != about["checkpoint_sha256"]:
        raise UserError(
            f"'{folder.folder}' was written by {about['model']} ({about['pretrained']}, "
            f"{about['checkpoint_sha256'][:12]}); {model.name} ({model.pretrained}) is {model.fingerprint[:12]}.",
            hint="Leave --model out to search with the one that wrote it, or run `clipib embed` with yours.",
        )
    features, texts = folder.features["images"], folder.tables.get("texts")
    if texts is not None and "image" in texts:
        first = first_texts(len(table), texts["text"], texts["image"])
    else:
        first = list(table["class"]) if "class" in table else [""] * len(table)
    known = folder.features.get("texts", np.empty((0, *features.shape[1:]), dtype=np.float32))
    return Searched(features, list(table["sample_id"]), first, known, folder)


def source_of(folder: Embedded, model: str | None, pretrained: str | None, seed: int) -> tuple[Source, int]:
    """The checkpoint asked for, else the one that wrote the folder; the seed is that of random weights."""
    asked = folder.about["settings"]
    if model or pretrained:
        return find_model(model or asked["model"], pretrained), seed
    return find_model(asked["model"], asked["pretrained"]), asked["seed"]


def pictures_of(folder: Embedded) -> Images:
    """The pictures that the rows of an embed folder belong to, from where the data set lay then.

    Raises:
        UserError: when it is not there any more.
    """
    asked = folder.about["settings"]
    columns = {k: asked[k] for k in ("image_column", "caption_column", "label_column", "separator") if asked.get(k)}
    dataset = load_dataset(asked["data"], data_root=asked["data_root"], name=asked["name"], columns=columns)
    place = {sample_id: i for i, sample_id in enumerate(dataset.images.ids)}
    ids = folder.tables["images"]["sample_id"]
    if lost := [sample_id for sample_id in ids if sample_id not in place]:
        raise UserError(
            f"{counted(len(lost), 'image')} of '{folder.folder}' are no longer in {asked['data']}, as '{lost[0]}'.",
            hint="Search without --save, or run `clipib embed` anew.",
        )
    return dataset.images.take(np.array([place[sample_id] for sample_id in ids]))


def check_unchanged(folder: Embedded, pictures: Images, indices: list[int]) -> None:
    """The pictures that are shown are those that were encoded.

    Raises:
        UserError: when one has other content now.
    """
    written = folder.tables["images"]["sha256"]
    for i in indices:
        if content_key(pictures.content(i)).hex() != written[i]:
            hint = "Run `clipib embed` anew, or search without --save."
            raise UserError(f"'{pictures.ids[i]}' is not the image that was encoded into '{folder.folder}'.", hint=hint)


def first_texts(n: int, texts: Iterable[str], image_of_text: Iterable[int]) -> list[str]:
    """The first text of each of n images, or "".

    Example:
        >>> first_texts(3, ["a red car", "two cars", "a car"], [1, 0, 1])
        ['two cars', 'a red car', '']
    """
    first = [""] * n
    for text, image in zip(reversed(list(texts)), reversed(list(image_of_text)), strict=True):
        first[image] = text
    return first
