import json

import open_clip
import pytest
import torch

from clipib.errors import UserError
from clipib.models.checkpoint import save_checkpoint
from clipib.models.head import HEAD_FILE, POINT_POOLINGS, Head, PointSets, make_head
from clipib.models.load import load_model
from clipib.scoring.features import effective_points, unpack
from clipib.scoring.kme import kme_logits

TEXTS = ["a red seven", "x", "a photo of the blue two in the northwest"]


def pixels_for(model, n=3):
    side = model.preprocess["size"]
    height, width = (side, side) if isinstance(side, int) else side
    return torch.randn(n, 3, height, width, generator=torch.Generator().manual_seed(0))


def check_warm_start(model, pooling="attention"):
    """At step 0 the KME similarity is the checkpoint's cosine logits less inv_sigma2, and the gates learn."""
    pixels, tokens = pixels_for(model), model.tokenize(TEXTS)
    with torch.no_grad():
        u, v = model.encode_images(pixels), model.encode_texts(tokens)
    model.head = make_head(model, similarity="kme", points=4, pooling=pooling)
    images, texts = model.embed_images(pixels), model.embed_texts(tokens)
    logits = kme_logits(images.points, texts.points, logit_scale=model.logit_scale)
    expected = model.logit_scale * (u @ v.T) - model.logit_scale
    assert float((logits - expected).abs().max().detach()) < 1e-4
    for points in (images.points, texts.points):
        assert torch.allclose(points.weights, torch.tensor(0.25))
        assert torch.allclose(effective_points(points, 14.0), torch.ones(3), atol=1e-4)
    (logits.logsumexp(1) - logits.diagonal()).sum().backward()
    for side in (model.head.image, model.head.text):
        assert float(side.gates.grad.abs().max()) > 1e-6


@pytest.mark.parametrize("pooling", POINT_POOLINGS)
def test_training_begins_where_a_trained_clip_stands(checkpoint, pooling):
    check_warm_start(load_model(str(checkpoint), device="cpu"), pooling)


@pytest.mark.parametrize("name", ["ViT-B-32", "RN50", "convnext_base"])
def test_training_begins_where_other_towers_stand(name):
    check_warm_start(load_model(name, "none", device="cpu"))


def sets(pooling="attention", *, signed=False, points=3, opened=True, seed=0):
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        made = PointSets(signed=signed, points=points, pooling=pooling, token_width=6, width=5)
        if opened:
            for parameter in (made.gates, made.scores):
                parameter.data = torch.randn_like(parameter)
    return made


def some_tokens(n=4, length=7):
    generator = torch.Generator().manual_seed(1)
    tokens = torch.randn(n, length, 6, generator=generator)
    mask = torch.arange(length) < torch.tensor([7, 3, 1, 5])[:n, None]
    embeddings = torch.nn.functional.normalize(torch.randn(n, 5, generator=generator), dim=-1)
    return embeddings, tokens, mask


@pytest.mark.parametrize("signed", [False, True])
def test_attention_equals_loops(signed):
    made, (embeddings, tokens, mask) = sets(signed=signed), some_tokens()
    found = made(embeddings, tokens, mask)
    for n in range(4):
        kept = [torch.nn.functional.layer_norm(t, (6,)) for t, m in zip(tokens[n], mask[n], strict=True) if m]
        chosen = []
        for i in range(3):
            weights = torch.stack([(made.queries[i] @ t).exp() for t in kept]).detach()
            chosen.append(sum(w / weights.sum() * t for w, t in zip(weights, kept, strict=True)))
        scores = torch.stack([c @ made.scores for c in chosen])
        expected = (1 + 100 * torch.tanh(scores / 100)) / 3 if signed else scores.exp() / scores.exp().sum()
        assert torch.allclose(found.weights[n], expected, atol=1e-5)
        for i in range(3):
            point = embeddings[n] + 10 * made.gates[i] * (made.delta.weight @ chosen[i])
            assert torch.allclose(found.points[n, i], point / point.norm(), atol=1e-5)


def test_topk_takes_the_highest_scores_and_repeats_the_last():
    made, (embeddings, tokens, mask) = sets("topk"), some_tokens()
    found = made(embeddings, tokens, mask)
    for n in range(4):
        kept = [torch.nn.functional.layer_norm(t, (6,)) for t, m in zip(tokens[n], mask[n], strict=True) if m]
        ranked = sorted(kept, key=lambda t: -float((made.queries[0] @ t).detach()))
        for i in range(3):
            token = ranked[min(i, len(ranked) - 1)]
            token = token * 2 * torch.sigmoid(made.queries[0] @ token)
            point = embeddings[n] + 10 * made.gates[i] * (made.delta.weight @ token)
            assert torch.allclose(found.points[n, i], point / point.norm(), atol=1e-5)
    found.points.sum().backward()
    assert float(made.queries.grad.abs().max()) > 0


