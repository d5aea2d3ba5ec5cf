"""A hub on loopback: enough of the Hugging Face hub's protocol for the real clients, in one small server.

    with Hub() as hub:
        commit = hub.add("datasets/ORG/NAME", {"README.md": b"...", "data/train.parquet": Path("train.parquet")})
        hub.add("ORG/MODEL", Path("checkpoint"))  # a folder with everything in it
        hf_hub_download("ORG/NAME", "README.md", repo_type="dataset", endpoint=hub.url)
        subprocess.run([...], env=hub.env(tmp_path))

`huggingface_hub` and `datasets` read HF_ENDPOINT when they are imported: a test passes `endpoint=hub.url`, or starts a
fresh process with `hub.env(...)`. Faults are ordered beforehand (`fail`, `cut`, `tamper`, `gate`) and happen to whoever
asks. What was asked is in `hub.requests`, how many bytes of files went out in `hub.bytes_sent`.
"""

from __future__ import annotations

import hashlib
import io
import json
import math
import os
import re
import socket
import sys
import threading
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple
from urllib.parse import parse_qs, unquote, urlencode, urlsplit

TEXT = {"", ".cfg", ".csv", ".json", ".jsonl", ".md", ".py", ".tsv", ".txt", ".yaml", ".yml"}
LARGE = 10 * 2**20  # the hub wants larger files in LFS whatever their name
CHUNK = 2**16
DATE = "2024-01-01T00:00:00.000Z"

# Both match the quoted path: a revision such as refs/convert/parquet and a path in a tree are one quoted segment each.
API_URL = re.compile(r"/api/(models|datasets)/([^/]+(?:/[^/]+)??)(?:/(revision|tree|refs|paths-info)(?:/(.*))?)?")
FILE_URL = re.compile(r"/((?:datasets/)?[^/]+(?:/[^/]+)??)/resolve/([^/]+)/(.+)")


class Request(NamedTuple):
    """One request that was answered: `path` is unquoted and has the query, `range` is the header or None."""

    method: str
    path: str
    range: str | None
    status: int


class File(NamedTuple):
    """One version of a file; `sha256` is None for a small text file, which git holds itself."""

    source: bytes | Path
    size: int
    blob_id: str
    sha256: str | None
    pointer_size: int

    @property
    def etag(self) -> str:
        return self.sha256 or self.blob_id

    def open(self) -> BinaryIO:
        return self.source.open("rb") if isinstance(self.source, Path) else io.BytesIO(self.source)

    def lfs(self, key: str) -> dict[str, Any]:
        """The LFS record, whose hash bears another name in each answer of the hub; empty for a text file."""
        record = {key: self.sha256, "size": self.size, "pointerSize": self.pointer_size}
        return {"lfs": record} if self.sha256 else {}


class Repository:
    """All commits of one repository, none ever lost; branches and tags name them."""

    def __init__(self) -> None:
        self.commits: dict[str, dict[str, File]] = {}
        self.branches: dict[str, str] = {}
        self.tags: dict[str, str] = {}
        self.gated = False

    def commit_of(self, revision: str) -> str:
        commit = self.branches.get(revision) or self.tags.get(revision) or revision
        if commit not in self.commits:
            raise Refusal(404, "RevisionNotFound", f"Invalid rev id: {revision}")
        return commit


class Refusal(Exception):
    """An answer that is no success; `code` is what the client turns into its own exception."""

    def __init__(self, status: int, code: str, message: str, headers: Mapping[str, str] | None = None) -> None:
        super().__init__(message)
        self.status, self.code, self.message, self.headers = status, code, message, headers or {}


class Reply(NamedTuple):
    """`body` is sent from `start` on, `length` bytes of it."""

    status: int
    headers: dict[str, str]
    body: BinaryIO
    length: int
    start: int = 0
    is_file: bool = False


@dataclass
class Fault:
    """Something that happens to the next `times` requests whose path fits."""

    pattern: str
    times: float
    method: str | None = None
    status: int = 0
    after: int = 0
    headers: dict[str, str] = field(default_factory=dict)


