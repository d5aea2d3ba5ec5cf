"""Webdataset repositories brought into a local folder, from the hub or from a web server, under `data.lock`."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor, as_completed
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import filelock

from clipib.data.http import download
from clipib.data.lock import SIDE_FILES, belongs, holds, note_stamps, read_lock, write_entry
from clipib.errors import UserError, try_all
from clipib.files import check_disk, default_cache_dir, file_sha256, file_stamp, size_text
from clipib.hub import Listing, RemoteFile, download_file, is_offline, list_repository, sha256_of
from clipib.progress import SILENT, Progress, counted

AT_ONCE = 4  # files fetched at the same time
MOST_SHARDS = 100_000  # of one data set


class Wanted(NamedTuple):
    """One split of a repository of webdataset shards.

    name: of the data set and of its folder below the root. typed: how the user names it.
    """

    name: str
    repo: str
    revision: str
    split: str
    typed: str = ""


class Plan(NamedTuple):
    """What has to be brought for one data set: all files of the split, and those of them that are missing."""

    wanted: Wanted
    commit: str
    files: tuple[RemoteFile, ...]
    missing: tuple[RemoteFile, ...]

    @property
    def size_bytes(self) -> int:
        return sum(f.size for f in self.missing)


def data_home(data_root: str | Path | None, cache_dir: str | Path | None = None) -> Path:
    """Where local copies lie: as named, else CLIPIB_DATA, else a folder in the cache.

    Raises:
        UserError: when it is a file.
    """
    root = data_root or os.environ.get("CLIPIB_DATA")
    home = Path(root or Path(cache_dir or default_cache_dir()) / "data").expanduser()
    if home.is_file():
        raise UserError(f"--data-root '{home}' is a file, not a folder.", hint="Name a folder.")
    return home


def is_complete(root: Path, wanted: Wanted) -> bool:
    """Whether a split lies there whole, see `clipib.data.lock.holds`."""
    return holds(root, wanted.name, wanted.repo, wanted.revision, wanted.split)


def plan_fetch(wanted: Iterable[Wanted], root: Path, *, update: bool = False) -> list[Plan]:
    """What is missing of these data sets, as the hub lists it; one that is complete is left out and asks no network.

    A data set that the lock names comes at its locked commit; `update` asks the repository for its newest.

    Raises:
        UserError: naming everything that cannot be had; for files that differ from the lock.
    """
    complete = try_all(lambda w=w: not update and is_complete(root, w) for w in wanted)
    wanted = [w for w, done in zip(wanted, complete, strict=True) if not done]
    if not wanted:
        return []
    if is_offline():
        missing = [f"'{w.name}' ({w.split}) from {w.repo}" for w in wanted]
        raise UserError(
            f"Offline, and not in '{root}': " + ("\n" * (len(missing) > 1)) + "\n".join(missing),
            hint=f"With network: clipib data fetch {_typed(wanted)} --data-root {root}",
        )
    lock = read_lock(root)
    looks = [partial(_plan, w, root, lock.get(w.name), update) for w in wanted]
    try:
        first = looks[0]()  # one hub that cannot be reached is told once
    except UserError as error:
        if len(wanted) > 1 and "cannot be reached" in error.message:
            more = f" {counted(len(wanted), 'data set')} are not here."
            raise UserError(error.message + more, hint=error.hint) from error
        looks[0] = partial(_raise, error)
    else:
        looks[0] = partial(_same, first)
    with ThreadPoolExecutor(8) as pool:
        looked = [pool.submit(look) for look in looks]
    return try_all(f.result for f in looked)


def fetch(wanted: Iterable[Wanted], root: Path, *, update: bool = False, progress: Progress = SILENT) -> list[Plan]:
    """Bring what is missing of these data sets, see `plan_fetch`.

    Returns:
        What was brought; data sets that were complete are left out.

    Raises:
        UserError: naming everything that cannot be had; for bytes that differ from the lock or the hub's own hashes.
    """
    plans = plan_fetch(list(wanted), root, update=update)
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
        f"{plan.wanted.name} ({plan.wanted.split}): {counted(len(plan.missing), 'file')} to fetch, "
        f"{size_text(plan.size_bytes)}, of {plan.wanted.repo} at {plan.commit[:12]}"
    )


def fetch_url(wanted: Wanted, root: Path, *, progress: Progress = SILENT) -> None:
    """Bring a split of webdataset shards from a web server (`repo` is its address), where it does not lie there yet.

    A plain server lists no hashes: what arrives first is what the lock holds later readings against.

    Raises:
        UserError: when nshards.txt or a shard cannot be had; for files that changed since they were fetched.
    """
    if is_complete(root, wanted):
        return
    base, split, folder = wanted.repo, wanted.split, root / wanted.name
    if is_offline():
        raise UserError(f"Offline, and not in '{root}': '{base}' ({split}).")
    entry = _begun(root, wanted, "", {})
    with filelock.FileLock(root / f".{wanted.name}.lock"):
        listed = folder / split / "nshards.txt"
        if not download(f"{base}/{split}/nshards.txt", listed):
            raise UserError(f"'{base}' has no split '{split}': there is no '{base}/{split}/nshards.txt'.")
        text = listed.read_text(errors="replace").strip()
        if not text.isdecimal() or int(text[:9]) > MOST_SHARDS:
            raise UserError(f"'{base}/{split}/nshards.txt' holds '{text[:20]}', not a number of shards.")
        paths = [f"{split}/nshards.txt", *(f for f in SIDE_FILES if download(f"{base}/{f}", folder / f))]
        shards = [f"{split}/{i}.tar" for i in range(int(text))]
        with progress.track(f"fetching {wanted.name}", len(shards), unit="shards") as advance:
            for shard in shards:
                if not (folder / shard).is_file() and not download(f"{base}/{shard}", folder / shard):
                    raise UserError(f"'{base}' lacks the shard {shard}; nshards.txt names {text}.")
                advance()
        _finish(root, wanted, entry, {p: file_sha256(folder / p) for p in (*paths, *shards)})


def _plan(wanted: Wanted, root: Path, entry: dict[str, Any] | None, update: bool) -> Plan:
    """The files of the split at the wanted, the locked or the newest commit."""
    locked = entry["revision"] if entry and not update else ""
    listing = list_repository(wanted.repo, wanted.revision or locked)
    files = tuple(f for f in listing.files if belongs(f.path, wanted.split))
    if not any(f.path.endswith(".tar") for f in files):
        raise _no_split(wanted, listing)
    known = entry["files"] if entry and entry["revision"] == listing.commit else {}
    for file in files:
        if (before := known.get(file.path)) and (
            before["size"] != file.size or (file.sha256 and before["sha256"] not in (None, file.sha256))
        ):
            raise _changed(file.path, wanted.repo, listing.commit)
    missing = tuple(f for f in files if _hash_of(root / wanted.name, f, known) is None)
    return Plan(wanted, listing.commit, files, missing)


def _no_split(wanted: Wanted, listing: Listing) -> UserError:
    splits = sorted({f.path.split("/")[0] for f in listing.files if f.path.endswith(".tar") and "/" in f.path})
    found = f"it has {', '.join(splits)}" if splits else "it holds no shards of that layout"
    hint = f"Try hf:{wanted.repo}." if not splits else ""
    if splits and wanted.split == "test":  # a test set is never suggested to train on
        hint = f"Write {wanted.typed or wanted.name}:{splits[0]}."
    return UserError(f"{wanted.repo} has no split '{wanted.split}' of webdataset shards: {found}.", hint=hint)


def _changed(path: str, repo: str, commit: str) -> UserError:
    return UserError(
        f"'{path}' of {repo} changed under the same revision {commit[:12]}: its size or hash differs from data.lock.",
        hint="Somebody serves other bytes under that name. Check the mirror; remove the entry from data.lock only if "
        "you trust it.",
    )


def _hash_of(folder: Path, file: RemoteFile, known: dict[str, Any]) -> str | None:
    """The sha256 of a file that lies there as the hub and the lock have it, else None."""
    path = folder / file.path
    if not path.is_file() or path.stat().st_size != file.size:
        return None
    found, locked = sha256_of(path, file), known.get(file.path, {}).get("sha256")
    return None if locked and found != locked else found


def _bring(plan: Plan, root: Path, progress: Progress) -> None:
    """Download what is missing and enter the whole split into the lock; two runs at once do it one after the other."""
    wanted, folder = plan.wanted, root / plan.wanted.name
    files = {f.path: {"sha256": f.sha256 or None, "size": f.size} for f in plan.files}
    entry = _begun(root, wanted, plan.commit, files)
    lock_file = root / f".{wanted.name.replace('/', '-')}.lock"
    with filelock.FileLock(lock_file):
        entry = read_lock(root).get(wanted.name, entry)
        if wanted.split in entry["complete"] and entry["revision"] == plan.commit and is_complete(root, wanted):
            return
        _remove_others(folder, wanted.split, set(files))
        hashes = {f.path: _hash_of(folder, f, entry["files"]) for f in plan.files}
        missing = [f for f in plan.files if hashes[f.path] is None]
        with _counted(progress, wanted.name, sum(f.size for f in missing)) as count:
            for file in missing:
                (folder / file.path).unlink(missing_ok=True)
            jobs = [partial(download_file, wanted.repo, f, folder, commit=plan.commit, advance=count) for f in missing]
            hashes |= zip((f.path for f in missing), at_once(jobs, AT_ONCE, count.stop), strict=True)
        _finish(root, wanted, entry, hashes)


def _begun(root: Path, wanted: Wanted, commit: str, files: dict[str, Any]) -> dict[str, Any]:
    """The lock's entry before the first byte; what is known of the same commit stays, another commit begins anew."""
    entry = read_lock(root).get(wanted.name)
    if not entry or entry["revision"] != commit:
        entry = {
            "repo": wanted.repo,
            "asked": wanted.revision or "main",
            "revision": commit,
            "complete": [],
            "files": {},
        }
    entry["files"] = {**files, **entry["files"]}
    write_entry(root, wanted.name, entry)
    return entry


