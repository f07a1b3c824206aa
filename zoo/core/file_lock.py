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
def lock_directory(path: Path) -> Iterator[bool | None]:
    """Hold the lock of a directory for the block.

    Gives True if this process has it, False if another one has it or the directory is gone, None where directories
    cannot be locked (Windows, some network disks).
    """
    if fcntl is None:
        yield None
        return
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
    except FileNotFoundError:
        yield False
        return
    try:
        taken = _take(descriptor)
        yield taken if _is_still(path, descriptor) else False
    finally:
        os.close(descriptor)


def _take(descriptor: int) -> bool | None:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        return False if error.errno in (errno.EWOULDBLOCK, errno.EACCES) else None
    return True


def _is_still(path: Path, descriptor: int) -> bool:
    """Whether the path has not been removed since it was opened."""
    try:
        return os.path.samestat(path.lstat(), os.fstat(descriptor))
    except OSError:
        return False
