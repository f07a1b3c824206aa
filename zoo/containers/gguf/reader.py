"""The GGUF container: typed keys and values, descriptions of tensors, then the tensors' bytes, all little-endian.

https://github.com/ggml-org/ggml/blob/master/docs/gguf.md; what is refused here, ggml/src/gguf.cpp refuses too: arrays
in arrays, and tensors that do not lie one behind the other in the order of their descriptions.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from zoo.containers.files import is_shape, map_file
from zoo.containers.gguf.quants import PLAIN, QUANTS, decoded, nbytes
from zoo.core.tensors import Array, LazyTensor
from zoo.errors import CorruptFile, FormatError

Value = str | int | float | bool | list[str] | Array

MAGIC = b"GGUF"
VERSION = 3
_READABLE = (2, VERSION)  # 3 only added big-endian files; 1 had shorter numbers, and llama.cpp refuses it too
ALIGNMENT = 32  # GGUF_DEFAULT_ALIGNMENT
_MAX_DIMS = 4  # GGML_MAX_DIMS
_MAX_COUNT = 1 << 15  # of keys and of tensors; a damaged count must not become millions of objects
_MAX_STRINGS = 1 << 19  # in all arrays together, for the same reason

# enum gguf_type -> numpy's code
_SCALARS = dict(enumerate(("<u1", "<i1", "<u2", "<i2", "<u4", "<i4", "<f4", "?")))
_SCALARS |= {10: "<u8", 11: "<i8", 12: "<f8"}
STRING, ARRAY = 8, 9

# enum ggml_type; those that zoo does not read are there to be named in messages
_NAMES = (
    "F32 F16 Q4_0 Q4_1 Q4_2 Q4_3 Q5_0 Q5_1 Q8_0 Q8_1 Q2_K Q3_K Q4_K Q5_K Q6_K Q8_K IQ2_XXS IQ2_XS IQ3_XXS IQ1_S "
    "IQ4_NL IQ3_S IQ2_S IQ4_XS I8 I16 I32 I64 F64 IQ1_M BF16"
)
TYPES = dict(enumerate(_NAMES.split())) | {34: "TQ1_0", 35: "TQ2_0", 39: "MXFP4", 40: "NVFP4"}
"""ggml's name of a type, by the number that stands for it in a file."""


@dataclass(frozen=True)
class GgufFile:
    """What is in a GGUF file.

    Attributes:
        metadata: value by key. Numbers and flags are Python's, a float32 being the shortest decimal that means it;
            arrays of strings are lists, other arrays numpy's.
        tensors: Tensors in the order of the file; those of quantised types give float32.
        types: ggml's name of each tensor's type.
    """

    metadata: dict[str, Value]
    tensors: dict[str, LazyTensor]
    types: dict[str, str]


