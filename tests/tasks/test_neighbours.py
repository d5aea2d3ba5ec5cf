"""Sets of points: which images are looked at, and that their own score orders them."""

from types import SimpleNamespace

import numpy as np
import pytest

from clipib.embeddings.folder import Embedded
from clipib.embeddings.index import build_index, plan_index, save_index
from clipib.progress import SILENT, Progress
from clipib.tasks.neighbours import Searched, centres, find_by_own_score
from clipib.tasks.scores import score_matrix

MODEL = SimpleNamespace(similarity="kme", has_points=True, logit_scale=50.0, logit_bias=None)


def point_sets(n, *, points=4, width=32, seed=0):
    """Stored rows whose points lie far apart, so that centres tell little of the score."""
    rows = np.random.default_rng(seed).normal(size=(n, points, width + 1)).astype(np.float32)
    rows[..., :-1] /= np.linalg.norm(rows[..., :-1], axis=-1, keepdims=True)
    rows[..., -1] = 1 / points
    return rows


def searched(rows, folder=None):
    about = {"files": {"images.npy": "hash"}}
    return Searched(rows, [""] * len(rows), [""] * len(rows), rows[:0], folder and Embedded(folder, about, {}, {}))


def write_index(rows, folder, kind):
    features, plan = centres(rows), plan_index(kind, len(rows))
    save_index(folder, build_index(features, plan), plan, {"features_sha256": "hash"})


class Said(Progress):
    def __init__(self):
        self.lines = []

    def say(self, text):
        self.lines.append(text)


@pytest.mark.parametrize("saved, index", [("flat", None), ("hnsw", "flat"), (None, None), (None, "flat")])
def test_flat_scores_every_image(tmp_path, saved, index):
    rows = point_sets(500)
    if saved:
        write_index(rows, tmp_path, saved)
    for query in point_sets(3, seed=1)[:, None]:
        scores = score_matrix(MODEL, rows, query)[:, 0]
        found = find_by_own_score(
            MODEL, searched(rows, tmp_path if saved else None), query, 3, index=index, seed=0, progress=SILENT
        )
        assert found.indices[0].tolist() == np.argsort(-scores, kind="stable")[:3].tolist()
        assert np.array_equal(found.scores[0], scores[found.indices[0]])


def test_too_few_images_for_ivf_are_all_scored():
    rows, said = point_sets(60), Said()
    for query in point_sets(5, seed=1)[:, None]:
        found = find_by_own_score(MODEL, searched(rows), query, 1, index="ivf", seed=0, progress=said)
        assert found.indices[0, 0] == score_matrix(MODEL, rows, query)[:, 0].argmax()
    assert "flat, which is exact, takes its place" in said.lines[0]


@pytest.mark.parametrize("saved, index", [("hnsw", None), (None, "hnsw"), (None, "ivf")])
def test_an_approximate_index_proposes_and_the_own_score_decides(tmp_path, saved, index):
    rows, said = point_sets(500), Said()
    if saved:
        write_index(rows, tmp_path, saved)
    query = point_sets(1, seed=1)
    found = find_by_own_score(
        MODEL, searched(rows, tmp_path if saved else None), query, 3, index=index, seed=0, progress=said
    )
    near = np.argsort(-(centres(rows) @ centres(query)[0]))
    assert set(found.indices[0]) <= set(near[: len(rows) // 4])  # the index holds the centres
    scores = score_matrix(MODEL, rows, query)[:, 0]
    assert np.array_equal(found.scores[0], scores[found.indices[0]])
    assert np.all(np.diff(found.scores[0]) <= 0)
    assert "30 candidates by kme" in said.lines[-1]


def test_equal_sets_come_in_order():
    rows = np.concatenate([point_sets(7)] * 3)
    found = find_by_own_score(MODEL, searched(rows), rows[2:3], 3, index=None, seed=0, progress=SILENT)
    assert found.indices[0].tolist() == [2, 9, 16]


def test_centres_are_weighted_means_of_unit_norm():
    rows = point_sets(5)
    rows[..., -1] = [0.7, 0.5, -0.3, 0.1]
    for row, centre in zip(rows.astype(np.float64), centres(rows), strict=True):
        mean = sum(point[-1] * point[:-1] for point in row)
        assert centre == pytest.approx(mean / np.linalg.norm(mean), abs=1e-6)  # rounding of float32
    assert centres(rows[:, 0]) is not None and np.array_equal(centres(rows[:, 0]), rows[:, 0])
