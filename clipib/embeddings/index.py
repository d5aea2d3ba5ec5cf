"""Exact nearest neighbours by inner product, with FAISS."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np


class Neighbours(NamedTuple):
    """scores, indices: (Q, k), best first."""

    scores: np.ndarray
    indices: np.ndarray


GPU_MAX_K = 2048  # what FAISS can return per query on a GPU


def build_index(features: np.ndarray, *, gpu: bool = True):
    """A flat inner-product index of (N, D) unit features, on the GPUs where FAISS sees some and `gpu` allows it."""
    import faiss

    features = _checked(features)
    index = faiss.IndexFlatIP(features.shape[1])
    if gpu and getattr(faiss, "get_num_gpus", lambda: 0)() > 0:
        index = faiss.index_cpu_to_all_gpus(index)
    index.add(features)
    return index


def search_index(index, queries: np.ndarray, k: int) -> Neighbours:
    """The k nearest rows to each of (Q, D) queries; k is cut to the size of the index."""
    return Neighbours(*index.search(_checked(queries), min(k, index.ntotal)))


def _checked(features: np.ndarray) -> np.ndarray:
    """FAISS takes contiguous float32 of two dimensions and says nothing useful of anything else."""
    features = np.ascontiguousarray(features, dtype=np.float32)
    if features.ndim != 2:
        raise ValueError(f"expected features (N, D), got {features.shape}")
    return features
