"""Checkpoints with point sets are evaluated by their own similarity, as double loops over points in float64."""

import json
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from reference.contrasts import naive_kme, naive_wpse

from clipib.data.load import load_dataset
from clipib.data.prompts import class_prompts
from clipib.embeddings.encode import embed_images, embed_texts
from clipib.embeddings.store import Store
from clipib.errors import UserError
from clipib.models.checkpoint import save_checkpoint
from clipib.models.head import make_head
from clipib.models.load import load_model
from clipib.scoring.wpse import BANDWIDTH, embed_point_sets
from clipib.tasks import scores as own_scores
from clipib.tasks.classifier import build_classifier
from clipib.tasks.embed import embed
from clipib.tasks.retrieve import retrieve
from clipib.tasks.scores import own_features, rank, score_matrix
from clipib.tasks.search import search
from clipib.tasks.zeroshot import zeroshot

WORLD, LABELS = "digitworld:n=40", "digitworld/color:n=40"


@pytest.fixture(scope="module", params=["kme", "wpse"])
def pointed(request, checkpoint, tmp_path_factory):
    """A trained checkpoint whose points lie apart, and its folder."""
    model = load_model(str(checkpoint), device="cpu")
    model.head = make_head(model, similarity=request.param, points=3)
    for side in (model.head.image, model.head.text):
        side.gates.data.copy_(torch.tensor([0.0, 0.05, -0.08]))
        side.scores.data.normal_(std=0.3, generator=torch.Generator().manual_seed(0))
    folder = tmp_path_factory.mktemp(request.param) / "m"
    save_checkpoint(model, folder, {"loss": request.param})
    return load_model(str(folder), device="cpu"), folder


def naive_scores(model, images, texts):
    """(N, M) by loops over items and points; `wpse` by its random features, one point after the other."""
    images, texts = (torch.from_numpy(x).double() for x in (images, texts))
    scale = model.logit_scale.double().detach()
    scores = np.empty((len(images), len(texts)))
    if model.similarity == "wpse":
        phi = [[sum(p[-1] * one_point(p[:-1]) for p in item) for item in side] for side in (images, texts)]
    for i in range(len(images)):
        for t in range(len(texts)):
            if model.similarity == "kme":
                u, v = images[i], texts[t]
                scores[i, t] = naive_kme(u[:, :-1], u[:, -1], v[:, :-1], v[:, -1], scale)
            else:
                scores[i, t] = scale * (phi[0][i] @ phi[1][t])
    return scores


def one_point(point):
    from clipib.scoring.features import Features

    return embed_point_sets(Features(point[None, None], torch.ones(1, 1).double())).points[0, 0]


def rows_of(model, dataset):
    return embed_images(model, dataset, store=None).array, embed_texts(model, dataset.captions, store=None).array


def ranks_by_loops(scores, own):
    """Rank of the best own item of each query; a tie goes to the lowest index."""
    found = []
    for line, mine in zip(scores, own, strict=True):
        order = sorted(range(len(line)), key=lambda j: (-line[j], j))
        found.append(next(r for r, j in enumerate(order) if j in mine))
    return np.array(found)


def test_retrieve_equals_double_loops(pointed, tmp_path):
    model, folder = pointed
    dataset = load_dataset(WORLD)
    scores = naive_scores(model, *rows_of(model, dataset))
    assert np.abs(score_matrix(model, *rows_of(model, dataset)) - scores).max() < 1e-5  # rounded to float32 at the end
    own = [{i} for i in dataset.image_of_caption]
    by_text, by_image = ranks_by_loops(scores.T, own), ranks_by_loops(scores, own)
    rows = retrieve(str(folder), WORLD, out=tmp_path / "r", cache_dir=tmp_path / "c").rows
    assert {r.similarity for r in rows} == {model.similarity}
    values = {r.metric: r.value for r in rows if not r.params}
    for k in (1, 5, 10):
        assert values[f"image_retrieval_recall@{k}"] == pytest.approx(np.mean(by_text < k))
        assert values[f"text_retrieval_recall@{k}"] == pytest.approx(np.mean(by_image < k))