class Hub:
    """The server and what it serves.

    A repository is called what follows the address: "ORG/NAME" for a model, "datasets/ORG/NAME" for a data set.

    Attributes:
        url: what HF_ENDPOINT must be; stays the same when the hub is stopped and started again.
        requests: every `Request` so far, in the order of the answers; `hub.requests.clear()` starts over.
        bytes_sent: bytes of files that went out, headers and listings not counted.
        tokens: who may read gated repositories.
        page_size: entries of a listing on one page.
    """

    def __init__(self) -> None:
        self.requests: list[Request] = []
        self.bytes_sent = 0
        self.tokens: set[str] = set()
        self.page_size = 1000
        self._repositories: dict[str, Repository] = {}
        self._fails: list[Fault] = []
        self._cuts: list[Fault] = []
        self._lock = threading.RLock()
        self._server: _Server | None = None
        self._port = 0

    def __enter__(self) -> Hub:
        return self.start()

    def __exit__(self, *exception: object) -> None:
        self.stop()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._port}"

    def start(self) -> Hub:
        self._server = _Server(("127.0.0.1", self._port), self)
        self._port = self._server.server_address[1]
        threading.Thread(target=self._server.serve_forever, args=(0.02,), name="hub", daemon=True).start()
        return self

    def stop(self) -> None:
        """Close the port and every open connection: from now on clients are refused."""
        if self._server is not None:
            self._server.shutdown()
            self._server.server_close()
            self._server.hang_up()
            self._server = None

    def env(self, home: Path) -> dict[str, str]:
        """The environment of a child process: this hub instead of the world, everything cached below `home`."""
        foreign = ("HF_", "HUGGING", "TRANSFORMERS_")
        kept = {
            name: value
            for name, value in os.environ.items()
            if not name.startswith(foreign) and not name.lower().endswith("_proxy") and name != "CLIPIB_OFFLINE"
        }
        return kept | {
            "HF_ENDPOINT": self.url,
            "HF_HOME": str(home / "huggingface"),
            "HF_HUB_DISABLE_TELEMETRY": "1",
            "HF_HUB_DISABLE_XET": "1",
            "HF_UPDATE_DOWNLOAD_COUNTS": "0",  # datasets would send a HEAD to a bucket elsewhere
            "DISABLE_SAFETENSORS_CONVERSION": "1",  # transformers would ask a service elsewhere
            "NO_PROXY": "*",
        }

    # What it serves

    def add(self, name: str, files: Mapping[str, bytes | Path | None] | Path, revision: str = "main") -> str:
        """Commit files on top of a branch; a new branch begins empty.

        Args:
            name: "ORG/NAME" or "datasets/ORG/NAME".
            files: contents by path in the repository (None removes one), or a folder.

        Returns:
            The commit, 40 hex digits. It follows from the contents and the history alone.
        """
        if isinstance(files, Path):
            files = {path.relative_to(files).as_posix(): path for path in files.rglob("*") if path.is_file()}
        with self._lock:
            repository = self._repositories.setdefault(name, Repository())
            parent = repository.branches.get(revision, "")
            tree = repository.commits.get(parent, {}) | {p: _file(p, c) for p, c in files.items() if c is not None}
            tree = {path: tree[path] for path in sorted(tree) if files.get(path, b"") is not None}
            content = json.dumps([name, parent, [(path, file.etag) for path, file in tree.items()]])
            commit = hashlib.sha1(content.encode()).hexdigest()
            repository.commits[commit] = tree
            repository.branches[revision] = commit
        return commit

    def tag(self, name: str, tag: str, revision: str = "main") -> None:
        repository = self._repository(name)
        repository.tags[tag] = repository.commit_of(revision)

    def tamper(self, name: str, revision: str, path: str, content: bytes, *, keep_hashes: bool = False) -> None:
        """Serve other bytes under the same commit.

        Args:
            keep_hashes: still announce the hashes of the old bytes, as a mirror with a bad disk would; else
                announce those of the new ones, as a mirror that was refilled would.
        """
        repository = self._repository(name)
        with self._lock:
            tree = repository.commits[repository.commit_of(revision)]
            changed = tree[path]._replace(source=content, size=len(content)) if keep_hashes else _file(path, content)
            tree[path] = changed

    def gate(self, name: str) -> None:
        """Refuse the files: 401 without a token, 403 with one that is not in `tokens`; listings stay open."""
        self._repository(name).gated = True

    def fail(
        self, pattern: str, status: int = 500, times: float = 1, *, method: str | None = None, retry_after: int = 0
    ) -> None:
        """Answer the next `times` requests that fit with an error; `math.inf` is for ever.

        Args:
            pattern: of the whole path of the request or its end from a slash on, without the query:
                "train/0.tar", "*.parquet", "api/datasets/ORG/NAME/*".
            method: only "HEAD" or "GET" or "POST"; None is any.
            retry_after: seconds, sent along with 429 and 503.
        """
        headers = {"Retry-After": str(retry_after)} if status in (429, 503) else {}
        self._fails.append(Fault(pattern, times, method, status=status, headers=headers))

    def cut(self, pattern: str, after: int, times: float = 1) -> None:
        """Close the connection `after` bytes into the next `times` bodies that fit and are longer than that."""
        self._cuts.append(Fault(pattern, times, "GET", after=after))

    # How it answers

    def answer(self, method: str, target: str, headers: Mapping[str, str], body: bytes) -> Reply:
        """The reply to one request.

        Raises:
            Refusal: for every reply that is no success.
        """
        url = urlsplit(target)
        if fault := self._due(self._fails, method, unquote(url.path)):
            raise Refusal(fault.status, "", f"Told to fail with {fault.status}", fault.headers)
        authorization = headers.get("Authorization") or ""
        if match := FILE_URL.fullmatch(url.path):
            name, revision, path = map(unquote, match.groups())
            repository = self._repository(name, anonymous=not authorization)
            if repository.gated and authorization.removeprefix("Bearer ") not in self.tokens:
                raise Refusal(403 if authorization else 401, "GatedRepo", f"Access to {name} is restricted.")
            return self._send_file(repository, revision, path, headers.get("Range"))
        if match := API_URL.fullmatch(url.path):
            kind, short_name, verb, rest = match.groups()
            query = parse_qs(url.query)
            name = short_name if kind == "models" else f"{kind}/{short_name}"
            repository = self._repository(unquote(name), anonymous=not authorization)
            revision, _, path = map(unquote, (rest or "main").partition("/"))
            if verb == "refs":
                return _json(_refs(repository))
            if verb == "tree":
                return self._tree(repository, revision, path, url.path, query)
            if verb == "paths-info":
                tree = repository.commits[repository.commit_of(revision)]
                paths = parse_qs(body.decode()).get("paths", [])
                return _json([entry for path in paths for entry in _entries(tree) if entry["path"] == path])
            return _json(self._info(unquote(name), revision, query))
        raise Refusal(404, "", f"This hub has no page {url.path}")

    def _repository(self, name: str, *, anonymous: bool = False) -> Repository:
        """As upstream, who does not say who they are learn nothing about what is missing."""
        if name not in self._repositories:
            raise Refusal(401 if anonymous else 404, "RepoNotFound", "Repository not found")
        return self._repositories[name]

    def _info(self, name: str, revision: str, query: dict[str, list[str]]) -> dict[str, Any]:
        repository = self._repository(name)
        commit = repository.commit_of(revision)
        siblings: list[dict[str, Any]] = [{"rfilename": path} for path in repository.commits[commit]]
        if query.get("blobs", [""])[0].lower() in ("1", "true"):
            for sibling, file in zip(siblings, repository.commits[commit].values(), strict=True):
                sibling |= {"size": file.size, "blobId": file.blob_id, **file.lfs("sha256")}
        gated = "auto" if repository.gated else False
        short_name = name.removeprefix("datasets/")
        info = {"id": short_name, "author": short_name.split("/")[0], "sha": commit, "gated": gated, "private": False}
        return info | {"siblings": siblings, "tags": [], "downloads": 0, "likes": 0, "lastModified": DATE}

    def _tree(self, repository: Repository, revision: str, path: str, url: str, query: dict[str, list[str]]) -> Reply:
        """A page of what is at or below `path`; the Link header leads to the next one."""
        commit = repository.commit_of(revision)
        entries = _entries(repository.commits[commit])
        if path and all(entry["path"] != path for entry in entries):
            raise Refusal(404, "EntryNotFound", f"{path} does not exist on {revision}")
        is_file = any(entry["path"] == path and entry["type"] == "file" for entry in entries)
        prefix = path + "/" if path else ""
        below = [e for e in entries if (e["path"] == path if is_file else e["path"].startswith(prefix))]
        if query.get("recursive", [""])[0].lower() != "true":
            below = [entry for entry in below if "/" not in entry["path"][len(prefix) :]]
        if query.get("expand", [""])[0].lower() == "true":
            below = [entry | {"lastCommit": {"id": commit, "title": "add", "date": DATE}} for entry in below]
        start = int(query.get("cursor", ["0"])[0])
        stop = start + self.page_size
        flat = {key: values[0] for key, values in query.items()} | {"cursor": str(stop)}
        following = {"Link": f'<{self.url}{url}?{urlencode(flat)}>; rel="next"'} if stop < len(below) else {}
        return _json(below[start:stop], following)

    def _send_file(self, repository: Repository, revision: str, path: str, wanted: str | None) -> Reply:
        commit = repository.commit_of(revision)
        file = repository.commits[commit].get(path)
        headers = {"X-Repo-Commit": commit, "Accept-Ranges": "bytes"}
        if file is None:
            raise Refusal(404, "EntryNotFound", f"{path} does not exist on {revision}", headers)
        headers |= {"ETag": f'"{file.etag}"', "Content-Type": "application/octet-stream"}
        if file.sha256:
            headers |= {"X-Linked-Etag": f'"{file.sha256}"', "X-Linked-Size": str(file.size)}
        start, stop = _span(wanted, file.size)
        if wanted:
            headers["Content-Range"] = f"bytes {start}-{stop - 1}/{file.size}"
        return Reply(206 if wanted else 200, headers, file.open(), stop - start, start, is_file=True)

    def _due(self, faults: Iterable[Fault], method: str, path: str, length: float = math.inf) -> Fault | None:
        """The first fault that fits, now spent once more."""
        with self._lock:
            for fault in faults:
                fits = fnmatchcase(path, fault.pattern) or fnmatchcase(path, "*/" + fault.pattern.lstrip("/"))
                if fits and fault.times > 0 and fault.method in (None, method) and length > fault.after:
                    fault.times -= 1
                    return fault
        return None