@pytest.mark.parametrize("pooling", POINT_POOLINGS)
def test_neither_masked_tokens_nor_neighbours_reach_a_point(pooling):
    made, (embeddings, tokens, mask) = sets(pooling), some_tokens()
    before = made(embeddings, tokens, mask)
    changed = torch.where(mask[..., None], tokens, torch.full_like(tokens, 9.0))
    after = made(embeddings, changed, mask)
    assert torch.equal(before.points, after.points) and torch.equal(before.weights, after.weights)
    alone = made(embeddings[1:2], tokens[1:2], mask[1:2])
    assert torch.allclose(alone.points[0], before.points[1], atol=1e-6)


@pytest.mark.parametrize("similarity", ["kme", "wpse"])
def test_a_head_survives_saving_and_the_trunk_opens_in_open_clip(checkpoint, tmp_path, similarity):
    model = load_model(str(checkpoint), device="cpu")
    plain = model.fingerprint
    pixels, tokens = pixels_for(model), model.tokenize(TEXTS)
    with torch.no_grad():
        features = model.encode_images(pixels)
    model.head = make_head(model, similarity=similarity, points=4)
    for side in (model.head.image, model.head.text):
        side.gates.data.fill_(0.1)
        side.scores.data.normal_(generator=torch.Generator().manual_seed(0))
    fingerprint = save_checkpoint(model, tmp_path / "m", {"loss": similarity})
    again = load_model(str(tmp_path / "m"), device="cpu")
    assert again.fingerprint == fingerprint != plain
    assert again.similarity == similarity and again.has_points
    with torch.no_grad():
        for one, other in (
            (again.encode_images(pixels), model.encode_images(pixels)),
            (again.encode_texts(tokens), model.encode_texts(tokens)),
        ):
            assert one.shape == (3, 4, 65) and torch.equal(one, other)
            assert torch.allclose(unpack(one).points.norm(dim=-1), torch.tensor(1.0), atol=1e-6)
    trunk, _ = open_clip.create_model_from_pretrained(f"local-dir:{tmp_path / 'm'}")
    with torch.no_grad():
        assert torch.allclose(trunk.eval().encode_image(pixels, normalize=True), features, atol=1e-6)


def test_a_head_that_is_missing_or_of_another_shape_is_named(checkpoint, tmp_path):
    model = load_model(str(checkpoint), device="cpu")
    model.head = make_head(model, similarity="kme", points=4)
    save_checkpoint(model, tmp_path / "m", {"loss": "kme"})
    record = json.loads((tmp_path / "m/clipib.json").read_text())
    (tmp_path / "m/clipib.json").write_text(json.dumps({**record, "head": {**record["head"], "points": 5}}))
    with pytest.raises(UserError, match="another shape"):
        load_model(str(tmp_path / "m"), device="cpu")
    (tmp_path / "m/clipib.json").write_text(json.dumps(record))
    (tmp_path / "m" / HEAD_FILE).unlink()
    with pytest.raises(UserError, match=HEAD_FILE):
        load_model(str(tmp_path / "m"), device="cpu")


def test_a_new_bias_starts_once(checkpoint, tmp_path):
    model = load_model(str(checkpoint), device="cpu")
    model.head = make_head(model, bias=True)
    assert model.similarity == "cosine" and not model.has_points
    model.head.start_bias(-3.0)
    model.head.start_bias(5.0)
    assert float(model.logit_bias.detach()) == -3
    save_checkpoint(model, tmp_path / "m", {"loss": "siglip"})
    again = load_model(str(tmp_path / "m"), device="cpu")
    again.head.start_bias(5.0)
    assert float(again.logit_bias.detach()) == -3


def test_the_seed_alone_says_what_a_new_head_is(checkpoint):
    model = load_model(str(checkpoint), device="cpu")
    torch.manual_seed(5)
    a, b, c = (make_head(model, similarity="kme", seed=s) for s in (0, 0, 1))
    assert torch.equal(a.image.queries, b.image.queries) and not torch.equal(a.image.queries, c.image.queries)
    assert isinstance(a, Head)
