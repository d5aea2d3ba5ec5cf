"""A process that fills a store with a cheap made-up encoder; prints how much it encoded and a hash of all features.

python store_worker.py CACHE_DIR '{"n": 1000, "pause": 0.01, "patience": 60}'
"""

import hashlib
import json
import sys
import time
from pathlib import Path

import numpy as np

from clipib.embeddings import rows as rows_module
from clipib.embeddings.rows import Rows
from clipib.embeddings.store import Store

BATCH, SHAPE = 16, (3, 5)


def item_keys(n):
    return [hashlib.sha256(str(i).encode()).digest() for i in range(n)]


def encode(keys):
    return np.stack([np.random.default_rng(list(key)).normal(size=SHAPE).astype(np.float32) for key in keys])


def digest(features):
    return hashlib.sha256(np.ascontiguousarray(features).tobytes()).hexdigest()


def fill(store, keys, pause=0.0):
    """(N, ...) features of these keys, and how many of them were encoded here."""
    with Rows(store.space({"worker": 1}), keys) as rows:
        for todo in rows.passes():
            for batch in rows.claimed(todo, BATCH):
                time.sleep(pause)
                rows.add(batch, encode([keys[i] for i in batch]))
    return rows.get(range(len(keys))), rows.n_new


def main():
    cache, options = Path(sys.argv[1]), json.loads(sys.argv[2])
    rows_module.FLUSH_ROWS = 4 * BATCH
    rows_module.PATIENCE = options["patience"]
    while options.get("wait") and not (cache / "go").exists():
        time.sleep(0.005)
    features, n_new = fill(Store(cache), item_keys(options["n"]), options["pause"])
    print(json.dumps({"encoded": n_new, "digest": digest(features)}), flush=True)


if __name__ == "__main__":
    main()
