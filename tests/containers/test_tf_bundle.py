"""The reader and writer of TensorFlow's checkpoints, against itself, against damage and against TensorFlow."""

import os
import struct
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import google_crc32c
import ml_dtypes
import numpy as np
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from zoo.containers.tensorflow.bundle import bundle_files, find_prefix, is_index, read_bundle, write_bundle
from zoo.containers.tensorflow.index import DTYPE_CODES, slice_key
from zoo.containers.tensorflow.leveldb import mask_crc, read_table, unsnappy, write_table
from zoo.containers.tensorflow.protobuf import (
    Malformed,
    encode_fixed32,
    encode_message,
    encode_number,
    parse,
    read_varint,
    write_varint,
)
from zoo.core.tensors import Array, LazyTensor, same_bits
from zoo.errors import CannotHold, CorruptFile, FormatError, UnsafeFile, ZooError

SHARD = "model.ckpt.data-00000-of-00001"
HEADER = encode_number(1, 1) + encode_message(3, encode_number(1, 1))
names = st.text(min_size=1, max_size=30).filter(lambda name: not name.startswith("\0"))
shapes = st.lists(st.sampled_from([1, 2, 3, 5, 7]), max_size=3).map(tuple) | st.just((0, 3))


def filled(shape: tuple[int, ...], dtype: Any, seed: int) -> Array:
    """Random bits of a dtype, so that NaN, -0.0 and denormal numbers come too."""
    dtype = np.dtype(dtype)
    count = int(np.prod(shape))
    raw = np.random.default_rng(seed).integers(0, 2 if dtype == np.bool_ else 256, count * dtype.itemsize, np.uint8)
    return raw.view(dtype).reshape(shape)


def write(prefix: Path, arrays: dict[str, Array]) -> None:
    write_bundle(prefix, {name: LazyTensor.of(array) for name, array in arrays.items()})


def read(prefix: Path) -> dict[str, Array]:
    return {name: tensor.load() for name, tensor in read_bundle(prefix).items()}


def assert_same(found: dict[str, Array], expected: dict[str, Array]) -> None:
    assert list(found) == sorted(expected, key=str.encode)
    for name, array in expected.items():
        assert same_bits(found[name], array), name


def entry(
    dtype: int = 1,
    shape: tuple[int, ...] = (2, 3),
    size: int = 24,
    offset: int = 0,
    shard: int = 0,
    crc: int = 0,
    slices: tuple[tuple[tuple[int, int], ...], ...] = (),
) -> bytes:
    """An index entry written by hand; a length of -1 in a slice is all of the axis."""
    out = encode_number(1, dtype) + encode_message(2, b"".join(encode_message(2, encode_number(1, n)) for n in shape))
    out += encode_number(3, shard) + encode_number(4, offset) + encode_number(5, size) + encode_fixed32(6, crc)
    for part in slices:
        axes = (encode_number(1, start) + (b"" if n < 0 else encode_number(2, n)) for start, n in part)
        out += encode_message(7, b"".join(encode_message(1, axis) for axis in axes))
    return out


def by_hand(directory: Path, data: bytes, *records: tuple[bytes, bytes], header: bytes = HEADER) -> Path:
    prefix = directory / "model.ckpt"
    (directory / SHARD).write_bytes(data)
    (directory / "model.ckpt.index").write_bytes(write_table([(b"", header), *sorted(records)]))
    return prefix


@pytest.fixture
def example_bundle(tmp_path: Path) -> tuple[Path, dict[str, Array]]:
    arrays = {
        "model/wte": filled((11, 3), "f4", 1),
        "model/h0/attn/c_attn/w": filled((1, 3, 5), "f4", 2),
        "global_step": np.array(1234567890123),
    }
    write(tmp_path / "model.ckpt", arrays)
    return tmp_path / "model.ckpt", arrays


# Round trips


@settings(deadline=None, max_examples=150)
@given(st.dictionaries(names, st.tuples(shapes, st.sampled_from(list(DTYPE_CODES)), st.integers(0, 99)), max_size=40))
def test_every_tensor_comes_back_with_the_same_bits(wanted: dict[str, Any]) -> None:
    """Whatever is written reads back with the same names, shapes, dtypes and bits."""
    arrays = {name: filled(*what) for name, what in wanted.items()}
    with TemporaryDirectory() as directory:
        prefix = Path(directory) / "model.ckpt"
        write(prefix, arrays)
        assert_same(read(prefix), arrays)
        assert find_prefix(Path(directory)) == prefix


