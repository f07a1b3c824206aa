"""How long work inside the library is shown to whoever waits: the command line puts its bars here."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext

OnProgress = Callable[[str, int, int], None]
"""Called as on_progress(phase, bytes done, bytes in all), from any thread."""

show: Callable[[], AbstractContextManager[OnProgress | None]] = nullcontext
"""Makes a context whose value is told of downloads and conversions that nobody asked for by that name."""
