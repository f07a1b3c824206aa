import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from safetensors import safe_open
from safetensors.numpy import load, save

from zoo.containers.safetensors import read_metadata, read_safetensors, write_safetensors
from zoo.core.tensors import DTYPES, LazyTensor, same_bits
from zoo.errors import CannotHold, CorruptFile, ZooError

TENSORS = {
    "b.weight": np.arange(15, dtype=np.float32).reshape(3, 5) - 7.25,
    "a": np.array(2.5, np.float64),
    "c": np.arange(7, dtype=np.float16) / 3,
    "none": np.zeros((0, 4), np.float32),
}


@pytest.fixture
def path(tmp_path):
    """A file of four tensors, one of them a scalar and one empty."""
    lazy = {name: LazyTensor.of(array) for name, array in TENSORS.items()}
    write_safetensors(tmp_path / "x.safetensors", lazy, {"k": "v"}, lambda: {"from": "here"})
    return tmp_path / "x.safetensors"


def test_the_package_reads_what_zoo_writes(path):
    """The safetensors package finds the same tensors and metadata, and the values begin at a multiple of 64."""
    theirs = load(path.read_bytes())

    assert all(same_bits(array, theirs[name]) for name, array in TENSORS.items())
    assert (8 + int.from_bytes(path.read_bytes()[:8], "little")) % 64 == 0
    with safe_open(path, "numpy") as file:
        assert file.metadata() == {"k": "v", "zoo.provenance": '{"from": "here"}'}


def test_zoo_reads_what_the_package_writes(tmp_path):
    """Tensors that the safetensors package wrote come back bit for bit, with the metadata."""
    (tmp_path / "x").write_bytes(save(TENSORS, {"who": "peer"}))
    tensors, metadata = read_safetensors(tmp_path / "x")

    assert metadata == {"who": "peer"}
    assert all(same_bits(array, tensors[name].load()) for name, array in TENSORS.items())


def test_the_bytes_of_a_file_never_change(tmp_path):
    """The layout is pinned: a small file is these bytes."""
    write_safetensors(tmp_path / "x", {"t": LazyTensor.of(np.array([1.5, -2.0], np.float16))}, {})
    data = (tmp_path / "x").read_bytes()
    start = b'{"__metadata__":{"zoo.provenance":"{}"},"t":{"dtype":"F16","shape":[2],"data_offsets":[0,4]}} '

    assert start == data[8 : 8 + len(start)]
    assert data[-4:] == b"\x00\x3e\x00\xc0"
    assert data[8 + len(start) : -4].isspace()


def test_bfloat16_goes_through(tmp_path):
    """Numpy has no bfloat16 of its own; files have."""
    values = np.array([1.5, -3.25, 1e30], np.float32).astype(DTYPES["bfloat16"])
    write_safetensors(tmp_path / "x", {"t": LazyTensor.of(values)}, {})

    assert same_bits(values, read_safetensors(tmp_path / "x")[0]["t"].load())


def rewrite_header(path, change):
    data = path.read_bytes()
    length = int.from_bytes(data[:8], "little")
    header = json.dumps(change(json.loads(data[8 : 8 + length]))).encode()
    path.write_bytes(len(header).to_bytes(8, "little") + header + data[8 + length :])


@pytest.mark.parametrize(
    "entry",
    [
        {"dtype": "F32", "shape": [3, 5], "data_offsets": [4, 64]},
        {"dtype": "F32", "shape": [3, 5], "data_offsets": [0, 61]},
        {"dtype": "F32", "shape": [3, 6], "data_offsets": [0, 60]},
        {"dtype": "F32", "shape": [-3, -5], "data_offsets": [0, 60]},
        {"dtype": "F32", "shape": [3.0, 5], "data_offsets": [0, 60]},
        {"dtype": "F32", "shape": [1 << 62, 1 << 62], "data_offsets": [0, 60]},
        {"dtype": "F32", "shape": [3, 5], "data_offsets": [0, 1 << 60]},
        {"dtype": "F32", "shape": [3, 5]},
        {"dtype": "F32", "shape": 15, "data_offsets": [0, 60]},
        {"dtype": "Q4", "shape": [3, 5], "data_offsets": [0, 60]},
        {"dtype": ["F32"], "shape": [3, 5], "data_offsets": [0, 60]},
        "F32",
    ],
)
def test_an_entry_that_lies_is_refused_with_its_name(path, entry):
    """Offsets, shapes and dtypes that contradict each other or the file name the tensor."""
    rewrite_header(path, lambda header: {**header, "b.weight": entry})
    with pytest.raises(CorruptFile, match=r"b\.weight"):
        read_safetensors(path)


@pytest.mark.parametrize(
    "header",
    [b"[]", b"{", b'{"a":1,"a":2}', b'{"__metadata__":{"a":1}}', b'{"__metadata__":3}', b"[" * 100_000, b"\xff"],
)
def test_a_header_that_is_no_header_is_refused(tmp_path, header):
    """JSON that is broken, doubled, nested without end or of another kind is an error, not a crash."""
    (tmp_path / "x").write_bytes(len(header).to_bytes(8, "little") + header)
    with pytest.raises(CorruptFile):
        read_safetensors(tmp_path / "x")


@given(st.data())
def test_a_damaged_file_is_refused_or_harmless(tmp_path_factory, data):
    """A file with changed or missing bytes gives a ZooError or tensors that can be read whole, never anything else."""
    path = tmp_path_factory.mktemp("fuzz") / "x"
    lazy = {name: LazyTensor.of(array) for name, array in TENSORS.items()}
    write_safetensors(path, lazy, {"k": "v"})
    content = bytearray(path.read_bytes())
    length = 8 + len(bytes(content[8:]).split(b"  ")[0])
    for _ in range(data.draw(st.integers(1, 3))):
        content[data.draw(st.integers(0, length))] = data.draw(st.integers(0, 255))
    path.write_bytes(content[: data.draw(st.integers(0, len(content)) | st.just(len(content)))])
    try:
        tensors, _ = read_safetensors(path)
        for tensor in tensors.values():
            assert tensor.load().shape == tensor.shape
        read_metadata(path)
    except ZooError:
        pass


def test_a_record_that_is_too_long_is_refused(tmp_path):
    """The provenance never runs over into the tensors behind the header."""
    with pytest.raises(CannotHold, match="provenance is longer than the 16,384 bytes"):
        write_safetensors(tmp_path / "x", {"t": LazyTensor.of(TENSORS["c"])}, {}, lambda: {"long": "x" * 20_000})