def _file(path: str, source: bytes | Path) -> File:
    """Hash as git and LFS do; a LFS file is, to git, a pointer of three lines."""
    size = source.stat().st_size if isinstance(source, Path) else len(source)
    sha256, blob = hashlib.sha256(), hashlib.sha1(f"blob {size}\0".encode())
    with File(source, size, "", None, 0).open() as content:
        while chunk := content.read(CHUNK):
            sha256.update(chunk)
            blob.update(chunk)
    if Path(path).suffix.lower() in TEXT and size <= LARGE:
        return File(source, size, blob.hexdigest(), None, 0)
    pointer = f"version https://git-lfs.github.com/spec/v1\noid sha256:{sha256.hexdigest()}\nsize {size}\n".encode()
    blob_id = hashlib.sha1(f"blob {len(pointer)}\0".encode() + pointer).hexdigest()
    return File(source, size, blob_id, sha256.hexdigest(), len(pointer))


def _entries(tree: dict[str, File]) -> list[dict[str, Any]]:
    """Folders and files of a commit as the hub lists them, by path."""
    folders = {parent.as_posix() for path in tree for parent in Path(path).parents} - {"."}
    entries = [
        {"type": "directory", "oid": hashlib.sha1(folder.encode()).hexdigest(), "size": 0, "path": folder}
        for folder in folders
    ] + [
        {"type": "file", "oid": file.blob_id, "size": file.size, "path": path, **file.lfs("oid")}
        for path, file in tree.items()
    ]
    return sorted(entries, key=lambda entry: entry["path"])


