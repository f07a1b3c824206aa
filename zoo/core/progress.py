"""Progress callbacks of long work."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import TypeVar

_T = TypeVar("_T")

OnProgress = Callable[[str, int, int], None]
"""Called as on_progress(phase, done, total), in bytes or in items, from any thread."""


def counted(items: Iterable[_T], phase: str, total: int, on_progress: OnProgress | None) -> Iterator[_T]:
    """Yield items, and report how many are done."""
    for i, item in enumerate(items):
        if on_progress:
            on_progress(phase, i, total)
        yield item
    if on_progress:
        on_progress(phase, total, total)
