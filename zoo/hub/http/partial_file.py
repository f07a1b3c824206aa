"""A partially downloaded file and a record of where it came from."""

from __future__ import annotations

import json
import os
from contextlib import suppress
from pathlib import Path
from typing import Any, BinaryIO

from zoo.hub.source_table import RemoteFile


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
        same = notes.get("url") == url
        self.validator, self._url = (str(notes.get("validator", "")) if same else ""), url
        self._file = self.path.open("ab")
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
            new = self._notes.with_name(f"{self._notes.name}.new")
            new.write_text(json.dumps({"url": self._url, "validator": validator, "total": total}), encoding="utf-8")
            os.replace(new, self._notes)

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
        if self.path.exists():
            os.truncate(self.path, 0)

    def close(self) -> None:
        """Close the file and keep its bytes."""
        if self._file:
            self._file.close()

    def publish(self, target: Path) -> None:
        """Rename the complete file to its final name."""
        if self.stale:  # the file is empty
            self.clear()
        os.replace(self.path, target)
        with suppress(FileNotFoundError):
            self._notes.unlink()

    def _read_notes(self) -> dict[str, Any]:
        try:
            notes = json.loads(self._notes.read_text(encoding="utf-8"))
        except (OSError, ValueError):
            return {}
        return notes if isinstance(notes, dict) else {}
