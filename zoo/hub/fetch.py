"""Download and convert a registered model or a URL once, and return the local file."""

from __future__ import annotations

import logging
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from zoo.core.output import check_room
from zoo.core.progress import OnProgress
from zoo.errors import ConfigError, FormatError, MissingWeights, OutputError
from zoo.hub.directory import check_published, check_sums, copy_files, fetch_files
from zoo.hub.model_cache import Cache
from zoo.hub.source_table import Source, find_source, read_table, redacted, source_of_url
from zoo.models.registry import resolve_name

logger = logging.getLogger("zoo")


def is_offline() -> bool:
    """Return whether ZOO_OFFLINE disables the network."""
    return os.environ.get("ZOO_OFFLINE", "").lower() not in ("", "0", "false", "no", "off")


def get_model(name: str, *, on_progress: OnProgress | None = None) -> Path:
    """Return the zoo file of a registered model. If it is not in the cache, it is downloaded and converted.

    Raises:
        UnknownName: There is no such model.
        MissingWeights: The model has no known source, or it is not cached and ZOO_OFFLINE is set.
        DownloadError: The download failed.
        OutputError: The disk is full, or the cache cannot be written.
        ZooError: The downloaded files are corrupt.
    """
    name, cache = resolve_name(name), Cache()
    if found := cache.find(name):
        return found.path
    source = find_source(name)
    _check_online(source)
    with cache.lock(name, f"downloads {name}"):
        if found := cache.find(name):
            return found.path
        logger.warning("downloading %s into the cache, %s", name, cache.root)
        with _fetched(source, beside=cache.root, on_progress=on_progress) as directory:
            return _convert(name, directory, source.format, on_progress)


@contextmanager
def published(
    name: str,
    format: str | None = None,
    *,
    keep: bool = False,
    beside: Path | None = None,
    on_progress: OnProgress | None = None,
) -> Iterator[tuple[Path, str | None]]:
    """Yield the checkpoint of a registered model and its format; it is downloaded if it is not in the cache.

    Args:
        name: Name of the model.
        format: Format of the published checkpoint; None means the usual one.
        keep: Whether the downloaded files stay in the cache after the block succeeds.
        beside: Directory in which the block will write as many bytes again, if it will.
        on_progress: called as bytes are downloaded.

    Raises:
        ZooError: As for get_model.
    """
    source, cache = find_source(name, format), Cache()
    found = cache.find(source.model)
    if found and found.origin.get("format") == source.format:
        yield found.path, None
        return
    _check_online(source)
    with (
        cache.lock(source.model, f"downloads {source.model}"),
        _fetched(source, keep=keep, beside=beside, on_progress=on_progress) as directory,
    ):
        yield directory, source.format


def get_url(url: str, *, on_progress: OnProgress | None = None) -> Path:
    """Return the local file of a URL, which is downloaded once.

    Raises:
        OptionError: The URL does not end in a file name, or contains a login.
        MissingWeights: The file is not in the cache, and ZOO_OFFLINE is set.
        DownloadError: The download failed, or the file differs from the one downloaded before.
        FormatError: The downloaded file is not a checkpoint.
        OutputError: The disk is full, or the cache cannot be written.
    """
    from zoo.formats.registry import detect_format

    cache = Cache()
    if found := cache.find(url):
        return found.path
    source = source_of_url(url)
    _check_online(source)
    with cache.lock(url, f"downloads {redacted(url)}"):
        if found := cache.find(url):
            return found.path
        with _fetched(source, on_progress=on_progress) as directory:
            path = directory / source.files[0].name
            detect_format(path)  # fails for other content, such as the login page of a captive portal
            return cache.add(url, path, {"format": "", "urls": [redacted(url)]}).path


def add_model(
    name: str,
    checkpoint: Path,
    format: str | None = None,
    *,
    force: bool = False,
    on_progress: OnProgress | None = None,
) -> Path:
    """Convert a checkpoint into the cache under the name of a registered model, and return the zoo file.

    Args:
        name: Name of the model.
        checkpoint: its files.
        format: their format; None recognises it.
        force: whether files are accepted that are not the published ones, or cannot be compared with them.
        on_progress: called as bytes are converted.

    Raises:
        CheckpointMismatch: The checkpoint is of another model.
        CorruptFile: a file is not the one in SHA256SUMS, which `zoo download --to` wrote beside it; or not the
            published one, whose SHA-256 is known.
        ZooError: The checkpoint cannot be read, or the cache cannot be written.
    """
    name = resolve_name(name)
    check_sums(checkpoint)
    if not force:
        check_published(read_table().get(name, {}).values(), checkpoint)
    with Cache().lock(name, f"fills the cache with {name}"):
        return _convert(name, checkpoint, format, on_progress)