def test_zeroshot_unites_the_points_of_all_prompts(pointed, tmp_path):
    model, folder = pointed
    dataset = load_dataset(LABELS)
    images = embed_images(model, dataset, store=None).array
    united, _ = build_classifier(model, dataset, store=None)
    prompts, points = len(dataset.templates), 3
    assert united.shape[1] == prompts * points
    single, _ = build_classifier(model, dataset.changed(templates=dataset.templates[1:2]), store=None)
    assert np.allclose(united[:, points : 2 * points, :-1], single[..., :-1])
    assert np.allclose(united[:, points : 2 * points, -1] * prompts, single[..., -1])
    scores = naive_scores(model, images, united)
    rows = zeroshot(str(folder), LABELS, out=tmp_path / "z", cache_dir=tmp_path / "c").rows
    (accuracy,) = (r for r in rows if r.metric == "acc1" and r.params == "prompt_pooling=union")
    assert accuracy.value == pytest.approx(np.mean(scores.argmax(1) == dataset.labels))


def test_with_one_prompt_mean_and_union_are_the_same(pointed, tmp_path):
    _, folder = pointed
    (tmp_path / "t.txt").write_text("a photo of the {c} thing\n")
    options = {"templates": tmp_path / "t.txt", "out": tmp_path / "z", "cache_dir": tmp_path / "c"}
    union, mean = (zeroshot(str(folder), LABELS, prompt_pooling=p, **options).rows for p in ("union", "mean"))
    assert [r.value for r in union] == pytest.approx([r.value for r in mean], abs=1e-6)  # a mean is normalised again
    assert all("prompt_pooling=mean" in r.params.split(";") for r in mean)


def test_mean_pools_point_by_point(pointed):
    model, _ = pointed
    dataset = load_dataset(LABELS)
    dataset = dataset.changed(templates=dataset.templates[:3])
    mean, _ = build_classifier(model, dataset, store=None, pooling="mean")
    assert mean.shape == (len(dataset.classnames), 3, 65)
    for name, row in zip(dataset.classnames, mean, strict=True):
        prompts = class_prompts((name,), dataset.templates)
        parts = embed_texts(model, prompts, store=None).array.astype(np.float64)
        for i in range(3):
            total = sum(part[i, :-1] for part in parts)
            assert np.abs(row[i, :-1] - total / np.linalg.norm(total)).max() < 1e-6  # rounding of float32
            assert row[i, -1] == pytest.approx(sum(part[i, -1] for part in parts) / 3, abs=1e-6)


def test_an_unknown_pooling_is_refused_with_the_nearest(checkpoint, tmp_path):
    with pytest.raises(UserError) as error:
        zeroshot(str(checkpoint), LABELS, prompt_pooling="unoin", out=tmp_path / "z")
    assert "unoin" in error.value.message and "union" in f"{error.value.message} {error.value.hint}"
    assert not (tmp_path / "z").exists()


def test_union_of_a_plain_checkpoint_is_the_log_mean_exp_of_its_prompts(checkpoint):
    model, dataset = load_model(str(checkpoint), device="cpu"), load_dataset(LABELS)
    images = embed_images(model, dataset, store=None).array
    united, _ = build_classifier(model, dataset, store=None, pooling="union")
    scale = float(model.logit_scale.detach())
    logits = scale * (images @ united[..., :-1].reshape(-1, 64).T).reshape(len(images), len(dataset.classnames), -1)
    expected = np.log(np.exp(logits.astype(np.float64)).mean(-1)) - scale
    assert np.abs(score_matrix(model, images, united, similarity="kme") - expected).max() < 1e-4


def test_rows_of_other_poolings_stand_beside_each_other(checkpoint, tmp_path):
    options = {"out": tmp_path / "z", "cache_dir": tmp_path / "c"}
    plain = zeroshot(str(checkpoint), LABELS, **options).rows
    union = zeroshot(str(checkpoint), LABELS, prompt_pooling="union", **options).rows
    again = zeroshot(str(checkpoint), LABELS, **options).rows
    assert not any("pooling" in r.params for r in plain) and all("prompt_pooling=union" in r.params for r in union)
    assert [r.value for r in again] == [r.value for r in plain]


def test_equal_items_tie_whatever_the_block(pointed):
    model, _ = pointed
    images, texts = rows_of(model, load_dataset(WORLD))
    doubled = np.concatenate([texts, texts])
    scores = score_matrix(model, images, doubled)
    assert np.array_equal(scores[:, :40], scores[:, 40:])


