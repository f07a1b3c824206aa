"""The Hugging Face Hub, through huggingface_hub, with the user's cache, tokens, endpoint and settings."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType
from typing import Any

from zoo.errors import DownloadError, MissingPackage, MissingWeights, OptionError, ZooError
from zoo.hub.checked_blobs import check_blobs

WEIGHTS = ("*.safetensors", "pytorch_model*.bin", "*.gguf", "*.pth", "*.pt", "*.bin")
"""Patterns of weight files. The first pattern that matches in a repository is downloaded."""

SMALL = ("*.json", "*.txt", "*.model", "*.bpe")
"""Patterns of configs, indexes and tokenizers."""


def fetch(name: str, *, offline: bool = False) -> Path:
    """Download the checkpoint of a Hub repository into the Hub's own cache and return its directory.

    If the repository has weights in several formats, only one is downloaded, safetensors if available.

    Args:
        name: "org/name" or "org/name@revision"; the revision is a branch, a tag or a commit.
        offline: Whether to use only the cache and contact no server.

    Returns:
        A directory, or the single weight file of a repository without config.json.

    Raises:
        OptionError: The name is not the name of a repository.
        MissingPackage: huggingface_hub is not installed.
        MissingWeights: The repository is not in the cache, and the network is disabled.
        DownloadError: The repository does not exist or is not accessible, the connection failed, or the bytes are
            wrong.
    """
    hub = load_library()
    repository, _, revision = name.partition("@")
    if repository.count("/") != 1 or not all(repository.split("/")):
        raise OptionError(f"hf:{name} is not a repository name; write hf:org/name or hf:org/name@revision")
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
    """Import huggingface_hub and return it.

    Raises:
        MissingPackage: It is not installed.
    """
    try:
        import huggingface_hub
        import huggingface_hub.constants
    except ImportError as error:
        raise MissingPackage("the Hugging Face Hub needs another package: pip install 'gpt2-zoo[hub]'") from error
    found: ModuleType = huggingface_hub
    return found


@contextmanager
def explained(repository: str, revision: str = "") -> Iterator[None]:
    """Turn errors of huggingface_hub inside the block into errors that say what to do; other exceptions pass through.

    Raises:
        DownloadError: The server refuses the request or cannot be reached.
        MissingWeights: There is no network, and the Hub's cache does not have the repository.
        OptionError: The Hub does not accept the name.
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
        return DownloadError(f"{where} is gated: request access on its page and log in with `hf auth login`")
    if isinstance(error, errors.RevisionNotFoundError):
        return DownloadError(f"{where}: the repository has no such revision")
    if isinstance(error, errors.RepositoryNotFoundError):
        hint = "if it is private, log in with `hf auth login` or set HF_TOKEN"
        return DownloadError(f"the repository {where} does not exist or is not accessible; {hint}")
    if isinstance(error, errors.LocalEntryNotFoundError | errors.OfflineModeIsEnabled | errors.RevisionResolutionError):
        hint = f"run `zoo download {where} --to DIR` on a machine with a network, copy DIR here and give its path"
        return MissingWeights(f"{where} is not in the Hub's cache, and the network is disabled or unavailable; {hint}")
    if isinstance(error, errors.HFValidationError):
        return OptionError(f"{where} is not the name of a repository: {error}")
    if status is not None:
        return DownloadError(f"{where}: the server answers HTTP {status}; {_HINTS.get(status, 'try again later')}")
    if isinstance(error, errors.HfHubHTTPError | OSError) or _is_unreachable(error):
        return DownloadError(f"{where}: {error}")
    # A failed upload is a RuntimeError that wraps the reason.
    return _explain(error.__cause__, where) if error.__cause__ else None


def _is_unreachable(error: BaseException) -> bool:
    """Return whether a request got no answer at all; the class depends on the version of the HTTP library."""
    return type(error).__module__.startswith("httpx") or isinstance(error, ConnectionError)


_HINTS = {
    401: "log in with `hf auth login` or set HF_TOKEN",
    403: "the token does not permit this; use another one",
    429: "wait a few minutes",
}


def _wanted(names: list[str]) -> list[str]:
    """Return the files of a repository that belong to its checkpoint; files in folders do not."""
    top = [name for name in names if "/" not in name]
    for pattern in WEIGHTS:
        if weights := [name for name in top if Path(name).match(pattern)]:
            break
    else:
        weights = []
    return weights + [name for name in top if any(Path(name).match(pattern) for pattern in SMALL)]
