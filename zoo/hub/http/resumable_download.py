"""Download one file: resumable, over several connections, checked before it gets its final name."""

from __future__ import annotations

import logging
import time
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future
from functools import partial
from pathlib import Path
from threading import Event

from zoo.core.output import as_output_error, check_room
from zoo.errors import DownloadError
from zoo.hub.http.client import (
    CONNECTIONS,
    Answer,
    ChangedError,
    Client,
    InterruptedTransferError,
    RefusedError,
    is_safe,
)
from zoo.hub.http.partial_file import Part
from zoo.hub.http.pool import Background
from zoo.hub.http.sha256 import Hasher
from zoo.hub.source_table import RemoteFile, redacted

TRIES = 5
"""Consecutive attempts without progress after which an address is given up."""

PAUSE = 0.25
"""Seconds. The pause before the first retry is twice as long and doubles with each further one."""

MOST_WITHOUT_LENGTH = 16 << 20
"""Most bytes that are accepted from a server that does not send a length."""

logger = logging.getLogger("zoo")

_FIRST, _LARGEST = 256 << 10, 8 << 20
_ENOUGH = 64 << 10  # bytes that count as progress

OnBytes = Callable[[int, int | None], None]
"""Called as on_bytes(bytes downloaded so far, total bytes or None)."""


def fetch(
    file: RemoteFile,
    target: Path,
    *,
    client: Client,
    on_bytes: OnBytes | None = None,
) -> str:
    """Download a file. It appears under its target name only when it is complete and correct.

    Bytes are stored in `.NAME.part` in the same directory, from which a later call resumes.

    Args:
        file: File to download. Its addresses are tried in order, but the one that a partial download came from is tried
            first, because others might be unable to resume it.
        target: Final path.
        client: HTTP client.
        on_bytes: Callback with the number of bytes, including those of an earlier call.

    Returns:
        SHA-256 of the file, in hexadecimal.

    Raises:
        DownloadError: No address returns the file, or what they return is wrong.
        OutputError: The disk is full or cannot be written.
    """
    reasons = []
    part = Part(target)
    for url in sorted(file.urls, key=lambda url: redacted(url) != part.noted_url()):
        transfer = _Transfer(file, url, part, client, on_bytes)
        try:
            if not file.sha256 and not is_safe(url):
                raise RefusedError("it is not https, and no SHA-256 of the file is known")
            found = transfer.run()
            part.publish(target)
        except RefusedError as error:
            reasons.append(f"{redacted(url)}: {error}")
        except OSError as error:
            raise as_output_error(error, target) from error
        else:
            return found
    raise DownloadError(f"the file {file.name!r} cannot be downloaded: {'; '.join(reasons)}")


