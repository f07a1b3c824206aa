"""The decode engine: a GPT-2 on the CPU at the speed at which its weights can be read, without torch.

Shapes: B rows of a cache, T new tokens, C width, H heads, V vocabulary, L layers.
"""

from __future__ import annotations

import ctypes
import os
import weakref
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from zoo.containers.quantized import Quantized
from zoo.engine import native
from zoo.engine.kv_cache import EngineCache
from zoo.engine.weights import Pointers, check_options, load_weights
from zoo.errors import OptionError, ZooError
from zoo.formats.base import Checkpoint
from zoo.formats.opening import open_parameters
from zoo.models.gpt2.config import GPTConfig
from zoo.models.registry import Size

Floats = NDArray[np.float32]
_MOST = 256  # tokens a pass; longer prompts are read in several
_SHORT = 32  # tokens; so few take little longer than one


class Engine:
    """A model that can be asked for logits. One thread at a time may use it.

    Attributes:
        config: the architecture.
        vocabulary: of the checkpoint; None is GPT-2's.
        nbytes: of the weights that a token reads.
        cache_dtype: of keys and values: float32 with float32 weights, else float16.
    """

    def __init__(
        self,
        config: GPTConfig,
        weights: Mapping[str, NDArray[np.generic] | Quantized],
        *,
        threads: int | None = None,
        vocabulary: Any = None,
    ) -> None:
        """Take weights by the names of GPTConfig.parameter_shapes; float32, bfloat16 and float16 are not copied.

        Raises:
            OptionError: threads is below 1, or ZOO_ENGINE_ISA names instructions that this machine has not.
            ZooError: zoo was installed without its C library, or there is no memory.
        """
        library = _library()
        threads = default_threads() if threads is None else threads
        if not 1 <= threads <= 1024:
            raise OptionError(f"threads must be from 1 to 1024, not {threads}")
        self.config, self.vocabulary, self._library = config, vocabulary, library
        self._weights = Pointers(config, weights)
        self.nbytes = self._weights.nbytes
        first = weights["blocks.0.attn.qkv.weight"]
        is_float32 = not isinstance(first, Quantized) and first.dtype == np.float32
        self.cache_dtype: type[np.floating[Any]] = np.float32 if is_float32 else np.float16
        isa = os.environ.get("ZOO_ENGINE_ISA", "")
        handle = library.zoo_open(self._weights.model, threads, _MOST, isa.encode())
        if not handle:
            raise OptionError(
                f"the engine cannot start with {threads} threads and ZOO_ENGINE_ISA={isa!r} on this machine"
            )
        self._handle = ctypes.c_void_p(handle)
        self._rounds = bool(library.zoo_rounds(self._handle) & native.ROUND_BF16)
        self._close = weakref.finalize(self, library.zoo_close, self._handle)

    @classmethod
    def open(
        cls,
        source: str | Path | Checkpoint,
        *,
        dtype: str | None = None,
        quantize: str | None = None,
        threads: int | None = None,
        format: str | None = None,
        size: Size | None = None,
    ) -> Engine:
        """Open a checkpoint of any format; a zoo file is mapped, and run as it is if it is quantised.

        Args:
            source: path, or an open checkpoint that is in zoo's own names.
            dtype: "float32", "bfloat16" or "float16"; None keeps the file's, float32 where it has several. Of a
                quantised file it takes the values that the matrices stand for.
            quantize: "int8" or "int4", for the matrices.
            threads: None takes the cores this process may use.
            format: of the file; None recognises it.
            size: the model it must be.

        Raises:
            OptionError: dtype or quantize is none of these, or the engine cannot start.
            ZooError: the checkpoint is damaged, or not what format and size say.
        """
        _library()  # seconds may go into quantising: what cannot run is told before
        check_options(dtype, quantize)
        if isinstance(source, Checkpoint):
            checkpoint, tensors = source, source.tensors
        else:
            opened = open_parameters(source, format=format, size=size)
            checkpoint, tensors = opened.checkpoint, opened.tensors
        weights = load_weights(tensors, dtype, quantize)
        return cls(checkpoint.config, weights, threads=threads, vocabulary=checkpoint.vocabulary)

    def new_cache(self, batch: int = 1, room: int | None = None) -> EngineCache:
        """Return an empty cache of B rows, for `room` tokens each (the whole context by default)."""
        room = self.config.context_length if room is None else room
        if batch < 1 or not 1 <= room <= self.config.context_length:
            raise OptionError(f"a cache has at least 1 row and 1 to {self.config.context_length} tokens of room")
        return EngineCache(self.config, batch, room, self.cache_dtype)

    def begin(self, ids: Sequence[list[int]], cache: EngineCache, rows: Sequence[int]) -> list[list[int]]:
        """Read what of prompts may be read with rounded activations; return what is left of each for an exact pass.

        Where the processor multiplies bfloat16 and the weights are bfloat16, that takes half the time: of prompts of
        more than 32 tokens, all but the last are read so, with one pass for every 256 tokens of all of them. Else
        nothing is read, and all is left.

        Args:
            ids: B lists of tokens.
            cache: that they go on with.
            rows: of the cache, one for each list.
        """
        _check_distinct(len(ids), rows)
        rounded = [self._rounds and len(part) > _SHORT for part in ids]
        parts = [part[:-1] for part, is_rounded in zip(ids, rounded, strict=True) if is_rounded]
        if parts:
            which = [row for row, is_rounded in zip(rows, rounded, strict=True) if is_rounded]
            tokens = np.concatenate([np.asarray(part, np.int32) for part in parts])
            places = np.repeat(which, [len(part) for part in parts])
            self._read(tokens, places, cache, np.zeros(len(tokens), bool), rounded=True)
        return [part[-1:] if is_rounded else part for part, is_rounded in zip(ids, rounded, strict=True)]

    def prefill(self, ids: ArrayLike, cache: EngineCache, row: int = 0) -> Floats:
        """Read tokens (T,) into a row of the cache, as begin; return the logits behind the last, (V,) float32."""
        tokens = np.asarray(ids, np.int32).reshape(-1).tolist()
        return self.extend(self.begin([tokens], cache, [row]), cache, [row])[0]

    def verify(self, ids: ArrayLike, cache: EngineCache, row: int = 0) -> Floats:
        """Read tokens (T,) into a row of the cache and return the logits behind each, (T, V) float32."""
        tokens = np.asarray(ids, np.int32).reshape(-1)
        return self._read(tokens, np.full(len(tokens), row), cache, np.ones(len(tokens), bool))

    def step(self, ids: ArrayLike, cache: EngineCache, rows: ArrayLike | None = None) -> Floats:
        """Read one token (B,) for each row of the cache (or for those in `rows`): logits, (B, V) float32."""
        tokens = np.asarray(ids, np.int32).reshape(-1)
        which = np.arange(len(cache.lengths)) if rows is None else np.asarray(rows).reshape(-1)
        if len(tokens) != len(which) or len(np.unique(which)) != len(which):
            raise OptionError(f"a step takes one token for each row: {len(tokens)} tokens, {len(which)} rows")
        return self._read(tokens, which, cache, np.ones(len(tokens), bool))

    def extend(self, ids: Sequence[ArrayLike], cache: EngineCache, rows: Sequence[int], *, last: int = 1) -> Floats:
        """Read any number of tokens into each of some rows, with one pass over the weights for every 256 tokens.

        Args:
            ids: B lists of tokens.
            cache: that they go on with.
            rows: of the cache, one for each list.
            last: behind how many tokens at the end of each list logits are wanted.

        Returns:
            the logits behind the last tokens of each list, (B * last, V) float32; of shorter lists all.
        """
        parts = [np.asarray(part, np.int32).reshape(-1) for part in ids]
        counts = [len(part) for part in parts]
        if not counts or 0 in counts:
            raise OptionError("there are no tokens to read")
        _check_distinct(len(counts), rows)
        wanted = np.repeat(np.cumsum(counts), counts) - np.arange(sum(counts)) <= last
        return self._read(np.concatenate(parts), np.repeat(rows, counts), cache, wanted)

    def _read(
        self, ids: NDArray[np.int32], rows: Any, cache: EngineCache, wanted: NDArray[np.bool_], *, rounded: bool = False
    ) -> Floats:
        """The logits behind the tokens that are wanted; those of one row are neighbours, in order."""
        self._check(ids, rows, cache)
        parts = [slice(i, i + _MOST) for i in range(0, len(ids), _MOST)]
        found = [self._forward(ids[p], rows[p], cache, np.flatnonzero(wanted[p]), rounded) for p in parts]
        return found[0] if len(found) == 1 else np.concatenate(found)

    def _check(self, ids: NDArray[np.int32], rows: Any, cache: EngineCache) -> None:
        """Refuse what would lead the C side out of its arrays."""
        if not len(ids):
            raise OptionError("there are no tokens to read")
        if ids.min() < 0 or ids.max() >= self.config.vocab_size:
            raise OptionError(f"token ids are 0 to {self.config.vocab_size - 1}")
        batch = len(cache.lengths)
        if rows.min() < 0 or rows.max() >= batch:
            raise OptionError(f"the cache has rows 0 to {batch - 1}, not {rows.min()} to {rows.max()}")
        if cache.keys.shape[:3] != (self.config.n_layers, batch, self.config.n_heads) or (
            cache.keys.shape[4] < self.config.head_size
        ):
            raise OptionError("the cache was made for another model")
        longest = (cache.lengths + np.bincount(rows, minlength=batch)).max()
        if longest > cache.room:
            raise OptionError(f"{longest} tokens do not fit into a context of {cache.room}; give fewer")

    def _forward(self, ids: Any, rows: Any, cache: EngineCache, wanted: Any, rounded: bool) -> Floats:
        first = np.flatnonzero(np.diff(rows, prepend=-1))  # of each row's tokens
        nth = np.arange(len(rows)) - np.repeat(first, np.diff(first, append=len(rows)))
        logits = np.empty((len(wanted), self.config.vocab_rows), np.float32)
        arrays = [np.ascontiguousarray(a, np.int32) for a in (ids, rows, cache.lengths[rows] + nth, wanted)]
        pointers = [a.ctypes.data for a in (*arrays, cache.keys, cache.values, logits)]
        sizes = len(ids), len(wanted), len(cache.lengths), cache.keys.shape[3], cache.keys.itemsize == 2, rounded
        self._library.zoo_forward(self._handle, ctypes.byref(native.Tokens(*pointers, *sizes)))
        np.add.at(cache.lengths, rows, 1)
        return logits[:, : self.config.vocab_size]


def default_threads() -> int:
    """Return how many cores this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def is_built() -> bool:
    """Whether the C library is there."""
    return native.library() is not None


def _check_distinct(n: int, rows: Sequence[int]) -> None:
    if n != len(rows) or len(set(rows)) != n:
        raise OptionError(f"each list of tokens goes into a row of its own: {n} lists, rows {rows}")


def _library() -> ctypes.CDLL:
    found = native.library()
    if found is None:
        raise ZooError("the native engine was not built here; use `--engine torch`, or install zoo with a C compiler")
    return found
