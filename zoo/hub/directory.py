"""Download the files of a source into a directory, or recognise files that are already there, and write SHA256SUMS."""

from __future__ import annotations

import re
import shutil
from collections.abc import Iterable, Mapping
from dataclasses import replace
from pathlib import Path

from zoo.core.output import as_output_error, atomic_output, check_room
from zoo.core.progress import OnProgress
from zoo.errors import CorruptFile, DownloadError
from zoo.hub.http.client import Client
from zoo.hub.http.resumable_download import OnBytes, fetch
from zoo.hub.http.sha256 import hash_file
from zoo.hub.locks import exclusive
from zoo.hub.source_table import RemoteFile, Source, redacted

SUMS = "SHA256SUMS"
"""The file that `sha256sum --check` reads. Its first line names the source of the files."""

_LOCK = ".download.lock"


def fetch_files(
    source: Source,
    directory: Path,
    known: Mapping[str, str],
    *,
    beside: int = 0,
    on_progress: OnProgress | None = None,
) -> dict[str, str]:
    """Download the files of a source that are missing in a directory, and check each.

    Args:
        source: Source of the files; not the Hub.
        directory: Directory, which is created if necessary.
        known: SHA-256 by file name from an earlier download; hashes in the source table take precedence.
        beside: Bytes that will also be needed on the same disk.
        on_progress: called as bytes are downloaded, once for each file.

        The model.
        SHA-256 by file name.

    Raises:
        DownloadError: A file cannot be downloaded, or a different file has its name.
        OutputError: The disk has too little space, or the directory cannot be written.
    """
    _make(directory)
    with exclusive(directory / _LOCK, f"downloads {redacted(source.model)}"):
        found = _own_sums(source, directory)
        known = {**found, **known}
        check_room(directory, sum(file.size or 0 for file in source.files) - _bytes_in(directory) + beside)
        with Client() as client:
            # Large files last: the small ones reveal a wrong address quickly.
            for file in sorted(source.files, key=lambda file: file.size or 0):
                expected = file if file.sha256 else replace(file, sha256=known.get(file.name))
                target = directory / file.name
                found[file.name] = _check_present(expected, target) or fetch(
                    expected, target, client=client, on_bytes=_bar(file.name, on_progress)
                )
                _write_sums(source, directory, found)
    (directory / _LOCK).unlink(missing_ok=True)
    return found


def copy_files(source: Source, files: list[Path], directory: Path) -> None:
    """Copy files from the Hub's cache into a directory.

    Raises:
        DownloadError: A different file has the name of one of them.
        OutputError: The disk has too little space, or the directory cannot be written.
    """
    _make(directory)
    with exclusive(directory / _LOCK, f"downloads {redacted(source.model)}"):
        found = _own_sums(source, directory)
        check_room(directory, sum(path.stat().st_size for path in files) - _bytes_in(directory))
        for path in files:
            sha256, target = hash_file(path), directory / path.name
            if not _check_present(RemoteFile(path.name, (), path.stat().st_size, sha256), target):
                with atomic_output(target) as temporary:
                    shutil.copyfile(path, temporary)
            found[path.name] = sha256
            _write_sums(source, directory, found)
    (directory / _LOCK).unlink(missing_ok=True)


def check_sums(directory: Path) -> None:
    """Compare the files in a directory with its SHA256SUMS, if it has one.

    Raises:
        CorruptFile: A file is missing or different.
    """
    for name, sha256 in _read_sums(directory)[1].items():
        path = directory / name
        if not path.is_file() or hash_file(path) != sha256:
            raise CorruptFile(path, f"is missing or does not match {SUMS}; copy it again")


def check_published(sources: Iterable[Source], checkpoint: Path) -> None:
    """Compare a checkpoint with the published files of a model, as far as their SHA-256 are known.

    Args:
        sources: Sources of the model. If none of their hashes is known, everything passes.
        checkpoint: a directory; its SHA256SUMS, checked by check_sums, is believed when it names a source.

    Raises:
        CorruptFile: it is none of the sources.
    """
    sources = list(sources)
    known = {file.name: file.sha256 for source in sources for file in source.files if file.sha256}
    if not known or _read_sums(checkpoint)[0] in map(_title, sources):
        return
    for name, sha256 in known.items():
        path = checkpoint / name
        if not path.is_file() or hash_file(path) != sha256:
            problem = "is missing" if not path.is_file() else "has another SHA-256"
            raise CorruptFile(
                checkpoint,
                f"is not the published {sources[0].model}: {name} {problem}; give force=True to accept it",
            )


def _check_present(file: RemoteFile, target: Path) -> str:
    """Return the SHA-256 of an existing file, or "" if it does not exist."""
    if not target.exists():
        return ""
    sha256 = hash_file(target)
    if sha256 != file.sha256 or file.size not in (None, target.stat().st_size):
        problem = "exists and differs from the file to download; move it away or choose another directory"
        raise DownloadError(f"{target} {problem}")
    return sha256


def _own_sums(source: Source, directory: Path) -> dict[str, str]:
    """Return the hashes that an earlier call recorded; each directory is for one source."""
    title, sums = _read_sums(directory)
    if title not in ("", _title(source)):
        raise DownloadError(f"{directory} already has the files of {title}; choose another directory")
    return sums


def _read_sums(directory: Path) -> tuple[str, dict[str, str]]:
    path = directory / SUMS
    lines = path.read_text(encoding="utf-8", errors="replace").splitlines() if path.is_file() else []
    found = (re.fullmatch(r"([0-9a-f]{64})  ([^/\\]+)", line) for line in lines)
    title = next((line.removeprefix("# ") for line in lines if line.startswith("# ")), "")
    return title, {each[2]: each[1] for each in found if each and each[2] not in (".", "..")}


def _write_sums(source: Source, directory: Path, sums: Mapping[str, str]) -> None:
    lines = [f"# {_title(source)}", *(f"{sha256}  {name}" for name, sha256 in sums.items()), ""]
    with atomic_output(directory / SUMS, force=True) as temporary:
        temporary.write_text("\n".join(lines), encoding="utf-8")


def _title(source: Source) -> str:
    return f"hf:{source.hub}" if source.hub else f"{redacted(source.model)} {source.format}".strip()


def _bytes_in(directory: Path) -> int:
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
