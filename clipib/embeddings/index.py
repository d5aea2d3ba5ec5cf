"""Nearest neighbours by inner product with FAISS: exact (flat), or approximate and measured against exact (ivf, hnsw).

A saved index is two files beside the features:

    OUT/images.faiss         as FAISS writes it
    OUT/images.index.json    what it is: kind, parameters, recall, hashes of it and of the features it was built on
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from clipib import __version__
from clipib.errors import UserError
from clipib.files import file_sha256, write_aside
from clipib.registry import check_name

SCHEMA = "clipib.index/1"
KINDS = ("flat", "ivf", "hnsw")
INDEX_FILE, INDEX_ABOUT_FILE = "images.faiss", "images.index.json"
GPU_MAX_K = 2048  # what FAISS can return per query on a GPU
LEAST_PER_LIST = 39  # images that FAISS wants to train each list of an ivf index on
RECALL_AT, RECALL_QUERIES = (1, 10, 100), 1_000
ROUNDING = 1e-6  # by which FAISS's indexes differ in the inner product of the same two unit vectors


class IndexPlan(NamedTuple):
    """kind: one of KINDS. parameters: as FAISS names them. note: what the user may not expect, or ""."""

    kind: str
    parameters: dict[str, int]
    note: str = ""

    def describe(self) -> str:
        """`ivf (nlist=1265, nprobe=36)`"""
        settings = ", ".join(f"{key}={value}" for key, value in self.parameters.items())
        return f"{self.kind} ({settings})" if settings else self.kind


class Neighbours(NamedTuple):
    """scores, indices: (Q, k), best first. An approximate index that finds fewer than k ends the row with -1."""

    scores: np.ndarray
    indices: np.ndarray


FLAT = IndexPlan("flat", {})


def plan_index(kind: str, n: int) -> IndexPlan:
    """Parameters for n images.

    flat compares with all. ivf keeps 4 sqrt(n) lists and reads the nearest sqrt(nlist) of them, eight at least. hnsw
    links each image to 32 others and follows 64 candidates.

    Raises:
        UserError: for a kind that there is not.
    """
    check_name("index", kind, KINDS)
    if kind == "hnsw":
        return IndexPlan(kind, {"M": 32, "efConstruction": 200, "efSearch": 64})
    if kind == "flat":
        return FLAT
    wanted = round(4 * n**0.5)
    lists = min(wanted, n // LEAST_PER_LIST)
    if lists < 2:
        return FLAT._replace(
            note=f"{n:,} images are too few for the lists of ivf; flat, which is exact, takes its place"
        )
    plan = IndexPlan(kind, {"nlist": lists, "nprobe": min(lists, max(8, round(lists**0.5)))})
    if lists < wanted:
        return plan._replace(note=f"{lists} lists, not {wanted}: each is trained on {LEAST_PER_LIST} images at least")
    return plan


def build_index(features: np.ndarray, plan: IndexPlan = FLAT, *, seed: int = 0, gpu: bool = False):
    """An inner-product index of (N, D) unit features.

    Args:
        seed: of the lists of ivf. The links of hnsw also depend on how its threads take turns.
        gpu: put a flat index on the GPUs where FAISS sees some.
    """
    import faiss

    features = _checked(features)
    width, metric = features.shape[1], faiss.METRIC_INNER_PRODUCT
    if plan.kind == "ivf":
        index = faiss.IndexIVFFlat(faiss.IndexFlatIP(width), width, plan.parameters["nlist"], metric)
        index.cp.seed = seed
        index.nprobe = plan.parameters["nprobe"]
        index.train(features)
    elif plan.kind == "hnsw":
        index = faiss.IndexHNSWFlat(width, plan.parameters["M"], metric)
        index.hnsw.efConstruction = plan.parameters["efConstruction"]
        index.hnsw.efSearch = plan.parameters["efSearch"]
    else:
        index = faiss.IndexFlatIP(width)
        if gpu and getattr(faiss, "get_num_gpus", lambda: 0)() > 0:
            index = faiss.index_cpu_to_all_gpus(index)
    index.add(features)
    return index


def search_index(index, queries: np.ndarray, k: int) -> Neighbours:
    """The k nearest rows to each of (Q, D) queries; k is cut to the size of the index."""
    return Neighbours(*index.search(_checked(queries), min(k, index.ntotal)))


def measure_recall(index, features: np.ndarray, queries: np.ndarray, ks: tuple[int, ...]) -> dict[int, float]:
    """Share of the k exactly nearest rows that an index finds, for each k, in [0, 1].

    A row counts as found by its score, so that equal rows stand for one another.

    Args:
        features: (N, D) all rows of the index.
        queries: (Q, D).
    """
    exact = search_index(build_index(features), queries, max(ks))
    recall = {}
    for k in ks:
        found = search_index(index, queries, k)
        least = exact.scores[:, found.indices.shape[1] - 1, None] - ROUNDING  # (Q, 1) score of the k-th best
        recall[k] = float((found.scores >= least).mean())  # a missing row has the lowest score there is
    return recall


def sample_queries(features: np.ndarray, *, seed: int, n: int = RECALL_QUERIES) -> np.ndarray:
    """At most n rows, drawn without replacement."""
    if len(features) <= n:
        return np.asarray(features)
    return features[np.sort(np.random.default_rng(seed).choice(len(features), n, replace=False))]


class SavedIndex(NamedTuple):
    """An index read from a folder, and the content of its `images.index.json`."""

    index: Any
    plan: IndexPlan
    about: dict[str, Any]


def save_index(folder: Path, index, plan: IndexPlan, about: dict[str, Any]) -> None:
    """Write an index that is not on a GPU, and what it is.

    Args:
        about: what else goes into `images.index.json`; `features_sha256` must be among it.
    """
    import faiss

    path = folder / INDEX_FILE
    write_aside(path, lambda file: faiss.write_index(index, faiss.PyCallbackIOWriter(file.write)))
    content = {
        "schema": SCHEMA,
        "kind": plan.kind,
        "parameters": plan.parameters,
        "metric": "inner_product",
        "n": index.ntotal,
        "width": index.d,
        "index_sha256": file_sha256(path),
        **about,
        "clipib_version": __version__,
        "faiss_version": faiss.__version__,
    }
    write_aside(folder / INDEX_ABOUT_FILE, lambda file: file.write((json.dumps(content, indent=2) + "\n").encode()))


def saved_kind(folder: Path) -> str:
    """The kind of the index in a folder, or "" where there is none."""
    return _read_about(folder)["kind"] if (folder / INDEX_FILE).exists() else ""


def load_index(folder: Path, features: np.ndarray, features_sha256: str) -> SavedIndex:
    """Read the index of a folder.

    Args:
        features: (N, D) those that the index must have been built on, with the hash of their file.

    Raises:
        UserError: when it is damaged, or belongs to other features.
    """
    import faiss

    about, path = _read_about(folder), folder / INDEX_FILE
    if about.get("features_sha256") != features_sha256:
        raise _unusable(path, "was built on other features than those that lie beside it")
    if about.get("index_sha256") != file_sha256(path):
        raise _unusable(path, f"is not the file that {INDEX_ABOUT_FILE} describes: damaged, or of another program")
    try:
        index = faiss.read_index(str(path))
    except RuntimeError as error:
        raise _unusable(path, "is no FAISS index that can be read") from error
    if (index.ntotal, index.d) != features.shape:
        raise _unusable(path, f"holds {index.ntotal:,} rows of width {index.d}; the features are {features.shape}")
    if index.metric_type != faiss.METRIC_INNER_PRODUCT:
        raise _unusable(path, "does not compare by inner product")
    return SavedIndex(index, IndexPlan(about["kind"], about["parameters"]), about)


def drop_index(folder: Path, *, unless: str) -> bool:
    """Remove an index that was built on other features than those with the hash `unless`; whether there was one."""
    if not (folder / INDEX_ABOUT_FILE).exists():
        return False
    try:
        kept = _read_about(folder).get("features_sha256") == unless
    except UserError:
        kept = False
    if not kept:
        (folder / INDEX_FILE).unlink(missing_ok=True)
        (folder / INDEX_ABOUT_FILE).unlink()
    return not kept


def _read_about(folder: Path) -> dict[str, Any]:
    path = folder / INDEX_ABOUT_FILE
    try:
        about = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise _unusable(path, "cannot be read") from error
    if not isinstance(about, dict) or about.get("schema") != SCHEMA or about.get("kind") not in KINDS:
        raise _unusable(path, f"is not of the form {SCHEMA}")
    return about


def _unusable(path: Path, what: str) -> UserError:
    hint = f"Build it again with `clipib embed --index KIND --out {path.parent}` and the same model and data, or "
    return UserError(f"'{path}' {what}.", hint=hint + "search without it: --index flat.")


def _checked(features: np.ndarray) -> np.ndarray:
    """FAISS takes contiguous float32 of two dimensions and says nothing useful of anything else."""
    features = np.ascontiguousarray(features, dtype=np.float32)
    if features.ndim != 2:
        raise ValueError(f"expected features (N, D), got {features.shape}")
    return features
