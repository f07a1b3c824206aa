"""Notice when a file that a model is mapped from is changed in place: the model would silently become another one."""

from __future__ import annotations

import mmap
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

from zoo.errors import CorruptFile


@dataclass(frozen=True)
class MappedFiles:
    """Files and what they were like when they were mapped: inode, size and time of modification."""

    known: tuple[tuple[Path, tuple[int, int, int]], ...]

    @classmethod
    def of(cls, paths: Iterable[Path], arrays: Iterable[Any]) -> Self | None:
        """Remember files, if any of the arrays that were read from them is mapped; None if all are copies."""
        return cls(tuple((path, _identity(path)) for path in paths)) if any(map(_is_mapped, arrays)) else None

    def check(self) -> None:
        """Compare the files with what they were; a few microseconds each.

        A file that was deleted, or another one renamed onto it, changes nothing: the mapping keeps the old one alive.

        Raises:
            CorruptFile: one was overwritten or truncated.
        """
        for path, (inode, *before) in self.known:
            try:
                now, *after = _identity(path)
            except OSError:
                continue
            if now == inode and after != before:
                raise CorruptFile(path, "was changed while a model that is mapped from it was in use; load it again")


def _identity(path: Path) -> tuple[int, int, int]:
    found = path.stat()
    return found.st_ino, found.st_size, found.st_mtime_ns


def _is_mapped(array: Any) -> bool:
    while array is not None and not isinstance(array, mmap.mmap):
        array = array.obj if isinstance(array, memoryview) else getattr(array, "base", None)
    return array is not None
