"""The hub on loopback does to the real clients what the real hub does."""

import io
import json
import math
import socket
import subprocess
import sys
import tarfile
import urllib.request

import pytest
from hub import Hub, Request

README = b"# Plain text\n"
BIG = bytes(range(256)) * 2**12  # 1 MiB
NAME = "datasets/org/pictures"


@pytest.fixture
def commit(hub) -> str:
    return hub.add(NAME, {"README.md": README, "data/big.bin": BIG, "data/more/classnames.txt": b"cat\ndog\n"})


@pytest.fixture
def download(hub, tmp_path):
    """hf_hub_download from the data set above, into an empty cache; returns the bytes."""
    from huggingface_hub import hf_hub_download

    def fetch(path: str, repo_id: str = "org/pictures", **options: object) -> bytes:
        options = {"token": False, "cache_dir": tmp_path / "cache"} | options
        with open(hf_hub_download(repo_id, path, repo_type="dataset", endpoint=hub.url, **options), "rb") as file:
            return file.read()

    return fetch


@pytest.fixture
def api(hub):
    from huggingface_hub import HfApi

    return HfApi(endpoint=hub.url, token=False)


def test_a_file_arrives_once(hub, commit, download):
    url = "/datasets/org/pictures/resolve/main/data/big.bin"
    assert download("data/big.bin") == BIG
    assert hub.requests == [Request("HEAD", url, None, 200), Request("GET", url, None, 200)]
    assert hub.bytes_sent == len(BIG)
    hub.requests.clear()
    assert download("data/big.bin", revision=commit) == BIG
    assert hub.requests == []


def test_a_snapshot_has_every_file_under_its_commit(hub, commit, tmp_path):
    from huggingface_hub import snapshot_download

    folder = snapshot_download(
        "org/pictures", repo_type="dataset", endpoint=hub.url, cache_dir=tmp_path, token=False, max_workers=2
    )
    assert folder.endswith(commit)
    files = {p.relative_to(folder).as_posix(): p.read_bytes() for p in tmp_path.glob(f"*/snapshots/{commit}/**/*.*")}
    assert files == {"README.md": README, "data/big.bin": BIG, "data/more/classnames.txt": b"cat\ndog\n"}


def test_hashes_are_those_of_git_and_lfs(commit, api, tmp_path):
    """The blob id of text and the sha256 of the rest, against git itself."""
    import hashlib

    siblings = {s.rfilename: s for s in api.dataset_info("org/pictures", files_metadata=True).siblings}
    (tmp_path / "text").write_bytes(README)
    git = subprocess.run(["git", "hash-object", tmp_path / "text"], capture_output=True, text=True, check=True)
    text, big = siblings["README.md"], siblings["data/big.bin"]
    assert (text.blob_id, text.size, text.lfs) == (git.stdout.strip(), len(README), None)
    assert (big.lfs.sha256, big.lfs.size, big.size) == (hashlib.sha256(BIG).hexdigest(), len(BIG), len(BIG))
    plain = api.dataset_info("org/pictures")
    assert plain.sha == commit
    assert [(s.rfilename, s.size) for s in plain.siblings][0] == ("README.md", None)


def test_the_etag_is_the_hash(commit, hub):
    from huggingface_hub import get_hf_file_metadata, hf_hub_url

    def metadata(path: str):
        return get_hf_file_metadata(
            hf_hub_url("org/pictures", path, repo_type="dataset", endpoint=hub.url), token=False
        )

    text, big = metadata("README.md"), metadata("data/big.bin")
    assert (len(text.etag), text.size, text.commit_hash) == (40, len(README), commit)
    assert (len(big.etag), big.size) == (64, len(BIG))


@pytest.mark.parametrize("page_size", [1, 2, 1000])
def test_a_listing_is_read_over_all_its_pages(hub, commit, api, page_size):
    hub.page_size = page_size
    listed = [e.path for e in api.list_repo_tree("org/pictures", repo_type="dataset", recursive=True, revision=commit)]
    assert listed == ["README.md", "data", "data/big.bin", "data/more", "data/more/classnames.txt"]
    assert len(hub.requests) == math.ceil(5 / page_size)
    top = [e.path for e in api.list_repo_tree("org/pictures", "data", repo_type="dataset", expand=True)]
    assert top == ["data/big.bin", "data/more"]


