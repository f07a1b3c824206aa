"""LevelDB's sorted table, in which TensorFlow keeps the index of a checkpoint: keys and values in blocks of bytes.

A file is data blocks, a block about the blocks (empty here), an index block (last key of each data block or a little
more -> where it lies) and a footer. Keys share prefixes with their predecessors.
https://github.com/google/leveldb/blob/main/doc/table_format.md
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from mmap import mmap

import google_crc32c

from zoo.containers.tensorflow.protobuf import Malformed, read_varint, write_varint

MAGIC = (0xDB4775248B80FB57).to_bytes(8, "little")
"""The last bytes of every table."""

_FOOTER_BYTES = 48
_TRAILER_BYTES = 5  # of a block: how it is compressed, and a CRC
_BLOCK_BYTES = 256 << 10  # where TensorFlow begins a new data block
_RESTART_INTERVAL = 16  # after so many keys one is written without sharing a prefix

# Shared prefixes can make a small file unfold into a huge one. No honest index comes near these.
_MAX_KEY_BYTES = 4096
_MAX_ALL_KEYS_BYTES = 8 << 20
_MAX_ENTRIES = 1 << 15
_MAX_BLOCK_BYTES = 4 << 20  # unpacked; TensorFlow's have 256 kB
_MAX_ALL_BLOCKS_BYTES = 12 << 20
_MAX_ALL_VALUES_BYTES = 1 << 20  # an entry has some 30, and a field of it at least 2


def mask_crc(crc: int) -> int:
    """Return a CRC as LevelDB stores it: changed, so that the CRC of bytes with their CRC in them is not trivial."""
    return ((crc >> 15 | crc << 17) + 0xA282EAD8) & 0xFFFFFFFF


def read_table(data: mmap | bytes) -> Iterator[tuple[bytes, bytes]]:
    """Yield the keys and values of a table, in order.

    Raises:
        Malformed: it is not an intact table.
    """
    if len(data) < _FOOTER_BYTES or data[-len(MAGIC) :] != MAGIC:
        raise Malformed("it does not end as an index does")
    footer = data[-_FOOTER_BYTES:]
    _, _, position = _read_handle(footer, 0)
    offset, size, _ = _read_handle(footer, position)
    last: bytes | None = None
    end = keys = values = unpacked = count = 0
    for _, handle in _entries(_read_block(data, offset, size)):
        offset, size, _ = _read_handle(handle, 0)
        if offset < end:
            # Blocks read twice could keep us busy for a time that grows with the square of the file's length.
            raise Malformed("its blocks overlap")
        end = offset + size
        block = _read_block(data, offset, size)
        unpacked += len(block)
        for key, value in _entries(block):
            keys, values, count = keys + len(key), values + len(value), count + 1
            if (last is not None and key <= last) or keys > _MAX_ALL_KEYS_BYTES or count > _MAX_ENTRIES:
                raise Malformed("its keys are not sorted, too long or too many")
            if values > _MAX_ALL_VALUES_BYTES or unpacked > _MAX_ALL_BLOCKS_BYTES:
                raise Malformed("its entries are too long")
            last = key
            yield key, value


def _read_handle(data: bytes, start: int) -> tuple[int, int, int]:
    offset, position = read_varint(data, start)
    size, position = read_varint(data, position)
    return offset, size, position


def _read_block(data: mmap | bytes, offset: int, size: int) -> bytes:
    if offset + size + _TRAILER_BYTES > len(data):
        raise Malformed("a block in it lies outside the file")
    block = data[offset : offset + size + _TRAILER_BYTES]
    if mask_crc(google_crc32c.value(block[:-4])) != int.from_bytes(block[-4:], "little"):
        raise Malformed("the checksum of a block in it is wrong")
    content, compression = block[:-_TRAILER_BYTES], block[-_TRAILER_BYTES]
    if compression > 1:
        raise Malformed(f"a block in it is compressed in the unknown way {compression}")
    return unsnappy(content) if compression else content


def _entries(block: bytes) -> Iterator[tuple[bytes, bytes]]:
    restarts = int.from_bytes(block[-4:], "little")  # they are for binary search; we read everything
    end = len(block) - 4 * (restarts + 1)
    if end < 0:
        raise Malformed("a block in it is truncated")
    position, key = 0, b""
    while position < end:
        shared, position = read_varint(block, position)
        fresh, position = read_varint(block, position)
        length, position = read_varint(block, position)
        if shared > len(key) or shared + fresh > _MAX_KEY_BYTES or position + fresh + length > end:
            raise Malformed("an entry in it has impossible lengths")
        key = key[:shared] + block[position : position + fresh]
        position += fresh + length
        yield key, block[position - length : position]


def unsnappy(data: bytes) -> bytes:
    """Decompress snappy's raw format: literal bytes, and copies of bytes that are already there.

    https://github.com/google/snappy/blob/main/format_description.txt

    Raises:
        Malformed: it is not compressed that way.
    """
    length, position = read_varint(data, 0)
    if length > _MAX_BLOCK_BYTES:
        raise Malformed("a compressed block in it is too large")
    out = bytearray()
    while position < len(data) and len(out) <= length:
        tag, kind = data[position] >> 2, data[position] & 3
        width = (max(0, tag - 59), 1, 2, 4)[kind]  # of the number that follows the tag
        argument = int.from_bytes(data[position + 1 : position + 1 + width], "little")
        position += 1 + width
        if kind == 0:
            count = 1 + (argument if width else tag)
            piece = data[position : position + count]
            position += count
        else:
            count = 4 + (tag & 7) if kind == 1 else 1 + tag
            distance = argument | (tag >> 3) << 8 if kind == 1 else argument
            start = len(out) - distance
            if not 0 <= start < len(out):
                raise Malformed("a compressed block in it copies from nowhere")
            piece = bytes(out[start : start + count])
            piece = (piece * (count // len(piece) + 1))[:count]  # a copy may run into itself
        out += piece
    if len(out) != length or position != len(data):
        raise Malformed("a compressed block in it has another length than it says")
    return bytes(out)


def write_table(entries: Sequence[tuple[bytes, bytes]]) -> bytes:
    """Return a table, the same bytes that TensorFlow writes.

    Args:
        entries: keys and values; the keys sorted, without repetition.
    """
    out = bytearray()
    index = _Block(restart_interval=1)
    block = _Block(_RESTART_INTERVAL)
    for (key, value), following in zip(entries, [*(key for key, _ in entries[1:]), None], strict=True):
        block.add(key, value)
        if following is None or block.size >= _BLOCK_BYTES:
            index.add(_divider(key, following), _append_block(out, block))
            block = _Block(_RESTART_INTERVAL)
    about_blocks = _append_block(out, _Block(_RESTART_INTERVAL))
    footer = about_blocks + _append_block(out, index)
    return bytes(out) + footer.ljust(_FOOTER_BYTES - len(MAGIC), b"\0") + MAGIC


def _append_block(out: bytearray, block: _Block) -> bytes:
    content = block.finish()
    handle = write_varint(len(out)) + write_varint(len(content))
    stored = content + b"\0"  # not compressed
    out += stored + mask_crc(google_crc32c.value(stored)).to_bytes(4, "little")
    return handle


def _divider(last: bytes, following: bytes | None) -> bytes:
    # A short key that is not less than the last one of a block, and less than the next block's first one.
    for i, byte in enumerate(last):
        if following is None:
            if byte < 0xFF:
                return last[:i] + bytes([byte + 1])
        elif byte != following[i]:
            return last[:i] + bytes([byte + 1]) if byte + 1 < following[i] else last
    return last


class _Block:
    def __init__(self, restart_interval: int) -> None:
        self._interval = restart_interval
        self._out = bytearray()
        self._restarts = [0]
        self._count = 0
        self._last = b""

    @property
    def size(self) -> int:
        return len(self._out) + 4 * len(self._restarts) + 4

    def add(self, key: bytes, value: bytes) -> None:
        shared = 0
        if self._count == self._interval:
            self._restarts.append(len(self._out))
            self._count = 0
        else:
            limit = min(len(key), len(self._last))
            shared = next((i for i in range(limit) if key[i] != self._last[i]), limit)
        self._out += write_varint(shared) + write_varint(len(key) - shared) + write_varint(len(value))
        self._out += key[shared:] + value
        self._last = key
        self._count += 1

    def finish(self) -> bytes:
        numbers = [*self._restarts, len(self._restarts)]
        return bytes(self._out) + b"".join(number.to_bytes(4, "little") for number in numbers)
