"""Checkpoints: `load_model(spec)` gives one small object whatever the source.

The names here need no torch, so that a run whose features are all stored need not import it.
"""

ENCODER_VERSION = 1  # raised when the same weights and inputs would give other features

PRECISIONS = ("fp32", "bf16", "fp16", "amp")
PREPROCESS = ("open_clip", "hf", "fast")
DEFAULT_PREPROCESS = PREPROCESS[0]

DEFAULT_MODEL = "ViT-B-32"
RANDOM_WEIGHTS = "random weights"
PHOTO, PHOTO_WEIGHTS = "photo", "imagenet+minilm"
