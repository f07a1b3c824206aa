"""File locks between processes. The system releases the lock of a process that ends."""

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
    """Hold the lock of this path during the block.

    Args:
        path: Path of the lock file, which is not deleted.
        what: What the holder does, for the message of waiting processes ("downloads gpt2-small").

    Raises:
        OutputError: The file cannot be created.
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
    """Hold the lock of this path during the block and yield True, or yield False if another process has it.

    Raises:
        OutputError: The file cannot be created.
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
