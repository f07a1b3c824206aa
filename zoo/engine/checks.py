"""What is checked before a pass, because the C side checks nothing."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from zoo.engine.kv_cache import EngineCache
from zoo.errors import OptionError
from zoo.models.gpt2.config import GPTConfig


def as_ids(values: ArrayLike) -> NDArray[np.int64]:
    """Return token ids as an array, (T,).

    Raises:
        OptionError: they are not integers, or do not fit 64 bits.
    """
    found = np.asarray(values).reshape(-1)
    if len(found) and (found.dtype.kind not in "iu" or found.dtype == np.uint64):
        raise OptionError(f"token ids must be integers, not {found.dtype}")
    return found.astype(np.int64)


def check_pass(config: GPTConfig, ids: NDArray[np.int64], rows: NDArray[Any], cache: EngineCache) -> None:
    """Refuse what would lead the C side out of its arrays.

    Raises:
        OptionError: an id, a row or the number of tokens is out of range, or the cache is of another model.
    """
    if not len(ids):
        raise OptionError("there are no tokens to read")
    if ids.min() < 0 or ids.max() >= config.vocab_size:
        raise OptionError(f"token ids are 0 to {config.vocab_size - 1}")
    lengths, keys = cache.lengths, cache.keys
    batch = len(lengths)
    if rows.dtype.kind not in "iu" or rows.min() < 0 or rows.max() >= batch:
        raise OptionError(f"the cache has rows 0 to {batch - 1}, not {rows.min()} to {rows.max()}")
    if keys.shape[:3] != (config.n_layers, batch, config.n_heads) or keys.shape[4] < config.head_size:
        raise OptionError("the cache was made for another model")
    longest = (lengths + np.bincount(rows, minlength=batch)).max()
    if lengths.min() < 0 or longest > min(cache.room, config.context_length, keys.shape[3]):
        raise OptionError(f"{longest} tokens do not fit into a context of {cache.room}; give fewer")
