"""Whether two sets of features of the same items agree on who is near whom."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from clipib.information.checks import centred_features, check_same_items, unit_features


def mutual_knn(x: Tensor, y: Tensor, *, k: int = 10, seed: int = 0) -> float:
    """Share of the k nearest neighbours that an item keeps from one set of features to the other.

        mean_i |N_x(i) & N_y(i)| / k,   N(i) the k other items of the highest cosine

    Neighbours are found within each set, by an exact FAISS index; images and texts are each compared in their own
    space, and no image is compared with a text. The search is float32, so cosines that differ by less than about 1e-7
    count as equal.

    Ties, such as items with the same caption, are broken at random and independently in the two spaces: by a common
    order, which both indexes would follow, tied items would seem to agree. `seed` draws the two orders.

    Status: consistent at fixed k/n; at fixed k it falls as n grows. On unrelated features it is k / (n - 1) in the
    mean: report that beside it, and compare at equal n and k only. It saturates at 1.

    Args:
        x: (n, dx) features.
        y: (n, dy) features of the same items.
        k: number of neighbours, from 1 to n - 1.
        seed: of the order in which items enter each index.

    Returns:
        In [0, 1].

    Raises:
        ValueError: for different numbers of rows, fewer than two, a row of zeros, NaN, rows that are all the same, or
            a k outside 1 to n - 1.

    Reference:
        Huh et al., 2024, The platonic representation hypothesis, 2405.07987.

    Example:
        >>> x = torch.tensor([[1.0, 0.0], [0.9, 0.1], [0.1, 0.9], [0.0, 1.0]])
        >>> mutual_knn(x, x.flip(1), k=1), mutual_knn(x, x[[0, 2, 1, 3]], k=1)
        (1.0, 0.0)
    """
    x, y = unit_features(x, "x"), unit_features(y, "y")
    check_same_items(x, y)
    if not 1 <= k <= len(x) - 1:
        raise ValueError(f"expected k from 1 to {len(x) - 1}, got {k}")
    generator = torch.Generator().manual_seed(seed)
    orders = [torch.randperm(len(x), generator=generator).numpy() for _ in range(2)]
    near_x, near_y = (_nearest(z, k, order) for z, order in zip((x, y), orders))
    both = np.sort(np.concatenate([near_x, near_y], 1), 1)  # (n, 2 k); an item in both lists now stands twice in a row
    return float((both[:, 1:] == both[:, :-1]).sum() / near_x.size)


def _nearest(features: Tensor, k: int, order: np.ndarray) -> np.ndarray:
    """(n, k) numbers of the k most similar other items; among equals those that come first in `order`."""
    import faiss

    centred_features(features)  # raises where all rows are the same
    rows = features.float().cpu().numpy()
    index = faiss.IndexFlatIP(rows.shape[1])
    index.add(rows[order])
    found = order[index.search(rows, k + 1)[1]]  # (n, k + 1), the item itself among them unless more than k equal it
    own = found == np.arange(len(rows))[:, None]
    own[~own.any(1), k] = True
    return found[~own].reshape(len(rows), k)
