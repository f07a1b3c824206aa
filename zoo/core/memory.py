"""Measure the peak of anonymous memory.

Mapped files count as resident memory too, but the system can reclaim them at any time. What a program needs is its
anonymous memory. The system records no peak of it, so a thread polls it.
"""

from __future__ import annotations

import threading
from pathlib import Path
from types import TracebackType
from typing import Self

_STATUS = Path("/proc/self/status")  # Linux only; other systems are not measured
_INTERVAL = 0.02  # seconds between polls


class PeakMemory:
    """Context manager that polls this process's anonymous memory.

    Attributes:
        peak: Bytes above the amount at the start, or None if the system does not report it.
    """

    def __init__(self) -> None:
        self.peak: int | None = None
        self._start = 0
        self._done = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)

    def __enter__(self) -> Self:
        start = anonymous_bytes()
        if start is not None:
            self._start, self.peak = start, 0
            self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._done.set()
        if self.peak is not None:
            self._thread.join()

    def _watch(self) -> None:
        while True:
            now = anonymous_bytes()
            if now is not None and self.peak is not None:
                self.peak = max(self.peak, now - self._start)
            if self._done.wait(_INTERVAL):
                return


def anonymous_bytes() -> int | None:
    """Return this process's resident anonymous memory in bytes, or None if the system does not report it."""
    try:
        line = next(line for line in _STATUS.read_text().splitlines() if line.startswith("RssAnon:"))
    except (OSError, StopIteration):
        return None
    return int(line.split()[1]) * 1024
