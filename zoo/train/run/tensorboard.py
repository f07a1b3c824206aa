"""Metrics for TensorBoard (the extra `tensorboard`)."""

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
    """Writes rows of metrics where `tensorboard --logdir` finds them. A context manager."""

    def __init__(self, directory: str | Path, *, from_step: int | None = None) -> None:
        """Open the writer.

        Args:
            directory: for its event files.
            from_step: where a resumed run goes on; TensorBoard forgets what an earlier process wrote from there on.

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
        """Add one row, as in metrics.jsonl; what is absent or None is left out, as is what it has no name for."""
        for key, name in _NAMES.items():
            value = row.get(key)
            if value is not None and math.isfinite(value):
                self._writer.add_scalar(name, value, row["step"])

    def close(self) -> None:
        """Write out what is buffered."""
        self._writer.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()
