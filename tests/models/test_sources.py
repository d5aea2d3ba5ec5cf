import json

import pytest

from clipib.errors import UserError
from clipib.models.sources import resolve_model


def test_the_activation_follows_the_tag():
    assert resolve_model("ViT-B-32").pretrained == "openai"
    assert resolve_model("ViT-B-32").quick_gelu is True
    assert resolve_model("ViT-B-32/laion2b_s34b_b79k").quick_gelu is False
    assert resolve_model("ViT-B-32-quickgelu", "metaclip_400m").quick_gelu is True


@pytest.mark.parametrize(
    "spec, pretrained, message, hint",
    [
        ("ViT-B-23", None, "Did you mean 'ViT-B-32'", ""),
        ("ViT-B-32", "opnai", "Did you mean 'openai'", ""),
        ("ViT-B-32/openai", "laion2b_e16", "names the tag", ""),
        ("ViT-B-32-quickgelu", "laion2b_s34b_b79k", "Unknown pretrained tag", "--model ViT-B-32"),
        ("ViT-B-32", "weights.pt", "no weights file", ""),
        ("tiny", None, "No pretrained weights", "clipib demo"),
        ("runs/nowhere", None, "neither a folder", ""),
        ("openai/clip-vit", None, "neither a folder", "write hf:openai/clip-vit"),
        ("hf:", None, "names no repository", "hf:ORG/NAME"),
        ("hf:a/b/c", None, "names no repository", "hf:ORG/NAME"),
        ("hf:a/b@", None, "no revision after the @", "a tag"),
        ("hf:a/b", "openai", "weights of its own", ""),
    ],
)
def test_what_cannot_be_resolved_names_what_is_near(spec, pretrained, message, hint, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError, match=message) as error:
        resolve_model(spec, pretrained)
    assert hint in error.value.hint


def test_a_folder_of_checkpoints_names_them(trained):
    with pytest.raises(UserError) as error:
        resolve_model(str(trained))
    assert str(trained / "best") in error.value.hint


def test_an_edited_activation_is_refused(checkpoint, tmp_path):
    import shutil

    folder = shutil.copytree(checkpoint, tmp_path / "edited")
    config = json.loads((folder / "open_clip_config.json").read_text())
    config["model_cfg"]["quick_gelu"] = True
    (folder / "open_clip_config.json").write_text(json.dumps(config))
    with pytest.raises(UserError, match=r"trained with the activation gelu.*says quick_gelu"):
        resolve_model(str(folder))


def test_a_misspelt_folder_names_the_one_that_is_there(checkpoint, monkeypatch):
    monkeypatch.chdir(checkpoint.parent)
    with pytest.raises(UserError, match="Unknown model 'lsat'. Did you mean 'last'"):
        resolve_model("lsat")


def test_a_folder_after_hf_is_told_from_a_repository(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "clip").mkdir()
    with pytest.raises(UserError, match="'clip' is a folder here") as error:
        resolve_model("hf:clip")
    assert "--model clip" in error.value.hint


def test_offline_an_uncached_tag_fails_at_once(monkeypatch):
    from clipib.models.sources import check_weights

    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    with pytest.raises(UserError, match="Offline, and not .* the weights ViT-B-32/openai") as error:
        check_weights(resolve_model("ViT-B-32"))
    assert "clipib demo" in error.value.hint
