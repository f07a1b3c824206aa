"""How much anonymous memory a piece of work takes at its peak.

Mapped files count as resident memory too, but the system takes them back when it wants; what a program needs is the
anonymous part, and that has no high-water mark of its own, so a thread looks at it.
"""

from __future__ import annotations

import threading
from pathlib import Path
from types import TracebackType
from typing import Self

_STATUS = Path("/proc/self/status")  # Linux only; elsewhere nothing is measured
_INTERVAL = 0.02  # seconds between looks


class PeakMemory:
    """Context manager that watches this process's anonymous memory.

    Attributes:
        peak: bytes above what was in use at the start, or None where the system does not tell.
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
    """Return this process's resident anonymous memory in bytes, None where the system does not tell."""
    try:
        line = next(line for line in _STATUS.read_text().splitlines() if line.startswith("RssAnon:"))
    except (OSError, StopIteration):
        return None
    return int(line.split()[1]) * 1024
