"""The engine's cache of keys and values."""

from __future__ import annotations

from typing import Any

import numpy as np

from zoo.errors import OptionError
from zoo.models.gpt2.config import GPTConfig


class EngineCache:
    """Keys and values of B rows, each row with a length of its own.

    Attributes:
        lengths: tokens cached of each row, (B,).
        room: the most tokens that a row may have.
    """

    def __init__(self, config: GPTConfig, batch: int, room: int, dtype: type[np.floating[Any]] = np.float32) -> None:
        """Make an empty one; dtype is float32 or float16."""
        depth = -(-config.head_size // 16) * 16
        shape = (config.n_layers, batch, config.n_heads, -(-room // 16) * 16, depth)
        self.lengths = np.zeros(batch, np.int32)
        self.room = room
        self.keys, self.values = np.zeros(shape, dtype), np.zeros(shape, dtype)

    def truncate(self, length: int, row: int = 0) -> None:
        """Forget a row's tokens from `length` on.

        Raises:
            OptionError: it has fewer.
        """
        if not 0 <= length <= self.lengths[row]:
            raise OptionError(f"row {row} has {self.lengths[row]} tokens; it cannot be cut to {length}")
        self.lengths[row] = length

    def grow(self, room: int) -> None:
        """Give every row room for more tokens, and keep what is cached. Less room than there is does nothing."""
        if room <= self.room:
            return
        self.keys, self.values = (_copy(old, self.lengths, -(-room // 16) * 16) for old in (self.keys, self.values))
        self.room = room


def _copy(old: np.ndarray, lengths: np.ndarray, positions: int) -> np.ndarray:
    """Keys lie in blocks of 16 positions, so that the first positions are the first bytes, as of values."""
    new = np.zeros((*old.shape[:3], positions, old.shape[4]), old.dtype)
    for row in np.flatnonzero(lengths):  # pages of rows that hold nothing are never touched
        new[:, row, :, : old.shape[3]] = old[:, row]
    return new
