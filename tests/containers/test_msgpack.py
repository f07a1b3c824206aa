import contextlib
import struct
from pathlib import Path

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from zoo.containers.msgpack import Extension, bytes_head, decode, encode, extension_head, list_head, map_head
from zoo.errors import CorruptFile

PATH = Path("file.msgpack")


def plain(value):
    """A decoded value with bytes where decoding gives views."""
    if isinstance(value, memoryview):
        return bytes(value)
    if isinstance(value, Extension):
        return value.kind, bytes(value.content)
    if isinstance(value, list):
        return [plain(inner) for inner in value]
    return {key: plain(inner) for key, inner in value.items()} if isinstance(value, dict) else value


@pytest.mark.parametrize(
    ("data", "value"),
    [
        (b"\x07", 7),
        (b"\xff", -1),
        (b"\xe0", -32),
        (b"\xc0", None),
        (b"\xc2", False),
        (b"\xc3", True),
        (b"\xcc\x80", 128),
        (b"\xcd\x01\x00", 256),
        (b"\xce\x00\x01\x00\x00", 65536),
        (b"\xcf" + b"\0" * 7 + b"\x05", 5),
        (b"\xd0\x80", -128),
        (b"\xd1\xff\x00", -256),
        (b"\xd2\xff\xff\x00\x00", -65536),
        (b"\xd3" + b"\xff" * 8, -1),
        (b"\xca" + struct.pack(">f", 1.5), 1.5),
        (b"\xcb" + struct.pack(">d", -2.25), -2.25),
        (b"\xa2ab", "ab"),
        (b"\xd9\x02ab", "ab"),
        (b"\xda\x00\x02ab", "ab"),
        (b"\xdb\x00\x00\x00\x02ab", "ab"),
        (b"\xa2\xc3\xa9", "é"),
        (b"\xc4\x02ab", b"ab"),
        (b"\xc5\x00\x02ab", b"ab"),
        (b"\xc6\x00\x00\x00\x02ab", b"ab"),
        (b"\x92\x01\xa1b", [1, "b"]),
        (b"\xdc\x00\x01\x01", [1]),
        (b"\xdd\x00\x00\x00\x01\x01", [1]),
        (b"\x81\xa1a\x01", {"a": 1}),
        (b"\xde\x00\x01\xa1a\x01", {"a": 1}),
        (b"\xdf\x00\x00\x00\x01\xa1a\x01", {"a": 1}),
        (b"\xd4\x05a", (5, b"a")),
        (b"\xd8\x01" + b"x" * 16, (1, b"x" * 16)),
        (b"\xc7\x02\xffab", (-1, b"ab")),
        (b"\xc8\x00\x02\x01ab", (1, b"ab")),
        (b"\xc9\x00\x00\x00\x02\x01ab", (1, b"ab")),
    ],
)
def test_every_kind_of_value_is_decoded(data, value):
    """The bytes that the specification gives for a kind of value mean that value."""
    assert value == plain(decode(PATH, memoryview(data)))


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (b"", "truncated"),
        (b"\x81\xa1a", "truncated"),
        (b"\xc6\xff\xff\xff\xffab", "truncated"),
        (b"\xdf\xff\xff\xff\xff", "truncated"),
        (b"\x01\x01", "behind the end"),
        (b"\xc1", "0xc1"),
        (b"\x82\xa1a\x01\xa1a\x02", "stands twice"),
        (b"\x81\x01\x01", "is not text"),
        (b"\xa1\xff", "a name that is not text"),
        (b"\xda\x10\x01" + b"a" * 4097, "a name of 4,097 bytes"),
        (b"\x91" * 40 + b"\x01", "more values, or deeper ones"),
        (b"\xdd\x00\x20\x00\x00" + b"\x01" * 2**21, "more values, or deeper ones"),
    ],
)
def test_what_is_no_whole_value_is_refused(data, words):
    """Damage is told in words, and neither depth nor number of values grows without a limit."""
    with pytest.raises(CorruptFile, match=words):
        decode(PATH, memoryview(data))


@given(st.binary(max_size=60))
@example(b"\x91" * 60)
def test_any_bytes_are_a_value_or_refused(data):
    """Whatever the bytes are, nothing but CorruptFile is raised."""
    with contextlib.suppress(CorruptFile):
        decode(PATH, memoryview(data))


@pytest.mark.peers
@given(
    st.one_of(
        st.integers(0, 2**64 - 1),
        st.sampled_from([0, 127, 128, 255, 256, 65535, 65536, 2**32 - 1, 2**32]),
        st.booleans(),
        st.text(max_size=300),
    )
)
def test_encoding_is_that_of_the_msgpack_package(value):
    """Texts, numbers and truth values are encoded in as few bytes as msgpack encodes them, and decoded again."""
    msgpack = pytest.importorskip("msgpack")

    assert msgpack.packb(value) == encode(value)
    assert value == decode(PATH, memoryview(encode(value)))


@pytest.mark.peers
@pytest.mark.parametrize("n", [0, 1, 2, 3, 4, 8, 15, 16, 17, 31, 32, 255, 256, 65535, 65536])
def test_lengths_are_told_as_the_msgpack_package_tells_them(n):
    """What stands before a map, a list, a byte string or an extension is what msgpack writes there."""
    msgpack = pytest.importorskip("msgpack")

    assert msgpack.packb({str(i): 1 for i in range(n)}).startswith(map_head(n))
    assert msgpack.packb([1] * n) == list_head(n) + b"\x01" * n
    assert msgpack.packb(b"x" * n) == bytes_head(n) + b"x" * n
    assert msgpack.packb(msgpack.ExtType(1, b"x" * n)) == extension_head(1, n) + b"x" * n