def test_paths_and_refs(hub, commit, api):
    hub.add(NAME, {"0000.parquet": b"x"}, revision="refs/convert/parquet")
    hub.tag(NAME, "v1")
    known = api.get_paths_info("org/pictures", ["data", "README.md", "nowhere"], repo_type="dataset")
    assert [type(entry).__name__ for entry in known] == ["RepoFolder", "RepoFile"]
    refs = api.list_repo_refs("org/pictures", repo_type="dataset")
    assert [(r.name, r.target_commit) for r in (*refs.branches, *refs.tags)] == [("main", commit), ("v1", commit)]
    assert refs.converts[0].ref == "refs/convert/parquet"
    assert api.list_repo_files("org/pictures", repo_type="dataset", revision="refs/convert/parquet") == ["0000.parquet"]


def test_old_commits_stay_readable(hub, commit, download):
    hub.tag(NAME, "v1")
    newer = hub.add(NAME, {"README.md": b"changed", "data/big.bin": None})
    assert newer != commit
    assert download("README.md") == download("README.md", revision=newer) == b"changed"
    assert download("README.md", revision=commit) == download("README.md", revision="v1") == README
    with pytest.raises(OSError, match="404"):
        download("data/big.bin")


def test_equal_content_has_an_equal_commit():
    first, second = Hub(), Hub()
    assert first.add("a/b", {"x": b"1", "y": b"2"}) == second.add("a/b", {"y": b"2", "x": b"1"})
    assert first.add("a/b", {"x": b"3"}) != second.add("a/b", {"x": b"4"})


def test_a_folder_is_served_from_disk(hub, tmp_path, download):
    (tmp_path / "folder" / "sub dir").mkdir(parents=True)
    (tmp_path / "folder" / "sub dir" / "ä%2F+.tar").write_bytes(BIG)
    hub.add("datasets/org/folder", tmp_path / "folder")
    assert download("sub dir/ä%2F+.tar", "org/folder") == BIG


@pytest.mark.parametrize(
    "wanted, status, expected",
    [
        ("bytes=0-0", 206, BIG[:1]),
        ("bytes=3-9", 206, BIG[3:10]),
        ("bytes=1048570-", 206, BIG[-6:]),
        ("bytes=-5", 206, BIG[-5:]),
        ("bytes=1048575-99999999", 206, BIG[-1:]),
        ("bytes=1048576-", 416, None),
        ("bytes=-0", 416, None),
    ],
)
def test_ranges(hub, commit, wanted, status, expected):
    url = f"{hub.url}/{NAME}/resolve/{commit}/data/big.bin"
    request = urllib.request.Request(url, headers={"Range": wanted})
    if expected is None:
        with pytest.raises(urllib.error.HTTPError, match=str(status)):
            urllib.request.urlopen(request)
    else:
        with urllib.request.urlopen(request) as response:
            assert (response.status, response.read()) == (status, expected)
    assert hub.requests == [Request("GET", f"/{NAME}/resolve/{commit}/data/big.bin", wanted, status)]


def test_what_is_missing_is_named(commit, download, api):
    from huggingface_hub.errors import EntryNotFoundError, RepositoryNotFoundError, RevisionNotFoundError

    with pytest.raises(RepositoryNotFoundError, match="401"):
        download("README.md", "org/typo")
    with pytest.raises(RepositoryNotFoundError, match="404"):
        download("README.md", "org/typo", token="hf_any")
    with pytest.raises(RevisionNotFoundError):
        download("README.md", revision="v9")
    with pytest.raises(EntryNotFoundError):
        download("README.txt")
    with pytest.raises(RepositoryNotFoundError):
        api.model_info("org/pictures")
    with pytest.raises(RevisionNotFoundError):
        api.dataset_info("org/pictures", revision="0" * 40)
    with pytest.raises(EntryNotFoundError):
        list(api.list_repo_tree("org/pictures", "dat", repo_type="dataset"))


def test_a_gated_repository_opens_to_its_tokens(hub, commit, api, download):
    from huggingface_hub.errors import GatedRepoError

    hub.gate(NAME)
    hub.tokens = {"hf_good"}
    assert api.dataset_info("org/pictures").gated == "auto"
    with pytest.raises(GatedRepoError, match="401"):
        download("README.md")
    with pytest.raises(GatedRepoError, match="403"):
        download("README.md", token="hf_stranger")
    assert download("README.md", token="hf_good") == README


def test_errors_come_as_often_as_ordered(hub, commit, download):
    from huggingface_hub.errors import HfHubHTTPError

    hub.fail("data/big.bin", status=429, method="GET")
    assert download("data/big.bin") == BIG
    assert [r.status for r in hub.requests] == [200, 429, 200]
    hub.fail("*.md", status=500, method="GET")
    with pytest.raises(HfHubHTTPError, match="500"):
        download("README.md")
    assert download("README.md") == README
    hub.fail("api/datasets/org/*", status=503, times=2)
    statuses = []
    for _ in range(3):
        try:
            statuses.append(urllib.request.urlopen(f"{hub.url}/api/datasets/org/pictures").status)
        except urllib.error.HTTPError as error:
            statuses.append((error.code, error.headers["Retry-After"]))
    assert statuses == [(503, "0"), (503, "0"), 200]