def _finish(root: Path, wanted: Wanted, entry: dict[str, Any], hashes: dict[str, str]) -> None:
    """Enter the split as complete."""
    folder = root / wanted.name
    for path, found in hashes.items():
        if (entry["files"].get(path) or {}).get("sha256") not in (None, found):
            (folder / path).unlink()
            raise _changed(path, wanted.repo, entry["revision"])
    files = {path: {"sha256": h, "size": (folder / path).stat().st_size} for path, h in hashes.items()}
    complete = sorted({*entry["complete"], wanted.split})
    write_entry(root, wanted.name, {**entry, "complete": complete, "files": {**entry["files"], **files}})
    note_stamps(folder, {path: list(file_stamp(folder / path)) for path in hashes})


def _remove_others(folder: Path, split: str, named: set[str]) -> None:
    """Take away what an earlier commit left of this split and beside it: what is read must be what the lock lists."""
    left = [*(folder / split).glob("*.tar"), folder / split / "nshards.txt", *(folder / f for f in SIDE_FILES)]
    for path in left:
        if path.is_file() and path.relative_to(folder).as_posix() not in named:
            path.unlink()


def at_once(jobs: list[Callable[[], Any]], n: int, stop: Callable[[], object]) -> list[Any]:
    """Results of jobs in order, n at the same time; the first failure, or Ctrl-C, ends all of them.

    Args:
        stop: told at once, for jobs that are running.
    """
    pool = ThreadPoolExecutor(n)
    try:
        running = [pool.submit(job) for job in jobs]
        for done in as_completed(running):
            done.result()
        return [job.result() for job in running]
    except BaseException:
        stop()
        pool.shutdown(wait=False, cancel_futures=True)
        raise
    finally:
        pool.shutdown(wait=False)


def _same(value: Any) -> Any:
    return value


def _raise(error: Exception) -> None:
    raise error


class Stopped(Exception):
    """The fetch that a download belongs to has ended."""


class _counted:
    """Bytes of several threads as megabytes of one bar."""

    def __init__(self, progress: Progress, name: str, n_bytes: int) -> None:
        self.total = max(1, round(n_bytes / 1e6))
        self.track = progress.track(f"fetching {name}", self.total, unit="MB")
        self.done, self.told, self.turn, self.stopped = 0, 0, threading.Lock(), False

    def __enter__(self) -> _counted:
        self.advance = self.track.__enter__()
        return self

    def stop(self) -> None:
        self.stopped = True

    def __call__(self, n_bytes: int) -> None:
        if self.stopped:
            raise Stopped
        with self.turn:
            self.done += n_bytes
            if (whole := min(self.total, round(self.done / 1e6))) > self.told:
                self.advance(whole - self.told)
                self.told = whole

    def __exit__(self, *error: Any) -> None:
        self.track.__exit__(*error)


def _typed(wanted: list[Wanted]) -> str:
    """The data sets as they are typed, suites by their own name."""
    return ",".join(dict.fromkeys(w.typed or w.name for w in wanted))