@pytest.mark.parametrize("side", [1, 10, 64])
def test_tiles_change_no_score(pointed, monkeypatch, side):
    model, _ = pointed
    images, texts = rows_of(model, load_dataset(WORLD))
    texts = np.concatenate([texts, texts])
    whole = score_matrix(model, images, texts)
    monkeypatch.setattr(own_scores, "POINTS_A_SIDE", side)
    monkeypatch.setattr(own_scores, "POINTS_AT_ONCE", side)
    tiled = score_matrix(model, images, texts)
    assert np.array_equal(tiled[:, :40], tiled[:, 40:])  # twins tie across tiles
    assert np.allclose(tiled, whole, rtol=2**-23, atol=0)  # float64 rounded once: the neighbouring float32 at most


@pytest.mark.parametrize("points", [1, 3])
def test_a_prepared_item_does_not_depend_on_its_block(monkeypatch, points):
    """A product of one row takes another path than one of many, and differs in float32."""
    generator = torch.Generator().manual_seed(0)
    rows = torch.cat([torch.randn(61, points, 64, generator=generator), torch.ones(61, points, 1)], dim=-1)
    rows[..., :-1] /= rows[..., :-1].norm(dim=-1, keepdim=True)
    model = SimpleNamespace(similarity="wpse")
    whole = own_features(model, rows.numpy())
    for size in (1, 7, 12):
        monkeypatch.setattr(own_scores, "POINTS_AT_ONCE", size)
        parts = own_features(model, rows.numpy())
        assert torch.equal(parts.points, whole.points) and parts.points.dtype == torch.float32


def test_the_scale_makes_no_ties_of_cosines():
    """Eight scores next to each other in float64, which times 1.34 would be six."""
    images = np.tile(np.float32([1, 2**-20]), (8, 1))
    texts = np.float32([[0.75, k * 2**-33] for k in range(8)])
    model = SimpleNamespace(similarity="cosine", logit_scale=1.34)
    ranks = rank(model, images, texts, np.arange(8))
    assert ranks.image_to_text.tolist() == [7, 6, 5, 4, 3, 2, 1, 0] and not ranks.tied_images.any()


def test_search_ranks_by_the_own_score_with_an_index_too(pointed, tmp_path):
    model, folder = pointed
    options = {"cache_dir": tmp_path / "c"}
    embed(str(folder), WORLD, index="hnsw", out=tmp_path / "e", **options)
    written = np.load(tmp_path / "e/images.npy")
    assert written.shape == (40, 3, 65)
    about = json.loads((tmp_path / "e/features.json").read_text())
    assert (about["layout"], about["similarity"]) == ("points", model.similarity)
    query = embed_texts(model, ["the red seven"], store=None).array
    best = np.argsort(-score_matrix(model, written, query)[:, 0], kind="stable")[:5]
    ids = load_dataset(WORLD).images.ids
    for found in (
        search("the red seven", str(folder), WORLD, top=5, **options),
        search("the red seven", embedded=tmp_path / "e", top=5, **options),
    ):
        assert [h.sample_id for h in found] == [ids[i] for i in best]
        assert {h.similarity for h in found} == {model.similarity}


def test_a_warm_run_remembers_what_the_checkpoint_scores_by(pointed, tmp_path):
    _, folder = pointed
    options = {"out": tmp_path / "z", "cache_dir": tmp_path / "c"}
    cold = zeroshot(str(folder), LABELS, **options)
    warm = zeroshot(str(folder), LABELS, fresh=True, **options)
    assert warm.images_encoded == warm.texts_encoded == 0
    assert [(r.metric, r.params, r.value, r.similarity) for r in warm.rows] == [
        (r.metric, r.params, r.value, r.similarity) for r in cold.rows
    ]
    assert Store(tmp_path / "c")


def test_the_exact_kernel_of_wpse_is_near_its_features(pointed):
    """1,024 random features err by 1 / 3 sqrt(2 / 1024) at most for weights that sum to 1."""
    model, _ = pointed
    if model.similarity != "wpse":
        pytest.skip("kme has no random features")
    images, texts = (torch.from_numpy(x[:5]).double() for x in rows_of(model, load_dataset(WORLD)))
    scale = float(model.logit_scale.detach())
    exact = [[naive_wpse(u[:, :-1], u[:, -1], v[:, :-1], v[:, -1], BANDWIDTH) for v in texts] for u in images]
    found = score_matrix(model, images.float().numpy(), texts.float().numpy()) / scale
    total = float(images[..., -1].abs().sum(1).max() * texts[..., -1].abs().sum(1).max())
    assert np.abs(found - np.array(exact)).max() < 4 * total / 3 * (2 / 1024) ** 0.5
