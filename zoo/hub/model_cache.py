"""The model cache: complete, checked files under the SHA-256 of their bytes, and records that describe them.

objects/SHA256/NAME   a zoo file, or a file from a URL; read-only, never changed
records/KEY.json      the object of a model or URL, and its origin
hashes/KEY.json       SHA-256 of each file that was ever downloaded for it; different files are refused later
sources/KEY/          files that are being downloaded or were kept, and files that are being converted
locks/KEY.lock

A key is the name of a model, or derived from a URL. Reading needs no lock: a record is written atomically and after its
object.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import platformdirs

from zoo.core.output import as_output_error, atomic_output
from zoo.core.sync_and_rename import sync_path
from zoo.errors import OutputError
from zoo.hub.cache_names import key_of, plain_name
from zoo.hub.http.sha256 import hash_ends, hash_file
from zoo.hub.locks import exclusive, if_free
from zoo.hub.source_table import redacted

_TAG = "Signature: 8a477f597d28d172789f06886806bc55\n# A cache of zoo: `zoo cache list`.\n"


@dataclass(frozen=True)
class Entry:
    """A model in the cache.

    Attributes:
        name: Name of the model, or its URL without the query.
        key: Key of its record.
        path: Path of the file.
        size: Size in bytes.
        sha256: SHA-256 of the file, in hexadecimal.
        origin: Origin of the file: "format", "hub" or "urls", "files" with their hashes.
    """

    name: str
    key: str
    path: Path
    size: int
    sha256: str
    origin: dict[str, Any]


class Cache:
    """A directory of models. Nothing is created before the first write."""

    def __init__(self, root: Path | None = None) -> None:
        """Use a directory; None means ZOO_CACHE or the system's place for caches."""
        named = os.environ.get("ZOO_CACHE")
        self.root = root or (
            Path(named).expanduser() if named else platformdirs.user_cache_path("zoo", appauthor=False)
        )

    def find(self, name: str) -> Entry | None:
        """Return a model whose file is here and intact; None otherwise. Only its first and last bytes are
        read: see damage.
        """
        return self._read(self.root / "records" / f"{key_of(name)}.json", with_ends=True)

    def recorded(self, name: str) -> Entry | None:
        """Return a model whose record exists and whose file has the right size, even if it is damaged."""
        return self._read(self.root / "records" / f"{key_of(name)}.json")

    def entries(self) -> list[Entry]:
        """Return all models, sorted by name."""
        return [entry for path in sorted(self.root.glob("records/*.json")) if (entry := self._read(path))]

    def add(self, name: str, file: Path, origin: Mapping[str, Any]) -> Entry:
        """Move a file, which must be on the same disk, into the cache.

        Raises:
            OutputError: The cache cannot be written.
        """
        sha256 = hash_file(file)
        place = self.make("objects") / sha256
        size = file.stat().st_size
        record = {"name": redacted(name), "file": file.name, "size": size, "sha256": sha256, "ends": hash_ends(file)}
        record["origin"] = dict(origin)
        with self._changing():
            try:
                place.mkdir(exist_ok=True)
                file.chmod(file.stat().st_mode & 0o444)  # as the umask has it
                sync_path(file)
                os.replace(file, place / file.name)
                sync_path(place)
                sync_path(place.parent)
            except OSError as error:
                raise as_output_error(error, place) from error
            self._write("records", name, record)
            found = self.find(name)
        assert found is not None
        return found

    def remove(self, entry: Entry) -> None:
        """Delete a model. Its recorded hashes are kept, and so is an object that another name uses.

        Raises:
            OutputError: The cache cannot be written.
        """
        with self._changing():
            try:
                (self.root / "records" / f"{entry.key}.json").unlink(missing_ok=True)
                if entry.path.parent in self._without_record():
                    shutil.rmtree(entry.path.parent)
            except OSError as error:
                raise as_output_error(error, entry.path) from error

    def known_hashes(self, name: str) -> dict[str, str]:
        """Return SHA-256 of each file, by name, that was downloaded for a model before."""
        return {file: sha256 for file, sha256 in read_record(self._hashes(name)).items() if isinstance(sha256, str)}

    def remember_hashes(self, name: str, hashes: Mapping[str, str]) -> None:
        """Record the hashes of downloaded files for later downloads.

        Raises:
            OutputError: The cache cannot be written.
        """
        old = self.known_hashes(name)
        if (new := {**old, **hashes}) != old:
            self._write("hashes", name, new)

    def forget_hashes(self, name: str) -> None:
        """Delete the recorded hashes, so that different files are accepted next time.

        Raises:
            OutputError: The cache cannot be written.
        """
        try:
            self._hashes(name).unlink(missing_ok=True)
        except OSError as error:
            raise as_output_error(error, self._hashes(name)) from error

    def unfinished(self) -> list[Path]:
        """Return the directories of unfinished or kept downloads, and objects without a record."""
        begun = [path for path in sorted(self.root.glob("sources/*")) if directory_size(path)]
        return begun + self._without_record()

    def remove_unfinished(self) -> int:
        """Delete what unfinished() returns, except what a process is using, and return the number of bytes freed.

        Raises:
            OutputError: The cache cannot be written.
        """
        freed = 0
        with self._changing():
            for path in self._without_record():
                freed += _remove(path)
        for path in self.root.glob("sources/*"):
            with if_free(self.make("locks") / f"{path.name}.lock") as free:
                freed += _remove(path) if free else 0
        return freed

    def source(self, name: str, kind: str) -> Path:
        """Return the directory for a kind of files of a model, on their way."""
        return self.make("sources", key_of(name), kind)

    def lock(self, name: str, what: str) -> AbstractContextManager[None]:
        """Return a context in which only this process fills the cache with a model."""
        return exclusive(self.make("locks") / f"{key_of(name)}.lock", what)

    def make(self, *parts: str) -> Path:
        """Return a directory of the cache, which is created if necessary.

        Raises:
            OutputError: It cannot be created; the message says how to use another cache.
        """
        path = self.root.joinpath(*parts)
        try:
            path.mkdir(parents=True, exist_ok=True)
            tag = self.root / "CACHEDIR.TAG"  # backup programs skip directories with this file
            if not tag.exists():
                tag.write_text(_TAG, encoding="utf-8")
        except OSError as error:
            hint = "set ZOO_CACHE to a writable directory"
            raise OutputError(f"the cache {self.root} cannot be written ({error.strerror}); {hint}") from error
        if not os.access(path, os.W_OK):
            raise OutputError(f"the cache {self.root} cannot be written; set ZOO_CACHE to a writable directory")
        return path

    def _changing(self) -> AbstractContextManager[None]:
        """Return a context in which only this process changes objects and records."""
        return exclusive(self.make("locks") / ".objects.lock", "changes the cache")

    def _without_record(self) -> list[Path]:
        known = {entry.path.parent for entry in self.entries()}
        return [path for path in sorted(self.root.glob("objects/*")) if path not in known]

    def _hashes(self, name: str) -> Path:
        return self.root / "hashes" / f"{key_of(name)}.json"

    def _read(self, path: Path, *, with_ends: bool = False) -> Entry | None:
        record = read_record(path)
        try:
            file = self.root / "objects" / plain_name(record["sha256"]) / plain_name(record["file"])
            whole = file.stat().st_size == record["size"]
            whole = whole and (not with_ends or hash_ends(file) == record["ends"])
            entry = Entry(record["name"], path.stem, file, record["size"], record["sha256"], record["origin"])
        except (OSError, KeyError, TypeError, ValueError):
            return None
        return entry if whole else None

    def _write(self, kind: str, name: str, record: Mapping[str, Any]) -> None:
        with atomic_output(self.make(kind) / f"{key_of(name)}.json", force=True) as temporary:
            temporary.write_text(json.dumps(record, indent=2) + "\n", encoding="utf-8")


def damage(entry: Entry) -> str:
    """Read a cached file and return what is wrong with it, or ""."""
    try:
        found = hash_file(entry.path)
    except OSError as error:
        return f"cannot be read ({error.strerror})"
    return "" if found == entry.sha256 else f"its SHA-256 is {found}, not {entry.sha256}"


def directory_size(path: Path) -> int:
    """Return the number of bytes in a directory, including its subdirectories."""
    return sum(file.stat().st_size for file in path.rglob("*") if file.is_file())


def _remove(path: Path) -> int:
    size = directory_size(path)
    shutil.rmtree(path, ignore_errors=True)
    return size


def read_record(path: Path) -> dict[str, Any]:
    """Return a JSON object of a file, {} where there is none."""
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}
