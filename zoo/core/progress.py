"""The hook through which the command line shows progress of work inside the library."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext

OnProgress = Callable[[str, int, int], None]
"""Called as on_progress(phase, bytes done, total bytes), from any thread."""

show: Callable[[], AbstractContextManager[OnProgress | None]] = nullcontext
"""Context manager yielding a progress callback for implicit downloads and conversions."""
