"""Callbacks of a training run."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from zoo.train.run.metrics import Row


def _ignore(*arguments: Any) -> None:
    pass


@dataclass(frozen=True)
class Watcher:
    """Callbacks of a training run, called in the main process only.

    Attributes:
        on_row: Called with each row of metrics.
        on_sample: Called with the step and the text of each sample.
        on_checkpoint: Called with the path of each checkpoint.
    """

    on_row: Callable[[Row], Any] = _ignore
    on_sample: Callable[[int, str], Any] = _ignore
    on_checkpoint: Callable[[Path], Any] = _ignore