def test_order_and_place_do_not_change_the_bytes(example_bundle: tuple[Path, dict[str, Array]], tmp_path: Path) -> None:
    """The same tensors give the same files, in whatever order they are given."""
    prefix, arrays = example_bundle
    other = tmp_path / "other" / "model.ckpt"
    other.parent.mkdir()
    write(other, dict(reversed(arrays.items())))
    for file in (*bundle_files(prefix), tmp_path / "checkpoint"):
        assert file.read_bytes() == (other.parent / file.name).read_bytes()


def test_the_bytes_of_a_small_bundle(tmp_path: Path) -> None:
    """The format does not drift: these bytes follow from its description, not from our code."""
    write(tmp_path / "m", {"step": np.array(7, np.int64), "w": np.arange(6, dtype=np.float32).reshape(2, 3)})
    index = (tmp_path / "m.index").read_bytes()
    assert (tmp_path / "m.data-00000-of-00001").read_bytes() == struct.pack("<q6f", 7, 0, 1, 2, 3, 4, 5)
    assert index.startswith(b"\0\0\6\x08\1\x1a\2\x08\1\0\4\x0bstep\x08\x09\x12\0\x28\x08\x35")
    assert index.endswith(struct.pack("<Q", 0xDB4775248B80FB57))
    text = (tmp_path / "checkpoint").read_text()
    assert text == 'model_checkpoint_path: "m"\nall_model_checkpoint_paths: "m"\n'


def test_progress_counts_every_byte(tmp_path: Path) -> None:
    """on_bytes is called with as many bytes as the data file has."""
    told: list[int] = []
    write_bundle(tmp_path / "m", {"a": LazyTensor.of(filled((5, 7), "f8", 1))}, told.append)
    assert sum(told) == 280 == (tmp_path / "m.data-00000-of-00001").stat().st_size


def test_many_names_make_several_blocks(tmp_path: Path) -> None:
    """An index of many blocks reads back whole."""
    arrays = {f"model/{'x' * 90}/{i}": np.array(i * 3 + 1, np.int32) for i in range(15000)}
    write(tmp_path / "m", arrays)
    assert_same(read(tmp_path / "m"), arrays)
    assert (tmp_path / "m.index").stat().st_size > 256 << 10


def test_views_can_be_written_to_and_the_file_stays(example_bundle: tuple[Path, dict[str, Array]]) -> None:
    """Training in place on loaded tensors changes neither the file nor what a new reader sees."""
    prefix, arrays = example_bundle
    tensor = read_bundle(prefix)["model/wte"]
    tensor.load()[:] = 7
    assert tensor.load()[0, 0] == 7  # the same memory, not checked again
    assert_same(read(prefix), arrays)


@pytest.mark.parametrize("name", ["", "\0a", "\ud800"])
def test_names_that_tensorflow_reserves_are_refused(tmp_path: Path, name: str) -> None:
    """A name that would hide the header or a slice, or is not text, is not written."""
    with pytest.raises(CannotHold, match="name"):
        write(tmp_path / "m", {name: np.arange(3)})


def test_dtypes_without_a_code_are_refused(tmp_path: Path) -> None:
    """Strings and big-endian numbers are not written, and the tensor is named."""
    for dtype in (object, ">f4"):
        with pytest.raises(CannotHold, match="model/wte"):
            write(tmp_path / "m", {"model/wte": np.zeros(3, dtype)})


# Finding the files


def test_directory_prefix_and_index_mean_the_same(example_bundle: tuple[Path, dict[str, Array]]) -> None:
    """The three ways to name a checkpoint lead to one prefix, also without the file `checkpoint`."""
    prefix, _ = example_bundle
    index = prefix.parent / "model.ckpt.index"
    assert [find_prefix(path) for path in (prefix, index, prefix.parent)] == [prefix] * 3
    assert is_index(index) and is_index(prefix) and not is_index(prefix.parent / SHARD)
    assert bundle_files(prefix) == [index, prefix.parent / SHARD]
    (prefix.parent / "checkpoint").unlink()
    assert find_prefix(prefix.parent) == prefix


def test_checkpoint_file_chooses_among_several(tmp_path: Path) -> None:
    """The newest checkpoint is the one that `checkpoint` names; without that file several are too many."""
    for step in (100, 300, 200):
        write(tmp_path / f"model.ckpt-{step}", {"a": np.array(step)})
    text = '# newest\nmodel_checkpoint_path: "model.ckpt-300"\nall_model_checkpoint_paths: "model.ckpt-100"\n'
    (tmp_path / "checkpoint").write_text(text)
    assert find_prefix(tmp_path).name == "model.ckpt-300"
    (tmp_path / "checkpoint").unlink()
    with pytest.raises(FormatError, match=r"model\.ckpt-100\.index, model\.ckpt-200\.index"):
        find_prefix(tmp_path)


