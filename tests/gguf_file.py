"""A small writer and a small reader of GGUF, from the specification, that share no code with zoo."""

import struct

import numpy as np

U4, F4, BOOL, STRING, ARRAY, F8 = 4, 6, 7, 8, 9, 12
CODES = {"F32": 0, "F16": 1, "Q4_0": 2, "Q5_0": 6, "Q8_0": 8, "Q4_K": 12, "BF16": 30}
BLOCK_BYTES = {"Q4_0": 18, "Q5_0": 22, "Q8_0": 34, "Q4_K": 18}  # a 32 values
_SCALARS = {0: "B", 1: "b", 2: "H", 3: "h", 4: "I", 5: "i", 6: "f", 7: "?", 10: "Q", 11: "q", 12: "d"}


def text(value):
    """A string: its length, then its bytes."""
    data = value if isinstance(value, bytes) else value.encode()
    return struct.pack("<Q", len(data)) + data


def value(found):
    """A value with its type in front; numbers are uint32 or float32."""
    if isinstance(found, str):
        return struct.pack("<I", STRING) + text(found)
    if isinstance(found, bool):
        return struct.pack("<I?", BOOL, found)
    if isinstance(found, int):
        return struct.pack("<II", U4, found)
    if isinstance(found, float):
        return struct.pack("<If", F4, found)
    if found and isinstance(found[0], int):
        return struct.pack(f"<IIQ{len(found)}i", ARRAY, 5, len(found), *found)
    return struct.pack("<IIQ", ARRAY, STRING, len(found)) + b"".join(map(text, found))


def nbytes(kind, shape):
    """Bytes of a tensor."""
    size = int(np.prod(shape))
    return size // 32 * BLOCK_BYTES[kind] if kind in BLOCK_BYTES else size * (4 if kind == "F32" else 2)


def build(keys, tensors, *, version=3, alignment=32):
    """A file. keys: name -> value or its bytes; tensors: name -> (kind, shape, bytes)."""
    out = b"GGUF" + struct.pack("<IQQ", version, len(tensors), len(keys))
    for key, found in keys.items():
        out += text(key) + (found if isinstance(found, bytes) else value(found))
    offset, body = 0, b""
    for name, (kind, shape, data) in tensors.items():
        out += text(name) + struct.pack(f"<I{len(shape)}Q", len(shape), *reversed(shape))
        out += struct.pack("<IQ", CODES.get(kind, kind), offset)
        body += data.ljust(-(-len(data) // alignment) * alignment, b"\0")
        offset = len(body)
    return out.ljust(-(-len(out) // alignment) * alignment, b"\0") + body


def parse(data):
    """(version, keys, tensors); tensors: name -> (kind, shape, bytes)."""
    at = 4

    def take(code):
        nonlocal at
        found = struct.unpack_from(f"<{code}", data, at)
        at += struct.calcsize(f"<{code}")
        return found[0]

    def string():
        return take(f"{take('Q')}s").decode()

    def scalar(kind):
        if kind == STRING:
            return string()
        if kind == ARRAY:
            kind, length = take("I"), take("Q")
            return [scalar(kind) for _ in range(length)]
        return take(_SCALARS[kind])

    assert data[:4] == b"GGUF"
    version, n_tensors, n_keys = take("I"), take("Q"), take("Q")
    keys = {string(): scalar(take("I")) for _ in range(n_keys)}
    described = []
    for _ in range(n_tensors):
        name = string()
        shape = tuple(take("Q") for _ in range(take("I")))[::-1]
        described.append((name, {code: kind for kind, code in CODES.items()}[take("I")], shape, take("Q")))
    start = -(-at // 32) * 32
    tensors, end = {}, start
    for name, kind, shape, offset in described:
        assert start + offset == end
        tensors[name] = (kind, shape, data[end : end + nbytes(kind, shape)])
        end += -(-nbytes(kind, shape) // 32) * 32
    assert end == len(data)
    return version, keys, tensors
