"""How two sets are compared: a similarity turns two blocks of features into a tile of logits."""

from __future__ import annotations

SIMILARITIES = {
    "cosine": "clipib.scoring.cosine:cosine_logits",
}
