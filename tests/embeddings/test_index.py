import json

import faiss
import numpy as np
import pytest

from clipib.embeddings import index as indexes
from clipib.embeddings.index import build_index, load_index, measure_recall, plan_index, save_index, search_index
from clipib.errors import UserError
from clipib.files import file_sha256


def unit(n, width, seed):
    rows = np.random.default_rng(seed).normal(size=(n, width)).astype(np.float32)
    return rows / np.linalg.norm(rows, axis=1, keepdims=True)


def test_neighbours_equal_a_full_sort():
    items, queries = unit(50, 8, 0), unit(5, 8, 1)
    found = search_index(build_index(items), queries, 7)
    scores = queries @ items.T
    assert np.array_equal(found.indices, np.argsort(-scores, axis=1)[:, :7])
    assert found.scores == pytest.approx(np.sort(-scores, axis=1)[:, :7] * -1, abs=1e-6)


def test_k_is_cut_to_the_number_of_items():
    assert search_index(build_index(unit(3, 4, 0)), unit(1, 4, 1), 10).indices.shape == (1, 3)


def test_other_shapes_are_named():
    with pytest.raises(ValueError, match="expected features"):
        build_index(np.zeros(4))


@pytest.mark.parametrize(
    "kind, n, parameters, note",
    [
        ("ivf", 1_000_000, {"nlist": 4_000, "nprobe": 63}, ""),
        ("ivf", 40_000, {"nlist": 800, "nprobe": 28}, ""),
        ("ivf", 1_000, {"nlist": 25, "nprobe": 8}, "25 lists, not 126"),
        ("ivf", 78, {"nlist": 2, "nprobe": 2}, "2 lists, not 35"),
        ("ivf", 77, {}, "77 images are too few"),
        ("hnsw", 1, {"M": 32, "efConstruction": 200, "efSearch": 64}, ""),
        ("flat", 9, {}, ""),
    ],
)
def test_parameters_follow_from_the_number_of_images(kind, n, parameters, note):
    plan = plan_index(kind, n)
    assert plan.parameters == parameters and plan.note.startswith(note) and bool(plan.note) == bool(note)
    assert plan.kind == (kind if parameters else "flat")


def test_a_kind_that_is_mistyped_gets_the_nearest():
    with pytest.raises(UserError, match="Did you mean 'hnsw'"):
        plan_index("hnws", 5)


@pytest.mark.parametrize("kind, nearest", [("flat", 1.0), ("ivf", 0.5), ("hnsw", 0.9)])
def test_every_kind_compares_by_inner_product_and_recall_is_that_of_a_loop(kind, nearest):
    """Rows of any length: the nearest by distance are then others than those of the largest inner product."""
    items = unit(1_500, 16, 0) * np.random.default_rng(2).uniform(0.5, 2, (1_500, 1)).astype(np.float32)
    queries = unit(40, 16, 1)
    index = build_index(items, plan_index(kind, len(items)))
    assert index.metric_type == faiss.METRIC_INNER_PRODUCT
    found = search_index(index, queries, 10)
    shares = []
    for query, indices in zip(queries, found.indices, strict=True):
        exact = sorted(range(len(items)), key=lambda i: -float(items[i] @ query))[:10]
        shares.append(len(set(exact) & set(indices.tolist())) / 10)
    recall = measure_recall(index, items, queries, (1, 10))
    assert recall[10] == pytest.approx(np.mean(shares), abs=1e-12)
    assert nearest <= recall[10] <= 1 and (kind != "ivf" or recall[10] < 1)


def test_equal_rows_stand_for_one_another():
    items = np.repeat(unit(20, 8, 0), 30, axis=0)
    index = build_index(items, plan_index("hnsw", len(items)))
    assert measure_recall(build_index(items), items, items, (7,)) == {7: 1.0}
    assert measure_recall(index, items, unit(9, 8, 1), (1,))[1] > 0.8


def test_more_neighbours_than_rows_are_the_rows():
    items = unit(5, 4, 0)
    assert measure_recall(build_index(items, plan_index("hnsw", 5)), items, items, (1, 100)) == {1: 1.0, 100: 1.0}


def test_missing_neighbours_count_as_missed():
    items = unit(400, 8, 0)
    plan = plan_index("ivf", 400)._replace(parameters={"nlist": 10, "nprobe": 1})
    index = build_index(items, plan)
    found = search_index(index, items[:50], 400)
    assert (found.indices < 0).any()
    assert measure_recall(index, items, items[:50], (400,))[400] == pytest.approx((found.indices >= 0).mean())


