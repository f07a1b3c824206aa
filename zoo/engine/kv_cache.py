"""The engine's cache of keys and values."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from zoo.errors import OptionError
from zoo.models.gpt2.config import GPTConfig

_BLOCK = 16


class EngineCache:
    """Keys and values of B rows, each row with a length of its own."""

    def __init__(self, config: GPTConfig, batch: int, room: int, dtype: type[np.floating[Any]] = np.float32) -> None:
        """Make an empty one; dtype is float32 or float16."""
        depth = -(-config.head_size // _BLOCK) * _BLOCK
        shape = (config.n_layers, batch, config.n_heads, _padded(room), depth)
        self._lengths = np.zeros(batch, np.int32)
        self._room = room
        self._keys, self._values = np.zeros(shape, dtype), np.zeros(shape, dtype)

    @property
    def lengths(self) -> NDArray[np.int32]:
        """Number of cached tokens of each row, (B,), read-only."""
        return _read_only(self._lengths)

    @property
    def room(self) -> int:
        """Most tokens that a row can hold."""
        return self._room

    @property
    def keys(self) -> NDArray[np.floating[Any]]:
        """Keys of all layers, (L, B, H, T, D) in blocks of 16 positions, padded, read-only."""
        return _read_only(self._keys)

    @property
    def values(self) -> NDArray[np.floating[Any]]:
        """Values of all layers, (L, B, H, T, D), padded, read-only."""
        return _read_only(self._values)

    def truncate(self, length: int, row: int = 0) -> None:
        """Drop a row's tokens from `length` on.

        Raises:
            OptionError: it has fewer.
        """
        if not 0 <= length <= self._lengths[row]:
            raise OptionError(f"row {row} has {self._lengths[row]} tokens; it cannot be cut to {length}")
        self._lengths[row] = length

    def grow(self, room: int) -> None:
        """Give every row room for this many tokens, at least, and keep what is cached."""
        if room <= self._room:
            return
        self._keys, self._values = (_copy(old, self._lengths, _padded(room)) for old in (self._keys, self._values))
        self._room = room

    def copy_row(self, source: int, target: int) -> None:
        """Replace the tokens of a row by those of another."""
        end = _padded(int(self._lengths[source]))
        for array in (self._keys, self._values):
            array[:, target, :, :end] = array[:, source, :, :end]
        self._lengths[target] = self._lengths[source]


def _padded(positions: int) -> int:
    """Return whole blocks of positions: keys are stored in blocks, whose first bytes are the first positions."""
    return -(-positions // _BLOCK) * _BLOCK


def _read_only(array: NDArray[Any]) -> NDArray[Any]:
    view = array.view()
    view.flags.writeable = False
    return view


def _copy(old: NDArray[Any], lengths: NDArray[np.int32], positions: int) -> NDArray[Any]:
    new = np.zeros((*old.shape[:3], positions, old.shape[4]), old.dtype)
    for row in np.flatnonzero(lengths):  # pages of rows that hold nothing are never touched
        new[:, row, :, : old.shape[3]] = old[:, row]
    return new