class _Transfer:
    """The download of one file from one address."""

    def __init__(
        self,
        file: RemoteFile,
        url: str,
        part: Part,
        client: Client,
        on_bytes: OnBytes | None,
    ) -> None:
        self.file, self.url, self.part, self.client = file, url, part, client
        self.on_bytes = on_bytes
        self.total: int | None = None

    def run(self) -> str:
        """Complete the partial file and return its SHA-256. If it is wrong, it is downloaded once more."""
        resumed = self.part.open(self.url, self.file)
        self.total = self.part.total
        try:
            for _ in range(2 if resumed else 1):
                found = self._complete()
                if self.file.sha256 in (None, found):
                    return found
                self.part.clear()
            raise RefusedError(f"it sends a different file: the SHA-256 is {found} instead of {self.file.sha256}")
        except ChangedError:
            raise RefusedError("the remote file keeps changing during the download") from None
        finally:
            self.part.close()

    def _complete(self) -> str:
        for last in (False, False, True):
            try:
                self.hasher = Hasher(self.part.path, self.part.size)
                self._receive()
                return self.hasher.hexdigest()
            except ChangedError:
                self.part.clear()
                self.total = self.part.total
                if last:
                    raise
            finally:
                self.hasher.stop()
        raise AssertionError

    def _receive(self) -> None:
        """Append to the partial file until it is complete."""
        patience = _Patience()
        while self.total is None or self.part.size < self.total:
            had = self.part.size
            try:
                with self._ask() as answer:
                    self._accept(answer)
                if answer.total is None:
                    return
                self._receive_rest(answer.total)
            except InterruptedTransferError as error:
                patience.endure(error, self.part.size - had)

    def _ask(self) -> Answer:
        """Request a small first range, which shows whether the server supports ranges and how large the file is."""
        had = self.part.size
        answer = self.client.get(self.url, had, had + _FIRST, self.part.validator)
        if answer.length == answer.total or self.file.sha256 or answer.validator:
            return answer
        answer.body.close()  # otherwise ranges of two versions could be mixed unnoticed
        return self.client.get(self.url, 0)

    def _accept(self, answer: Answer) -> None:
        """Process the first answer. The partial file is discarded if the server sends the complete file."""
        if answer.total is not None and self.total not in (None, answer.total):
            if self.file.size is None:
                raise ChangedError
            raise RefusedError(f"the remote file has {answer.total:,} bytes, not {self.file.size:,}")
        self.total = answer.total
        if not (answer.has_end or self.file.sha256):
            raise RefusedError("it does not say how long the file is, and no SHA-256 of it is known")
        if answer.start != self.part.size or self.part.stale:
            self.part.clear()
            self.hasher.stop()
            self.hasher = Hasher(self.part.path, self.part.size)
        self.part.note(answer.validator, self.total)
        if self.total is not None:
            check_room(self.part.path.parent, self.total - self.part.size)
        most = MOST_WITHOUT_LENGTH if self.total is None else self.total
        for piece in answer.pieces():
            if self.part.size + len(piece) > most:
                raise RefusedError(f"it sends more than {most:,} bytes")
            self._append(piece)

    def _receive_rest(self, total: int) -> None:
        """Request the remaining ranges on several connections and append them in order."""
        size, position, began, begun = _FIRST, self.part.size, time.monotonic(), self.part.size
        waiting: deque[Future[list[bytes]]] = deque()
        with Background[list[bytes]](CONNECTIONS) as threads:
            while self.part.size < total:
                while position < total and len(waiting) < 2 * CONNECTIONS:
                    stop = min(position + size, total)
                    waiting.append(threads.submit(partial(self._range, position, stop, threads.closed)))
                    position = stop
                for piece in waiting.popleft().result():
                    self._append(piece)
                # A range is what a connection downloads in half a second, so a killed process loses only a few seconds
                # of work.
                rate = (self.part.size - begun) / (time.monotonic() - began) / CONNECTIONS
                size = max(_FIRST, min(int(rate / 2), _LARGEST))

    def _range(self, start: int, stop: int, closed: Event) -> list[bytes]:
        pieces: list[bytes] = []
        position, patience = start, _Patience()
        while position < stop and not closed.is_set():
            had = position
            try:
                with self.client.get(self.url, position, stop, self.part.validator) as answer:
                    if answer.start != position or answer.total != self.total:
                        raise ChangedError
                    for piece in answer.pieces():
                        pieces.append(piece)
                        position += len(piece)
                        if closed.is_set():
                            break
            except InterruptedTransferError as error:
                patience.endure(error, position - had, closed)
        return pieces

    def _append(self, piece: bytes) -> None:
        self.part.append(piece)
        self.hasher.update(piece)
        if self.on_bytes:
            self.on_bytes(self.part.size, self.total)


class _Patience:
    """Counts the attempts at an address and the pauses between them."""

    def __init__(self) -> None:
        self.failures = 0

    def endure(self, error: InterruptedTransferError, gained: int, closed: Event | None = None) -> None:
        """Wait before the next attempt, or give up."""
        self.failures = 1 if gained >= _ENOUGH else self.failures + 1
        if self.failures >= TRIES:
            raise RefusedError(f"{error} (tried {TRIES} times)") from error
        seconds = max(error.wait, PAUSE * 2**self.failures)
        if self.failures > 1:
            logger.warning("the download is waiting for %g s: %s", seconds, error)
        (closed or Event()).wait(seconds)