def test_strange_names_survive_the_checkpoint_file(tmp_path: Path) -> None:
    """Quotes and other alphabets in a file name are escaped and read back; so are octal escapes."""
    prefix = tmp_path / 'mödel "x" 1'
    write(prefix, {"a": np.arange(3)})
    assert find_prefix(tmp_path) == prefix
    (tmp_path / "checkpoint").write_text(r'model_checkpoint_path: "m\303\266del \"x\" 1"')
    assert find_prefix(tmp_path) == prefix


@pytest.mark.parametrize("name", ["../model.ckpt", "/etc/model.ckpt", "sub/model.ckpt", "..", r"\056\056/model.ckpt"])
def test_checkpoint_file_cannot_lead_elsewhere(tmp_path: Path, name: str) -> None:
    """A `checkpoint` that names anything but a file beside it is refused, even where the file exists."""
    directory = tmp_path / "inner"
    directory.mkdir()
    write(tmp_path / "model.ckpt", {"a": np.arange(3)})
    (directory / "checkpoint").write_text(f'model_checkpoint_path: "{name}"\n')
    with pytest.raises(UnsafeFile, match=r"give the path of the \.index file"):
        find_prefix(directory)


@pytest.mark.parametrize("text", ["", "nonsense", 'model_checkpoint_path: "', f'model_checkpoint_path: "{"x" * 5000}"'])
def test_checkpoint_file_without_a_name(tmp_path: Path, text: str) -> None:
    """A `checkpoint` that says nothing usable is called damaged."""
    (tmp_path / "checkpoint").write_text(text)
    with pytest.raises(CorruptFile, match="checkpoint"):
        find_prefix(tmp_path)


def test_what_is_missing_is_named(example_bundle: tuple[Path, dict[str, Array]]) -> None:
    """A missing index or data file is named in the message."""
    prefix, _ = example_bundle
    with pytest.raises(FormatError, match=r"other\.index: is missing"):
        find_prefix(prefix.with_name("other"))
    with pytest.raises(FormatError, match=r"other\.index: is missing"):
        read_bundle(prefix.with_name("other"))
    (prefix.parent / SHARD).unlink()
    with pytest.raises(FormatError, match=f"{SHARD}: is missing"):
        read_bundle(prefix)


def test_pipes_are_not_waited_for(tmp_path: Path) -> None:
    """A named pipe in place of a file is refused at once."""
    prefix = by_hand(tmp_path, b"", (b"w", entry()))
    for name in (SHARD, "model.ckpt.index"):
        (tmp_path / name).unlink()
        os.mkfifo(tmp_path / name)
        with pytest.raises(FormatError, match="missing"):
            read_bundle(prefix)