def test_the_lists_of_ivf_follow_from_the_seed():
    items = unit(1_000, 8, 0)
    a, b, other = (faiss.serialize_index(build_index(items, plan_index("ivf", 1_000), seed=s)) for s in (1, 1, 2))
    assert np.array_equal(a, b) and not np.array_equal(a, other)


def test_queries_are_a_seeded_sample_of_different_rows():
    items = unit(1_500, 4, 0)
    a, b = (indexes.sample_queries(items, seed=3) for _ in range(2))
    assert len(a) == 1_000 == len(np.unique(a, axis=0)) and np.array_equal(a, b)
    assert not np.array_equal(a, indexes.sample_queries(items, seed=4))
    assert len(indexes.sample_queries(items[:7], seed=0)) == 7


@pytest.fixture
def saved(tmp_path):
    """A saved index of each kind in turn: (features, plan)."""

    def save(kind, features=None, index=None):
        features = unit(200, 8, 0) if features is None else features
        plan = plan_index(kind, len(features))
        save_index(tmp_path, build_index(features, plan) if index is None else index, plan, {"features_sha256": "f"})
        return features, plan

    return save


@pytest.mark.parametrize("kind", ["flat", "ivf", "hnsw"])
def test_a_saved_index_answers_as_before(saved, tmp_path, kind):
    features, plan = saved(kind)
    loaded = load_index(tmp_path, features, "f")
    before, after = (search_index(i, features[:9], 5) for i in (build_index(features, plan), loaded.index))
    assert np.array_equal(before.indices, after.indices) and np.array_equal(before.scores, after.scores)
    assert loaded.plan == plan._replace(note="") and indexes.saved_kind(tmp_path) == kind
    about = json.loads((tmp_path / "images.index.json").read_text())
    assert about["n"] == 200 and about["width"] == 8 and about["metric"] == "inner_product"


def rehash(folder):
    """Make `images.index.json` vouch for whatever `images.faiss` is now."""
    path = folder / "images.index.json"
    about = json.loads(path.read_text()) | {"index_sha256": file_sha256(folder / "images.faiss")}
    path.write_text(json.dumps(about))


def test_a_flipped_byte_is_found(saved, tmp_path):
    features, _ = saved("flat")
    content = bytearray((tmp_path / "images.faiss").read_bytes())
    content[-5] ^= 1  # FAISS itself would not mind
    (tmp_path / "images.faiss").write_bytes(content)
    with pytest.raises(UserError, match="damaged, or of another program"):
        load_index(tmp_path, features, "f")


def test_what_is_no_index_is_told_even_where_the_hash_fits(saved, tmp_path):
    features, _ = saved("flat")
    (tmp_path / "images.faiss").write_bytes(b"not an index")
    rehash(tmp_path)
    with pytest.raises(UserError, match="no FAISS index"):
        load_index(tmp_path, features, "f")


@pytest.mark.parametrize(
    "index, message",
    [
        (faiss.IndexFlatIP(9), "200 rows of width 9; the features are \\(200, 8\\)"),
        (faiss.IndexFlatL2(8), "does not compare by inner product"),
    ],
)
def test_an_index_of_another_width_or_metric_is_refused(saved, tmp_path, index, message):
    index.add(unit(200, index.d, 0))
    features, _ = saved("flat", index=index)
    with pytest.raises(UserError, match=message):
        load_index(tmp_path, features, "f")


def test_an_index_of_other_features_is_refused_and_dropped(saved, tmp_path):
    features, _ = saved("flat")
    with pytest.raises(UserError, match="built on other features"):
        load_index(tmp_path, features, "g")
    assert not indexes.drop_index(tmp_path, unless="f") and indexes.saved_kind(tmp_path) == "flat"
    assert indexes.drop_index(tmp_path, unless="g") and not list(tmp_path.iterdir())
    assert not indexes.drop_index(tmp_path, unless="g") and indexes.saved_kind(tmp_path) == ""


@pytest.mark.parametrize("content", ["", "[]", '{"schema": "clipib.index/9", "kind": "flat"}'])
def test_a_description_of_another_form_is_refused(saved, tmp_path, content):
    features, _ = saved("flat")
    (tmp_path / "images.index.json").write_text(content)
    with pytest.raises(UserError, match="images.index.json"):
        load_index(tmp_path, features, "f")
    assert indexes.drop_index(tmp_path, unless="f")


def test_a_full_disk_leaves_no_index(saved, tmp_path, monkeypatch):
    def full(index, writer):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(faiss, "write_index", full)
    with pytest.raises(OSError, match="No space"):
        saved("flat")
    assert not list(tmp_path.iterdir())
