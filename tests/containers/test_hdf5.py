import os
import sys

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from zoo.containers.hdf5.reader import read_hdf5, write_hdf5
from zoo.core.tensors import DTYPES, LazyTensor
from zoo.errors import CorruptFile, FormatError, MissingPackage, UnsafeFile, ZooError


@pytest.fixture(autouse=True)
def h5py():
    return pytest.importorskip("h5py")


def arrays(dtype=np.float32):
    """A vector, a matrix that is large enough to be aligned, and an array without any number."""
    random = np.random.default_rng(3)
    shapes = {"a/b/0": (7,), "a/b/1": (31, 17), "d": (0, 4)}
    return {name: random.normal(size=shape).astype(dtype) for name, shape in shapes.items()}


@pytest.fixture
def path(tmp_path):
    """A file as zoo writes it."""
    write_hdf5(tmp_path / "a.h5", {name: LazyTensor.of(array) for name, array in arrays().items()})
    return tmp_path / "a.h5"


@pytest.mark.parametrize("dtype", ["float32", "float16", "float64"])
def test_h5py_reads_what_zoo_writes_and_zoo_what_h5py_writes(tmp_path, h5py, dtype):
    """Names, shapes, dtypes and bits agree in both directions; groups are made of slashes."""
    expected = arrays(dtype)
    write_hdf5(tmp_path / "ours.h5", {name: LazyTensor.of(array) for name, array in expected.items()})
    with h5py.File(tmp_path / "theirs.h5", "w") as file:
        for name, array in expected.items():
            file[name] = array
        file["scalar"] = np.asarray(1.5, dtype)
    with h5py.File(tmp_path / "ours.h5") as file:
        for name, array in expected.items():
            assert (array.shape, array.dtype) == (file[name].shape, file[name].dtype)
            np.testing.assert_array_equal(array, file[name][()])
    found = read_hdf5(tmp_path / "theirs.h5")

    assert found.pop("scalar").load() == 1.5
    assert set(expected) == set(found)
    for name, array in expected.items():
        assert (array.shape, array.dtype) == (found[name].shape, found[name].dtype)
        np.testing.assert_array_equal(array, found[name].load())


def test_bfloat16_is_marked_as_keras_marks_it(tmp_path, h5py):
    """Two bytes without a type, and an attribute that says what they are; without it they are nothing."""
    array = np.arange(12).astype(DTYPES["bfloat16"]).reshape(3, 4)
    write_hdf5(tmp_path / "a.h5", {"x": LazyTensor.of(array)})
    with h5py.File(tmp_path / "a.h5", "r+") as file:
        assert (file["x"].dtype, file["x"].attrs["dtype"]) == (np.dtype("V2"), "bfloat16")
        np.testing.assert_array_equal(array, file["x"][()].view(DTYPES["bfloat16"]))
    tensor = read_hdf5(tmp_path / "a.h5")["x"]

    assert tensor.dtype == DTYPES["bfloat16"]
    np.testing.assert_array_equal(array, tensor.load())
    with h5py.File(tmp_path / "a.h5", "r+") as file:
        del file["x"].attrs["dtype"]
    with pytest.raises(CorruptFile, match=r"x has values of a type that zoo does not know \(\|V2\)"):
        read_hdf5(tmp_path / "a.h5")


def test_the_same_tensors_give_the_same_bytes(tmp_path, path):
    """No time, name or memory gets into a file; large arrays begin at multiples of 64."""
    write_hdf5(tmp_path / "b.h5", {name: LazyTensor.of(array) for name, array in arrays().items()})

    assert path.read_bytes() == (tmp_path / "b.h5").read_bytes()
    assert path.read_bytes().index(arrays()["a/b/1"].tobytes()) % 64 == 0


def test_values_are_views_of_the_mapped_file(path):
    """An array that lies in one piece is not copied."""
    tensor = read_hdf5(path)["a/b/1"]

    assert not tensor.load().flags.owndata
    assert np.shares_memory(tensor.load(), tensor.load())


def test_arrays_in_pieces_are_read(tmp_path, h5py):
    """Compressed, chunked and compact arrays are not views, but they are the same values."""
    expected = arrays()["a/b/1"]
    with h5py.File(tmp_path / "a.h5", "w") as file:
        file.create_dataset("packed", data=expected, chunks=(4, 17), compression="gzip", shuffle=True)
        compact = h5py.h5p.create(h5py.h5p.DATASET_CREATE)
        compact.set_layout(h5py.h5d.COMPACT)
        file.create_dataset("compact", data=expected, dcpl=compact)
    found = read_hdf5(tmp_path / "a.h5")

    assert [expected.tobytes()] * 2 == [found[name].load().tobytes() for name in ("packed", "compact")]


