"""Data sets of the hub brought into a local folder, with a lock file that says what exactly was brought.

    ROOT/<name>/test/0.tar, ...     the files as they lie in the repository
    ROOT/<name>/.clipib.json        size and times of each file when it was last hashed
    ROOT/data.lock                  repository, commit, and sha256 and size of each file, by name

The lock can be kept under version control: with it another machine gets the same bytes or an error.
"""

from __future__ import annotations

import json
import os
import threading
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

import filelock

from clipib.data.http import download
from clipib.errors import UserError, try_all
from clipib.files import check_disk, default_cache_dir, file_stamp, size_text, write_aside
from clipib.hub import Listing, RemoteFile, download_file, is_offline, list_repository, sha256_of
from clipib.progress import SILENT, Progress, counted

LOCK_FILE, STAMPS_FILE = "data.lock", ".clipib.json"
SCHEMA = "clipib.data-lock/1"
AT_ONCE = 4  # files fetched at the same time
SIDE_FILES = ("classnames.txt", "zeroshot_classification_templates.txt", "dataset_type.txt")


class Wanted(NamedTuple):
    """One split of a repository of webdataset shards, and the name of its folder below the root."""

    name: str
    repo: str
    revision: str
    split: str


class Plan(NamedTuple):
    """What has to be brought for one data set."""

    wanted: Wanted
    listing: Listing
    files: tuple[RemoteFile, ...]

    @property
    def size_bytes(self) -> int:
        return sum(f.size for f in self.files)


def data_home(data_root: str | Path | None, cache_dir: str | Path | None = None) -> Path:
    """Where local copies lie: as named, else CLIPIB_DATA, else a folder in the cache."""
    root = data_root or os.environ.get("CLIPIB_DATA")
    return Path(root).expanduser() if root else Path(cache_dir or default_cache_dir()) / "data"


def is_complete(root: Path, wanted: Wanted) -> bool:
    """Whether all files of the split lie there as the lock names them; asks no network.

    Raises:
        UserError: when a file is not what was fetched.
    """
    locked = read_lock(root).get(wanted.name)
    if not locked or (wanted.revision and wanted.revision not in (locked["revision"], locked.get("asked"))):
        return False
    files = {path: f for path, f in locked["files"].items() if _belongs(path, wanted.split)}
    if not any(path.endswith(".tar") for path in files):
        return False
    folder = root / wanted.name
    if not all((folder / path).is_file() for path in files):
        return False
    _check_files(folder, files, wanted.name)
    return True


def plan_fetch(wanted: Iterable[Wanted], root: Path, *, update: bool = False) -> list[Plan]:
    """What is missing of these data sets, as the hub lists it; one that is complete is left out and asks no network.

    A data set that the lock names comes at its locked commit; `update` asks the repository for its newest.

    Raises:
        UserError: naming everything that cannot be had; for files that differ from the lock.
    """
    wanted = [w for w in wanted if update or not is_complete(root, w)]
    if not wanted:
        return []
    if is_offline():
        missing = [f"'{w.name}' ({w.split}) from {w.repo}" for w in wanted]
        names = " ".join(w.name for w in wanted[:6]) + (" ..." if len(wanted) > 6 else "")
        raise UserError(
            f"Offline, and not in '{root}': " + ("\n" * (len(missing) > 1)) + "\n".join(missing),
            hint=f"With network: clipib data fetch {names} --data-root {root}",
        )
    lock = read_lock(root)
    with ThreadPoolExecutor(8) as pool:
        looked = [pool.submit(_plan, w, root, {} if update else lock.get(w.name, {})) for w in wanted]
    return try_all(f.result for f in looked)


def fetch(wanted: Iterable[Wanted], root: Path, *, update: bool = False, progress: Progress = SILENT) -> list[Plan]:
    """Bring what is missing of these data sets, see `plan_fetch`.

    Returns:
        What was brought; data sets that were complete are left out.

    Raises:
        UserError: naming everything that cannot be had; for bytes that differ from the lock or the hub's own hashes.
    """
    plans = plan_fetch(wanted, root, update=update)
    total = sum(p.size_bytes for p in plans)
    check_disk(root, total, "the data")
    if len(plans) > 1:
        progress.say(f"fetching {counted(len(plans), 'data set')}, {size_text(total)} in all, into {root}")
    for plan in plans:
        progress.say(describe_plan(plan))
        _bring(plan, root, progress)
    return plans


