"""As much of the protocol buffer wire format as TensorFlow's index needs: a message as numbers and bytes by field.

https://protobuf.dev/programming-guides/encoding
"""

from __future__ import annotations

_MAX_VARINT_BYTES = 10  # of 64 bits, 7 a byte

Fields = dict[int, list[int | bytes]]
"""A message: field number to its values, in the order in which they stood."""


class Malformed(ValueError):
    """Bytes that contradict their own format. Readers turn it into a CorruptFile, which can name the file."""


def read_varint(data: bytes, start: int) -> tuple[int, int]:
    """Return the unsigned number at a position and the position after it.

    Raises:
        Malformed: it does not end, or has more than 64 bits.
    """
    value = 0
    for count, byte in enumerate(data[start : start + _MAX_VARINT_BYTES]):
        value |= (byte & 0x7F) << 7 * count
        if byte < 0x80 and value < 1 << 64:
            return value, start + count + 1
    raise Malformed("a number in it has no end")


def write_varint(value: int) -> bytes:
    """Return an unsigned number, 7 bits a byte, the low ones first."""
    out = bytearray()
    while value >= 0x80:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    return bytes(out) + bytes([value])


def parse(data: bytes) -> Fields:
    """Split a message into its fields, those that nobody asks for included.

    Raises:
        Malformed: it is not a message.
    """
    fields: Fields = {}
    position = 0
    while position < len(data):
        tag, position = read_varint(data, position)
        value, position = _read_value(data, position, tag & 7)
        fields.setdefault(tag >> 3, []).append(value)
    return fields


def _read_value(data: bytes, start: int, wire_type: int) -> tuple[int | bytes, int]:
    if wire_type == 0:
        return read_varint(data, start)
    if wire_type == 2:
        length, start = read_varint(data, start)
    elif wire_type in (1, 5):
        length = 8 if wire_type == 1 else 4
    else:
        raise Malformed(f"a field in it has the unknown wire type {wire_type}")
    value = data[start : start + length]
    if len(value) != length:
        raise Malformed("a field in it is truncated")
    return (value if wire_type == 2 else int.from_bytes(value, "little")), start + length


def number(fields: Fields, key: int) -> int:
    """Return a field that is a number; 0, as for protobuf itself, where it is absent.

    Raises:
        Malformed: it is something else.
    """
    value = fields.get(key, [0])[-1]
    if isinstance(value, bytes):
        raise Malformed(f"field {key} in it is not a number")
    return value


def messages(fields: Fields, key: int) -> list[Fields]:
    """Return a repeated field of messages.

    Raises:
        Malformed: it is something else.
    """
    found = []
    for value in fields.get(key, []):
        if isinstance(value, int):
            raise Malformed(f"field {key} in it is not a message")
        found.append(parse(value))
    return found


def message(fields: Fields, key: int) -> Fields:
    """Return a field that is one message; an empty one where it is absent.

    Raises:
        Malformed: it is something else.
    """
    found = messages(fields, key)
    return found[-1] if found else {}


def encode_number(key: int, value: int) -> bytes:
    """Return a field that is an unsigned number; nothing for 0, which is what absence means."""
    return write_varint(key << 3) + write_varint(value) if value else b""


def encode_fixed32(key: int, value: int) -> bytes:
    """Return a field that is a number of always 4 bytes; nothing for 0."""
    return write_varint(key << 3 | 5) + value.to_bytes(4, "little") if value else b""


def encode_message(key: int, value: bytes) -> bytes:
    """Return a field that holds an encoded message, even an empty one."""
    return write_varint(key << 3 | 2) + write_varint(len(value)) + value
