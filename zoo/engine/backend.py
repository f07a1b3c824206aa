"""The decode engine: a GPT-2 on the CPU at the speed at which its weights can be read, without torch.

Shapes: B rows of a cache, T new tokens, C width, H heads, V vocabulary, L layers.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any, NoReturn, Self

import numpy as np
from numpy.typing import ArrayLike, NDArray

from zoo.containers.quantized import Quantized
from zoo.engine import native
from zoo.engine.checks import as_ids, check_distinct, check_pass
from zoo.engine.handle import CAPACITY, Handle, library
from zoo.engine.kv_cache import EngineCache
from zoo.engine.weights import Pointers, check_options, load_weights
from zoo.errors import OptionError
from zoo.formats.base import Checkpoint
from zoo.formats.opening import open_parameters
from zoo.models.gpt2.config import GPTConfig
from zoo.text.tokenizer import Tokenizer
from zoo.models.registry import Size

Floats = NDArray[np.float32]
_SHORT = 32  # tokens; so few take little longer than one


class Engine:
    """A model on the CPU that computes logits; zoo.generate and its like take it in place of a model.

    Threads may share one: their passes run one after another. It works after a fork, too. It cannot be copied or
    pickled.

    Attributes:
        config: the architecture.
        vocabulary: of the checkpoint; None is GPT-2's.
        nbytes: bytes of the weights that a token reads.
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
        library()
        self.config, self.vocabulary = config, vocabulary
        self._handle = Handle(Pointers(config, weights), threads)
        self.nbytes = self._handle.weights.nbytes
        first = weights["blocks.0.attn.qkv.weight"]
        is_float32 = not isinstance(first, Quantized) and first.dtype == np.float32
        self.cache_dtype: type[np.floating[Any]] = np.float32 if is_float32 else np.float16

    def close(self) -> None:
        """Stop its threads and free its memory; using it again is an error. It is closed when it is deleted, too."""
        self._handle.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def __reduce_ex__(self, protocol: object) -> NoReturn:
        raise OptionError("an Engine cannot be copied or pickled; share it, or open its checkpoint again")

    @cached_property
    def tokenizer(self) -> Tokenizer:
        """The tokenizer of the checkpoint's vocabulary."""
        return Tokenizer(self.vocabulary)

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
        library()  # seconds may go into quantising: what cannot run is told before
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

    def begin(
        self, ids: Sequence[Sequence[int]], cache: EngineCache, rows: Sequence[int]
    ) -> list[Sequence[int]]:
        """Read what of prompts may be read with rounded activations; return what is left of each for an exact pass.

        Where the processor multiplies bfloat16 and the weights are bfloat16, that takes half the time: of prompts of
        more than 32 tokens, all but the last are read so, with one pass for every 256 tokens of all of them. Else
        nothing is read, and all is left.

        Args:
            ids: B lists of tokens.
            cache: that they go on with.
            rows: of the cache, one for each list.
        """
        check_distinct(len(ids), rows)
        rounded = [self._handle.rounds and len(part) > _SHORT for part in ids]
        parts = [part[:-1] for part, is_rounded in zip(ids, rounded, strict=True) if is_rounded]
        if parts:
            which = [row for row, is_rounded in zip(rows, rounded, strict=True) if is_rounded]
            tokens = np.concatenate([as_ids(part) for part in parts])
            places = np.repeat(which, [len(part) for part in parts])
            self._read(tokens, places, cache, np.zeros(len(tokens), bool), rounded=True)
        return [part[-1:] if is_rounded else part for part, is_rounded in zip(ids, rounded, strict=True)]

    def prefill(self, ids: ArrayLike, cache: EngineCache, row: int = 0) -> Floats:
        """Read tokens (T,) into a row of the cache, as begin; return the logits behind the last, (V,) float32."""
        return self.logits([as_ids(ids).tolist()], cache, [row], [1])[0][0]

    def logits(
        self, ids: Sequence[Sequence[int]], cache: EngineCache, rows: Sequence[int], last: Sequence[int]
    ) -> list[Floats]:
        """Add lists of new tokens to rows of a cache, and return the logits after the last ones of each list.

        Args:
            ids: B lists of tokens; where only the last one's logits are wanted, the others are added as by `begin`.
            cache: that they extend.
            rows: row of the cache for each list.
            last: number of tokens at the end of each list whose logits are wanted.

        Returns:
            for each list its logits, (last, V) float32.
        """
        parts = list(ids)
        prompts = [i for i, n in enumerate(last) if n == 1]
        for i, rest in zip(
            prompts, self.begin([ids[i] for i in prompts], cache, [rows[i] for i in prompts]), strict=True
        ):
            parts[i] = rest
        return np.split(self.extend(parts, cache, rows, last=last), np.cumsum(last)[:-1])

    def verify(self, ids: ArrayLike, cache: EngineCache, row: int = 0) -> Floats:
        """Read tokens (T,) into a row of the cache and return the logits behind each, (T, V) float32."""
        tokens = as_ids(ids)
        return self._read(tokens, np.full(len(tokens), row), cache, np.ones(len(tokens), bool))

    def step(self, ids: ArrayLike, cache: EngineCache, rows: ArrayLike | None = None) -> Floats:
        """Read one token (B,) for each row of the cache (or for those in `rows`): logits, (B, V) float32."""
        tokens = as_ids(ids)
        which = np.arange(len(cache.lengths)) if rows is None else np.asarray(rows).reshape(-1)
        if len(tokens) != len(which) or len(np.unique(which)) != len(which):
            raise OptionError(f"a step takes one token for each row: {len(tokens)} tokens, {len(which)} rows")
        return self._read(tokens, which, cache, np.ones(len(tokens), bool))

    def extend(
        self, ids: Sequence[ArrayLike], cache: EngineCache, rows: Sequence[int], *, last: int | Sequence[int] = 1
    ) -> Floats:
        """Read any number of tokens into each of some rows, with one pass over the weights for every 256 tokens.

        Args:
            ids: B lists of tokens.
            cache: that they go on with.
            rows: of the cache, one for each list.
            last: number of tokens at the end of each list whose logits are wanted, one for all or one for each.

        Returns:
            the logits after the last tokens of each list, (sum of last, V) float32; of shorter lists all.
        """
        parts = [as_ids(part) for part in ids]
        counts = [len(part) for part in parts]
        if not counts or 0 in counts:
            raise OptionError("there are no tokens to read")
        check_distinct(len(counts), rows)
        from_end = np.repeat(np.cumsum(counts), counts) - np.arange(sum(counts))
        wanted = from_end <= np.repeat(np.broadcast_to(last, len(counts)), counts)
        return self._read(np.concatenate(parts), np.repeat(rows, counts), cache, wanted)

    def _read(
        self, ids: NDArray[np.int64], rows: Any, cache: EngineCache, wanted: NDArray[np.bool_], *, rounded: bool = False
    ) -> Floats:
        """The logits behind the tokens that are wanted; those of one row are neighbours, in order."""
        with self._handle.lock:
            check_pass(self.config, ids, np.asarray(rows), cache)
            return self._run(ids.astype(np.int32), rows, cache, wanted, rounded)

    def _run(self, ids: Any, rows: Any, cache: EngineCache, wanted: NDArray[np.bool_], rounded: bool) -> Floats:
        parts = [slice(i, i + CAPACITY) for i in range(0, len(ids), CAPACITY)]
        found = [self._forward(ids[p], rows[p], cache, np.flatnonzero(wanted[p]), rounded) for p in parts]
        return found[0] if len(found) == 1 else np.concatenate(found)

    def _forward(self, ids: Any, rows: Any, cache: EngineCache, wanted: Any, rounded: bool) -> Floats:
        first = np.flatnonzero(np.diff(rows, prepend=-1))  # of each row's tokens
        nth = np.arange(len(rows)) - np.repeat(first, np.diff(first, append=len(rows)))
        logits = np.empty((len(wanted), self.config.vocab_rows), np.float32)
        arrays = [np.ascontiguousarray(a, np.int32) for a in (ids, rows, cache.lengths[rows] + nth, wanted)]
        pointers = [a.ctypes.data for a in (*arrays, cache._keys, cache._values, logits)]
        sizes = len(ids), len(wanted), len(cache.lengths), cache.keys.shape[3], cache.keys.itemsize == 2, rounded
        self._handle.forward(native.Tokens(*pointers, *sizes))
        cache._lengths += np.bincount(rows, minlength=len(cache._lengths)).astype(np.int32)
        return logits[:, : self.config.vocab_size]
