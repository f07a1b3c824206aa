"""Progress bars on stderr, where that is a terminal; and the resolving of names, which may download."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from zoo.cli._show import is_terminal, printable

if TYPE_CHECKING:
    from rich.progress import Progress, ProgressColumn

    from zoo.core.progress import OnProgress


@contextmanager
def byte_progress(*, quiet: bool = False) -> Iterator[OnProgress | None]:
    """Show bytes, rate and time left of each phase."""
    if quiet or not is_terminal(sys.stderr):
        yield None
        return
    from rich.progress import BarColumn, DownloadColumn, TextColumn, TimeRemainingColumn, TransferSpeedColumn

    name = TextColumn("{task.description:>6}", markup=False)
    columns = (name, BarColumn(), DownloadColumn(), TransferSpeedColumn(), TimeRemainingColumn())
    with _bars(*columns) as bar:
        yield _phases(bar)


@contextmanager
def count_progress(*, quiet: bool = False) -> Iterator[OnProgress | None]:
    """Show how many items of each phase are done, and the time left."""
    if quiet or not is_terminal(sys.stderr):
        yield None
        return
    from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeRemainingColumn

    name = TextColumn("{task.description}", markup=False)
    with _bars(name, BarColumn(), MofNCompleteColumn(), TimeRemainingColumn()) as bar:
        yield _phases(bar)


@contextmanager
def counter(what: str) -> Iterator[Callable[[int, int], None] | None]:
    """Show how many of one kind of thing are done."""
    with count_progress() as on_progress:
        yield (lambda done, total: on_progress(what, done, total)) if on_progress else None


@contextmanager
def status() -> Iterator[Callable[[str], object]]:
    """Show a sentence about what is being done, which may change."""
    if not is_terminal(sys.stderr):
        yield lambda _: None
        return
    from rich.console import Console

    with Console(stderr=True).status("") as shown:
        yield shown.update


def resolve(source: str) -> Path:
    """Return the path of a checkpoint that the user named, with a progress bar if it is downloaded.

    Raises:
        ZooError: as zoo.hub.resolve.find_checkpoint.
    """
    from zoo.hub.resolve import find_checkpoint

    with byte_progress() as on_progress:
        return find_checkpoint(source, on_progress=on_progress)


def _bars(*columns: ProgressColumn) -> Progress:
    from rich.console import Console
    from rich.progress import Progress

    return Progress(*columns, console=Console(stderr=True), transient=True)


def _phases(bar: Progress) -> OnProgress:
    """One line a phase, from its first report on."""
    tasks = {}

    def on_progress(phase: str, done: int, total: int) -> None:
        if phase not in tasks:
            tasks[phase] = bar.add_task(printable(phase))
        bar.update(tasks[phase], completed=done, total=total)

    return on_progress
