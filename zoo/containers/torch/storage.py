"""The objects of a torch.save pickle: storages, which are bytes, and tensors, which are strided views of them."""

from __future__ import annotations

import math
import zlib
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from zoo.core.tensors import DTYPES, Array, LazyTensor
from zoo.errors import CorruptFile

Bytes = NDArray[np.uint8]

STORAGES: dict[str, np.dtype[np.generic]] = {
    "FloatStorage": DTYPES["float32"],
    "HalfStorage": DTYPES["float16"],
    "BFloat16Storage": DTYPES["bfloat16"],
    "DoubleStorage": DTYPES["float64"],
    "LongStorage": np.dtype(np.int64),
    "IntStorage": np.dtype(np.int32),
    "ShortStorage": np.dtype(np.int16),
    "CharStorage": np.dtype(np.int8),
    "ByteStorage": np.dtype(np.uint8),
    "BoolStorage": np.dtype(np.bool_),
}
"""The storage classes of module torch whose tensors zoo reads and writes."""

DAMAGED = "the file is corrupt or truncated; copy or download it again"

_MAX_BYTES = 1 << 62
_MAX_AXES = 64  # numpy's and torch's limit


@dataclass
class Storage:
    """A run of bytes in the file that tensors are views of.

    The pickle says how long it is; only later does the container say where it lies.

    Attributes:
        path: Path of the file.
        name: Name for error messages.
        nbytes: its size according to the pickle.
        itemsize: Itemsize of the elements it was saved with.
        data: at least nbytes of the mapped file.
        crc: CRC32 of data, None where the container has none.
        checked: whether the CRC was compared. Two threads may both find that it was not; no harm.
    """

    path: Path
    name: str
    nbytes: int
    itemsize: int
    data: Bytes = field(default_factory=lambda: np.empty(0, np.uint8), compare=False)
    crc: int | None = field(default=None, compare=False)
    checked: bool = field(default=False, compare=False)

    def place(self, data: Bytes, crc: int | None) -> None:
        """Say where the bytes lie.

        Raises:
            CorruptFile: they are fewer than the pickle says.
        """
        if len(data) < self.nbytes:
            problem = f"{self.name} has {len(data):,} bytes where its tensors need {self.nbytes:,}"
            raise CorruptFile(self.path, f"{problem}; {DAMAGED}")
        self.data, self.crc = data, crc

    def load(self) -> Bytes:
        """Return the bytes, a view of the file.

        Raises:
            CorruptFile: the checksum is wrong.
        """
        if self.crc is not None and not self.checked:
            check_crc(self.path, self.name, self.data, self.crc)
            self.checked = True
        return self.data


def check_crc(path: Path, name: str, data: Bytes, crc: int) -> None:
    """Compare the CRC32 of a record.

    Raises:
        CorruptFile: it is another one.
    """
    if zlib.crc32(data.data) != crc:
        raise CorruptFile(path, f"the checksum of {name} is wrong; {DAMAGED}")


@dataclass(frozen=True)
class Part:
    """What a tensor is built on: a part of a storage (nearly always all of it), seen as one dtype.

    Attributes:
        storage: the bytes.
        dtype: Dtype of the elements.
        start: Start of the part in the storage, in bytes.
        length: Length of the part, in elements.
    """

    storage: Storage
    dtype: np.dtype[np.generic]
    start: int
    length: int

    def tensor(self, offset: int, shape: tuple[int, ...], strides: tuple[int, ...]) -> LazyTensor:
        """Return the tensor of these numbers, which count elements as torch does.

        Raises:
            CorruptFile: it does not lie inside the part.
        """
        self._check(offset, shape, strides)
        begin, itemsize = self.start + offset * self.dtype.itemsize, self.dtype.itemsize
        # Where an axis has at most one element its stride means nothing, and may be any number.
        steps = [stride * itemsize if length > 1 else 0 for length, stride in zip(shape, strides, strict=True)]

        def load() -> Array:
            data = self.storage.load()[: self.storage.nbytes]
            return np.ndarray(shape, self.dtype, data, min(begin, len(data)), steps if math.prod(shape) else None)

        return LazyTensor(shape, self.dtype, load)

    def _check(self, offset: Any, shape: Any, strides: Any) -> None:
        numbers = (offset, *shape, *strides)
        possible = len(shape) == len(strides) and len(shape) <= _MAX_AXES and all(map(is_count, numbers))
        # numpy multiplies the lengths that are not 0, even if one is.
        if not possible or math.prod(max(length, 1) for length in shape) * self.dtype.itemsize > _MAX_BYTES:
            raise CorruptFile(self.storage.path, f"a tensor in {self.storage.name} has impossible numbers; {DAMAGED}")
        last = offset + sum((length - 1) * stride for length, stride in zip(shape, strides, strict=True))
        if math.prod(shape) and last >= self.length:
            problem = f"a tensor of shape {list(shape)} does not lie inside {self.storage.name}"
            raise CorruptFile(self.storage.path, f"{problem}; {DAMAGED}")


def is_count(number: Any) -> bool:
    """Whether it is an int that can be a length, an offset or a stride."""
    return type(number) is int and 0 <= number < 1 << 48
