"""Outputs that appear whole or not at all."""

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
"""In the names of temporaries: a process's number means nothing on another machine that has the disk too."""


@contextmanager
def atomic_output(path: Path, *, needed: int = 0, force: bool = False) -> Iterator[Path]:
    """Give a temporary path beside `path` to write a file or directory to; it takes the name when the block ends well.

    After any error, an interrupt too, the temporary is gone and what stood at `path` is untouched. What a process left
    that was killed is removed by the next one that writes the same path. Nothing is synced to the disk, as cp does
    not: after a power failure look at the output before the source is deleted.

    Args:
        path: the final name. Its suffix is kept on the temporary one.
        needed: bytes that will be written; checked against the free space of the disk before anything is.
        force: whether something that exists may be replaced.

    Raises:
        OutputError: the path exists, its directory does not, or the disk is full or not writable.
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
    """Refuse, before any work, a path that cannot become the output.

    Raises:
        OutputError: it exists (and force is not given), or its directory does not.
    """
    if not path.parent.is_dir():
        raise OutputError(f"{path} cannot be written: there is no directory {path.parent}; create it first")
    if path.exists() and not force:
        raise OutputError(f"{path} exists already; choose another name, or replace it with force=True")


def check_room(directory: Path, needed: int) -> None:
    """Refuse, before the first byte, what the disk has no room for.

    Raises:
        OutputError: there is less free than needed, in bytes.
    """
    free = shutil.disk_usage(directory).free
    if needed > free:
        raise OutputError(f"{directory} has {free:,} bytes free, and {needed:,} more are needed; make room")


def as_output_error(error: OSError, path: Path) -> OutputError:
    """Say in one sentence why writing failed."""
    if isinstance(error, OutputError):
        return error
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return OutputError(f"{path} was not written: the disk is full; make room and try again")
    return OutputError(f"{path} was not written: {error.strerror or error}")


def _replace(new: Path, path: Path) -> None:
    """Rename over a file in one step; a directory is moved aside first and put back if the rename fails."""
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
    """Remove what killed processes of this machine left; an output that one had just moved aside is put back."""
    for left in path.parent.glob(f".{_HOST}-*.tmp.{glob.escape(path.name)}*"):
        name = re.fullmatch(rf"\.{_HOST}-(\d+)-[0-9a-f]+\.tmp\.{re.escape(path.name)}(\.old)?", left.name)
        if name and not _is_running(int(name[1])):
            if name[2] and not path.exists():
                with suppress(OSError):
                    os.rename(left, path)
            else:
                _remove(left)


def _is_running(pid: int) -> bool:
    if os.name == "nt":  # where signal 0 is no question
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
