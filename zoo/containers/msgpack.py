"""MessagePack: decoding that leaves byte strings where they are, and encoding around what is written apart.

The msgpack package unpacks a file as a whole into memory, or needs it as a whole there to pack it.
https://github.com/msgpack/msgpack/blob/master/spec.md
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from zoo.errors import CorruptFile

_MAX_DEPTH = 32  # of maps in maps; transformers' GPT-2 needs 6
_MAX_VALUES = 1 << 17  # far more than any GPT-2 has; a file of many tiny values must not become gigabytes of objects
_MAX_TEXT = 4096  # bytes of a name

# First byte -> how many bytes the length behind it takes, or the number itself.
_TEXT, _BYTES, _EXTENSION = {0xD9: 1, 0xDA: 2, 0xDB: 4}, {0xC4: 1, 0xC5: 2, 0xC6: 4}, {0xC7: 1, 0xC8: 2, 0xC9: 4}
_LIST, _MAP = {0xDC: 2, 0xDD: 4}, {0xDE: 2, 0xDF: 4}
_UNSIGNED, _SIGNED = {0xCC: 1, 0xCD: 2, 0xCE: 4, 0xCF: 8}, {0xD0: 1, 0xD1: 2, 0xD2: 4, 0xD3: 8}
# First byte -> the length itself; the value itself; the code of struct.
_FIXED_EXTENSION = {0xD4: 1, 0xD5: 2, 0xD6: 4, 0xD7: 8, 0xD8: 16}
_SIMPLE = {0xC0: None, 0xC2: False, 0xC3: True}
_FLOAT = {0xCA: ">f", 0xCB: ">d"}


@dataclass(frozen=True)
class Extension:
    """A value whose meaning is not MessagePack's."""

    kind: int
    content: memoryview


def decode(path: Path, data: memoryview) -> Any:
    """Decode one value that fills all of the data: dicts, lists, str, numbers, Extension; byte strings as views.

    Raises:
        CorruptFile: the data are damaged, or no checkpoint of weights.
    """
    decoder = _Decoder(path, data)
    value = decoder.value(0)
    if decoder.position != len(data):
        raise CorruptFile(path, "has bytes behind the end of a value; copy or download it again")
    return value


class _Decoder:
    def __init__(self, path: Path, data: memoryview) -> None:
        self.path, self.data, self.position, self.n_values = path, data, 0, 0

    def value(self, depth: int) -> Any:
        self.n_values += 1
        if depth > _MAX_DEPTH or self.n_values > _MAX_VALUES:
            raise CorruptFile(
                self.path, "has more values, or deeper ones, than any GPT-2; it is not a checkpoint of one"
            )
        code = self.take(1)[0]
        if code < 0x80 or code >= 0xE0:
            return code if code < 0x80 else code - 0x100
        if code < 0x90 or code in _MAP:
            return self.map(code & 15 if code < 0x90 else self.number(_MAP[code]), depth)
        if code < 0xA0 or code in _LIST:
            return [self.value(depth + 1) for _ in range(code & 15 if code < 0xA0 else self.number(_LIST[code]))]
        if code < 0xC0 or code in _TEXT:
            return self.text(code & 31 if code < 0xC0 else self.number(_TEXT[code]))
        if code in _BYTES:
            return self.take(self.number(_BYTES[code]))
        if code in _EXTENSION or code in _FIXED_EXTENSION:
            length = self.number(_EXTENSION[code]) if code in _EXTENSION else _FIXED_EXTENSION[code]
            return Extension(self.number(1, signed=True), self.take(length))
        return self.scalar(code)

    def take(self, n: int) -> memoryview:
        piece = self.data[self.position : self.position + n]
        if len(piece) != n:
            raise CorruptFile(self.path, "is truncated or not MessagePack; copy or download it again")
        self.position += n
        return piece

    def number(self, n: int, signed: bool = False) -> int:
        return int.from_bytes(self.take(n), "big", signed=signed)

    def scalar(self, code: int) -> Any:
        if code in _SIMPLE:
            return _SIMPLE[code]
        if code in _FLOAT:
            return struct.unpack(_FLOAT[code], self.take(struct.calcsize(_FLOAT[code])))[0]
        if code in _UNSIGNED or code in _SIGNED:
            return self.number((_UNSIGNED | _SIGNED)[code], signed=code in _SIGNED)
        raise CorruptFile(self.path, f"has the byte {code:#x}, which MessagePack does not use; copy it again")

    def map(self, n: int, depth: int) -> dict[str, Any]:
        pairs: dict[str, Any] = {}
        for _ in range(n):
            key = self.value(depth + 1)
            if not isinstance(key, str) or key in pairs:
                raise CorruptFile(self.path, f"has the key {str(key)[:80]!r}, which is not text or stands twice")
            pairs[key] = self.value(depth + 1)
        return pairs

    def text(self, n: int) -> str:
        if n > _MAX_TEXT:
            raise CorruptFile(self.path, f"has a name of {n:,} bytes; it is not a checkpoint")
        try:
            return bytes(self.take(n)).decode()
        except UnicodeDecodeError as error:
            raise CorruptFile(self.path, "has a name that is not text; copy or download it again") from error


def encode(value: str | int | bool) -> bytes:
    """Encode a text, a natural number or a truth value, in the shortest form, as the msgpack package does."""
    if isinstance(value, bool):
        return b"\xc3" if value else b"\xc2"
    if isinstance(value, int):
        return _head(0, 0x80, _UNSIGNED, value)
    text = value.encode()
    return _head(0xA0, 32, _TEXT, len(text)) + text


def map_head(n: int) -> bytes:
    """The bytes before the n keys and values of a map."""
    return _head(0x80, 16, _MAP, n)


def list_head(n: int) -> bytes:
    """The bytes before the n values of a list."""
    return _head(0x90, 16, _LIST, n)


def bytes_head(n: int) -> bytes:
    """The bytes before a byte string of length n."""
    return _head(0, 0, _BYTES, n)


def extension_head(kind: int, n: int) -> bytes:
    """The bytes before an extension's content of length n."""
    fixed = [code for code, length in _FIXED_EXTENSION.items() if length == n]
    return (bytes(fixed) or _head(0, 0, _EXTENSION, n)) + bytes([kind])


def _head(small: int, limit: int, codes: dict[int, int], n: int) -> bytes:
    """Tell of a length in the first byte if it is below the limit, in as few bytes as it needs otherwise."""
    if n < limit:
        return bytes([small | n])
    code, width = next((code, width) for code, width in codes.items() if n < 1 << 8 * width)
    return bytes([code]) + n.to_bytes(width, "big")
