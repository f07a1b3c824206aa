"""Outputs that appear complete or not at all, and survive a power failure."""

from __future__ import annotations

import errno
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from zoo.core.file_lock import lock_directory
from zoo.core.sync_and_rename import publish, sync_tree
from zoo.errors import OutputError

_OLD = "replaced"


@contextmanager
def atomic_output(path: Path, *, needed: int = 0, force: bool = False, sync: bool = True) -> Iterator[Path]:
    """Give a temporary path to write a file or directory to; it takes the name when the block ends well.

    It lies in a new directory of its own beside `path`, which only this user can enter and which this process keeps
    locked. After any error, an interrupt too, that is gone and what stood at `path` is untouched; what a killed process
    left is removed by the next one that writes beside it.

    Args:
        path: the final name, which the temporary file has too.
        needed: Bytes that will be written, which are compared with the free space first.
        force: Whether to replace an existing output.
        sync: whether the output is on the disk when the block has ended, and complete whenever the power fails.

    Raises:
        OutputError: The path exists, its directory does not, or the disk is full or not writable.
    """
    _tidy(path.parent)
    check_output(path, force=force)
    try:
        check_room(path.parent, needed)
        with _own_directory(path.parent) as directory:
            temporary = directory / path.name
            yield temporary
            if sync:
                sync_tree(temporary)
            publish(temporary, path, aside=directory / _OLD / path.name, force=force, sync=sync)
    except FileExistsError as error:
        raise _exists(path) from error
    except OSError as error:
        raise as_output_error(error, path) from error


def check_output(path: Path, *, force: bool) -> None:
    """Raise an error if a path cannot become an output, before any work is done.

    Raises:
        OutputError: The path exists and force is False, or its directory does not exist.
    """
    if not path.parent.is_dir():
        raise OutputError(f"{path} cannot be written: there is no directory {path.parent}; create it first")
    if os.path.lexists(path) and not force:
        raise _exists(path)


def check_room(directory: Path, needed: int) -> None:
    """Raise an error if a disk has too little free space, before the first byte is written.

    Raises:
        OutputError: The free space is less than needed, in bytes.
    """
    free = shutil.disk_usage(directory).free
    if needed > free:
        raise OutputError(f"{directory} has {free:,} bytes free, and {needed:,} more are needed; free some space")


def as_output_error(error: OSError, path: Path) -> OutputError:
    """Return an error with the reason why writing failed."""
    if isinstance(error, OutputError):
        return error
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return OutputError(f"{path} was not written: the disk is full; free some space and try again")
    return OutputError(f"{path} was not written: {error.strerror or error}")


def _exists(path: Path) -> OutputError:
    return OutputError(f"{path} exists already; choose another name, or replace it with force=True")


@contextmanager
def _own_directory(parent: Path) -> Iterator[Path]:
    """Make a directory for temporary files that this process holds the lock of; it is removed in the end."""
    while True:
        directory = parent / f".zoo-{os.urandom(4).hex()}.tmp"
        directory.mkdir(mode=0o700)
        with lock_directory(directory) as is_ours:
            if is_ours is False:  # tidied by another process before it was locked
                continue
            try:
                yield directory
            finally:
                _remove(directory)
            return


def _tidy(parent: Path) -> None:
    """Remove what killed processes left; an output that one had just moved aside is put back."""
    for left in parent.glob(".zoo-" + "[0-9a-f]" * 8 + ".tmp"):
        with suppress(OSError), lock_directory(left) as is_ours:
            if is_ours:
                for old in (left / _OLD).glob("*"):
                    if not os.path.lexists(parent / old.name):
                        old.rename(parent / old.name)
                _remove(left)


def _remove(path: Path) -> None:
    shutil.rmtree(path, ignore_errors=True)