def describe_plan(plan: Plan) -> str:
    """One line on what is to be fetched."""
    return (
        f"{plan.wanted.name} ({plan.wanted.split}): {counted(len(plan.files), 'file')} to fetch, "
        f"{size_text(plan.size_bytes)}, of {plan.wanted.repo} at {plan.listing.commit[:12]}"
    )


def fetch_url(base: str, split: str, name: str, root: Path, *, progress: Progress = SILENT) -> None:
    """Bring a split of webdataset shards from a web server, where it does not lie there yet; the lock records it.

    A plain server lists no hashes: what arrives first is what the lock holds later readings against.

    Raises:
        UserError: when nshards.txt or a shard cannot be had; for files that changed since they were fetched.
    """
    if is_complete(root, Wanted(name, base, "", split)):
        return
    if is_offline():
        raise UserError(f"Offline, and not in '{root}': '{base}' ({split}).")
    folder = root / name
    listed = folder / split / "nshards.txt"
    if not download(f"{base}/{split}/nshards.txt", listed):
        raise UserError(f"'{base}' has no split '{split}': there is no '{base}/{split}/nshards.txt'.")
    text = listed.read_text(errors="replace").strip()
    if not text.isdecimal():
        raise UserError(f"'{base}/{split}/nshards.txt' holds '{text[:20]}', not a number of shards.")
    paths = [f"{split}/nshards.txt", *(f for f in SIDE_FILES if download(f"{base}/{f}", folder / f))]
    shards = [f"{split}/{i}.tar" for i in range(int(text))]
    with progress.track(f"fetching {name}", len(shards), unit="shards") as advance:
        for shard in shards:
            if not (folder / shard).is_file() and not download(f"{base}/{shard}", folder / shard):
                raise UserError(f"'{base}' lacks the shard {shard}; nshards.txt names {text}.")
            advance()
    found = {}
    for path in (*paths, *shards):
        size = (folder / path).stat().st_size
        found[path] = {"sha256": sha256_of(folder / path, RemoteFile(path, size, "", "")), "size": size}
    plan = Plan(Wanted(name, base, "", split), Listing("", ()), ())
    _write_lock(root, plan, found)
    _write_stamps(folder, {**_read_stamps(folder), **{path: list(file_stamp(folder / path)) for path in found}})


def read_lock(root: Path) -> dict[str, Any]:
    """name -> {"repo", "revision", "files": {path: {"sha256", "size"}}} of what was fetched.

    Raises:
        UserError: when the lock file is damaged.
    """
    path = root / LOCK_FILE
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        return content["datasets"]
    except FileNotFoundError:
        return {}
    except (ValueError, KeyError, TypeError) as error:
        raise UserError(f"'{path}' is damaged: {error}.", hint="Restore it, or remove it to fetch anew.") from error


def hash_again(root: Path, name: str) -> int:
    """Hash every locked file of a data set, whatever its times say; the number of files.

    Raises:
        UserError: naming what is missing or changed.
    """
    files = read_lock(root).get(name, {}).get("files", {})
    (root / name / STAMPS_FILE).unlink(missing_ok=True)
    if missing := [path for path in files if not (root / name / path).is_file()]:
        raise UserError(f"'{name}' lacks {counted(len(missing), 'file')} that the lock names: {missing[0]}, ...")
    _check_files(root / name, files, name)
    return len(files)


def _plan(wanted: Wanted, root: Path, locked: dict[str, Any]) -> Plan:
    """The files of the split at the wanted, the locked or the newest commit; those that lie there are left out."""
    listing = list_repository(wanted.repo, wanted.revision or locked.get("revision", ""))
    files = [f for f in listing.files if _belongs(f.path, wanted.split)]
    if not any(f.path.endswith(".tar") for f in files):
        splits = sorted({f.path.split("/")[0] for f in listing.files if f.path.endswith(".tar") and "/" in f.path})
        found = f"it has {', '.join(splits)}" if splits else "it holds no shards of that layout"
        raise UserError(
            f"{wanted.repo} has no split '{wanted.split}' of webdataset shards: {found}.",
            hint=f"Write {wanted.name}:{splits[0]}." if splits else f"Try hf:{wanted.repo}.",
        )
    if listing.commit == locked.get("revision"):
        for file in files:
            known = locked["files"].get(file.path)
            if known and (known["size"] != file.size or (file.sha256 and known["sha256"] != file.sha256)):
                raise UserError(
                    f"'{file.path}' of {wanted.repo} changed under the same revision {listing.commit[:12]}: the hub's "
                    f"size or hash differs from data.lock.",
                    hint="Somebody serves other bytes under that name. Check the mirror; remove the entry from "
                    "data.lock only if you trust it.",
                )
    present = [f for f in files if _is_there(root / wanted.name, f, locked)]
    return Plan(wanted, listing, tuple(f for f in files if f not in present))