@pytest.mark.parametrize("name", ["model.ckpt.index", SHARD])
def test_git_lfs_pointers_are_recognised(example_bundle: tuple[Path, dict[str, Array]], name: str) -> None:
    """A pointer in place of a file says so, and what to run; the index is still taken for one."""
    prefix, _ = example_bundle
    (prefix.parent / name).write_bytes(b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 9\n")
    assert is_index(prefix)
    with pytest.raises(FormatError, match=f"{name}: is a Git LFS pointer.*git lfs pull"):
        read_bundle(prefix)


# Damage


def test_interrupted_download_is_told_before_anything_is_loaded(example_bundle: tuple[Path, dict[str, Array]]) -> None:
    """A short data file, even an empty one, fails at opening with both lengths."""
    prefix, _ = example_bundle
    for length in (199, 0):
        os.truncate(prefix.parent / SHARD, length)
        with pytest.raises(CorruptFile, match=rf"{SHARD}: has {length} bytes, but tensor model/wte ends at byte 200"):
            read_bundle(prefix)


@given(st.integers(0, 199), st.integers(0, 7))
@settings(deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_a_flipped_bit_in_the_data_names_its_tensor(
    example_bundle: tuple[Path, dict[str, Array]], position: int, bit: int
) -> None:
    """Every single bit of the data is covered by a checksum; the other tensors still load."""
    prefix, arrays = example_bundle
    file = prefix.parent / SHARD
    good = file.read_bytes()
    file.write_bytes(good[:position] + bytes([good[position] ^ 1 << bit]) + good[position + 1 :])
    damaged = "global_step" if position < 8 else "model/h0/attn/c_attn/w" if position < 68 else "model/wte"
    for name, tensor in read_bundle(prefix).items():
        if name == damaged:
            with pytest.raises(CorruptFile, match=f"{SHARD}: the checksum of tensor {name} is wrong"):
                tensor.load()
        else:
            assert same_bits(tensor.load(), arrays[name])
    file.write_bytes(good)


def mutations(length: int) -> st.SearchStrategy[Callable[[bytes], bytes]]:
    """Ways to damage bytes: replace, insert, delete or cut."""

    def change(at: int, drop: int, new: bytes) -> Callable[[bytes], bytes]:
        return lambda data: data[: at % (len(data) + 1)] + new + data[at % (len(data) + 1) + drop :]

    pieces = st.binary(max_size=6) | st.sampled_from([b"\xff" * 9 + b"\1", b"\xff" * 4 + b"\x0f", b"\x80" * 20])
    return st.builds(change, st.integers(0, length), st.sampled_from([0, 1, 2, 5, 1 << 30]), pieces)


@given(st.lists(mutations(400), min_size=1, max_size=3))
@settings(deadline=None, max_examples=400, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_a_damaged_index_gives_our_errors_or_the_same_values(
    example_bundle: tuple[Path, dict[str, Array]], damage: list[Callable[[bytes], bytes]]
) -> None:
    """Whatever happens to an index, reading raises a ZooError or gives what was written."""
    prefix, arrays = example_bundle
    file = prefix.parent / "model.ckpt.index"
    good = bad = file.read_bytes()
    for step in damage:
        bad = step(bad)
    file.write_bytes(bad)
    try:
        assert_same(read(prefix), arrays)
    except ZooError:
        pass
    finally:
        file.write_bytes(good)


def tables(draw: Any, blocks: list[bytes]) -> bytes:
    """A table of the given contents, each a data block, with right checksums all the same."""
    out, handles = b"", []
    for content in blocks:
        handles.append(write_varint(len(out)) + write_varint(len(content)))
        stored = content + (b"\1" if draw and draw(st.booleans()) else b"\0")
        out += stored + mask_crc(google_crc32c.value(stored)).to_bytes(4, "little")
    return out + (b"\0\0" + handles[-1]).ljust(40, b"\0") + struct.pack("<Q", 0xDB4775248B80FB57)


@given(st.data())
@settings(deadline=None, max_examples=400, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_a_hostile_index_with_right_checksums_gives_only_our_errors(tmp_path: Path, data: st.DataObject) -> None:
    """Lengths, offsets and numbers that contradict each other behind right checksums raise only ZooErrors."""
    part = ((0, 2), (0, -1))
    records = [
        (b"", HEADER),
        (b"w", entry(slices=(part,))),
        (slice_key(b"w", part), entry(crc=3)),
        (b"x", entry(7, (2,), 24)),
        (b"y", entry(10, (), 1, 9)),
    ]
    content = b""
    for key, good in sorted(records):
        value = data.draw(mutations(40))(good) if data.draw(st.booleans()) else good
        content += b"\0" + write_varint(len(key)) + write_varint(len(value)) + key + value
    block = content + struct.pack("<II", 0, 1)
    index = raw_block((0, b"z", b"\0" + write_varint(len(block))))
    blocks = [data.draw(mutations(len(each)))(each) if data.draw(st.booleans()) else each for each in (block, index)]
    (tmp_path / "model.ckpt.index").write_bytes(tables(data.draw if data.draw(st.booleans()) else None, blocks))
    (tmp_path / SHARD).write_bytes(bytes(range(24)))
    try:
        for tensor in read_bundle(tmp_path / "model.ckpt").values():
            assert tensor.load().shape == tensor.shape
    except ZooError:
        pass


IMPOSSIBLE: dict[str, tuple[bytes, str]] = {
    "overflowing shape": (entry(shape=(1 << 32, 1 << 32)), "shape is impossible"),
    "overflow to the right size": (entry(shape=((1 << 62) + 1, 4, 2), size=32), "shape is impossible"),
    "negative axis": (entry(shape=((1 << 64) - 1, 2)), "shape is impossible"),
    "huge axis beside an empty one": (entry(shape=(0, 1 << 62), size=0), "shape is impossible"),
    "too many axes": (entry(shape=(1,) * 99, size=4), "shape is impossible"),
    "size of another shape": (entry(size=20), r"20 bytes cannot hold shape \(2, 3\) of float32"),
    "more strings than bytes": (entry(7, (1 << 40,), 24), "24 bytes cannot hold shape"),
    "beyond the end": (entry(offset=9), "ends at byte 33 by the index"),
    "far beyond the end": (entry(offset=(1 << 64) - 1), "ends at byte 18,446,744,073,709,551,639"),
    "no such data file": (entry(shard=3), "in data file number 3, but there are 1"),
    "unknown dtype": (entry(dtype=21), "has TensorFlow's dtype 21"),
    "no dtype": (b"", "has TensorFlow's dtype 0"),
    "number as message": (b"\x08\1\x10\1", "field 2 in it is not a message"),
    "message as number": (b"\x0a\1\1", "field 1 in it is not a number"),
    "endless number": (b"\x08" + b"\xff" * 11, "a number in it has no end"),
    "group": (b"\x0b", "unknown wire type 3"),
    "missing slice": (entry(slices=(((0, 1), (0, -1)),)), "not all parts"),
    "slices of another rank": (entry(slices=(((0, 1),) * 300,)), "another rank"),
    "slice of a scalar": (entry(shape=(), slices=((),)), "another rank"),
}


@pytest.mark.parametrize("what", IMPOSSIBLE)
def test_impossible_entries_are_refused_at_opening(tmp_path: Path, what: str) -> None:
    """An entry that cannot be true is refused before any tensor is loaded, and the tensor is named."""
    value, problem = IMPOSSIBLE[what]
    with pytest.raises(FormatError, match=problem) as caught:
        read_bundle(by_hand(tmp_path, bytes(24), (b"model/wte", value)))
    assert "model/wte" in str(caught.value)


@pytest.mark.parametrize(
    ("header", "problem"),
    [
        (encode_number(1, 1) + encode_number(2, 1), "big-endian"),
        (encode_number(1, 1) + encode_message(3, encode_number(2, 2)), "version 2"),
        (b"", "there are 0 data files"),
        (encode_number(1, 1 << 40), "data files"),
        (encode_number(1, 2), "data-00000-of-00002: is missing"),
    ],
)
def test_headers_that_we_do_not_follow(tmp_path: Path, header: bytes, problem: str) -> None:
    """Big-endian data, a later version and impossible numbers of data files are refused clearly."""
    with pytest.raises(FormatError, match=problem):
        read_bundle(by_hand(tmp_path, bytes(24), (b"w", entry()), header=header))


def test_names_must_be_text(tmp_path: Path) -> None:
    """A name that is not UTF-8 is refused."""
    with pytest.raises(CorruptFile, match="UTF-8"):
        read_bundle(by_hand(tmp_path, bytes(24), (b"w\xff", entry())))


# Tables and their compression


def raw_block(*entries: tuple[int, bytes, bytes]) -> bytes:
    """A block of (shared prefix length, rest of the key, value)."""
    out = b"".join(
        write_varint(shared) + write_varint(len(rest)) + write_varint(len(value)) + rest + value
        for shared, rest, value in entries
    )
    return out + struct.pack("<II", 0, 1)


@pytest.mark.parametrize(
    ("block", "problem"),
    [
        (raw_block((3, b"abc", b"")), "impossible lengths"),
        (raw_block((0, b"b", b""), (0, b"a", b"")), "not sorted"),
        (raw_block((0, b"b", b""), (1, b"", b"")), "not sorted"),
        (raw_block((0, b"x" * 5000, b"")), "impossible lengths"),
        (b"\0\7\7" + struct.pack("<II", 0, 1), "impossible lengths"),
        (struct.pack("<I", 0xFFFFFFFF), "truncated"),
        (b"", "truncated"),
    ],
)
def test_impossible_blocks(block: bytes, problem: str) -> None:
    """Prefixes longer than the key before, keys out of order and lengths that lead outside are refused."""
    index = raw_block((0, b"z", b"\0" + write_varint(len(block))))
    with pytest.raises(Malformed, match=problem):
        list(read_table(tables(None, [block, index])))


def test_blocks_cannot_lie_outside_or_twice() -> None:
    """Handles that lead outside the file, or to one block again and again, are refused."""
    block = raw_block((0, b"a", b"1"))
    own = b"\0" + write_varint(len(block))
    for handles, problem in (
        ([own, own], "overlap"),
        ([b"\xff" * 9 + b"\1\1"], "outside"),
        ([b"\0\xff\x7f"], "outside"),
    ):
        index = raw_block(*((0, bytes([97 + i]), handle) for i, handle in enumerate(handles)))
        with pytest.raises(Malformed, match=problem):
            list(read_table(tables(None, [block, index])))


def test_unknown_compression_and_wrong_checksums() -> None:
    """A block's compression must be none or snappy, and its checksum right."""
    table = write_table([(b"", b"1"), (b"a", b"2")])
    assert list(read_table(table)) == [(b"", b"1"), (b"a", b"2")]
    with pytest.raises(Malformed, match="checksum"):
        list(read_table(b"\1" + table[1:]))
    stored = raw_block((0, b"a", b"1")) + b"\2"
    handle = b"\0\0\0" + write_varint(len(stored) - 1)
    crc = mask_crc(google_crc32c.value(stored)).to_bytes(4, "little")
    with pytest.raises(Malformed, match="unknown way 2"):
        list(read_table(stored + crc + handle.ljust(40, b"\0") + table[-8:]))


SNAPPY = [
    (b"\0", b""),
    (b"\5\x10hello", b"hello"),
    (b"\x09\0a\x11\1", b"a" * 9),  # a copy of 8 bytes from 1 back runs into itself
    (b"\x0a\x10hello\x12\5\0", b"hellohello"),
    (b"\x08\x04ab\x17\2\0\0\0", b"abababab"),
    (b"\x46\xf0\x45" + b"x" * 70, b"x" * 70),
]


@pytest.mark.parametrize(("packed", "plain"), SNAPPY)
def test_snappy_by_hand(packed: bytes, plain: bytes) -> None:
    """Literals short and long, and the three kinds of copies, decompress to what they mean."""
    assert unsnappy(packed) == plain


@given(st.binary(max_size=60))
@example(b"\xff\xff\xff\xff\x0f\0a" + b"\xfe\1\0" * 20)
@example(b"\5\x12\1\0")
@example(b"\5\xf4\xff")
def test_snappy_of_anything(packed: bytes) -> None:
    """Any bytes decompress to at most 64 times as many, or are refused."""
    with suppress(Malformed):
        assert len(unsnappy(packed)) <= 64 * len(packed)


def test_a_compressed_index_is_read(tmp_path: Path) -> None:
    """Blocks compressed with snappy, which some builds of TensorFlow wrote, are read."""
    record = entry(crc=mask_crc(google_crc32c.value(bytes(range(24)))))
    plain = raw_block((0, b"", HEADER), (0, b"w", record))
    half = write_varint(len(plain)) + bytes([60 << 2, len(plain) - 1]) + plain
    stored = half + b"\1"
    out = stored + mask_crc(google_crc32c.value(stored)).to_bytes(4, "little")
    index = raw_block((0, b"z", b"\0" + write_varint(len(half)))) + b"\0"
    handle = b"\0\0" + write_varint(len(out)) + write_varint(len(index) - 1)
    out += index + mask_crc(google_crc32c.value(index)).to_bytes(4, "little")
    prefix = by_hand(tmp_path, bytes(range(24)))
    (tmp_path / "model.ckpt.index").write_bytes(out + handle.ljust(40, b"\0") + struct.pack("<Q", 0xDB4775248B80FB57))
    assert read(prefix)["w"].tobytes() == bytes(range(24))


@given(st.integers(0, (1 << 64) - 1))
def test_varints(value: int) -> None:
    """Every 64-bit number comes back, and the position behind it."""
    assert read_varint(b"?" + write_varint(value) + b"?", 1) == (value, 1 + len(write_varint(value)))
    assert parse(encode_number(3, value)) == ({3: [value]} if value else {})


# Partitioned variables


def partitioned(directory: Path, cuts: list[tuple[int, int]], shared: bool = False) -> Path:
    """A tensor (2, 7) cut along its second axis into pieces (start, length) of float32."""
    data, records, parts = b"", [], []
    for start, length in cuts:
        piece = filled((2, length), "f4", start).tobytes()
        part = ((0, -1), (start, length))
        place = 0 if shared else len(data)
        crc = mask_crc(google_crc32c.value(piece))
        records.append((slice_key(b"w", part), entry(shape=(2, length), size=len(piece), offset=place, crc=crc)))
        parts.append(part)
        data += b"" if shared and data else piece
    return by_hand(directory, data, (b"w", entry(shape=(2, 7), slices=tuple(parts))), *records)


def test_parts_are_put_together_in_order(tmp_path: Path) -> None:
    """Parts come together by their place, not by the order in which they are listed."""
    found = read(partitioned(tmp_path, [(4, 3), (0, 4)]))
    assert list(found) == ["w"]
    expected = np.concatenate([filled((2, 4), "f4", 0), filled((2, 3), "f4", 4)], 1)
    assert same_bits(found["w"], expected)


@pytest.mark.parametrize("cuts", [[(0, 4)], [(0, 4), (3, 4)], [(0, 3), (4, 3)], [(0, 4), (4, 4)]])
def test_parts_that_overlap_or_leave_gaps(tmp_path: Path, cuts: list[tuple[int, int]]) -> None:
    """Parts must be the whole tensor, once."""
    with pytest.raises(CorruptFile, match="partitioned tensor w overlap or leave gaps"):
        read_bundle(partitioned(tmp_path, cuts))


def test_parts_cannot_share_bytes(tmp_path: Path) -> None:
    """Parts at one place in the file, which could fill the memory from a small file, are refused."""
    with pytest.raises(CorruptFile, match="overlap"):
        read_bundle(partitioned(tmp_path, [(i, 1) for i in range(7)], shared=True))


def test_parts_along_two_axes_are_refused(tmp_path: Path) -> None:
    """A tensor cut like a chessboard is refused with a reason."""
    cuts = (((0, 1), (0, 2)), ((0, 1), (2, 1)), ((1, 1), (0, -1)))
    records = [(slice_key(b"w", cut), entry(shape=(1, n), size=4 * n)) for cut, n in zip(cuts, (2, 1, 3), strict=True)]
    with pytest.raises(FormatError, match="along several axes"):
        read_bundle(by_hand(tmp_path, bytes(24), (b"w", entry(slices=cuts)), *records))


def test_a_damaged_part_is_named(tmp_path: Path) -> None:
    """A wrong checksum in a part names the tensor and the part."""
    prefix = partitioned(tmp_path, [(0, 4), (4, 3)])
    data = (tmp_path / SHARD).read_bytes()
    (tmp_path / SHARD).write_bytes(data[:-1] + bytes([data[-1] ^ 1]))
    with pytest.raises(CorruptFile, match=r"tensor w \(part 2 of 2\) is wrong"):
        read(prefix)


# TensorFlow itself


@pytest.fixture(scope="session")
def tf() -> Iterator[Any]:
    import warnings

    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield pytest.importorskip("tensorflow")


def save_v1(tf: Any, prefix: Path, build: Callable[[Any], list[Any]], **options: Any) -> dict[str, Any]:
    """Save the variables that build() makes with TensorFlow 1's Saver, and return what TensorFlow reads back."""
    v1 = tf.compat.v1
    with tf.Graph().as_default(), v1.Session(config=v1.ConfigProto(device_count={"CPU": 2})) as session:
        build(v1)
        session.run(v1.global_variables_initializer())
        v1.train.Saver(**options).save(session, str(prefix), write_meta_graph=False)
    return by_tensorflow(tf, prefix)


def by_tensorflow(tf: Any, prefix: Path) -> dict[str, Any]:
    reader = tf.train.load_checkpoint(str(prefix))
    return {name: np.asarray(reader.get_tensor(name)) for name in reader.get_variable_to_shape_map()}


def assert_as_tensorflow(prefix: Path, expected: dict[str, Any]) -> None:
    found = read(prefix)
    assert sorted(found) == sorted(expected)
    for name, array in expected.items():
        if array.dtype.kind in "OS":  # byte strings
            assert found[name].shape == array.shape and found[name].tolist() == array.tolist()
        else:
            assert same_bits(found[name], array), name


NUMBERS = ["float32", "float64", "float16", "bfloat16", "int64", "int32", "int16", "int8", "uint8", "uint16", "bool"]


def variables(v1: Any) -> None:
    for i, dtype in enumerate(NUMBERS):
        value = filled((i + 1, 3), ml_dtypes.bfloat16 if dtype == "bfloat16" else dtype, i)
        v1.get_variable(f"model/{dtype}/w", initializer=value)
        v1.get_variable(f"model/{dtype}/Adam", initializer=value[:, 1:])
    v1.get_variable("global_step", initializer=np.int64(1 << 40))
    v1.get_variable("beta1_power", initializer=np.float32(0.9))
    v1.get_variable("empty", initializer=np.zeros((0, 3), np.float32))


@pytest.mark.peers
def test_tensorflows_saver_is_read_and_its_bytes_are_ours(tf: Any, tmp_path: Path) -> None:
    """What tf.train.Saver wrote reads bit for bit, and writing it again gives TensorFlow's very bytes."""
    prefix = tmp_path / "model.ckpt"
    expected = save_v1(tf, prefix, variables)
    assert_as_tensorflow(prefix, expected)
    ours = tmp_path / "ours" / "model.ckpt"
    ours.parent.mkdir()
    write_bundle(ours, read_bundle(prefix))
    for file in bundle_files(prefix):
        assert file.read_bytes() == (ours.parent / file.name).read_bytes(), file.name


@pytest.mark.peers
def test_tensorflows_strings_and_partitions_and_shards_are_read(tf: Any, tmp_path: Path) -> None:
    """Byte strings, variables partitioned along either axis, and two data files read as TensorFlow reads them."""

    def build(v1: Any) -> None:
        strings = np.array([[b"a\0b", b""], [b"x" * 300, "ä".encode()]], object)
        with tf.device("/cpu:0"):
            v1.get_variable("strings", initializer=tf.constant(strings))
        for axis, device in ((0, "/cpu:0"), (1, "/cpu:1")):
            with tf.device(device):
                for n in (5, 70, 9000):
                    cut = v1.fixed_size_partitioner(3, axis=axis)
                    start = v1.random_normal_initializer()
                    v1.get_variable(f"p{axis}/{n}", (n, 7), initializer=start, partitioner=cut, use_resource=False)

    expected = save_v1(tf, tmp_path / "model.ckpt", build, sharded=True)
    assert len(bundle_files(tmp_path / "model.ckpt")) == 3
    assert_as_tensorflow(tmp_path / "model.ckpt", expected)


@pytest.mark.peers
def test_tensorflows_many_variables_are_read(tf: Any, tmp_path: Path) -> None:
    """An index of several blocks reads as TensorFlow reads it, and is written as TensorFlow writes it."""

    def save(path: Path, arrays: dict[str, Array]) -> None:
        named = sorted(arrays.items())
        keys, values = [name for name, _ in named], [value for _, value in named]
        tf.raw_ops.SaveV2(prefix=str(path), tensor_names=keys, shape_and_slices=[""] * len(keys), tensors=values)

    arrays = {f"model/h{i}/{'deep/' * 9}w": np.full((i % 3, 2), i, np.float32) for i in range(9000)}
    save(tmp_path / "theirs", arrays)
    assert_same(read(tmp_path / "theirs"), arrays)
    write(tmp_path / "ours", arrays)
    assert (tmp_path / "ours.index").read_bytes() == (tmp_path / "theirs.index").read_bytes()
    assert (tmp_path / "ours.index").stat().st_size > 512 << 10


@pytest.mark.peers
def test_tensorflow_2_checkpoints_are_read(tf: Any, tmp_path: Path) -> None:
    """tf.train.Checkpoint's names and its object graph, a byte string, read as TensorFlow reads them."""
    weights = tf.Variable(filled((3, 5), "f4", 4))
    saved = tf.train.Checkpoint(layer=tf.train.Checkpoint(w=weights), step=tf.Variable(7, dtype=tf.int64))
    prefix = Path(saved.save(str(tmp_path / "ckpt")))
    assert prefix.name == "ckpt-1"
    expected = by_tensorflow(tf, prefix)
    assert "layer/w/.ATTRIBUTES/VARIABLE_VALUE" in expected and "_CHECKPOINTABLE_OBJECT_GRAPH" in expected
    assert_as_tensorflow(prefix, expected)


@pytest.mark.peers
@settings(deadline=None, max_examples=40)
@given(
    st.dictionaries(
        st.text(st.characters(codec="utf-8", exclude_characters="\0"), min_size=1, max_size=12),
        st.tuples(shapes, st.sampled_from(list(DTYPE_CODES)), st.integers(0, 99)),
        min_size=1,
        max_size=25,
    )
)
def test_tensorflow_reads_what_we_write(tf: Any, wanted: dict[str, Any]) -> None:
    """tf.train.load_checkpoint finds our directory and gives every tensor bit for bit."""
    arrays = {name: filled(*what) for name, what in wanted.items()}
    with TemporaryDirectory() as directory:
        write(Path(directory) / "model.ckpt", arrays)
        found = by_tensorflow(tf, Path(directory))
    assert sorted(found) == sorted(arrays)
    for name, array in arrays.items():
        assert same_bits(found[name], array), name
