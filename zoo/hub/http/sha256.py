"""SHA-256 of a file during its download, on a separate thread, because hashing takes as long as a fast network."""

from __future__ import annotations

import hashlib
import queue
import threading
from pathlib import Path

_BLOCK = 1 << 20
_END_BYTES = 64 << 10


class Hasher:
    """Computes the SHA-256 of the first bytes of a file and of all bytes added later."""

    def __init__(self, path: Path, length: int) -> None:
        self._digest = hashlib.sha256()
        self._pieces: queue.Queue[bytes | None] = queue.Queue(16)
        self._error: OSError | None = None
        self._path, self._length = path, length
        self._thread = threading.Thread(target=self._work, daemon=True)
        self._thread.start()

    def update(self, piece: bytes) -> None:
        """Add bytes at the end."""
        self._pieces.put(piece)

    def hexdigest(self) -> str:
        """Return the hash of all bytes, in hexadecimal.

        Raises:
            OSError: The existing bytes cannot be read.
        """
        self.stop()
        if self._error:
            raise self._error
        return self._digest.hexdigest()

    def stop(self) -> None:
        """Stop the thread."""
        if self._thread.is_alive():
            self._pieces.put(None)
            self._thread.join()

    def _work(self) -> None:
        try:
            self._read_file()
        except OSError as error:
            self._error = error
        while (piece := self._pieces.get()) is not None:
            self._digest.update(piece)

    def _read_file(self) -> None:
        with self._path.open("rb") as file:
            left = self._length
            while left and (block := file.read(min(_BLOCK, left))):
                self._digest.update(block)
                left -= len(block)


def hash_file(path: Path) -> str:
    """Return the SHA-256 of a file, in hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def hash_ends(path: Path) -> str:
    """Return a hash of a file's first and last bytes: what a power failure zeroed has another one."""
    with path.open("rb") as file:
        head = file.read(_END_BYTES)
        file.seek(max(0, path.stat().st_size - _END_BYTES))
        return hashlib.sha256(head + file.read(_END_BYTES)).hexdigest()
