"""Causal masks that several formats store as buffers: the ones to write, and checks that accept equivalent ones."""

from __future__ import annotations

import numpy as np

from zoo.core.tensors import Array, LazyTensor
from zoo.models.gpt2.config import GPTConfig

_LEAST_MASKED = -1e3


def causal_mask(config: GPTConfig) -> LazyTensor:
    """Return ones where attention is allowed, on and below the diagonal: (1, 1, T, T)."""
    t = config.context_length
    return LazyTensor((1, 1, t, t), np.dtype(np.float32), lambda: np.tri(t, dtype=np.float32)[None, None])


def future_mask(config: GPTConfig) -> LazyTensor:
    """Return ones where attention is forbidden, above the diagonal: (T, T)."""
    t = config.context_length
    return LazyTensor((t, t), np.dtype(np.float32), lambda: 1 - np.tri(t, dtype=np.float32))


def is_causal_mask(tensor: LazyTensor) -> bool:
    """Return whether a tensor of any dtype allows attention to this and earlier positions, for any context length."""
    return _is_triangle(tensor, lower=True)


def is_future_mask(tensor: LazyTensor) -> bool:
    """Return whether a tensor of any dtype forbids attention to later positions, for any context length."""
    return _is_triangle(tensor, lower=False)


def is_masked_bias(tensor: LazyTensor) -> bool:
    """Whether a tensor is the one number that stands for a forbidden score: -10,000, or what a cast made of it."""
    return tensor.size == 1 and float(tensor.load().astype(np.float32).reshape(())) <= _LEAST_MASKED


def _is_triangle(tensor: LazyTensor, *, lower: bool) -> bool:
    shape = tensor.shape[-2:]
    if len(shape) < 2 or shape[0] != shape[1] or tensor.size != shape[0] * shape[1]:
        return False
    rows = tensor.load().reshape(shape)
    keys = np.arange(shape[1])
    # Row by row: a mask of numbers as large as this one would take four times the memory.
    return all(np.array_equal(rows[i] != 0, (keys <= i) == lower) and _is_binary(rows[i]) for i in range(shape[0]))


def _is_binary(row: Array) -> bool:
    return set(np.unique(row.astype(np.float32)).tolist()) <= {0.0, 1.0}
