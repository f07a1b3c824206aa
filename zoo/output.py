"""Outputs that appear whole or not at all."""

from __future__ import annotations

import errno
import os
import secrets
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from zoo.errors import OutputError


@contextmanager
def atomic_output(path: Path, *, needed: int = 0, force: bool = False) -> Iterator[Path]:
    """Give a temporary path beside `path` to write a file or directory to; it takes the name when the block ends well.

    After any error, an interrupt too, the temporary is gone and what stood at `path` is untouched. Nothing is synced
    to the disk, as cp does not: after a power failure look at the output before the source is deleted.

    Args:
        path: the final name. Its suffix is kept on the temporary one.
        needed: bytes that will be written; checked against the free space of the disk before anything is.
        force: whether something that exists may be replaced.

    Raises:
        OutputError: the path exists, its directory does not, or the disk is full or not writable.
    """
    check_output(path, force=force)
    temporary = path.with_name(f".{secrets.token_hex(4)}.tmp.{path.name}")
    try:
        free = shutil.disk_usage(path.parent).free
        if needed > free:
            raise OutputError(f"{path} needs {needed:,} bytes and the disk has {free:,} free; make room")
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
        raise OutputError(f"{path} exists already; choose another name, or replace it with --force")


def as_output_error(error: OSError, path: Path) -> OutputError:
    """Say in one sentence why writing failed."""
    if isinstance(error, OutputError):
        return error
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return OutputError(f"{path} was not written: the disk is full; make room and try again")
    return OutputError(f"{path} was not written: {error.strerror or error}")


def _replace(new: Path, path: Path) -> None:
    """Rename over a file in one step; a directory is moved aside first and put back if the rename fails."""
    if not path.is_dir() or path.is_symlink():
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


def _remove(path: Path) -> None:
    if path.is_dir():
        shutil.rmtree(path, ignore_errors=True)
    else:
        with suppress(OSError):
            path.unlink()
