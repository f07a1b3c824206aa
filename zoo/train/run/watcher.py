"""What a run tells while it goes on."""

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
    """What is told of a run while it goes on; in the main process only.

    Attributes:
        on_row: of each line of metrics.
        on_sample: of each sample: the step and the text.
        on_checkpoint: of each checkpoint's path.
    """

    on_row: Callable[[Row], Any] = _ignore
    on_sample: Callable[[int, str], Any] = _ignore
    on_checkpoint: Callable[[Path], Any] = _ignore
