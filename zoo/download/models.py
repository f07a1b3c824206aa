"""From a registered name, or a URL, to a file on this machine: downloaded and converted once."""

from __future__ import annotations

import logging
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path, PurePosixPath
from typing import Any
from urllib.parse import unquote, urlsplit

import zoo.progress
from zoo.download.cache import Cache, hash_file
from zoo.download.http import Client
from zoo.download.locks import exclusive
from zoo.download.sources import RemoteFile, Source, find_source
from zoo.download.transfer import OnBytes, check_room, fetch
from zoo.errors import DownloadError, MissingWeights, OptionError
from zoo.output import as_output_error
from zoo.progress import OnProgress
from zoo.registry import resolve_name

logger = logging.getLogger("zoo")


def is_offline() -> bool:
    """Whether ZOO_OFFLINE forbids to use the network."""
    return os.environ.get("ZOO_OFFLINE", "").lower() not in ("", "0", "false", "no", "off")


def get_model(name: str) -> Path:
    """Return the zoo file of a registered model; if it is not in the cache, it is downloaded and converted.

    Raises:
        UnknownName: there is no such model.
        MissingWeights: no source is known for it, or it is not here and ZOO_OFFLINE is set.
        DownloadError: it cannot be downloaded.
        OutputError: the disk is full, or the cache cannot be written.
        ZooError: what came is damaged.
    """
    name, cache = resolve_name(name), Cache()
    if found := cache.find(name):
        return found.path
    source = find_source(name)
    if is_offline():
        raise MissingWeights(_how_to_bring(name))
    with cache.lock(name, f"downloads {name}"):
        if found := cache.find(name):
            return found.path
        logger.warning("downloading %s to the cache, %s", name, cache.root)
        directory = download(source, None)
        path = add_model(name, directory, source.format)
        if not source.hub:
            remove_source(source)
        return path


@contextmanager
def published(name: str, format: str | None = None, *, keep: bool = False) -> Iterator[tuple[Path, str | None]]:
    """Give a registered model's checkpoint, and its format, for the block: downloaded, if it is not in the cache.

    Args:
        name: of the model.
        format: of the published checkpoint; None takes the usual one.
        keep: whether the downloaded files stay in the cache behind the block, if it ends well.

    Raises:
        ZooError: as get_model.
    """
    source, cache = find_source(name, format), Cache()
    found = cache.find(source.model)
    if found and found.origin.get("format") == source.format:
        yield found.path, None
        return
    if is_offline():
        raise MissingWeights(_how_to_bring(source.model))
    with cache.lock(source.model, f"downloads {source.model}"):
        yield download(source, None), source.format
        if not (keep or source.hub):
            remove_source(source)


def add_model(name: str, checkpoint: Path, format: str | None = None) -> Path:
    """Convert a checkpoint into the cache, as a registered model; returns the zoo file.

    Raises:
        CheckpointMismatch: it is not this model.
        ZooError: it cannot be read, or the cache cannot be written.
    """
    from zoo.conversion import convert

    name, cache = resolve_name(name), Cache()
    out = cache.source(f"{name}.converted") / f"{name}.safetensors"
    try:
        with zoo.progress.show() as on_progress:
            report = convert(checkpoint, out, format=format, size=name, to="zoo", force=True, on_progress=on_progress)
        origin = {"format": report.source_format, "files": report.provenance.get("source_blake3", {})}
        return cache.add(name, out, origin).path
    finally:
        shutil.rmtree(out.parent, ignore_errors=True)


