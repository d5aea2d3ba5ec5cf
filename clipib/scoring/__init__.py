"""How two sets are compared: a similarity turns two blocks of features into a tile of logits."""

from __future__ import annotations

SIMILARITIES = {
    "cosine": "clipib.scoring.cosine:COSINE",
    "kme": "clipib.scoring.kme:KME",
    "wpse": "clipib.scoring.wpse:WPSE",
}
POINT_SIMILARITIES = ("kme", "wpse")  # they compare sets of points, which a checkpoint's point head makes
