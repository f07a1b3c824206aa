"""Threads for requests. The process does not wait for them at exit: one may hang in a dead connection for half a
minute.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import Future
from queue import SimpleQueue
from typing import Generic, TypeVar

T = TypeVar("T")


class Background(Generic[T]):
    """A few daemon threads that run calls. Unlike those of concurrent.futures, they do not keep the process alive.

    Attributes:
        closed: Whether the results are no longer needed; long calls should check it.
    """

    def __init__(self, size: int) -> None:
        self.closed = threading.Event()
        self._calls: SimpleQueue[tuple[Future[T], Callable[[], T]] | None] = SimpleQueue()
        self._size = size
        for _ in range(size):
            threading.Thread(target=self._work, daemon=True).start()

    def __enter__(self) -> Background[T]:
        return self

    def __exit__(self, *error: object) -> None:
        self.closed.set()
        for _ in range(self._size):
            self._calls.put(None)

    def submit(self, call: Callable[[], T]) -> Future[T]:
        """Schedule a call. The future gets its result or exception."""
        future: Future[T] = Future()
        self._calls.put((future, call))
        return future

    def _work(self) -> None:
        while job := self._calls.get():
            future, call = job
            try:
                future.set_result(call())
            except BaseException as error:
                future.set_exception(error)
