"""Weights by tag and by hub id, from a cache folder as the hub's client lays it out, and from a small server."""

import http.server
import json
import threading
from urllib.parse import unquote

import huggingface_hub.constants
import pytest
import torch
from reference.small_towers import make_small_clip
from safetensors.torch import save_file

from clipib.errors import UserError
from clipib.models.load import load_model
from clipib.models.sources import find_model, resolve_model


@pytest.fixture
def hub_cache(tmp_path, monkeypatch):
    """An empty cache of the hub's client, offline; the result puts files of a repository there."""
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")

    def put(repo):
        home = tmp_path / "hub" / f"models--{repo.replace('/', '--')}"
        (home / "refs").mkdir(parents=True)
        (home / "refs" / "main").write_text("0" * 40)
        snapshot = home / "snapshots" / ("0" * 40)
        snapshot.mkdir(parents=True)
        return snapshot

    return put


def test_a_tag_brings_its_activation_and_preprocessing(hub_cache):
    random = load_model("ViT-B-32", "none", device="cpu", seed=2)
    state = {name: tensor.half() for name, tensor in random.module.state_dict().items()}
    save_file(state, hub_cache("timm/vit_base_patch32_clip_224.openai") / "open_clip_model.safetensors")
    for spec, pretrained in (("ViT-B-32", None), ("ViT-B-32", "openai"), ("ViT-B-32/openai", None)):
        model = load_model(spec, pretrained, device="cpu")
        blocks = [model.module.visual.transformer.resblocks[0], model.module.transformer.resblocks[0]]
        assert {type(block.mlp.gelu).__name__ for block in blocks} == {"QuickGELU"}
        assert model.config["quick_gelu"] and model.pretrained == "openai"
        assert torch.equal(model.module.visual.proj, state["visual.proj"].float())
        assert model.preprocess["mean"] == (0.48145466, 0.4578275, 0.40821073)
    same = load_model("ViT-B-32-quickgelu", "openai", device="cpu")
    assert same.fingerprint == model.fingerprint  # one checkpoint under two names


def test_a_hub_id_is_read_from_the_cache(hub_cache, checkpoint):
    folder = hub_cache("someone/tiny")
    for file in ("open_clip_config.json", "open_clip_model.safetensors"):
        (folder / file).write_bytes((checkpoint / file).read_bytes())
    model = load_model("hf-hub:someone/tiny", device="cpu")
    assert model.name == "someone/tiny" and model.pretrained == "hf-hub:someone/tiny"
    assert model.fingerprint == load_model(f"local-dir:{checkpoint}", device="cpu").fingerprint


def test_what_is_not_cached_fails_at_once(hub_cache):
    with pytest.raises(UserError, match="Offline, and not in the local cache"):
        load_model("hf-hub:someone/else", device="cpu")
    hub_cache("someone/half").joinpath("open_clip_config.json").write_text(json.dumps({"model_cfg": {}}))
    with pytest.raises(UserError, match="cannot be loaded"):
        load_model("hf-hub:someone/half", device="cpu")


@pytest.fixture(scope="module")
def small_clip(tmp_path_factory):
    return make_small_clip(tmp_path_factory.mktemp("small"), with_open_clip=False)[0]


SHA = "5" * 40


