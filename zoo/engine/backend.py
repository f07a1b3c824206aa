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
from zoo.core.mapped import MappedFiles
from zoo.engine import native
from zoo.engine.checks import as_ids, check_pass
from zoo.engine.handle import CAPACITY, Handle, library
from zoo.engine.kv_cache import EngineCache
from zoo.engine.weights import Pointers, check_options, load_weights
from zoo.errors import OptionError
from zoo.formats.base import Checkpoint
from zoo.formats.opening import open_parameters
from zoo.models.gpt2.config import GPTConfig
from zoo.models.registry import Size
from zoo.text.tokenizer import Tokenizer

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
        int8_prefill: whether activations of prompts are rounded to 8 bits: asked for, and this processor can.
    """

    def __init__(
        self,
        config: GPTConfig,
        weights: Mapping[str, NDArray[np.generic] | Quantized],
        *,
        threads: int | None = None,
        vocabulary: Any = None,
        int8_prefill: bool = False,
    ) -> None:
        """Take weights by the names of GPTConfig.parameter_shapes; float32, bfloat16 and float16 are not copied.

        Raises:
            OptionError: threads is below 1, ZOO_ENGINE_ISA names instructions that this machine does not have, or
                int8_prefill is given for weights that are not quantised.
            ZooError: zoo was installed without its C library, or there is no memory.
        """
        library()
        self.config, self.vocabulary = config, vocabulary
        self._files: MappedFiles | None = None
        pointers, first = Pointers(config, weights), weights["blocks.0.attn.qkv.weight"]
        if int8_prefill and not isinstance(first, Quantized):
            raise OptionError("int8_prefill is for weights of int8 or int4; add quantize='int8'")
        self._handle = Handle(pointers, threads, int8_prefill=int8_prefill)
        self.nbytes, self.int8_prefill = self._handle.weights.nbytes, bool(self._handle.rounding & native.ROUND_INT8)
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
        int8_prefill: bool = False,
        threads: int | None = None,
        format: str | None = None,
        size: Size | None = None,
    ) -> Engine:
        """Open a checkpoint of any format; a zoo file is mapped, and run as it is if it is quantised.

        Args:
            source: path (of zoo.open_engine a registered name, too), or an open checkpoint in zoo's own names.
            dtype: "float32", "bfloat16" or "float16"; None keeps the file's, float32 where it has several. Of a
                quantised file it takes the values that the matrices stand for.
            quantize: "int8" or "int4", for the matrices.
            int8_prefill: round the activations of prompts of more than 32 tokens to 8 bits instead of 16, except those
                of the last token, where the processor has instructions for it (AVX-VNNI, AVX-512 VNNI, ARM's dot
                products); elsewhere it changes nothing. Faster for weights of int8 and int4; docs/speed.md says
                what it costs.
            threads: None takes the cores that this process may use.
            format: name of the format; None recognises it by its content.
            size: the model it must be, by name or config.

        Raises:
            OptionError: dtype or quantize is none of these, int8_prefill is given for other weights, or the engine
                cannot start.
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
        vocabulary = checkpoint.vocabulary
        engine = cls(checkpoint.config, weights, threads=threads, vocabulary=vocabulary, int8_prefill=int8_prefill)
        engine._files = MappedFiles.of(checkpoint.files, map(_data, weights.values()))
        return engine

    def new_cache(self, batch: int = 1, room: int | None = None) -> EngineCache:
        """Return an empty cache of B rows, for `room` tokens each (the whole context by default)."""
        room = self.config.context_length if room is None else room
        if batch < 1 or not 1 <= room <= self.config.context_length:
            raise OptionError(f"a cache has at least 1 row and 1 to {self.config.context_length} tokens of room")
        return EngineCache(self.config, batch, room, self.cache_dtype)

    def prefill(self, ids: ArrayLike, cache: EngineCache, row: int = 0) -> Floats:
        """Add a prompt (T,) to a row of the cache, and return the logits after its last token, (V,) float32."""
        return self.logits([as_ids(ids).tolist()], cache, [row], [1])[0][0]

    def logits(
        self, ids: Sequence[ArrayLike], cache: EngineCache, rows: Sequence[int], last: Sequence[int]
    ) -> list[Floats]:
        """Add lists of new tokens to rows of a cache, with one pass over the weights for every 256 tokens.

        Where the processor multiplies bfloat16 and the weights are bfloat16, prompts of more than 32 tokens take half
        the time: activations of all tokens but the last are rounded to bfloat16; with int8_prefill to 8 bits.

        Args:
            ids: B lists of tokens. Those of which only the last one's logits are wanted are prompts.
            cache: that they extend.
            rows: row of the cache for each list, all different.
            last: number of tokens at the end of each list whose logits are wanted.

        Returns:
            for each list its logits, (last, V) float32.

        Raises:
            OptionError: tokens, rows or the cache do not fit, or the engine is closed.
            CorruptFile: the file that the weights are mapped from was changed.
        """
        parts = [as_ids(part) for part in ids]
        if not parts or not all(len(part) for part in parts):
            raise OptionError("there are no tokens to read")
        if len(parts) != len(rows) or len(set(rows)) != len(rows):
            raise OptionError(f"each list of tokens needs a row of its own: {len(parts)} lists, rows {list(rows)}")
        which = np.asarray(rows)
        prompts = [i for i, n in enumerate(last) if self._handle.rounding and n == 1 and len(parts[i]) > _SHORT]
        if prompts:
            self._read(
                [parts[i][:-1] for i in prompts], which[prompts], cache, [0] * len(prompts), self._handle.rounding
            )
            for i in prompts:
                parts[i] = parts[i][-1:]
        return np.split(self._read(parts, which, cache, last), np.cumsum(last)[:-1])

    def verify(self, ids: ArrayLike, cache: EngineCache, row: int = 0) -> Floats:
        """Add tokens (T,) to a row of the cache, and return the logits after each, (T, V) float32."""
        tokens = as_ids(ids)
        return self._read([tokens], np.array([row]), cache, [len(tokens)])

    def step(self, ids: ArrayLike, cache: EngineCache, rows: ArrayLike | None = None) -> Floats:
        """Add one token (B,) to each row of the cache (or to those in `rows`); return the logits, (B, V) float32."""
        tokens = as_ids(ids)
        which = np.arange(len(cache.lengths)) if rows is None else np.asarray(rows).reshape(-1)
        if len(tokens) != len(which) or len(np.unique(which)) != len(which):
            raise OptionError(f"a step takes one token for each row: {len(tokens)} tokens, {len(which)} rows")
        return self._read(list(tokens[:, None]), which, cache, [1] * len(tokens))

    def _read(
        self, parts: list[NDArray[np.int64]], rows: NDArray[Any], cache: EngineCache, last: Sequence[int],
        rounding: int = 0,
    ) -> Floats:  # fmt: skip
        """Return the logits after the last tokens of each list, (sum of last, V)."""
        counts = [len(part) for part in parts]
        ids, places = np.concatenate(parts), np.repeat(rows, counts)
        from_end = np.repeat(np.cumsum(counts), counts) - np.arange(len(ids))
        wanted = from_end <= np.repeat(last, counts)
        if self._files:
            self._files.check()
        with self._handle.lock:
            check_pass(self.config, ids, places, cache)
            passes = [slice(i, i + CAPACITY) for i in range(0, len(ids), CAPACITY)]
            found = [self._forward(ids[p], places[p], cache, np.flatnonzero(wanted[p]), rounding) for p in passes]
        return found[0] if len(found) == 1 else np.concatenate(found)

    def _forward(self, ids: Any, rows: Any, cache: EngineCache, wanted: Any, rounding: int) -> Floats:
        first = np.flatnonzero(np.diff(rows, prepend=-1))  # of each row's tokens
        nth = np.arange(len(rows)) - np.repeat(first, np.diff(first, append=len(rows)))
        logits = np.empty((len(wanted), self.config.vocab_rows), np.float32)
        arrays = [np.ascontiguousarray(a, np.int32) for a in (ids, rows, cache.lengths[rows] + nth, wanted)]
        keys, values = cache._keys, cache._values
        pointers = [a.ctypes.data for a in (*arrays, keys, values, logits)]
        sizes = len(ids), len(wanted), len(cache.lengths), keys.shape[3], keys.itemsize == 2, rounding
        self._handle.forward(native.Tokens(*pointers, *sizes))
        cache._lengths += np.bincount(rows, minlength=len(cache._lengths)).astype(np.int32)
        return logits[:, : self.config.vocab_size]


def _data(weight: NDArray[np.generic] | Quantized) -> NDArray[np.generic]:
    return weight.data if isinstance(weight, Quantized) else weight
