"""Checkpoints in transformers' layout on the Hugging Face hub: which commit, which files."""

from __future__ import annotations

import re
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

from clipib.errors import UserError
from clipib.models.sources import require_hub
from clipib.registry import nearest

WEIGHTS = ("model.safetensors", "model.safetensors.index.json", "pytorch_model.bin", "pytorch_model.bin.index.json")
BESIDE = re.compile(
    r"(config|preprocessor_config|processor_config|tokenizer|tokenizer_config|special_tokens_map|added_tokens|vocab)"
    r"\.json|merges\.txt|spiece\.model|tokenizer\.model"
)


class Commit(NamedTuple):
    """One state of a repository. files: what it holds, or None where only the local cache was asked."""

    repo: str
    sha: str
    files: tuple[str, ...] | None = None


def find_commit(place: str) -> Commit:
    """The commit that `ORG/NAME` or `ORG/NAME@REVISION` stands for now; without network the cached one.

    Raises:
        UserError: for a name that cannot be, an unknown repository or revision, a gated one, or no network and no copy.
    """
    from huggingface_hub import HfApi, constants
    from huggingface_hub.errors import (
        GatedRepoError,
        HfHubHTTPError,
        HFValidationError,
        RepositoryNotFoundError,
        RevisionNotFoundError,
    )
    from huggingface_hub.utils import validate_repo_id

    repo, at, revision = place.partition("@")
    try:
        validate_repo_id(repo)
    except HFValidationError as error:
        raise UserError(f"'hf:{place}' names no repository.", hint="Write hf:ORG/NAME or hf:ORG/NAME@REV.") from error
    if at and not revision:
        raise UserError(f"'hf:{place}' has no revision after the @.", hint="Write a branch, a tag or a commit there.")
    if Path(repo).is_dir():
        raise UserError(f"'{repo}' is a folder here, hf: names a repository.", hint=f"Type --model {repo}.")
    cached = _cached(repo, revision or None)
    if cached and cached.sha == revision:
        return cached
    try:
        require_hub(f"the model 'hf:{place}'", repo=repo, files=())
    except UserError as error:
        if cached:
            return cached
        raise _with_neighbours(error, repo) from error
    api = HfApi(endpoint=constants.ENDPOINT)
    try:
        info = api.model_info(repo, revision=revision or None, timeout=20)
    except GatedRepoError as error:
        hint = f"Accept its terms at {constants.ENDPOINT}/{repo}, then set HF_TOKEN or run `hf auth login`."
        raise UserError(f"The repository '{repo}' is gated.", hint=hint) from error
    except RevisionNotFoundError as error:
        raise UserError(f"'{repo}' has no revision '{revision}'.{_revisions(api, repo)}") from error
    except RepositoryNotFoundError as error:
        missing = UserError(
            f"There is no repository '{repo}' on {constants.ENDPOINT}, or it is private.",
            hint="Check the name; a private one needs HF_TOKEN.",
        )
        raise _with_neighbours(missing, repo, api) from error
    except (HfHubHTTPError, OSError) as error:
        if cached:
            return cached
        text = str(error).strip().splitlines()
        reason = text[0] if text else type(error).__name__
        raise UserError(f"The hub did not answer for '{repo}': {reason}") from error
    return Commit(repo, info.sha, tuple(s.rfilename for s in info.siblings or ()))


def fetch_config(commit: Commit) -> Path:
    """The path of the commit's config.json, fetched where it is not cached.

    Raises:
        UserError: when there is none.
    """
    if commit.files is not None and "config.json" not in commit.files:
        hint = f"Write hf-hub:{commit.repo}." if "open_clip_config.json" in commit.files else ""
        layout = "open_clip's" if hint else "not transformers'"
        raise UserError(f"'{commit.repo}' has no config.json: its layout is {layout}.", hint=hint)
    return _download(commit, "config.json")


def fetch_checkpoint(commit: Commit) -> Path:
    """The folder that holds the commit's configuration, tokenizer and weights, fetched where they are not cached.

    Raises:
        UserError: when a file cannot be had.
    """
    folder = fetch_config(commit).parent
    for name in _wanted(commit, folder):
        _download(commit, name)
    return folder


