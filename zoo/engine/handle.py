"""The C side of an engine: opening it, one pass at a time, and closing it."""

from __future__ import annotations

import ctypes
import os
import threading
import weakref

from zoo.engine import native
from zoo.engine.weights import Pointers
from zoo.errors import OptionError, ZooError

CAPACITY = 256
"""Most tokens of a pass."""


class Handle:
    """An engine of the C library, which starts its threads again after a fork. Threads may share it.

    Attributes:
        weights: what it computes with.
        lock: held while a pass runs.
        rounding: how activations of prompts are rounded: flags of native.Tokens.rounded, 0 without.
    """

    def __init__(self, weights: Pointers, threads: int | None, *, int8_prefill: bool = False) -> None:
        """Start the threads.

        Raises:
            OptionError: threads is below 1, or ZOO_ENGINE_ISA names instructions that this machine does not have.
            ZooError: zoo was installed without its C library, or there is not enough memory.
        """
        self._library = library()
        self._threads = default_threads() if threads is None else threads
        if not 1 <= self._threads <= 1024:
            raise OptionError(f"threads must be from 1 to 1024, not {threads}")
        self.weights, self.lock = weights, threading.RLock()
        self._allowed = native.ROUND_BF16 | (native.ROUND_INT8 if int8_prefill else 0)
        self._open()
        _handles.add(self)

    def _open(self) -> None:
        isa = os.environ.get("ZOO_ENGINE_ISA", "")
        found = self._library.zoo_open(self.weights.model, self._threads, CAPACITY, isa.encode())
        if not found:
            raise OptionError(
                f"the engine cannot start with {self._threads} threads and ZOO_ENGINE_ISA={isa!r} on this machine"
            )
        self._pointer = ctypes.c_void_p(found)
        self._finalizer = weakref.finalize(self, self._library.zoo_close, self._pointer)
        self._finalizer.atexit = False  # a daemon thread may be in a pass; the system frees everything
        self.rounding = self._library.zoo_rounds(self._pointer) & self._allowed

    def forward(self, tokens: native.Tokens) -> None:
        """Run one pass; the caller holds the lock.

        Raises:
            OptionError: it is closed.
            ZooError: its threads cannot be started again after a fork.
        """
        if not self._finalizer.alive:
            raise OptionError("the engine is closed; open the checkpoint again")
        if self._library.zoo_forward(self._pointer, ctypes.byref(tokens)):
            raise ZooError("the engine cannot start its threads in this process; open it with fewer threads")

    def restart(self, weights: Pointers) -> None:
        """Continue with other weights of the same sizes."""
        with self.lock:
            self._finalizer()
            self.weights = weights
            self._open()

    def close(self) -> None:
        """Stop the threads and free their memory, after the pass that runs."""
        with self.lock:
            self._finalizer()


_handles: weakref.WeakSet[Handle] = weakref.WeakSet()


def _replace_locks() -> None:
    """In the child of a fork: a thread that does not exist there may hold them."""
    for handle in list(_handles):
        handle.lock = threading.RLock()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_replace_locks)


def library() -> ctypes.CDLL:
    """Return the C library.

    Raises:
        ZooError: it was not built.
    """
    found = native.library()
    if found is None:
        raise ZooError("the native engine was not built here; use `--engine torch`, or install zoo with a C compiler")
    return found


def default_threads() -> int:
    """Return how many cores this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def is_built() -> bool:
    """Return whether the C library was built."""
    return native.library() is not None
