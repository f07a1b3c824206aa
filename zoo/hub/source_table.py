"""The source table: where a registered model's files are downloaded from, and their known sizes and hashes."""

from __future__ import annotations

import os
import tomllib
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any
from urllib.parse import unquote, urlsplit

import platformdirs

from zoo.errors import ConfigError, MissingWeights, OptionError
from zoo.models.registry import resolve_name

PACKAGED = Path(__file__).parents[1] / "data" / "sources.toml"


@dataclass(frozen=True)
class RemoteFile:
    """A file that can be downloaded.

    Attributes:
        name: Local name.
        urls: Addresses of the same bytes, in order of preference.
        size: Size in bytes; None if unknown.
        sha256: SHA-256 in hexadecimal; None if unknown.
    """

    name: str
    urls: tuple[str, ...]
    size: int | None = None
    sha256: str | None = None


@dataclass(frozen=True)
class Source:
    """The source of one model: files by URL, or a repository on the Hugging Face Hub.

    Attributes:
        model: Registered name, or the URL itself.
        format: Format of the published checkpoint.
        files: Files to download; empty for a Hub repository.
        hub: "org/name" or "org/name@revision"; "" for files.
    """

    model: str
    format: str
    files: tuple[RemoteFile, ...] = ()
    hub: str = ""


def find_source(name: str, format: str | None = None) -> Source:
    """Return the source of a registered model.

    Args:
        name: Name or alias of the model.
        format: Format of the checkpoint; None means the first one in the table.

    Raises:
        UnknownName: There is no such model.
        MissingWeights: The table has no source for it, or none in this format.
        ConfigError: The user's table is malformed.
    """
    model = resolve_name(name)
    sources = read_table().get(model, {})
    if not sources:
        raise MissingWeights(
            f"no address is known for the weights of {model}; give the path of a checkpoint instead of the name"
        )
    if format is not None and format not in sources:
        raise MissingWeights(
            f"no address is known for {model} in the format {format}; known formats: {', '.join(sources)}"
        )
    return sources[format or next(iter(sources))]


def source_of_url(url: str) -> Source:
    """Return the source of a single file. Its model name is the URL.

    Raises:
        OptionError: The text is not a URL, does not end in a file name, or contains a login.
    """
    try:
        parts = urlsplit(url)
    except ValueError as error:
        raise OptionError(f"{redacted(url)!r} is not a valid address: {error}") from error
    name = PurePosixPath(unquote(parts.path)).name
    if not _is_plain(name):
        raise OptionError(
            f"{redacted(url)} does not end in a file name; give the address of a checkpoint that is a single file"
        )
    if "@" in parts.netloc:
        host = parts.netloc.rpartition("@")[2]
        raise OptionError(f"the address of {name} at {host} contains a login; put it into ~/.netrc instead")
    return Source(url, "", (RemoteFile(name, (url,)),))


def redacted(name: str) -> str:
    """Return a name, an address without its query: it may hold a token, and others can read the cache."""
    return name.partition("?")[0].partition("#")[0] if "://" in name else name


def read_table() -> dict[str, dict[str, Source]]:
    """Return all sources by model and format. Entries of the user's table replace those of the packaged one."""
    table = _parse(PACKAGED)
    own = own_table()
    if own.is_file():
        for model, sources in _parse(own).items():
            table[model] = {**sources, **{f: s for f, s in table.get(model, {}).items() if f not in sources}}
    elif "ZOO_SOURCES" in os.environ:
        raise ConfigError(f"ZOO_SOURCES is {own}, which is not a file")
    return table


def own_table() -> Path:
    """Return the path of the user's table: ZOO_SOURCES, or sources.toml in the config directory."""
    named = os.environ.get("ZOO_SOURCES")
    return Path(named) if named else platformdirs.user_config_path("zoo", appauthor=False) / "sources.toml"


def _parse(path: Path) -> dict[str, dict[str, Source]]:
    try:
        with path.open("rb") as file:
            models = tomllib.load(file)
        return {
            resolve_name(model): {kind: _source(resolve_name(model), kind, value) for kind, value in each.items()}
            for model, each in models.items()
        }
    except (OSError, tomllib.TOMLDecodeError, LookupError, TypeError, AttributeError, ValueError) as error:
        raise ConfigError(f"the source table {path} is malformed: {error}; see docs/downloads.md") from error


def _source(model: str, format: str, value: dict[str, Any]) -> Source:
    if unknown := set(value) - {"hub", "urls", "files"}:
        raise ValueError(f"{model}.{format} has the unknown key {min(unknown)!r}")
    if "hub" in value:
        return Source(model, format, hub=str(value["hub"]))
    bases = [url if url.endswith("/") else f"{url}/" for url in value["urls"]]
    files = [_file(name, tuple(base + name for base in bases), known) for name, known in value["files"].items()]
    if not bases or not files:
        raise ValueError(f"{model}.{format} needs urls and files")
    return Source(model, format, tuple(files))


def _file(name: str, urls: tuple[str, ...], known: dict[str, Any]) -> RemoteFile:
    size, sha256 = known.get("size"), known.get("sha256")
    if unknown := set(known) - {"size", "sha256"}:
        raise ValueError(f"{name} has the unknown key {min(unknown)!r}")
    if not _is_plain(name):
        raise ValueError(f"{name!r} is not a plain file name")
    if size is not None and (type(size) is not int or size < 0):
        raise ValueError(f"the size of {name} is {size!r}, which is not a number of bytes")
    if sha256 is not None and (len(sha256) != 64 or set(sha256) - set("0123456789abcdef")):
        raise ValueError(f"the sha256 of {name} is not 64 hexadecimal digits in lower case")
    return RemoteFile(name, urls, size, sha256)


def _is_plain(name: str) -> bool:
    return bool(name) and name not in (".", "..") and name.isprintable() and not set(name) & set("/\\")
