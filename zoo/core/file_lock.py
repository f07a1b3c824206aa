"""Locks that the system frees when their holder dies, whatever its process id or machine."""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None  # type: ignore[assignment]


@contextmanager
def lock_directory(path: Path) -> Iterator[bool]:
    """Hold the lock of an existing directory for the block, and say whether this process alone does.

    Where directories cannot be locked (Windows, some network disks), the one that made it may use it, and nobody
    may tidy it: the answer is whether it was made just now, empty.

    Raises:
        FileNotFoundError: it is gone.
    """
    if fcntl is None:
        yield not any(path.iterdir())
        return
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
    except FileNotFoundError:
        yield False
        return
    try:
        yield _take(descriptor) and _is_still(path, descriptor)
    finally:
        os.close(descriptor)


def _take(descriptor: int) -> bool:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        if error.errno in (errno.EWOULDBLOCK, errno.EACCES):
            return False
        return not os.listdir(descriptor)  # no locks here
    return True


def _is_still(path: Path, descriptor: int) -> bool:
    """Whether the path has not been removed since it was opened."""
    try:
        return os.path.samestat(path.lstat(), os.fstat(descriptor))
    except OSError:
        return False