def test_a_cut_download_resumes_where_it_was(hub, download):
    content = BIG * 11 + b"end"  # the client keeps what it has in steps of 10 MiB
    hub.add(NAME, {"train/0.tar": content})
    hub.cut("train/*.tar", after=len(content) - 100)
    assert download("train/0.tar") == content
    assert [(r.range, r.status) for r in hub.requests if r.method == "GET"] == [(None, 200), ("bytes=10485760-", 206)]
    assert hub.bytes_sent == (len(content) - 100) + (len(content) - 10 * 2**20)


def test_a_tampered_file_bears_the_old_commit(hub, commit, api, download):
    import hashlib

    other = b"x" + BIG[1:]

    def announced() -> str:
        files = api.dataset_info("org/pictures", revision=commit, files_metadata=True).siblings
        return next(f.lfs.sha256 for f in files if f.rfilename == "data/big.bin")

    honest = announced()
    hub.tamper(NAME, "main", "data/big.bin", other, keep_hashes=True)
    assert announced() == honest == hashlib.sha256(BIG).hexdigest()
    assert download("data/big.bin", revision=commit) == other
    hub.tamper(NAME, commit, "data/big.bin", other)
    assert announced() == hashlib.sha256(other).hexdigest()


def test_after_stop_the_door_is_shut(commit, hub, api):
    """Also for connections that a client keeps open; started again, the address is the same."""
    address, url = hub.url.removeprefix("http://").split(":"), hub.url
    kept = socket.create_connection(address, timeout=5)
    kept.sendall(b"GET /api/datasets/org/pictures HTTP/1.1\r\nHost: hub\r\n\r\n")
    assert kept.recv(12) == b"HTTP/1.1 200"
    hub.stop()
    while kept.recv(65536):
        pass
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection(address, timeout=5)
    hub.start()
    assert hub.url == url
    assert api.dataset_info("org/pictures").sha == commit


# A guard for child processes: what would leave loopback is noted and refused.
GUARD = """
import json, sys
strangers = []
def guard(event, arguments):
    if event not in ("socket.getaddrinfo", "socket.connect"):
        return
    host = arguments[0] if event == "socket.getaddrinfo" else arguments[1]
    host = host[0] if isinstance(host, tuple) else host
    if str(host) not in ("127.0.0.1", "localhost", "::1") and "/" not in str(host):
        strangers.append(str(host))
        raise OSError(f"{host} is not on loopback")
sys.addaudithook(guard)
"""


def run_child(hub, home, script: str, *arguments: str) -> dict:
    """What the script prints last, a line of JSON."""
    command = [sys.executable, "-c", GUARD + script, *arguments]
    child = subprocess.run(command, env=hub.env(home), cwd=home, capture_output=True, text=True, timeout=240)
    assert child.returncode == 0, child.stderr
    return json.loads(child.stdout.splitlines()[-1])


def picture(shade: int) -> bytes:
    from PIL import Image

    file = io.BytesIO()
    Image.new("RGB", (8, 6), (shade, shade, shade)).save(file, "PNG")
    return file.getvalue()


def parquet(shades: list[int]) -> bytes:
    import pyarrow
    import pyarrow.parquet

    images = [{"bytes": picture(shade), "path": None} for shade in shades]
    file = io.BytesIO()
    pyarrow.parquet.write_table(pyarrow.table({"image": images, "label": [s % 2 for s in shades]}), file)
    return file.getvalue()


def shard(shades: list[int]) -> bytes:
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w") as tar:
        for shade in shades:
            for name, content in ((f"s{shade:04d}.png", picture(shade)), (f"s{shade:04d}.cls", b"%d" % (shade % 2))):
                member = tarfile.TarInfo(name)
                member.size = len(content)
                tar.addfile(member, io.BytesIO(content))
    return file.getvalue()


CARD = b"""---
configs:
- config_name: default
  data_files:
  - {split: train, path: data/train-*}
  - {split: test, path: data/test-*}
dataset_info:
  features:
  - {name: image, dtype: image}
  - name: label
    dtype: {class_label: {names: {'0': cat, '1': dog}}}
---
"""

