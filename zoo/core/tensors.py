"""Tensors that are known before they are read, and how to walk through large ones in little memory."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass

import ml_dtypes
import numpy as np
from numpy.typing import NDArray

from zoo.errors import UnknownName

Array = NDArray[np.generic]

_CACHE_LINE = 64  # bytes, of x86 and most ARM
CHUNK_BYTES = 2 << 20
"""How much of a tensor is copied at a time: it stays in the cache, and below what malloc gives back to the system."""

DTYPES: dict[str, np.dtype[np.generic]] = {
    "float32": np.dtype(np.float32),
    "float16": np.dtype(np.float16),
    "bfloat16": np.dtype(ml_dtypes.bfloat16),
    "float64": np.dtype(np.float64),
}
"""The dtypes that weights may have, by name."""


def get_dtype(name: str) -> np.dtype[np.generic]:
    """Return the numpy dtype of a name such as "bfloat16".

    Raises:
        UnknownName: it is not one of DTYPES.
    """
    try:
        return DTYPES[name]
    except KeyError:
        raise UnknownName("dtype", name, DTYPES) from None


@dataclass(frozen=True)
class LazyTensor:
    """A tensor whose shape and dtype are known, and whose values are read only when asked for.

    Attributes:
        shape: lengths of the axes.
        dtype: a numpy dtype; bfloat16 is ml_dtypes.bfloat16.
        load: returns the values, a view of a mapped file wherever possible, with any strides. It checks what the
            container can check (a CRC, a length) and raises CorruptFile.
    """

    shape: tuple[int, ...]
    dtype: np.dtype[np.generic]
    load: Callable[[], Array]

    @property
    def size(self) -> int:
        """Number of elements."""
        return int(np.prod(self.shape, dtype=np.int64))

    @property
    def nbytes(self) -> int:
        """Size of the values in bytes."""
        return self.size * self.dtype.itemsize

    @property
    def stored_as(self) -> str:
        """What its values are in the file, for people: the dtype, or a way of quantising."""
        return str(self.dtype)

    @property
    def stored_nbytes(self) -> int:
        """Size in the file in bytes."""
        return self.nbytes

    @staticmethod
    def of(array: Array) -> LazyTensor:
        """Wrap an array that is already in memory."""
        return LazyTensor(array.shape, array.dtype, lambda: array)

    def astype(self, dtype: np.dtype[np.generic]) -> LazyTensor:
        """Return the same tensor cast (round to nearest even) to dtype when it is loaded."""
        if dtype == self.dtype:
            return self
        return LazyTensor(self.shape, dtype, lambda: self.load().astype(dtype))


Tensors = Mapping[str, LazyTensor]
"""Lazy tensors by name."""


def chunks(array: Array, nbytes: int = CHUNK_BYTES) -> Iterator[Array]:
    """Cut an array along its first axis that is longer than 1 into contiguous pieces of about nbytes, in order.

    The pieces of a contiguous array are views, so that a mapped file is never copied as a whole.
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
    """Return an array in C order, itself if it is.

    A transposed one is copied in panels as wide as a cache line: numpy walks through such a copy in the order of one
    side and misses the cache on the other with every element, which takes 3 to 5 times as long.
    """
    if array.flags.c_contiguous or array.strides[-1] <= array.itemsize:
        return np.ascontiguousarray(array)
    copy = np.empty(array.shape, array.dtype)
    panel = max(1, _CACHE_LINE // array.itemsize)
    for start in range(0, array.shape[-1], panel):
        copy[..., start : start + panel] = array[..., start : start + panel]
    return copy


def same_bits(a: Array, b: Array) -> bool:
    """Whether two arrays have the same shape, dtype and bits (so NaN equals the same NaN, and 0.0 is not -0.0)."""
    if a.shape != b.shape or a.dtype != b.dtype:
        return False
    bits = np.dtype(f"u{a.dtype.itemsize}")
    return all(np.array_equal(x.view(bits), y.view(bits)) for x, y in zip(chunks(a), chunks(b), strict=True))
