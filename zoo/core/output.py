"""Write outputs atomically: they appear completely or not at all."""

from __future__ import annotations

import errno
import glob
import os
import platform
import re
import secrets
import shutil
import zlib
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from zoo.errors import OutputError

_HOST = f"{zlib.crc32(platform.node().encode()):08x}"
"""Part of the names of temporaries, because a process id means nothing on another machine that shares the disk."""


@contextmanager
def atomic_output(path: Path, *, needed: int = 0, force: bool = False) -> Iterator[Path]:
    """Yield a temporary path in the directory of `path`; it is renamed to `path` when the block succeeds.

    After any error or interrupt, the temporary is deleted and an existing `path` is unchanged. Leftovers of a killed
    process are deleted by the next one that writes the same path. Like cp, this does not sync to disk: after a power
    failure, check the output before you delete the source.

    Args:
        path: Final path. The temporary has the same suffix.
        needed: Bytes that will be written, which are compared with the free space first.
        force: Whether to replace an existing output.

    Raises:
        OutputError: The path exists, its directory does not, or the disk is full or not writable.
    """
    _tidy(path)
    check_output(path, force=force)
    temporary = path.with_name(f".{_HOST}-{os.getpid()}-{secrets.token_hex(4)}.tmp.{path.name}")
    try:
        check_room(path.parent, needed)
        yield temporary
        _replace(temporary, path)
    except OSError as error:
        raise as_output_error(error, path) from error
    finally:
        _remove(temporary)


def check_output(path: Path, *, force: bool) -> None:
    """Raise an error if a path cannot become an output, before any work is done.

    Raises:
        OutputError: The path exists and force is False, or its directory does not exist.
    """
    if not path.parent.is_dir():
        raise OutputError(f"{path} cannot be written: there is no directory {path.parent}; create it first")
    if path.exists() and not force:
        raise OutputError(f"{path} exists already; choose another name, or replace it with --force")


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


def _replace(new: Path, path: Path) -> None:
    """Rename over a file atomically. A directory is moved aside first and put back if the rename fails."""
    directories = new.is_dir() or (path.is_dir() and not path.is_symlink())
    if not (directories and os.path.lexists(path)):
        os.replace(new, path)
        return
    aside = path.with_name(f"{new.name}.old")
    os.rename(path, aside)
    try:
        os.rename(new, path)
    except BaseException:
        os.rename(aside, path)
        raise
    _remove(aside)


def _tidy(path: Path) -> None:
    """Delete leftovers of killed processes of this machine, and restore an output that one had just moved aside."""
    for left in path.parent.glob(f".{_HOST}-*.tmp.{glob.escape(path.name)}*"):
        name = re.fullmatch(rf"\.{_HOST}-(\d+)-[0-9a-f]+\.tmp\.{re.escape(path.name)}(\.old)?", left.name)
        if name and not _is_running(int(name[1])):
            if name[2] and not path.exists():
                with suppress(OSError):
                    os.rename(left, path)
            else:
                _remove(left)


def _is_running(pid: int) -> bool:
    if os.name == "nt":  # systems without signal 0
        return True
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except OSError:
        return True
    return True


def _remove(path: Path) -> None:
    if path.is_dir():
        shutil.rmtree(path, ignore_errors=True)
    else:
        with suppress(OSError):
            path.unlink()
