"""The Hugging Face hub through its own client: what a repository holds, fetching it, and its errors in our words."""

from __future__ import annotations

import hashlib
import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

from clipib.errors import UserError

OFFLINE_SWITCHES = ("CLIPIB_OFFLINE", "HF_HUB_OFFLINE")
TRIES, PAUSE = (
    4,
    0.3,
)  # of one request, for connections that break and servers that are busy; seconds, doubled each time


class RemoteFile(NamedTuple):
    """A file of a repository as the hub lists it: size in bytes, and the hash that its content must have.

    sha256 is known for large files; of small ones the hub names git's hash of the blob.
    """

    path: str
    size: int
    sha256: str
    git_sha1: str


class Listing(NamedTuple):
    """A repository at one commit."""

    commit: str
    files: tuple[RemoteFile, ...]


def is_offline() -> bool:
    """Whether the user forbade the network."""
    return any(os.environ.get(v, "0") not in ("", "0") for v in OFFLINE_SWITCHES)


def endpoint() -> str:
    """The hub's address: HF_ENDPOINT names a mirror."""
    from huggingface_hub import constants

    return os.environ.get("HF_ENDPOINT") or constants.ENDPOINT


def list_repository(repo: str, revision: str = "", *, kind: str = "dataset") -> Listing:
    """The commit that a revision stands for, and its files.

    Args:
        revision: branch, tag or commit; "" is the main branch.

    Raises:
        UserError: for an unknown or closed repository or revision, or a hub that cannot be reached.
    """
    from huggingface_hub import HfApi

    what = f"{repo}@{revision}" if revision else repo
    api = HfApi(endpoint=endpoint())
    with hub_errors(what):
        info = _patiently(
            lambda: api.repo_info(repo, repo_type=kind, revision=revision or None, files_metadata=True, timeout=30)
        )
    files = tuple(
        RemoteFile(s.rfilename, s.size or 0, s.lfs.sha256 if s.lfs else "", s.blob_id or "")
        for s in info.siblings or ()
    )
    return Listing(info.sha, files)


def download_file(
    repo: str,
    file: RemoteFile,
    folder: Path,
    *,
    commit: str,
    kind: str = "dataset",
    advance: Callable[[int], object] = lambda n: None,
) -> str:
    """Fetch one file into `folder`, going on where an earlier attempt broke off, and hold it against the hub's hash.

    Args:
        advance: called with the number of new bytes.

    Returns:
        The file's sha256.

    Raises:
        UserError: when the connection keeps breaking, or the bytes are not those that the hub lists.
    """
    from huggingface_hub import hf_hub_download
    from huggingface_hub.utils import logging
    from tqdm.auto import tqdm

    logging.set_verbosity_error()  # connections that break are taken up again without a word

    class Bytes(tqdm):
        monitor_interval = 0  # else each download leaves a thread behind

        def __init__(self, *args, **options):
            super().__init__(*args, **{**options, "disable": True})

        def update(self, n=1):
            advance(int(n or 0))

    with hub_errors(f"{file.path} of {repo}"):
        path = _patiently(
            lambda: hf_hub_download(
                repo,
                file.path,
                repo_type=kind,
                revision=commit,
                local_dir=folder,
                endpoint=endpoint(),
                tqdm_class=Bytes,
            )
        )
    found = sha256_of(Path(path), file)
    if found is None:
        Path(path).unlink()
        raise UserError(
            f"{endpoint()} sent other bytes for '{file.path}' of {repo} than it lists; the file was removed.",
            hint="Try again; if it stays so, the mirror is at fault: set HF_ENDPOINT to another.",
        )
    return found


def sha256_of(path: Path, file: RemoteFile) -> str | None:
    """The sha256 of a file that is what the hub lists, else None."""
    sha256, git = hashlib.sha256(), hashlib.sha1(f"blob {path.stat().st_size}\0".encode())
    with path.open("rb") as stream:
        while block := stream.read(1 << 20):
            sha256.update(block)
            git.update(block)
    if file.sha256:
        return sha256.hexdigest() if sha256.hexdigest() == file.sha256 else None
    if file.git_sha1 and git.hexdigest() != file.git_sha1:
        return None
    return sha256.hexdigest()


@contextmanager
def hub_errors(what: str) -> Iterator[None]:
    """Say in one sentence why the hub did not give `what`.

    Raises:
        UserError: in place of every error of the hub's client.
    """
    from huggingface_hub import errors

    try:
        yield
    except errors.GatedRepoError as error:
        hint = f"Accept its conditions at {endpoint()}, then log in with `hf auth login`, or set HF_TOKEN."
        raise UserError(f"{what} is gated, and no token that may read it was given.", hint=hint) from error
    except errors.RevisionNotFoundError as error:
        raise UserError(f"{what}: there is no such revision.", hint="Check what stands after the @.") from error
    except errors.RepositoryNotFoundError as error:
        hint = "Check the spelling; a private one wants `hf auth login` or HF_TOKEN."
        raise UserError(f"{what}: there is no such repository at {endpoint()}.", hint=hint) from error
    except errors.EntryNotFoundError as error:
        if isinstance(error, errors.LocalEntryNotFoundError):
            raise _unreachable(what, error) from error
        raise UserError(f"{what}: there is no such file.") from error
    except errors.HFValidationError as error:
        raise UserError(f"{what} is no name of a repository.", hint="Write ORG/NAME or ORG/NAME@REVISION.") from error
    except errors.HfHubHTTPError as error:
        status = getattr(error.response, "status_code", "an error")
        hint = {429: "Too many requests: wait, or log in.", 401: "Log in with `hf auth login`."}.get(
            status, "Try again later."
        )
        raise UserError(f"{endpoint()} answered {status} to the request for {what}.", hint=hint) from error
    except (ConnectionError, TimeoutError) as error:
        raise _unreachable(what, error) from error
    except Exception as error:
        if _is_transport(error):
            raise _unreachable(what, error) from error
        if isinstance(error, OSError) and "Consistency check failed" in str(error):
            raise UserError(f"{what} arrived incomplete.", hint="Try again.") from error
        raise


def _patiently(request: Callable[[], Any]) -> Any:
    """Ask again, after a growing pause, where the server was busy."""
    for attempt in range(TRIES):
        try:
            return request()
        except Exception as error:
            if attempt == TRIES - 1 or is_offline() or not _may_pass(error):
                raise
        time.sleep(PAUSE * 2**attempt)


def _may_pass(error: Exception) -> bool:
    """Whether another attempt may succeed: the server was busy, and did not refuse."""
    status = getattr(getattr(error, "response", None), "status_code", None)
    if status is not None:
        return status >= 500 or status == 429
    if "Consistency check failed" in str(error):
        return True
    # The client closes the connections of all threads when one of them breaks; one that is refused stays refused.
    return _is_transport(error) and not type(error).__name__.startswith("Connect")


def _is_transport(error: Exception) -> bool:
    return type(error).__module__.partition(".")[0] in ("httpx", "httpx2", "httpcore", "httpcore2", "requests")


def _unreachable(what: str, error: Exception) -> UserError:
    if is_offline():
        return UserError(f"Offline, and not in the local cache: {what}.")
    reason = str(error).splitlines()[0] if str(error) else type(error).__name__
    return UserError(f"Cannot fetch {what}: {endpoint()} cannot be reached ({reason:.150}).", hint="Check the network.")