@pytest.fixture
def small_hub(tmp_path, monkeypatch, small_clip):
    """A hub on loopback with the repository `someone/clip`, which has the branch main and the tag v1.

    The result counts what was asked for, and turns the server off.
    """
    asked = []

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_HEAD(self):
            self.do_GET()

        def do_GET(self):
            path = unquote(self.path).partition("?")[0]
            asked.append(path)
            if path.startswith("/api/models/someone/clip/revision/") or path == "/api/models/someone/clip":
                revision = path.rpartition("/")[2]
                if revision not in ("clip", "main", "v1", SHA):
                    return self.reply(404, b"{}", {"X-Error-Code": "RevisionNotFound"})
                files = [{"rfilename": p.name} for p in small_clip.iterdir()]
                return self.reply(200, json.dumps({"id": "someone/clip", "sha": SHA, "siblings": files}).encode())
            if path == "/api/models/someone/clip/refs":
                refs = [{"name": "main", "ref": "refs/heads/main", "targetCommit": SHA}]
                tags = [{"name": "v1", "ref": "refs/tags/v1", "targetCommit": SHA}]
                return self.reply(200, json.dumps({"branches": refs, "tags": tags, "converts": []}).encode())
            if path == "/api/models":
                return self.reply(200, json.dumps([{"id": "someone/clip"}]).encode())
            if path.startswith("/api/models/someone/gated"):
                return self.reply(403, b"{}", {"X-Error-Code": "GatedRepo"})
            if path.startswith(f"/someone/clip/resolve/{SHA}/"):
                content = (small_clip / path.rpartition("/")[2]).read_bytes()
                return self.reply(200, content, {"ETag": f'"{len(content)}"', "X-Repo-Commit": SHA})
            return self.reply(404, b"{}", {"X-Error-Code": "RepoNotFound"})

        def reply(self, code, body, headers=()):
            self.send_response(code)
            for name, value in dict(headers).items():
                self.send_header(name, value)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            if self.command == "GET":
                self.wfile.write(body)

        def log_message(self, *_):
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
    address = f"http://127.0.0.1:{server.server_port}"
    monkeypatch.setattr(huggingface_hub.constants, "ENDPOINT", address)  # HF_ENDPOINT is read at import, once
    template = address + "/{repo_id}/resolve/{revision}/{filename}"
    monkeypatch.setattr(huggingface_hub.constants, "HUGGINGFACE_CO_URL_TEMPLATE", template)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    for variable in ("HTTPS_PROXY", "https_proxy", "HTTP_PROXY", "http_proxy", "ALL_PROXY", "all_proxy"):
        monkeypatch.delenv(variable, raising=False)

    def stop():
        server.shutdown()
        server.server_close()

    yield asked, stop
    stop()


def test_a_checkpoint_of_transformers_comes_from_the_hub_once(small_hub, small_clip, monkeypatch):
    asked, stop = small_hub
    source = find_model("hf:someone/clip@v1")
    assert source.pretrained == f"hf:someone/clip@{SHA}" and source.name == "someone/clip"
    assert [a for a in asked if a.endswith("model.safetensors")] == []  # nothing large before the plan is said
    model = load_model(source, device="cpu")
    assert model.fingerprint == load_model(str(small_clip), device="cpu").fingerprint
    assert sum(a.endswith("model.safetensors") for a in asked) > 0
    before = len(asked)
    assert load_model(f"hf:someone/clip@{SHA}", device="cpu").fingerprint == model.fingerprint
    assert len(asked) == before  # a commit that is cached is not asked for again
    assert load_model("hf:someone/clip", device="cpu").fingerprint == model.fingerprint
    stop()
    assert resolve_model("hf:someone/clip@" + SHA).location == f"someone/clip@{SHA}"
    with pytest.raises(UserError, match=r"Cannot fetch the model 'hf:someone/other': 127.0.0.1 cannot be reached"):
        resolve_model("hf:someone/other")


@pytest.mark.parametrize(
    "spec, message",
    [
        ("hf:someone/clip@v2", "'someone/clip' has no revision 'v2'. It has main, v1"),
        ("hf:someone/clop", "There is no repository 'someone/clop'.*Did you mean 'hf:someone/clip'"),
        ("hf:someone/gated", "is gated"),
    ],
)
def test_what_the_hub_does_not_have_is_told_with_what_it_has(small_hub, spec, message):
    with pytest.raises(UserError, match=message):
        resolve_model(spec)


def test_offline_a_checkpoint_of_transformers_comes_from_the_cache(hub_cache, small_clip):
    folder = hub_cache("someone/clip")
    for path in small_clip.iterdir():
        (folder / path.name).write_bytes(path.read_bytes())
    model = load_model("hf:someone/clip", device="cpu")
    assert model.pretrained == f"hf:someone/clip@{'0' * 40}"
    assert model.fingerprint == load_model(str(small_clip), device="cpu").fingerprint
    (folder / "model.safetensors").unlink()
    with pytest.raises(UserError, match="has no weights: its local copy holds"):
        find_model("hf:someone/clip")
    with pytest.raises(UserError, match="Offline, and not .*hf:someone/clap.*Did you mean 'hf:someone/clip'"):
        find_model("hf:someone/clap")
    hub_cache("someone/bert").joinpath("config.json").write_text(json.dumps({"model_type": "bert"}))
    with pytest.raises(UserError, match="type 'bert'"):
        find_model("hf:someone/bert")
