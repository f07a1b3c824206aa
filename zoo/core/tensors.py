"""Lazy tensors, whose shape and dtype are known before they are read, and iteration over large arrays in little
memory.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass

import ml_dtypes
import numpy as np
from numpy.typing import NDArray

from zoo.errors import UnknownName

Array = NDArray[np.generic]

_CACHE_LINE = 64  # bytes, on x86 and most ARM processors
CHUNK_BYTES = 2 << 20
"""Bytes per chunk: it fits into the cache, and malloc does not return blocks of this size."""

DTYPES: dict[str, np.dtype[np.generic]] = {
    "float32": np.dtype(np.float32),
    "float16": np.dtype(np.float16),
    "bfloat16": np.dtype(ml_dtypes.bfloat16),
    "float64": np.dtype(np.float64),
}
"""The supported dtypes of weights by name."""


def get_dtype(name: str) -> np.dtype[np.generic]:
    """Return the numpy dtype for a name such as "bfloat16".

    Raises:
        UnknownName: The name is not in DTYPES.
    """
    try:
        return DTYPES[name]
    except KeyError:
        raise UnknownName("dtype", name, DTYPES) from None


@dataclass(frozen=True)
class LazyTensor:
    """A tensor with known shape and dtype, whose values are read on demand.

    Attributes:
        shape: Lengths of the axes.
        dtype: Numpy dtype; bfloat16 is ml_dtypes.bfloat16.
        load: Returns the values, as a view of a mapped file where possible, with any strides. It checks what the
            container can check (a CRC, a length) and raises CorruptFile.
    """

    shape: tuple[int, ...]
    dtype: np.dtype[np.generic]
    load: Callable[[], Array]

    @property
    def size(self) -> int:
        """The number of elements."""
        return int(np.prod(self.shape, dtype=np.int64))

    @property
    def nbytes(self) -> int:
        """The size of the values in bytes."""
        return self.size * self.dtype.itemsize

    @property
    def stored_as(self) -> str:
        """The dtype or quantisation of the values in the file, for display."""
        return str(self.dtype)

    @property
    def stored_nbytes(self) -> int:
        """The size in the file in bytes."""
        return self.nbytes

    @staticmethod
    def of(array: Array) -> LazyTensor:
        """Wrap an array that is in memory."""
        return LazyTensor(array.shape, array.dtype, lambda: array)

    def astype(self, dtype: np.dtype[np.generic]) -> LazyTensor:
        """Return the tensor cast to dtype (round to nearest even) when it is loaded."""
        if dtype == self.dtype:
            return self
        return LazyTensor(self.shape, dtype, lambda: self.load().astype(dtype))


Tensors = Mapping[str, LazyTensor]
"""Lazy tensors by name."""


def chunks(array: Array, nbytes: int = CHUNK_BYTES) -> Iterator[Array]:
    """Split an array along its first axis longer than 1 into contiguous pieces of about nbytes, in order.

    The pieces of a contiguous array are views, so a mapped file is never copied as a whole.
    """
    while array.ndim > 1 and len(array) == 1:
        array = array[0]
    if array.ndim == 0:
        array = array.reshape(1)
    if array.size == 0:
        return
    rows = max(1, nbytes // max(1, array.nbytes // len(array)))
    for start in range(0, len(array), rows):
        yield contiguous(array[start : start + rows])


def contiguous(array: Array) -> Array:
    """Return an array in C order; a contiguous array itself.

    A transposed array is copied in panels as wide as a cache line. numpy copies in the order of one side and misses the
    cache on the other with every element, which takes 3 to 5 times as long.
    """
    if array.flags.c_contiguous or array.strides[-1] <= array.itemsize:
        return np.ascontiguousarray(array)
    copy = np.empty(array.shape, array.dtype)
    panel = max(1, _CACHE_LINE // array.itemsize)
    for start in range(0, array.shape[-1], panel):
        copy[..., start : start + panel] = array[..., start : start + panel]
    return copy


def same_bits(a: Array, b: Array) -> bool:
    """Return whether two arrays have the same shape, dtype and bits (NaN equals the same NaN; 0.0 differs from
    -0.0).
    """
    if a.shape != b.shape or a.dtype != b.dtype:
        return False
    bits = np.dtype(f"u{a.dtype.itemsize}")
    return all(np.array_equal(x.view(bits), y.view(bits)) for x, y in zip(chunks(a), chunks(b), strict=True))
