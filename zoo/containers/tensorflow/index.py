"""The index of a TensorFlow checkpoint: which tensors it has, and where in which data file their bytes are.

A table from names to messages; the name "" has a header.
https://github.com/tensorflow/tensorflow/blob/master/tensorflow/core/protobuf/tensor_bundle.proto
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import ml_dtypes
import numpy as np

from zoo.containers.files import map_file
from zoo.containers.tensorflow.leveldb import read_table, write_table
from zoo.containers.tensorflow.protobuf import (
    Fields,
    Malformed,
    encode_fixed32,
    encode_message,
    encode_number,
    message,
    messages,
    number,
    parse,
)
from zoo.errors import CorruptFile, FormatError

STRING = np.dtype(object)
"""The dtype of an array of bytes objects, TensorFlow's string tensor."""

# https://github.com/tensorflow/tensorflow/blob/master/tensorflow/core/framework/types.proto
_DTYPES: dict[int, np.dtype[np.generic]] = {
    1: np.dtype(np.float32),
    2: np.dtype(np.float64),
    3: np.dtype(np.int32),
    4: np.dtype(np.uint8),
    5: np.dtype(np.int16),
    6: np.dtype(np.int8),
    7: STRING,
    9: np.dtype(np.int64),
    10: np.dtype(np.bool_),
    14: np.dtype(ml_dtypes.bfloat16),
    17: np.dtype(np.uint16),
    19: np.dtype(np.float16),
    22: np.dtype(np.uint32),
    23: np.dtype(np.uint64),
}
DTYPE_CODES = {dtype: code for code, dtype in _DTYPES.items() if dtype != STRING}
"""The dtypes that can be written."""

_VERSION = 1  # of the format, the only one so far
_MAX_RANK = 32
_MAX_BYTES = 1 << 62  # of one tensor, an axis of length 0 counting as 1; beyond, numpy's own numbers overflow
_MAX_SHARDS = 1024  # each is a file that must be there; the file names would have room for 99,999
_WHOLE_AXIS = -1  # the length in a slice that takes all of an axis

Extent = tuple[int, int]
"""Where a slice begins on an axis, and its length there or _WHOLE_AXIS."""

Slice = tuple[Extent, ...]


@dataclass(frozen=True)
class Entry:
    """What the index says of one tensor.

    Attributes:
        shape: lengths of the axes.
        dtype: numpy's, STRING for byte strings.
        shard: number of the data file.
        offset: where the tensor begins there.
        size: its length there, in bytes.
        crc: masked CRC32C of these bytes.
        slices: empty, or the parts of a partitioned variable. Each has an entry of its own under slice_key(); then
            shard, offset, size and crc of this one mean nothing.
    """

    shape: tuple[int, ...]
    dtype: np.dtype[np.generic]
    shard: int = 0
    offset: int = 0
    size: int = 0
    crc: int = 0
    slices: tuple[Slice, ...] = ()


def read_shard_count(path: Path) -> int:
    """Return how many data files belong to an index.

    Raises:
        FormatError: as for read_index().
    """
    return _read(path)[0]


def read_index(path: Path) -> tuple[int, dict[bytes, Entry]]:
    """Return the number of data files, and the entries of all tensors and slices.

    Raises:
        CorruptFile: the index is damaged.
        FormatError: it is none, or holds what zoo does not read.
    """
    shards, records = _read(path)
    entries = {}
    for key, value in records.items():
        try:
            fields = parse(value)
            code = number(fields, 1)
            if code not in _DTYPES:
                raise FormatError(path, f"tensor {show(key)} has TensorFlow's dtype {code}, which zoo does not read")
            entries[key] = _parse_entry(fields, _DTYPES[code])
        except Malformed as error:
            raise CorruptFile(path, f"tensor {show(key)}: {error}; copy or download the index again") from error
    return shards, entries


def show(key: bytes) -> str:
    """Return a key of the index as an error message can show it."""
    return key.decode(errors="backslashreplace")