DATASETS = """
from datasets import load_dataset
from datasets.exceptions import DatasetNotFoundError
def shades(rows, image="image", label="label"):
    return [[row[image].getpixel((0, 0))[0], row[label]] for row in rows]
def said(*arguments, **options):
    try:
        return str(load_dataset(*arguments, **options))
    except DatasetNotFoundError as error:
        return str(error)
first, tars = sys.argv[1:]
table = load_dataset("org/table", revision=first)
out = {
    "names": table["test"].features["label"].names,
    "table": {split: shades(table[split]) for split in table},
    "table_stream": shades(load_dataset("org/table", revision=first, split="test", streaming=True)),
    "tars": shades(load_dataset("org/tars", revision=tars, split="test"), "png", "cls"),
    "tars_stream": shades(load_dataset("org/tars", revision=tars, split="test", streaming=True), "png", "cls"),
    "missing": said("org/typo"),
    "revision": said("org/table", revision="v9"),
    "gated": said("org/gated"),
}
out["pinned_left_for"] = list(strangers)
out["main"] = load_dataset("org/table", split="test").num_rows
print(json.dumps(out | {"left_for": strangers}))
"""


def test_datasets_reads_parquet_and_shards(hub, tmp_path):
    table = {"README.md": CARD, "data/train-0.parquet": parquet([10, 11, 12]), "data/test-0.parquet": parquet([20, 21])}
    tars = {
        "train/0.tar": shard([1]),
        "test/0.tar": shard([2, 3]),
        "test/1.tar": shard([4]),
        "classnames.txt": b"cat\n",
    }
    first = hub.add("datasets/org/table", table)
    hub.add("datasets/org/table", {"data/test-0.parquet": parquet([30, 31, 32])})
    pinned = hub.add("datasets/org/tars", tars)
    hub.add("datasets/org/gated", table)
    hub.gate("datasets/org/gated")
    out = run_child(hub, tmp_path, DATASETS, first, pinned)
    assert out["names"] == ["cat", "dog"]
    assert out["table"] == {"train": [[10, 0], [11, 1], [12, 0]], "test": [[20, 0], [21, 1]]}
    assert out["table_stream"] == [[20, 0], [21, 1]]
    assert out["tars"] == out["tars_stream"] == [[2, 0], [3, 1], [4, 0]]
    assert out["main"] == 3
    assert "'org/typo' doesn't exist" in out["missing"]
    assert "'v9' doesn't exist" in out["revision"]
    assert "must be authenticated" in out["gated"]
    assert out["pinned_left_for"] == []
    # Without a revision the client asks for an export next door, at a name that no resolver knows.
    assert set(out["left_for"]) <= {"datasets-server.127.0.0.1"}


MODELS = """
import torch, open_clip
from transformers import CLIPModel
model = open_clip.create_model("hf-hub:org/tiny").eval()
other = CLIPModel.from_pretrained("org/clip").eval()
grey = torch.full((1, 3, 32, 32), 0.5)
with torch.no_grad():
    ours, theirs = model.encode_image(grey), other.visual_projection(other.vision_model(grey).pooler_output)
print(json.dumps({"open_clip": ours[0].tolist(), "transformers": theirs[0].tolist(), "left_for": strangers}))
"""


def test_open_clip_and_transformers_load_their_models(hub, tmp_path):
    import torch
    from transformers import CLIPConfig, CLIPModel

    from clipib.models.checkpoint import save_checkpoint
    from clipib.models.load import load_model

    tiny = load_model("tiny", "none", device="cpu", seed=5)
    save_checkpoint(tiny, tmp_path / "tiny", {})
    small = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2}
    vision, text = small | {"image_size": 32, "patch_size": 16}, small | {"vocab_size": 99}
    torch.manual_seed(0)
    clip = CLIPModel(CLIPConfig(text_config=text, vision_config=vision, projection_dim=8)).eval()
    clip.save_pretrained(tmp_path / "clip")
    hub.add("org/tiny", tmp_path / "tiny")
    hub.add("org/clip", tmp_path / "clip")
    out = run_child(hub, tmp_path, MODELS)
    grey = torch.full((1, 3, 32, 32), 0.5)
    with torch.no_grad():
        ours = tiny.module.encode_image(grey)[0]
        theirs = clip.visual_projection(clip.vision_model(grey).pooler_output)[0]
    torch.testing.assert_close(torch.tensor(out["open_clip"]), ours, atol=1e-5, rtol=0)  # threads may differ
    torch.testing.assert_close(torch.tensor(out["transformers"]), theirs, atol=1e-5, rtol=0)
    assert out["left_for"] == []