def download(name: str, to: Path, format: str | None = None, *, on_progress: OnProgress | None = None) -> None:
    """Download the published files of a model into a directory with SHA256SUMS, for a machine without a network.

    Args:
        name: Name of a registered model, hf:org/name@revision, or the https address of a file.
        to: Directory, which is created if necessary. Files of an earlier call are kept and completed.
        format: Format of a registered model's checkpoint; None means the usual one.
        on_progress: called as bytes are downloaded.

    Raises:
        MissingWeights: ZOO_OFFLINE is set.
        DownloadError: A download failed, or a file differs from the one downloaded before.
        OutputError: The disk is full, or the directory cannot be written.
    """
    if name.startswith("hf:"):
        source = Source("", "", hub=name.removeprefix("hf:"))
    else:
        source = source_of_url(name) if "://" in name else find_source(name, format)
    _check_online(source)
    if source.hub:
        snapshot = _fetch_hub(source)
        files = sorted(path for path in snapshot.iterdir() if path.is_file()) if snapshot.is_dir() else [snapshot]
        copy_files(source, files, to)
        return
    cache = Cache()
    found = fetch_files(source, to, cache.known_hashes(source.model), on_progress=on_progress)
    with suppress(OutputError):  # the cache may belong to another user
        cache.remember_hashes(source.model, found)


@contextmanager
def _fetched(
    source: Source, *, keep: bool = False, beside: Path | None = None, on_progress: OnProgress | None = None
) -> Iterator[Path]:
    """Download a source for the block and remove the files if the block finds them corrupt.

    Hashes are recorded only after the block: hashes of corrupt files would make zoo refuse the right ones later.
    """
    if source.hub:
        yield _fetch_hub(source)
        return
    cache = Cache()
    directory = cache.source(source.model, source.format or "file")
    size = sum(file.size or 0 for file in source.files)
    same_disk = beside is not None and beside.stat().st_dev == directory.stat().st_dev
    if beside and not same_disk:
        check_room(beside, size)
    known = cache.known_hashes(source.model)
    found = fetch_files(source, directory, known, beside=size * same_disk, on_progress=on_progress)
    try:
        yield directory
    except (FormatError, ConfigError):
        logger.warning("the downloaded files of %s are corrupt and were removed", redacted(source.model))
        _remove(directory)
        raise
    cache.remember_hashes(source.model, found)
    if not keep:
        _remove(directory)


def _convert(name: str, checkpoint: Path, format: str | None, on_progress: OnProgress | None) -> Path:
    from zoo.conversion.run import convert_path

    cache = Cache()
    out = cache.source(name, "converted") / f"{name}.safetensors"
    try:
        report = convert_path(checkpoint, out, format=format, size=name, to="zoo", force=True, on_progress=on_progress)
        origin = {"format": report.source_format, "files": report.provenance.get("source_blake3", {})}
        return cache.add(name, out, origin).path
    finally:
        _remove(out.parent)


def _remove(directory: Path) -> None:
    shutil.rmtree(directory, ignore_errors=True)
    with suppress(OSError):
        directory.parent.rmdir()  # keep the directory if it has other files


def _fetch_hub(source: Source) -> Path:
    from zoo.hub.hub_client import fetch

    return fetch(source.hub, offline=is_offline())


def _check_online(source: Source) -> None:
    """Raise an error if ZOO_OFFLINE is set. Not called for the Hub, which has its own cache."""
    if not is_offline() or source.hub:
        return
    if "://" in source.model:
        name, use = redacted(source.model), "give the file's path"
    else:
        name, use = source.model, f"run `zoo cache add {source.model} DIR` (or give DIR's path)"
    raise MissingWeights(
        f"the weights of {name} are not on this machine, and ZOO_OFFLINE is set; on a machine with a network, "
        f"run `zoo download {name} --to DIR`, copy DIR here, and {use}"
    )
