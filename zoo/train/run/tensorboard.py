"""Write metrics for TensorBoard (extra `tensorboard`)."""

from __future__ import annotations

import math
from collections.abc import Mapping
from importlib import import_module
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from zoo.errors import MissingPackage

_NAMES = {
    "train_loss": "loss/train",
    "val_loss": "loss/validation",
    "lr": "optimizer/learning rate",
    "grad_norm": "optimizer/gradient norm",
    "tokens_per_s": "speed/tokens per second",
    "epoch": "progress/epoch",
    "tokens": "progress/tokens",
}


class TensorBoard:
    """Writes metrics to event files for `tensorboard --logdir`. A context manager."""

    def __init__(self, directory: str | Path, *, from_step: int | None = None) -> None:
        """Open the event file.

        Args:
            directory: Directory for the event files.
            from_step: Step that a resumed run continues from; TensorBoard discards later values of earlier sessions.

        Raises:
            MissingPackage: tensorboard is not installed.
        """
        try:
            writer = import_module("torch.utils.tensorboard").SummaryWriter
        except ImportError as error:
            hint = "install it with `pip install 'gpt2-zoo[tensorboard]'`"
            raise MissingPackage(f"this needs tensorboard; {hint}") from error
        self._writer = writer(str(directory), purge_step=from_step)

    def write(self, row: Mapping[str, Any]) -> None:
        """Write one row, as in metrics.jsonl. Values that are absent or None and unknown keys are skipped."""
        for key, name in _NAMES.items():
            value = row.get(key)
            if value is not None and math.isfinite(value):
                self._writer.add_scalar(name, value, row["step"])

    def close(self) -> None:
        """Flush and close the file."""
        self._writer.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()
