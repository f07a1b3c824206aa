"""The KV cache: keys and values of earlier tokens, so that decoding computes only the new one."""

from __future__ import annotations

from copy import copy

import torch
import torch.nn.functional as F
from torch import Tensor

from zoo.models.gpt2.config import GPTConfig


class KVCache:
    """Keys and values of a batch, filled from position 0 in each row.

    Rows may have different numbers of tokens, so that prompts of different lengths are decoded together without
    padding: the next token of a row always gets the next position of this row.

    Attributes:
        keys: (L, B, H, T, D).
        values: (L, B, H, T, D).
        lengths: Number of tokens in each row, (B,) int64.
    """

    def __init__(
        self,
        config: GPTConfig,
        batch_size: int = 1,
        context_length: int | None = None,
        *,
        dtype: torch.dtype = torch.float32,
        device: torch.device | str = "cpu",
    ) -> None:
        """Allocate the cache.

        Args:
            config: Config of the model.
            batch_size: Number of rows, B.
            context_length: Positions per row, T; None means the model's context length.
            dtype: Dtype of the model's weights.
            device: Device of the model.
        """
        positions = min(context_length or config.context_length, config.context_length)
        shape = (config.n_layers, batch_size, config.n_heads, positions, config.head_size)
        # Zeros instead of uninitialised memory: attention multiplies masked positions by 0, and 0 * NaN is NaN.
        self.keys = torch.zeros(shape, dtype=dtype, device=device)
        self.values = torch.zeros(shape, dtype=dtype, device=device)
        self.lengths = torch.zeros(batch_size, dtype=torch.int64, device=device)

    @property
    def capacity(self) -> int:
        """The number of positions per row."""
        return self.keys.shape[3]

    def put(self, layer: int, keys: Tensor, values: Tensor, positions: Tensor, end: int) -> tuple[Tensor, Tensor]:
        """Store new keys and values of a layer and return all up to the end of the longest row.

        Args:
            layer: 0 to L - 1.
            keys: (B, H, T_new, D).
            values: (B, H, T_new, D).
            positions: Positions of the new tokens in their rows, (B, T_new) int64.
            end: Largest position + 1. The caller knows it; reading it here would wait for the device.

        Returns:
            Keys and values, (B, H, T_seen, D); a row attends to those up to its own positions.
        """
        if len(positions) == 1:  # one row: a slice, not a scatter
            start = end - keys.shape[2]
            self.keys[layer, :, :, start:end] = keys
            self.values[layer, :, :, start:end] = values
        else:
            index = positions[:, None, :, None].expand_as(keys)
            self.keys[layer].scatter_(2, index, keys)
            self.values[layer].scatter_(2, index, values)
        return self.keys[layer, :, :, :end], self.values[layer, :, :, :end]

    def truncate(self, length: int, row: int = 0) -> None:
        """Drop a row's tokens from `length` on."""
        self.lengths[row] = length

    def grow(self, room: int) -> None:
        """Give every row room for this many tokens, at least, and keep what is cached."""
        if (more := room - self.capacity) > 0:
            self.keys, self.values = (F.pad(each, (0, 0, 0, more)) for each in (self.keys, self.values))

    def copy_row(self, source: int, target: int) -> None:
        """Replace the tokens of a row by those of another."""
        rows = torch.tensor([source, target], device=self.lengths.device)
        self.put_rows(rows[1:], self, rows[:1])

    def select(self, rows: Tensor, more: int) -> KVCache:
        """Return copies of some rows, (n,) int64, with room for `more` tokens beyond the longest."""
        part = copy(self)
        part.lengths = self.lengths[rows]
        end = int(part.lengths.max())
        part.keys, part.values = (F.pad(each[:, rows, :, :end], (0, 0, 0, more)) for each in (self.keys, self.values))
        return part

    def first(self, n: int) -> KVCache:
        """Return the first n rows as a cache that shares this one's memory."""
        part = copy(self)
        part.keys, part.values, part.lengths = self.keys[:, :n], self.values[:, :n], self.lengths[:n]
        return part

    def put_rows(self, rows: Tensor, other: KVCache, sources: Tensor) -> None:
        """Copy rows of another cache, or of this one, into rows of this one.

        Args:
            rows: Indices of the target rows, (n,) int64.
            other: Cache whose rows fit into this one.
            sources: Indices of the rows in it, (n,) int64.
        """
        lengths = other.lengths[sources]
        end = int(lengths.max())
        self.keys[:, rows, :, :end] = other.keys[:, sources, :, :end]
        self.values[:, rows, :, :end] = other.values[:, sources, :, :end]
        self.lengths[rows] = lengths
