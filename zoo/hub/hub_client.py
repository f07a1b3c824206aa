"""The Hugging Face Hub, through huggingface_hub: its cache, tokens, endpoint and settings are the user's."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType
from typing import Any

from zoo.errors import DownloadError, MissingPackage, MissingWeights, OptionError, ZooError
from zoo.hub.checked_blobs import check_blobs

WEIGHTS = ("*.safetensors", "pytorch_model*.bin", "*.gguf", "*.pth", "*.pt", "*.bin")
"""Patterns of files with weights; of a repository those of the first pattern that it has are downloaded."""

SMALL = ("*.json", "*.txt", "*.model", "*.bpe")
"""Config, index and tokenizer."""


def fetch(name: str, *, offline: bool = False) -> Path:
    """Return the directory of a Hub repository's checkpoint, downloaded into the Hub's own cache.

    Of several kinds of weights only one is downloaded, safetensors if there are any.

    Args:
        name: "org/name" or "org/name@revision", the revision being a branch, a tag or a commit.
        offline: take what is in the cache, and ask no server.

    Returns:
        a directory; or the one file of weights, in a repository that has no config.json.

    Raises:
        OptionError: the name is no such name.
        MissingPackage: huggingface_hub is not installed.
        MissingWeights: it is not in the cache, and the network is not to be used.
        DownloadError: there is no such repository, it may not be read, the connection fails, or wrong bytes came.
    """
    hub = load_library()
    repository, _, revision = name.partition("@")
    if repository.count("/") != 1 or not all(repository.split("/")):
        raise OptionError(f"hf:{name} is no repository; write hf:org/name or hf:org/name@revision")
    offline = offline or hub.constants.HF_HUB_OFFLINE
    options = {"repo_id": repository, "revision": revision or None, "library_name": "zoo", "local_files_only": offline}
    with explained(repository, revision):
        patterns = None
        if not offline:
            try:
                patterns = _wanted(hub.list_repo_files(repository, revision=revision or None))
            except Exception as error:
                if not _is_unreachable(error):
                    raise
                options["local_files_only"] = True
        directory = Path(hub.snapshot_download(**options, allow_patterns=patterns))
    check_blobs(directory, repository)
    weights = [path for path in directory.iterdir() if any(path.match(pattern) for pattern in WEIGHTS)]
    return directory if (directory / "config.json").exists() or len(weights) != 1 else weights[0]


def load_library() -> Any:
    """Return huggingface_hub.

    Raises:
        MissingPackage: it is not installed.
    """
    try:
        import huggingface_hub
        import huggingface_hub.constants
    except ImportError as error:
        raise MissingPackage("the Hugging Face Hub needs a package: pip install 'gpt2-zoo[hub]'") from error
    found: ModuleType = huggingface_hub
    return found


@contextmanager
def explained(repository: str, revision: str = "") -> Iterator[None]:
    """Turn what huggingface_hub raises inside into sentences that say what to do; bugs stay as they are.

    Raises:
        DownloadError: the server refuses, or cannot be reached.
        MissingWeights: there is no network, and the Hub's cache has no such thing.
        OptionError: the name is none the Hub would take.
    """
    try:
        yield
    except ZooError:
        raise
    except Exception as error:
        found = _explain(error, f"hf:{repository}{f'@{revision}' if revision else ''}")
        if found is None:
            raise
        raise found from error


def _explain(error: BaseException, where: str) -> ZooError | None:
    from huggingface_hub import errors

    status = getattr(getattr(error, "response", None), "status_code", None)
    if isinstance(error, errors.GatedRepoError):
        return DownloadError(f"{where} is gated: ask for access on its page, and log in with `hf auth login`")
    if isinstance(error, errors.RevisionNotFoundError):
        return DownloadError(f"{where}: the repository has no such revision")
    if isinstance(error, errors.RepositoryNotFoundError):
        hint = "if it is private, log in with `hf auth login` or set HF_TOKEN"
        return DownloadError(f"there is no repository {where}, or it may not be seen; {hint}")
    if isinstance(error, errors.LocalEntryNotFoundError | errors.OfflineModeIsEnabled | errors.RevisionResolutionError):
        hint = f"run `zoo download {where} --to DIR` where there is a network, bring DIR here, and give its path"
        return MissingWeights(f"{where} is not in the Hub's cache, and the network is not used or not there; {hint}")
    if isinstance(error, errors.HFValidationError):
        return OptionError(f"{where} is no name of a repository: {error}")
    if status is not None:
        return DownloadError(f"{where}: the server answers HTTP {status}; {_HINTS.get(status, 'try again later')}")
    if isinstance(error, errors.HfHubHTTPError | OSError) or _is_unreachable(error):
        return DownloadError(f"{where}: {error}")
    # An upload that fails is a RuntimeError around the reason.
    return _explain(error.__cause__, where) if error.__cause__ else None


def _is_unreachable(error: BaseException) -> bool:
    """Whether a request never got an answer; the library of requests has had several names."""
    return type(error).__module__.startswith("httpx") or isinstance(error, ConnectionError)


_HINTS = {
    401: "log in with `hf auth login` or set HF_TOKEN",
    403: "the token may not do this; use one that can",
    429: "wait a few minutes",
}


def _wanted(names: list[str]) -> list[str]:
    """The files of a repository that make a checkpoint; those in folders are of something else."""
    top = [name for name in names if "/" not in name]
    for pattern in WEIGHTS:
        if weights := [name for name in top if Path(name).match(pattern)]:
            break
    else:
        weights = []
    return weights + [name for name in top if any(Path(name).match(pattern) for pattern in SMALL)]
