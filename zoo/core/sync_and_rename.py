"""Giving files their final names in an order that survives a power failure: the data first, then the name."""

from __future__ import annotations

import ctypes
import errno
import os
from pathlib import Path

_NOREPLACE, _EXCHANGE = 1, 2  # of renameat2 (linux/fs.h)
_AT_FDCWD = -100
_NOT_HERE = (errno.ENOSYS, errno.EINVAL, errno.ENOTSUP, errno.EPERM)


def sync_tree(path: Path) -> None:
    """Wait until a file, or a directory and all files in it, are on the disk."""
    if path.is_dir():
        for each in path.iterdir():
            sync_tree(each)
    sync_path(path)


def sync_path(path: Path) -> None:
    """Wait until a file's data, or a directory's names, are on the disk."""
    if os.name == "nt" and path.is_dir():
        return  # where directories cannot be opened
    descriptor = os.open(path, os.O_RDWR if os.name == "nt" else os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def publish(new: Path, path: Path, *, aside: Path, force: bool, sync: bool) -> None:
    """Give a file or directory, which is on the disk already, its name in one step.

    Args:
        new: beside the final path, or in a directory beside it.
        path: the final name.
        aside: where what is replaced lies until it is removed, if it and `new` cannot simply be exchanged.
        force: whether something that exists is replaced.
        sync: whether to wait until the name is on the disk.

    Raises:
        FileExistsError: the path exists, and force is not given.
        OSError: it cannot be renamed.
    """
    if not force:
        _rename_new(new, path)
    elif os.path.lexists(path) and (_is_directory(new) or _is_directory(path)):
        _exchange(new, path, aside)
    else:
        os.replace(new, path)
    if sync:
        sync_path(path.parent)


def _rename_new(new: Path, path: Path) -> None:
    """Rename without replacing anything, even if it came into being a moment ago."""
    if _renameat2(new, path, _NOREPLACE):
        return
    if _is_directory(new):
        if os.path.lexists(path):
            raise FileExistsError(errno.EEXIST, "exists", str(path))
        os.rename(new, path)
        return
    try:
        os.link(new, path)
    except FileExistsError:
        raise
    except OSError:  # a disk without links
        if os.path.lexists(path):
            raise FileExistsError(errno.EEXIST, "exists", str(path)) from None
        os.rename(new, path)


def _exchange(new: Path, path: Path, aside: Path) -> None:
    """Replace in one step where the system can; else the old one is aside for a moment, and put back if need be."""
    if _renameat2(new, path, _EXCHANGE):
        return
    aside.parent.mkdir()
    os.rename(path, aside)
    try:
        os.rename(new, path)
    except BaseException:
        os.rename(aside, path)
        raise


def _is_directory(path: Path) -> bool:
    return path.is_dir() and not path.is_symlink()


def _renameat2(old: Path, new: Path, flags: int) -> bool:
    """Call Linux's renameat2; False if the system or the disk does not have it."""
    call = getattr(ctypes.CDLL(None, use_errno=True), "renameat2", None) if os.name == "posix" else None
    if call is None:
        return False
    if call(_AT_FDCWD, os.fsencode(old), _AT_FDCWD, os.fsencode(new), ctypes.c_uint(flags)) == 0:
        return True
    number = ctypes.get_errno()
    if number in _NOT_HERE:
        return False
    raise OSError(number, os.strerror(number), str(new))
