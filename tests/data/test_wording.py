import json

import pytest

from clipib.data.catalog import CATALOG
from clipib.data.dataset import Dataset
from clipib.data.wording import SIMPLE_7, Wording, reword
from clipib.errors import UserError


@pytest.fixture
def cats(photo_folder):
    from clipib.data.load import load_dataset

    return load_dataset(f"folder:{photo_folder}", need="label")


def test_template_sets_are_open_clips(cats):
    from open_clip.zero_shot_metadata import OPENAI_IMAGENET_TEMPLATES, SIMPLE_IMAGENET_TEMPLATES

    eighty = reword(cats, Wording(templates="openai80")).templates
    assert [t.replace("{c}", "x") for t in eighty] == [t("x") for t in OPENAI_IMAGENET_TEMPLATES]
    assert [t.replace("{c}", "x") for t in SIMPLE_7] == [t("x") for t in SIMPLE_IMAGENET_TEMPLATES]
    assert reword(cats, Wording(templates="single")).templates == ("a photo of a {c}.",)


def test_own_names_and_prompts_of_every_class(cats, tmp_path):
    (tmp_path / "names.txt").write_text("blue\nred\n")
    (tmp_path / "prompts.json").write_text(json.dumps({"blue": ["sky", "sea"], "red": ["fire"], "more": ["x"]}))
    wording = Wording(tmp_path / "names.txt", tmp_path / "prompts.json").check()
    worded = reword(cats, wording)
    assert worded.prompts == [["sky", "sea"], ["fire"]]
    assert worded.prompts_sha256 != reword(cats, Wording(tmp_path / "names.txt")).prompts_sha256
    assert reword(cats, Wording()).prompts_sha256 == cats.prompts_sha256


def test_prompts_of_the_classes_change_the_classifier(checkpoint, cats, tmp_path, photo_folder):
    import numpy as np

    from clipib.embeddings.encode import embed_texts
    from clipib.models.load import load_model
    from clipib.tasks.classifier import build_classifier

    model = load_model(str(checkpoint), device="cpu")
    worded = cats.changed(class_prompts=(("a red seven", "a blue one"), ("a green two",)))
    classes, _ = build_classifier(model, worded, store=None)
    texts = embed_texts(model, ["a red seven", "a blue one", "a green two"], store=None).array
    first = texts[0] + texts[1]
    assert classes[0] == pytest.approx(first / np.linalg.norm(first), abs=1e-6)
    assert classes[1] == pytest.approx(texts[2], abs=1e-6)
    united, _ = build_classifier(model, worded, store=None, pooling="union")
    assert united.shape[:2] == (2, 2)
    assert united[..., -1].sum(1) == pytest.approx([1, 1])
    assert united[1, 0, :-1] == pytest.approx(united[1, 1, :-1])


def test_languages():
    images = type("NoImages", (), {"ids": []})()
    entry = CATALOG["imagenet1k"]
    english = Dataset("imagenet1k", "test", images, classnames=entry.classnames, templates=entry.templates)
    for language, templates in (("ar", 55), ("cn", 80), ("it", 49), ("jp", 37)):
        worded = reword(english, Wording(language=language))
        assert (len(worded.classnames), len(worded.templates)) == (1000, templates)
    assert reword(english, Wording(language="it")).templates[0] == "una brutta foto di {c}"
    with pytest.raises(UserError, match="no class names in 'it'"):
        reword(english.changed(name="other"), Wording(language="it"))


@pytest.mark.parametrize(
    ("wording", "words"),
    [
        (Wording(templates="simpel7"), "is no file, nor one of openai80"),
        (Wording(language="xx"), "xx"),
        (Wording(classnames="missing.txt"), "cannot be read"),
    ],
)
def test_mistakes_are_found_before_any_work(wording, words):
    with pytest.raises(UserError, match=words):
        wording.check()


def test_names_and_prompts_that_do_not_fit(cats, tmp_path):
    (tmp_path / "three.txt").write_text("a\nb\nc")
    with pytest.raises(UserError, match="names 3 classes"):
        reword(cats, Wording(classnames=tmp_path / "three.txt"))
    for content, words in (
        ('{"blue dot": ["x"]}', "no prompts for"),
        ("[1]", "no object"),
        ('{"a": []}', "no list"),
        ("{", "cannot be read"),
    ):
        (tmp_path / "p.json").write_text(content)
        with pytest.raises(UserError, match=words):
            reword(cats, Wording(templates=tmp_path / "p.json"))


def test_words_of_ones_own_end_the_difference_to_the_registry(cats, tmp_path):
    differing = cats.changed(differences={"classnames": "x", "templates": "y"})
    (tmp_path / "two.txt").write_text("a\nb")
    assert list(reword(differing, Wording(classnames=tmp_path / "two.txt")).differences) == ["templates"]
    assert list(reword(differing, Wording(templates="simple7")).differences) == ["classnames"]