@pytest.mark.parametrize("kind", ["soft", "external link", "external storage", "virtual"])
def test_nothing_outside_the_file_is_opened(tmp_path, path, h5py, kind):
    """Links, and values that are kept elsewhere, are refused by name; that other file may well exist."""
    secret = tmp_path / "secret.bin"
    secret.write_bytes(bytes(64))
    with h5py.File(path, "r+") as file:
        if kind == "soft":
            file["a/x"] = h5py.SoftLink("/d")
        elif kind == "external link":
            file["a/x"] = h5py.ExternalLink("other.h5", "/")
        elif kind == "external storage":
            file.create_dataset("a/x", (4,), "f4", external=[(str(secret), 0, 16)])
        else:
            layout = h5py.VirtualLayout((4,), "f4")
            layout[:] = h5py.VirtualSource(str(tmp_path / "other.h5"), "x", (4,))
            file.create_virtual_dataset("a/x", layout)
    with pytest.raises(UnsafeFile, match=r"a/x"):
        read_hdf5(path)


def test_a_group_inside_itself_ends(path, h5py):
    """Hard links can make a circle; it is not walked."""
    with h5py.File(path, "r+") as file:
        file["a/again"] = file["a"]
    with pytest.raises(CorruptFile, match="inside itself"):
        read_hdf5(path)


def test_groups_that_are_too_deep_are_refused(path, h5py):
    """No weights are that deep."""
    with h5py.File(path, "r+") as file:
        file.create_group("/".join("x" * 30))
    with pytest.raises(CorruptFile, match="inside itself"):
        read_hdf5(path)


@pytest.mark.parametrize("chunks", [None, (1024, 1024)])
def test_an_array_that_was_never_written_is_refused(path, h5py, chunks):
    """A shape without bytes behind it takes no memory, however large it is."""
    with h5py.File(path, "r+") as file:
        file.create_dataset("huge", (1 << 20, 1 << 20), "f4", chunks=chunks)
    with pytest.raises(CorruptFile, match=r"huge \(1048576, 1048576\) would be larger than the file"):
        read_hdf5(path)


def test_a_small_array_that_was_never_written_is_refused(path, h5py):
    """Zeros that nobody stored are not weights."""
    with h5py.File(path, "r+") as file:
        file.create_dataset("empty", (3,), "f4")
    with pytest.raises(CorruptFile, match="the bytes of empty are not there"):
        read_hdf5(path)


@pytest.mark.parametrize("kind", ["text", "object", "none"])
def test_what_is_no_array_of_numbers_is_refused(path, h5py, kind):
    """Texts, records and empty spaces are not weights."""
    with h5py.File(path, "r+") as file:
        if kind == "none":
            file["x"] = h5py.Empty("f4")
        else:
            file["x"] = "text" if kind == "text" else np.zeros(2, [("a", "f4"), ("b", "i4")])
    with pytest.raises(CorruptFile, match="x has values of a type that zoo does not know"):
        read_hdf5(path)


def test_damaged_data_of_a_compressed_array_are_told(tmp_path, h5py):
    """Reading in pieces happens late; it still says what is wrong."""
    with h5py.File(tmp_path / "a.h5", "w") as file:
        array = file.create_dataset("x", data=np.random.default_rng(0).normal(size=(50, 40)), compression="gzip")
        offset = array.id.get_chunk_info(0).byte_offset
    with (tmp_path / "a.h5").open("r+b") as file:
        file.seek(offset)
        file.write(bytes(40))
    tensor = read_hdf5(tmp_path / "a.h5")["x"]
    with pytest.raises(CorruptFile, match="x cannot be read"):
        tensor.load()


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=200)
@given(data=st.data())
def test_a_damaged_file_is_refused_or_harmless(tmp_path, path, data):
    """Bytes changed or cut: a ZooError, or arrays of their shapes."""
    content = bytearray(path.read_bytes())
    used = [place for place, byte in enumerate(content) if byte]
    for _ in range(data.draw(st.integers(1, 4))):
        content[data.draw(st.sampled_from(used))] = data.draw(st.sampled_from([0, 1, 127, 128, 255]))
    cut = data.draw(st.none() | st.integers(0, len(content)))
    broken = tmp_path / "broken.h5"
    broken.write_bytes(content[:cut])
    try:
        for tensor in read_hdf5(broken).values():
            assert tensor.shape == tensor.load().shape
    except ZooError:
        pass


def test_an_lfs_pointer_and_other_files_say_so(tmp_path):
    """Neither is taken for HDF5."""
    (tmp_path / "a.h5").write_text("version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 5\n")
    (tmp_path / "b.h5").write_bytes(os.urandom(4000))
    with pytest.raises(FormatError, match="Git LFS pointer"):
        read_hdf5(tmp_path / "a.h5")
    with pytest.raises(CorruptFile, match="is not a valid HDF5 file"):
        read_hdf5(tmp_path / "b.h5")


def test_without_h5py_the_extra_is_named(path, monkeypatch):
    """Whoever has no h5py is told what to install, before anything is written."""
    monkeypatch.setitem(sys.modules, "h5py", None)
    with pytest.raises(MissingPackage, match=r"pip install 'gpt2-zoo\[h5\]'"):
        read_hdf5(path)
    with pytest.raises(MissingPackage, match=r"pip install 'gpt2-zoo\[h5\]'"):
        write_hdf5(path.with_name("b.h5"), {})
    assert not path.with_name("b.h5").exists()
