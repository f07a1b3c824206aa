"""Causal masks that several formats store as buffers."""

from __future__ import annotations

import numpy as np

from zoo.core.tensors import LazyTensor
from zoo.models.gpt2.config import GPTConfig


def causal_mask(config: GPTConfig) -> LazyTensor:
    """Return ones where attention is allowed, on and below the diagonal: (1, 1, T, T)."""
    t = config.context_length
    return LazyTensor((1, 1, t, t), np.dtype(np.float32), lambda: np.tri(t, dtype=np.float32)[None, None])


def future_mask(config: GPTConfig) -> LazyTensor:
    """Return ones where attention is forbidden, above the diagonal: (T, T)."""
    t = config.context_length
    return LazyTensor((t, t), np.dtype(np.float32), lambda: 1 - np.tri(t, dtype=np.float32))