def _refs(repository: Repository) -> dict[str, list[dict[str, str]]]:
    refs: dict[str, list[dict[str, str]]] = {"branches": [], "converts": [], "tags": []}
    for name, commit in repository.branches.items():
        kind, ref = ("converts", name) if name.startswith("refs/convert/") else ("branches", f"refs/heads/{name}")
        refs[kind].append({"name": name.removeprefix("refs/convert/"), "ref": ref, "targetCommit": commit})
    for name, commit in repository.tags.items():
        refs["tags"].append({"name": name, "ref": f"refs/tags/{name}", "targetCommit": commit})
    return refs


def _span(wanted: str | None, size: int) -> tuple[int, int]:
    """(start, stop) of "bytes=A-B", "bytes=A-" or "bytes=-LAST"; everything where no range is wanted."""
    match = re.fullmatch(r"bytes=(\d*)-(\d*)", wanted or "bytes=0-")
    first, last = match.groups() if match else ("", "")
    start, stop = (int(first), int(last or size) + 1) if first else (max(size - int(last or 0), 0), size)
    if wanted and start >= size:
        raise Refusal(416, "", f"{wanted} of {size} bytes", {"Content-Range": f"bytes */{size}"})
    return start, min(stop, size)


def _json(value: object, headers: Mapping[str, str] | None = None) -> Reply:
    content = json.dumps(value).encode()
    return Reply(200, {"Content-Type": "application/json", **(headers or {})}, io.BytesIO(content), len(content))


