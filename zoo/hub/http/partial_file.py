"""A partially downloaded file and a record of where it came from."""

from __future__ import annotations

import json
import os
import stat
from contextlib import suppress
from pathlib import Path
from typing import Any, BinaryIO

from zoo.core.output import atomic_output
from zoo.core.sync_and_rename import sync_path
from zoo.hub.source_table import RemoteFile, redacted


class Part:
    """`.NAME.part`, the first bytes of a file, and `.NAME.part.json`, a record of where they came from.

    Only one process at a time may have it open.

    Attributes:
        path: Path of the partial file.
        size: Bytes already downloaded that can be resumed from.
        stale: Whether the partial file has bytes of another file. They are kept until an address has answered.
        validator: The server's identifier of this version of the file; "" without one.
        total: Size of the complete file; None if unknown.
    """

    def __init__(self, target: Path) -> None:
        self.path = target.with_name(f".{target.name}.part")
        self._notes = target.with_name(f".{target.name}.part.json")
        self.size, self.validator, self.stale = 0, "", False
        self.total: int | None = None
        self._url = ""
        self._expected: int | None = None
        self._file: BinaryIO | None = None

    def noted_url(self) -> str:
        """The address that the bytes came from; "" if unknown."""
        return str(self._read_notes().get("url", "")) if self.path.exists() else ""

    def open(self, url: str, file: RemoteFile) -> bool:
        """Open the file for appending and return whether it can be resumed.

        It can if it came from this address and the server can tell whether the file has changed. It can also if its
        SHA-256 is known; then the address does not matter.
        """
        notes = self._read_notes()
        same = notes.get("url") == redacted(url)
        self.validator, self._url = (str(notes.get("validator", "")) if same else ""), url
        self._file = _open_own(self.path)
        here = self._file.tell()
        self._expected = file.size
        self.total = file.size if file.size is not None else notes.get("total")
        if (file.sha256 or self.validator) and type(self.total) is int and here <= self.total:
            self.size, self.stale = here, False
        else:
            self.size, self.stale, self.validator, self.total = 0, here > 0, "", file.size
        return self.size > 0

    def note(self, validator: str, total: int | None) -> None:
        """Record the version of the file that the bytes belong to."""
        if (validator, total) != (self.validator, self.total) or not self._notes.exists():
            self.validator, self.total = validator, total
            with atomic_output(self._notes, force=True, sync=False) as new:
                content = {"url": redacted(self._url), "validator": validator, "total": total}
                new.write_text(json.dumps(content), encoding="utf-8")

    def append(self, piece: bytes) -> None:
        """Append bytes and write them to the file without buffering."""
        assert self._file is not None
        self._file.write(piece)
        self._file.flush()
        self.size += len(piece)

    def clear(self) -> None:
        """Discard all bytes and start again."""
        self.size, self.stale, self.validator, self.total = 0, False, "", self._expected
        with suppress(FileNotFoundError):
            self._notes.unlink()
        if self._file and not self._file.closed:
            self._file.truncate(0)
        elif self.path.is_file():
            self.path.unlink()

    def close(self) -> None:
        """Close the file and keep its bytes."""
        if self._file:
            self._file.close()

    def publish(self, target: Path) -> None:
        """Give the whole file its name, once it is on the disk."""
        if self.stale:  # it is empty
            self.clear()
            self.path.touch()
        sync_path(self.path)
        os.replace(self.path, target)
        sync_path(target.parent)
        with suppress(FileNotFoundError):
            self._notes.unlink()

    def _read_notes(self) -> dict[str, Any]:
        try:
            notes = json.loads(self._notes.read_text(encoding="utf-8"))
        except (OSError, ValueError):
            return {}
        return notes if isinstance(notes, dict) else {}


def _open_own(path: Path) -> BinaryIO:
    """Open a file for appending; what somebody else put in its place, a link say, is replaced by a new file."""
    if os.path.lexists(path) and not _is_own(path):
        path.unlink()
    flags = os.O_RDWR | os.O_CREAT | os.O_APPEND | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_CLOEXEC", 0)
    return os.fdopen(os.open(path, flags, 0o666), "ab")


def _is_own(path: Path) -> bool:
    """Whether it is a regular file of this user with no second name elsewhere."""
    state = path.lstat()
    mine = not hasattr(os, "getuid") or state.st_uid == os.getuid()
    return stat.S_ISREG(state.st_mode) and state.st_nlink == 1 and mine