def check_fetchable(commit: Commit) -> None:
    """Make sure that the commit has weights, cached or within reach.

    Raises:
        UserError: when it has none, or without network, naming what works there.
    """
    from huggingface_hub import try_to_load_from_cache

    folder = fetch_config(commit).parent
    for name in _wanted(commit, folder):
        if not isinstance(try_to_load_from_cache(commit.repo, name, revision=commit.sha), str):
            require_hub(f"{name} of '{commit.repo}'", repo=commit.repo, files=())
            return


def _wanted(commit: Commit, folder: Path) -> list[str]:
    """The files of a checkpoint; of several kinds of weights the first of `WEIGHTS`."""
    files = commit.files
    if files is None:
        files = tuple(p.name for p in folder.iterdir())
    kinds = [name for name in WEIGHTS if name in files]
    if not kinds:
        shown = ", ".join(files[:5]) or "nothing"
        where = "its local copy" if commit.files is None else "it"
        raise UserError(f"'{commit.repo}' has no weights: {where} holds {shown}; expected {WEIGHTS[0]}.")
    weights = [kinds[0]]
    if kinds[0].endswith(".index.json"):
        from clipib.models.sources import read_json

        index = read_json(_download(commit, kinds[0]), "index of weights")
        weights += sorted(set(index.get("weight_map", {}).values()))
    return [name for name in files if BESIDE.fullmatch(name)] + weights


def _download(commit: Commit, name: str) -> Path:
    from huggingface_hub import constants, hf_hub_download, try_to_load_from_cache
    from huggingface_hub.errors import GatedRepoError, HfHubHTTPError, LocalEntryNotFoundError

    known = try_to_load_from_cache(commit.repo, name, revision=commit.sha)
    if isinstance(known, str):
        return Path(known)
    if commit.files is None:
        require_hub(f"{name} of '{commit.repo}'", repo=commit.repo, files=())
    try:
        return Path(hf_hub_download(commit.repo, name, revision=commit.sha, endpoint=constants.ENDPOINT))
    except GatedRepoError as error:
        hint = f"Accept its terms at {constants.ENDPOINT}/{commit.repo}, then set HF_TOKEN or run `hf auth login`."
        raise UserError(f"The repository '{commit.repo}' is gated.", hint=hint) from error
    except (HfHubHTTPError, LocalEntryNotFoundError, OSError) as error:
        text = str(error).strip().splitlines()
        raise UserError(f"'{name}' of '{commit.repo}' cannot be fetched: {text[0] if text else error!r}") from error


def _cached(repo: str, revision: str | None) -> Commit | None:
    from huggingface_hub import try_to_load_from_cache

    config = try_to_load_from_cache(repo, "config.json", revision=revision)
    return Commit(repo, Path(config).parent.name) if isinstance(config, str) else None


def _with_neighbours(error: UserError, repo: str, api=None) -> UserError:
    """The same error with repositories of a like name: those in the local cache, and those of the same owner."""
    from huggingface_hub import constants
    from huggingface_hub.errors import HfHubHTTPError

    folders = Path(constants.HF_HUB_CACHE).glob("models--*")
    known = [p.name.removeprefix("models--").replace("--", "/") for p in folders]
    owner, slash, _ = repo.partition("/")
    if api is not None and slash:
        with suppress(HfHubHTTPError, OSError):
            known += [m.id for m in api.list_models(author=owner, limit=200)]
    close = nearest(repo, set(known) - {repo})
    found = " Did you mean " + " or ".join(f"'hf:{c}'" for c in close) + "?" if close else ""
    return UserError(error.message + found, hint=error.hint)


def _revisions(api, repo: str) -> str:
    """ " It has the branches and tags ...", or nothing where that cannot be asked."""
    from huggingface_hub.errors import HfHubHTTPError

    try:
        refs = api.list_repo_refs(repo)
    except (HfHubHTTPError, OSError):
        return ""
    names = [ref.name for ref in (*refs.branches, *refs.tags)]
    return f" It has {', '.join(names[:6])}{', ...' if len(names) > 6 else ''}." if names else ""