class _Server(ThreadingHTTPServer):
    daemon_threads = True

    def __init__(self, address: tuple[str, int], hub: Hub) -> None:
        self.hub = hub
        self.connections: set[socket.socket] = set()
        super().__init__(address, _Handler)

    def process_request(self, request: Any, client_address: Any) -> None:
        self.connections.add(request)
        super().process_request(request, client_address)

    def shutdown_request(self, request: Any) -> None:
        self.connections.discard(request)
        super().shutdown_request(request)

    def hang_up(self) -> None:
        """Clients keep connections open between requests; closing the port alone would leave those served."""
        for connection in list(self.connections):
            try:
                connection.shutdown(socket.SHUT_RDWR)
            except OSError:  # gone already
                continue

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Clients may hang up whenever they like; anything else is a bug in the hub and is shown."""
        if not isinstance(sys.exc_info()[1], ConnectionError):
            super().handle_error(request, client_address)


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True  # head and body are two writes; together with delayed ACK that costs 40 ms each
    server: _Server

    def do_GET(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        try:
            reply = self.server.hub.answer(self.command, self.path, self.headers, body)
        except Refusal as refusal:
            headers = {"X-Error-Message": ascii(refusal.message)[1:-1], **refusal.headers}
            headers |= {"X-Error-Code": refusal.code} if refusal.code else {}
            reply = _json({"error": refusal.message}, headers)._replace(status=refusal.status)
        with reply.body:
            self._send(reply)

    do_HEAD = do_POST = do_GET

    def _send(self, reply: Reply) -> None:
        hub, url = self.server.hub, urlsplit(self.path)
        path = unquote(url.path)
        seen = path + (f"?{unquote(url.query)}" if url.query else "")
        with hub._lock:
            hub.requests.append(Request(self.command, seen, self.headers.get("Range"), reply.status))
        self.send_response(reply.status)
        for name, value in {**reply.headers, "Content-Length": str(reply.length)}.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command == "HEAD":
            return
        cut = hub._due(hub._cuts, self.command, path, reply.length) if reply.is_file else None
        left = cut.after if cut else reply.length
        reply.body.seek(reply.start)
        while left and (chunk := reply.body.read(min(CHUNK, left))):
            if reply.is_file:
                with hub._lock:
                    hub.bytes_sent += len(chunk)
            self.wfile.write(chunk)
            left -= len(chunk)
        self.close_connection = self.close_connection or cut is not None

    def log_message(self, *arguments: object) -> None:
        """Nothing on stderr."""