class _Cursor:
    """Reads the part of a file before the tensors, and never past its end."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.data = memoryview(map_file(path))
        self.at = 0
        self.n_strings = 0

    def take(self, nbytes: int) -> memoryview:
        if nbytes > len(self.data) - self.at:
            raise CorruptFile(self.path, "has a truncated or corrupt header; copy it again")
        self.at += nbytes
        return self.data[self.at - nbytes : self.at]

    def u4(self) -> int:
        return int.from_bytes(self.take(4), "little")

    def u8(self) -> int:
        return int.from_bytes(self.take(8), "little")

    def count(self, what: str) -> int:
        count = self.u8()
        if count > _MAX_COUNT:
            raise CorruptFile(self.path, f"says that it has {count:,} {what}; it is damaged")
        return count

    def text(self) -> str:
        return self.texts(1)[0]

    def texts(self, count: int) -> list[str]:
        """Read strings in one loop, as a vocabulary has a hundred thousand."""
        found = []
        for _ in range(count):
            begin = self.at + 8
            end = begin + int.from_bytes(self.data[self.at : begin], "little")
            if end > len(self.data):
                raise CorruptFile(self.path, "has a truncated or corrupt header; copy it again")
            try:
                found.append(str(self.data[begin:end], "utf-8"))
            except UnicodeDecodeError as error:
                raise CorruptFile(self.path, f"has text that is not UTF-8 ({error}); copy it again") from error
            self.at = end
        return found

    def value(self) -> Value:
        kind = self.u4()
        if kind == STRING:
            return self.text()
        if kind == ARRAY:
            return self.array()
        number = self.numbers(kind, 1)[0]
        return float(str(number)) if number.dtype == np.float32 else number.item()

    def array(self) -> list[str] | Array:
        kind, length = self.u4(), self.u8()
        if kind != STRING:
            return self.numbers(kind, length)
        self.n_strings += length
        if self.n_strings > _MAX_STRINGS:
            raise CorruptFile(self.path, f"says that it has {self.n_strings:,} strings; it is damaged")
        return self.texts(length)

    def numbers(self, kind: int, length: int) -> Array:
        if kind not in _SCALARS:
            raise CorruptFile(self.path, f"has a value of type {kind} among its keys, which GGUF does not have there")
        dtype = np.dtype(_SCALARS[kind])
        return np.frombuffer(self.take(length * dtype.itemsize), dtype)


def read_architecture(path: Path) -> str | None:
    """Return the architecture of a GGUF file; "" if the header is damaged before it, None for other files."""
    with path.open("rb") as file:
        if file.read(4) != MAGIC:
            return None
    try:
        cursor = _Cursor(path)
        _, n_keys = _read_start(cursor)
        found = next((value for key, value in _read_pairs(cursor, n_keys) if key == "general.architecture"), "")
    except FormatError:
        return ""
    return found if isinstance(found, str) else ""


def read_gguf(path: Path) -> GgufFile:
    """Open a GGUF file without reading its tensors.

    Raises:
        FormatError: it is of another version or byte order, or has a tensor of a type that zoo does not read.
        CorruptFile: it does not describe exactly the bytes that are there.
    """
    cursor = _Cursor(path)
    n_tensors, n_keys = _read_start(cursor)
    metadata: dict[str, Value] = {}
    for key, value in _read_pairs(cursor, n_keys):
        if key in metadata:
            raise CorruptFile(path, f"has the key {key} twice; write it again")
        metadata[key] = value
    described = [_read_description(cursor) for _ in range(n_tensors)]
    alignment = metadata.get("general.alignment", ALIGNMENT)
    if type(alignment) is not int or alignment < 1 or alignment & (alignment - 1):
        raise CorruptFile(path, f"has general.alignment {alignment!r}, which is not a power of two")
    start = end = padded(cursor.at, alignment)
    tensors: dict[str, LazyTensor] = {}
    for name, type_name, shape, offset in described:
        begin = padded(end, alignment)
        end = begin + nbytes(type_name, shape)
        if start + offset != begin or end > len(cursor.data) or name in tensors:
            raise CorruptFile(path, f"the bytes of tensor {name} are not where they must be; the file may be truncated")
        tensors[name] = _view(cursor.data, type_name, shape, begin)
    if len(cursor.data) > padded(end, alignment):
        raise CorruptFile(path, f"has {len(cursor.data):,} bytes where its header describes {end:,}; copy it again")
    return GgufFile(metadata, tensors, {name: type_name for name, type_name, *_ in described})


def _read_start(cursor: _Cursor) -> tuple[int, int]:
    """Return how many tensors and keys there are."""
    if cursor.take(4) != MAGIC:
        raise FormatError(cursor.path, "is not a GGUF file")
    version = cursor.u4()
    if version and not version & 0xFFFF:
        raise FormatError(cursor.path, "is a big-endian GGUF file; convert it with gguf-convert-endian first")
    if version not in _READABLE:
        raise FormatError(cursor.path, f"is GGUF of version {version}; zoo reads versions 2 and 3")
    return cursor.count("tensors"), cursor.count("keys")


def _read_pairs(cursor: _Cursor, count: int) -> Iterator[tuple[str, Value]]:
    for _ in range(count):
        yield cursor.text(), cursor.value()


def _read_description(cursor: _Cursor) -> tuple[str, str, tuple[int, ...], int]:
    """Return a tensor's name, type, shape and offset; a file has the fastest axis first."""
    name, n_dims = cursor.text(), cursor.u4()
    if n_dims > _MAX_DIMS:
        raise CorruptFile(cursor.path, f"tensor {name} has {n_dims} axes; it is damaged")
    shape = tuple(cursor.u8() for _ in range(n_dims))[::-1]
    code, offset = cursor.u4(), cursor.u8()
    type_name = TYPES.get(code, f"number {code}")
    if type_name not in PLAIN and type_name not in QUANTS:
        known = ", ".join([*PLAIN, *QUANTS])
        problem = f"tensor {name} is of ggml's type {type_name}; zoo reads {known}: make the file anew in one of them"
        raise FormatError(cursor.path, problem)
    row = shape[-1] if shape else 1
    if not is_shape(shape) or (type_name in QUANTS and row % QUANTS[type_name].values):
        raise CorruptFile(cursor.path, f"tensor {name} has impossible axes {shape} for its type {type_name}")
    return name, type_name, shape, offset


def padded(offset: int, alignment: int = ALIGNMENT) -> int:
    """Return the next offset that is a multiple of the alignment."""
    return offset + -offset % alignment


def _view(data: memoryview, type_name: str, shape: tuple[int, ...], offset: int) -> LazyTensor:
    size = nbytes(type_name, shape)
    stored = LazyTensor((size,), np.dtype(np.uint8), lambda: np.frombuffer(data, np.uint8, size, offset))
    return decoded(stored, type_name, shape)
