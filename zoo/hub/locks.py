"""One process works, others wait. The system frees the lock of a process that dies."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock, Timeout

from zoo.core.output import as_output_error

logger = logging.getLogger("zoo")


@contextmanager
def exclusive(path: Path, what: str) -> Iterator[None]:
    """Hold the lock of this path for the block.

    Args:
        path: of the lock file; it stays.
        what: that the holder does, for the message of those who wait ("downloads gpt2-small").

    Raises:
        OutputError: the file cannot be made.
    """
    lock = FileLock(path)
    try:
        try:
            lock.acquire(timeout=0)
        except Timeout:
            logger.warning("waiting for another process that %s", what)
            lock.acquire()
    except OSError as error:
        raise as_output_error(error, path) from error
    try:
        yield
    finally:
        lock.release()


@contextmanager
def if_free(path: Path) -> Iterator[bool]:
    """Hold the lock of this path for the block, or say that another process has it.

    Raises:
        OutputError: the file cannot be made.
    """
    lock = FileLock(path)
    try:
        lock.acquire(timeout=0)
    except Timeout:
        yield False
        return
    except OSError as error:
        raise as_output_error(error, path) from error
    try:
        yield True
    finally:
        lock.release()