def _read(path: Path) -> tuple[int, dict[bytes, bytes]]:
    if not path.is_file():  # a missing file, but also a pipe, on which we would wait for ever
        raise FormatError(path, "is missing, or no file; it is the index of the TensorFlow checkpoint")
    try:
        records = dict(read_table(map_file(path)))
        if b"" not in records:
            raise Malformed("it has no header")
        header = parse(records.pop(b""))
        shards = number(header, 1)
        version = number(message(header, 3), 2)
        if number(header, 2):
            raise FormatError(path, "was written on a big-endian machine; zoo reads little-endian checkpoints only")
        if version > _VERSION:
            raise FormatError(path, f"asks for version {version} of TensorFlow's checkpoints; zoo knows {_VERSION}")
        if not 1 <= shards <= _MAX_SHARDS:
            raise Malformed(f"it says that there are {shards} data files")
    except Malformed as error:
        problem = f"is not an intact TensorFlow index ({error}); copy or download it again"
        raise CorruptFile(path, problem) from error
    return shards, records


def _parse_entry(fields: Fields, dtype: np.dtype[np.generic]) -> Entry:
    form = message(fields, 2)
    shape = tuple(number(axis, 1) for axis in messages(form, 2))
    at_least = 1 if dtype == STRING else dtype.itemsize
    if number(form, 3) or len(shape) > _MAX_RANK or math.prod(max(n, 1) for n in shape) * at_least > _MAX_BYTES:
        raise Malformed("its shape is impossible")
    slices = tuple(tuple(_parse_extent(axis) for axis in messages(part, 1)) for part in messages(fields, 7))
    shard, offset, size, crc = (number(fields, key) for key in (3, 4, 5, 6))
    entry = Entry(shape, dtype, shard, offset, size, crc, slices)
    if any(len(part) != len(shape) or not part for part in slices):
        raise Malformed("one of its slices has another rank than its shape")
    # A byte string takes a byte at least, for its length, and all together a checksum of the lengths.
    needed = math.prod(shape) + 4 if dtype == STRING else math.prod(shape) * dtype.itemsize
    if not slices and (size < needed or (size > needed and dtype != STRING)):
        raise Malformed(f"{size:,} bytes cannot hold shape {shape} of {dtype}")
    return entry


def _parse_extent(axis: Fields) -> Extent:
    start, length = number(axis, 1), number(axis, 2) if 2 in axis else _WHOLE_AXIS
    if max(start, length) >= _MAX_BYTES:
        raise Malformed("one of its slices is impossible")
    return start, length


def slice_key(name: bytes, part: Slice) -> bytes:
    """Return the key of a part of a partitioned variable.

    It is an encoding whose bytes sort as the name and the numbers in it do.
    https://github.com/tensorflow/tensorflow/blob/master/tensorflow/core/lib/strings/ordered_code.h
    """
    escaped = name.replace(b"\0", b"\0\xff")  # a byte 0xFF, escaped too, never occurs in UTF-8
    numbers = b"".join(_sortable(number) for extent in part for number in extent)
    return b"\0" + escaped + b"\0\1" + bytes([1, len(part)]) + numbers


def _sortable(value: int) -> bytes:
    # As many leading ones (zeros for negative numbers) as there are bytes, then the number itself.
    width = (value if value >= 0 else ~value).bit_length() // 7 + 1
    marker = ((1 << width) - 1) << 7 * width
    return ((value & (1 << 8 * width) - 1) ^ marker).to_bytes(width, "big")


def is_slice_key(key: bytes) -> bool:
    """Whether a key is one of slice_key(), not a tensor's name."""
    return key.startswith(b"\0")


def write_index(path: Path, entries: Iterable[tuple[bytes, Entry]]) -> None:
    """Write the index of a checkpoint with one data file. The entries must be sorted by name.

    Raises:
        OSError: the file cannot be written.
    """
    header = encode_number(1, 1) + encode_message(3, encode_number(1, _VERSION))
    path.write_bytes(write_table([(b"", header), *((key, _encode(entry)) for key, entry in entries)]))


def _encode(entry: Entry) -> bytes:
    shape = b"".join(encode_message(2, encode_number(1, length)) for length in entry.shape)
    return b"".join(
        (
            encode_number(1, DTYPE_CODES[entry.dtype]),
            encode_message(2, shape),
            encode_number(4, entry.offset),
            encode_number(5, entry.size),
            encode_fixed32(6, entry.crc),
        )
    )
