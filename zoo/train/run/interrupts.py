"""Turn the signals that stop a run into a flag that the loop checks between steps."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from threading import Event, current_thread, main_thread
from typing import Any


@contextmanager
def interrupts() -> Iterator[Event]:
    """Yield an event that SIGINT and SIGTERM set. A second signal has its usual effect. Works in the main thread
    only.
    """
    event = Event()
    if current_thread() is not main_thread():
        yield event
        return
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}

    def note(number: int, _: Any) -> None:
        event.set()
        signal.signal(number, before[signal.Signals(number)])

    try:
        for number in before:
            signal.signal(number, note)
        yield event
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