def _is_there(folder: Path, file: RemoteFile, locked: dict[str, Any]) -> bool:
    """Whether a file lies there whole: as the lock says, or where nothing was locked yet, by its hash."""
    path = folder / file.path
    if not path.is_file() or path.stat().st_size != file.size:
        return False
    if file.path in locked.get("files", {}) and not file.sha256:
        return True
    return sha256_of(path, file) is not None


def _bring(plan: Plan, root: Path, progress: Progress) -> None:
    """Download, and enter every file of the split into the lock, also those that lay there already."""
    folder, hashes = root / plan.wanted.name, {}
    folder.mkdir(parents=True, exist_ok=True)
    total = max(1, round(plan.size_bytes / 1e6))
    with progress.track(f"fetching {plan.wanted.name}", total, unit="MB") as advance:
        done, told, turn = 0, 0, threading.Lock()

        def count(n_bytes: int) -> None:
            nonlocal done, told
            with turn:
                done += n_bytes
                if (whole := min(total, round(done / 1e6))) > told:
                    advance(whole - told)
                    told = whole

        with ThreadPoolExecutor(AT_ONCE) as pool:
            jobs = {
                f.path: pool.submit(
                    download_file, plan.wanted.repo, f, folder, commit=plan.listing.commit, advance=count
                )
                for f in plan.files
            }
            hashes = dict(zip(jobs, try_all(job.result for job in jobs.values()), strict=True))
    found = {}
    for file in (f for f in plan.listing.files if _belongs(f.path, plan.wanted.split)):
        found[file.path] = {"sha256": hashes.get(file.path) or sha256_of(folder / file.path, file), "size": file.size}
    _write_lock(root, plan, found)
    _write_stamps(folder, {**_read_stamps(folder), **{path: list(file_stamp(folder / path)) for path in found}})


def _write_lock(root: Path, plan: Plan, found: dict[str, Any]) -> None:
    with filelock.FileLock(root / f".{LOCK_FILE}.lock"):
        datasets = read_lock(root)
        before = datasets.get(plan.wanted.name, {})
        kept = before.get("files", {}) if before.get("revision") == plan.listing.commit else {}
        datasets[plan.wanted.name] = {
            "repo": plan.wanted.repo,
            "asked": plan.wanted.revision or "main",
            "revision": plan.listing.commit,
            "files": dict(sorted({**kept, **found}.items())),
        }
        content = {"schema": SCHEMA, "datasets": dict(sorted(datasets.items()))}
        text = json.dumps(content, indent=1) + "\n"
        write_aside(root / LOCK_FILE, lambda f: f.write(text.encode()))


def _check_files(folder: Path, files: dict[str, Any], name: str) -> None:
    """Hold files against the lock; those whose size and times are as when last hashed are not hashed again."""
    stamps, news = _read_stamps(folder), {}
    for path, known in files.items():
        stamp = list(file_stamp(folder / path))
        if stamps.get(path) == stamp:
            continue
        if sha256_of(folder / path, RemoteFile(path, known["size"], known["sha256"], "")) is None:
            raise UserError(
                f"'{folder / path}' is not the file that data.lock names: its content changed.",
                hint=f"Remove it and type: clipib data fetch {name} --data-root {folder.parent}",
            )
        news[path] = stamp
    if news:
        _write_stamps(folder, {**stamps, **news})


def _belongs(path: str, split: str) -> bool:
    return path in SIDE_FILES or path.startswith(f"{split}/")


def _read_stamps(folder: Path) -> dict[str, list[int]]:
    try:
        return json.loads((folder / STAMPS_FILE).read_text())
    except (OSError, ValueError):
        return {}


def _write_stamps(folder: Path, stamps: dict[str, list[int]]) -> None:
    try:
        write_aside(folder / STAMPS_FILE, lambda f: f.write(json.dumps(stamps).encode()))
    except OSError:
        return  # a data root that cannot be written is hashed each time
