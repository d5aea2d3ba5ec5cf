"""The numbers are those of CLIP_benchmark and open_clip on the same features."""

import numpy as np
import open_clip
import pytest
import torch
from clip_benchmark.metrics import zeroshot_classification as their_classification
from clip_benchmark.metrics.zeroshot_retrieval import recall_at_k as their_recall_at_k
from PIL import Image
from sklearn.datasets import load_sample_images

from clipib import retrieve, zeroshot
from clipib.data.load import load_dataset
from clipib.embeddings.encode import embed_images, embed_texts
from clipib.models.checkpoint import save_checkpoint
from clipib.models.load import load_model
from clipib.tasks.classifier import build_classifier


@pytest.fixture(scope="module")
def vit_b_32(tmp_path_factory):
    """A ViT-B-32 with random weights, written as an open_clip file and as a checkpoint folder."""
    folder = tmp_path_factory.mktemp("vit")
    model = load_model("ViT-B-32", "none", device="cpu", seed=1)
    torch.save(model.module.state_dict(), folder / "vit.pt")
    save_checkpoint(model, folder / "vit", {"loss": "", "similarity": "cosine"})
    return folder


@pytest.fixture(scope="module")
def crops(tmp_path_factory):
    """Photographs from scikit-learn cut into 48 pieces of odd sizes, in six classes; three captions each."""
    folder = tmp_path_factory.mktemp("crops")
    rng = np.random.default_rng(0)
    lines = ["image,caption"]
    for i in range(48):
        picture = load_sample_images().images[i % 2]
        top, left = rng.integers(0, 150, 2)
        height, width = rng.integers(60, 270, 2)
        path = folder / "test" / "abcdef"[i % 6] / f"{i:02d}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(picture[top : top + height, left : left + width]).save(path)
        lines += [f"test/{'abcdef'[i % 6]}/{i:02d}.png,{text} {i}" for text in ("a crop", "one part", "this")]
    (folder / "captions.csv").write_text("\n".join(lines))
    return folder


def their_accuracies(logits, targets):
    """CLIP_benchmark's own accuracy and mean per-class recall; its `accuracy` needs an older NumPy to finish."""
    top = torch.from_numpy(logits).topk(5, 1, True, True)[1].t()
    correct = top.eq(torch.from_numpy(targets).view(1, -1).expand_as(top))
    try:
        acc1, acc5 = their_classification.accuracy(torch.from_numpy(logits), torch.from_numpy(targets), topk=(1, 5))
    except TypeError:
        acc1, acc5 = (float(correct[:k].reshape(-1).float().sum()) / len(targets) for k in (1, 5))
    from sklearn.metrics import balanced_accuracy_score

    return acc1, acc5, balanced_accuracy_score(targets, logits.argmax(1))


def check_zeroshot(spec, data, out):
    rows = {r.metric: r.value for r in zeroshot(spec, data, out=out).rows if not r.params}
    model, dataset = load_model(spec, device="cpu"), load_dataset(data, need="label")
    images = embed_images(model, dataset, store=None).features
    theirs = their_classification.zero_shot_classifier(
        model.module, model.tokenizer, list(dataset.classnames), list(dataset.templates), "cpu", amp=False
    ).T
    ours = torch.from_numpy(build_classifier(model, dataset, store=None)[0])
    assert (ours - theirs).abs().max() < 1e-6
    open_clips = open_clip.build_zero_shot_classifier(
        model.module,
        model.tokenizer,
        dataset.classnames,
        [lambda c, t=t: t.replace("{c}", c) for t in dataset.templates],
    ).T
    assert (ours - open_clips).abs().max() < 1e-6
    acc1, acc5, recall = their_accuracies((100 * images @ theirs.T).numpy(), dataset.labels)
    assert (rows["acc1"], rows["acc5"], rows["mean_per_class_recall"]) == (acc1, acc5, pytest.approx(recall, abs=1e-15))


def check_retrieval(spec, data, out):
    rows = {r.metric: r.value for r in retrieve(spec, data, out=out).rows if not r.params}
    model, dataset = load_model(spec, device="cpu"), load_dataset(data, need="caption")
    images = embed_images(model, dataset, store=None).features
    texts = embed_texts(model, dataset.captions, store=None).features
    scores = texts @ images.T
    positive = torch.zeros_like(scores, dtype=torch.bool)
    positive[torch.arange(len(scores)), torch.from_numpy(dataset.image_of_caption)] = True
    for k in (1, 5, 10):
        to_image = (their_recall_at_k(scores, positive, k) > 0).float().mean().item()
        to_text = (their_recall_at_k(scores.T, positive.T, k) > 0).float().mean().item()
        assert rows[f"image_retrieval_recall@{k}"] == pytest.approx(to_image, abs=1e-6)  # a float32 mean
        assert rows[f"text_retrieval_recall@{k}"] == pytest.approx(to_text, abs=1e-6)


def test_zero_shot_of_a_random_vit_b_32(vit_b_32, crops, tmp_path):
    check_zeroshot(str(vit_b_32 / "vit"), f"folder:{crops}", tmp_path / "z")


def test_zero_shot_of_a_trained_tiny(checkpoint, tmp_path):
    check_zeroshot(str(checkpoint), "digitworld/color:n=400", tmp_path / "z")
    check_zeroshot(str(checkpoint), "digitworld/digit:n=400", tmp_path / "z")


def test_retrieval_of_a_random_vit_b_32(vit_b_32, crops, tmp_path):
    check_retrieval(str(vit_b_32 / "vit"), f"csv:{crops}/captions.csv", tmp_path / "r")


def test_retrieval_of_a_trained_tiny_on_coco(checkpoint, shared_data, tmp_path):
    check_retrieval(str(checkpoint), f"csv:{shared_data('coco_val2017_ccby')}/captions.csv", tmp_path / "r")


def test_a_vit_b_32_by_every_road_gives_the_same_features(vit_b_32, crops):
    dataset = load_dataset(f"folder:{crops}", need="label").take(np.arange(8))
    roads = [("ViT-B-32", str(vit_b_32 / "vit.pt")), (f"local-dir:{vit_b_32}/vit", None), (str(vit_b_32 / "vit"), None)]
    found = []
    for spec, pretrained in roads:
        model = load_model(spec, pretrained, device="cpu")
        texts = embed_texts(model, ["a cat", "two dogs in a field of tall grass"], store=None).features
        found.append((torch.cat([embed_images(model, dataset, store=None).features, texts]), model.fingerprint))
    for features, fingerprint in found[1:]:
        assert (features - found[0][0]).abs().max() < 1e-5 and fingerprint == found[0][1]
