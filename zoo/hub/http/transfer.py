"""Download one file: in parts that survive anything, over several connections, checked before it gets its name."""

from __future__ import annotations

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
"""How often in a row an address may fail without sending more of the file."""

PAUSE = 0.25
"""Seconds; the pause before the next try begins with twice of it, and doubles."""

MOST_WITHOUT_LENGTH = 16 << 20
"""Bytes that are taken from a server that does not say how many will come."""

_FIRST, _LARGEST = 256 << 10, 8 << 20
_ENOUGH = 64 << 10  # bytes, with which a try was not in vain

OnBytes = Callable[[int, int | None], None]
"""Called as on_bytes(bytes of the file that are here, bytes in all or None)."""


def fetch(
    file: RemoteFile,
    target: Path,
    *,
    client: Client,
    on_bytes: OnBytes | None = None,
) -> str:
    """Download a file; it appears as target when it is whole and right, and not before.

    What comes lies in `.NAME.part` beside it, and is gone on with after any interruption.

    Args:
        file: what to download, from the first of its addresses that gives it; the one that a part came from is asked
            before the others, who might not be able to go on with it.
        target: where to.
        client: to ask with.
        on_bytes: told what is here, what an earlier call left included.

    Returns:
        its SHA-256, in hexadecimal.

    Raises:
        DownloadError: no address gives the file, or what they give is not the right one.
        OutputError: the disk is full or cannot be written to.
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
    """One file from one address."""

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
        """Complete the part and return its SHA-256; a part that turns out wrong is downloaded once more."""
        resumed = self.part.open(self.url, self.file)
        self.total = self.part.total
        try:
            for _ in range(2 if resumed else 1):
                found = self._complete()
                if self.file.sha256 in (None, found):
                    return found
                self.part.clear()
            raise RefusedError(f"it sends another file: the SHA-256 is {found}, not {self.file.sha256} as expected")
        except ChangedError:
            raise RefusedError("the file there changes again and again") from None
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
        """Append to the part until it is whole."""
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
        """Ask for a first small range: it tells whether the server knows ranges, and how large the file is."""
        had = self.part.size
        answer = self.client.get(self.url, had, had + _FIRST, self.part.validator)
        if answer.length == answer.total or self.file.sha256 or answer.validator:
            return answer
        answer.body.close()  # nothing would show that two ranges are of two files
        return self.client.get(self.url, 0)

    def _accept(self, answer: Answer) -> None:
        """Take the first answer: the part begins anew if the server sends all of the file."""
        if answer.total is not None and self.total not in (None, answer.total):
            if self.file.size is None:
                raise ChangedError
            raise RefusedError(f"the file there has {answer.total:,} bytes, not {self.file.size:,}")
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
        """Ask for one range after the other on several connections, and append them in order."""
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
                # As much as a connection gets in half a second: a killed process loses a few seconds at any rate.
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
    """How often an address is asked again, and when."""

    def __init__(self) -> None:
        self.failures = 0

    def endure(self, error: InterruptedTransferError, gained: int, closed: Event | None = None) -> None:
        """Wait before the next try, or give up."""
        self.failures = 1 if gained >= _ENOUGH else self.failures + 1
        if self.failures >= TRIES:
            raise RefusedError(f"{error} (asked {TRIES} times)") from error
        seconds = max(error.wait, PAUSE * 2**self.failures)
        (closed or Event()).wait(seconds)