def download(source: Source, to: Path | None) -> Path:
    """Download the files of a source, each checked, and return their directory.

    Args:
        source: what.
        to: the directory, made if need be; None takes one in the cache, or the Hub's own cache.

    Raises:
        DownloadError: a file cannot be downloaded, or is another one than the first time.
        OutputError: the disk is full, or the directory cannot be written.
    """
    if source.hub:
        return _download_hub(source.hub, to)
    cache = Cache()
    directory = to if to else cache.source(f"{source.model}.{source.format}")
    known = cache.known_hashes(source.model)
    found: dict[str, dict[str, Any]] = {}
    with zoo.progress.show() as on_progress, Client() as client:
        _make(directory)
        check_room(directory / "any", sum(file.size or 0 for file in source.files) - _bytes_here(directory))
        # Large files last: what is wrong with an address shows in the small ones.
        for file in sorted(source.files, key=lambda file: file.size or 0):
            expected = _expect(file, known)
            target = directory / file.name
            with exclusive(directory / f".{file.name}.lock", f"downloads {file.name}"):
                sha256 = _check_present(expected, target) or fetch(
                    expected, target, client=client, on_bytes=_bar(file.name, on_progress)
                )
            found[file.name] = {"size": target.stat().st_size, "sha256": sha256}
    for file in source.files:
        (directory / f".{file.name}.lock").unlink(missing_ok=True)
    if found != known and (to is None or os.access(cache.root, os.W_OK)):
        cache.remember_hashes(source.model, found)
    return directory


def remove_source(source: Source) -> None:
    """Delete the downloaded files of a source from the cache."""
    shutil.rmtree(Cache().source(f"{source.model}.{source.format}"), ignore_errors=True)


def get_url(url: str) -> Path:
    """Return the file of a URL; it is downloaded once.

    Raises:
        OptionError: the URL does not end in the name of a file.
        MissingWeights: it is not in the cache, and ZOO_OFFLINE is set.
        DownloadError: it cannot be downloaded, or is another file than before.
        OutputError: the disk is full, or the cache cannot be written.
    """
    cache = Cache()
    if found := cache.find(url):
        return found.path
    name = PurePosixPath(unquote(urlsplit(url).path)).name
    if not name or name in (".", "..") or set(name) & set("/\\\0"):
        raise OptionError(f"{url} does not end in the name of a file; give the address of a checkpoint of one file")
    if is_offline():
        raise MissingWeights(f"{url} is not in the cache, and ZOO_OFFLINE is set; download it elsewhere, give its path")
    with cache.lock(url, f"downloads {url}"):
        if found := cache.find(url):
            return found.path
        target = cache.source(url) / name
        expected = _expect(RemoteFile(name, (url,)), cache.known_hashes(url))
        with zoo.progress.show() as on_progress, Client() as client:
            sha256 = fetch(expected, target, client=client, on_bytes=_bar(name, on_progress))
        cache.remember_hashes(url, {name: {"size": target.stat().st_size, "sha256": sha256}})
        entry = cache.add(url, target, {"format": "", "urls": [url]})
        shutil.rmtree(target.parent, ignore_errors=True)
        return entry.path


def _expect(file: RemoteFile, known: dict[str, dict[str, Any]]) -> RemoteFile:
    """The file with the SHA-256 of the first time, where the table has none."""
    if file.sha256 or file.name not in known:
        return file
    return replace(file, sha256=known[file.name]["sha256"], size=known[file.name]["size"])


def _check_present(file: RemoteFile, target: Path) -> str:
    """The SHA-256 of a file that is here already; "" if it is not here."""
    if not target.exists():
        return ""
    sha256 = hash_file(target)
    if file.sha256 not in (None, sha256) or file.size not in (None, target.stat().st_size):
        raise DownloadError(f"{target} exists and is not the file that was to be downloaded; move it away")
    return sha256


def _bytes_here(directory: Path) -> int:
    return sum(path.stat().st_size for path in directory.iterdir())


def _bar(name: str, on_progress: OnProgress | None) -> OnBytes:
    def on_bytes(done: int, total: int | None) -> None:
        if on_progress:
            on_progress(name, done, total or done)

    return on_bytes


def _make(directory: Path) -> None:
    try:
        directory.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise as_output_error(error, directory) from error


def _download_hub(name: str, to: Path | None) -> Path:
    from zoo.hub import fetch as fetch_repository

    snapshot = fetch_repository(name)
    if to is None:
        return snapshot
    try:
        return Path(shutil.copytree(snapshot, to, symlinks=False, dirs_exist_ok=True))
    except OSError as error:
        raise as_output_error(error, to) from error


def _how_to_bring(name: str) -> str:
    return (
        f"the weights of {name} are not on this machine, and ZOO_OFFLINE is set; where there is a network, "
        f"run `zoo download {name} --to DIR`, bring DIR here, and run `zoo cache add {name} DIR` (or give DIR's path)"
    )
