import argparse
import collections
import contextlib
import copyreg
import dataclasses
import enum
import io
import os
import pathlib
import pickle
import re
import struct
import subprocess
import sys
import tracemalloc
import zipfile

import ml_dtypes
import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from zoo.containers.torch.file import is_torch_file, read_extra, read_torch, write_torch
from zoo.containers.torch.pickle_reader import MAX_PICKLE_BYTES
from zoo.core.tensors import CHUNK_BYTES, LazyTensor, same_bits
from zoo.errors import CannotHold, CorruptFile, FormatError, UnsafeFile, ZooError

DTYPES = [torch.float32, torch.float16, torch.bfloat16, torch.float64, torch.int64, torch.int32, torch.int16]
DTYPES += [torch.int8, torch.uint8, torch.bool]
NUMPY = [
    np.float32,
    np.float16,
    ml_dtypes.bfloat16,
    np.float64,
    np.int64,
    np.int32,
    np.int16,
    np.int8,
    np.uint8,
    np.bool_,
]
both_formats = pytest.mark.parametrize("new", [True, False], ids=["zip", "legacy"])


def save(value, path, new=True):
    torch.save(value, path, _use_new_zipfile_serialization=new)
    return path


def to_array(tensor):
    tensor = tensor.detach()
    if tensor.dtype == torch.bfloat16:
        return tensor.contiguous().view(torch.int16).numpy().view(ml_dtypes.bfloat16)
    return tensor.numpy()


def plain(tree):
    """The tree with an array for each tensor of torch's or zoo's."""
    if isinstance(tree, LazyTensor):
        array = tree.load()
        assert (array.shape, array.dtype) == (tree.shape, tree.dtype)
        return array
    if isinstance(tree, torch.Tensor):
        return to_array(tree)
    if isinstance(tree, dict):
        return type(tree)((key, plain(value)) for key, value in tree.items())
    if isinstance(tree, list | tuple):
        return (list if isinstance(tree, list) else tuple)(map(plain, tree))
    return tree


def same(a, b):
    """Whether two plain trees are equal, the arrays bit for bit, dicts in the same order, 1 not being True."""
    if isinstance(a, np.ndarray):
        return isinstance(b, np.ndarray) and same_bits(a, b)
    if isinstance(a, dict):
        items = zip(a.items(), b.items(), strict=True)
        return type(a) is type(b) and all(same(x[0], y[0]) and same(x[1], y[1]) for x, y in items)
    if isinstance(a, list | tuple):
        return type(a) is type(b) and len(a) == len(b) and all(map(same, a, b))
    return type(a) is type(b) and a == b


def random(shape, dtype=torch.float32):
    values = torch.randn(shape, generator=torch.Generator().manual_seed(7)) * 9
    return values > 0 if dtype == torch.bool else values.abs().to(dtype) if dtype == torch.uint8 else values.to(dtype)


def checkpoint():
    """The shape of nanoGPT's ckpt.pt: weights, an optimizer that has made a step, settings."""
    model = torch.nn.Sequential(torch.nn.Linear(3, 5), torch.nn.LayerNorm(5, bias=False))
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3, betas=(0.9, 0.95))
    model(random((2, 3))).square().sum().backward()
    optimizer.step()
    settings = {"out_dir": "out", "compile": True, "learning_rate": 6e-4, "bias": False, "meta": None}
    return {
        "model": model.state_dict(),
        "optimizer": optimizer.state_dict(),
        "model_args": {"n_layer": 2, "vocab_size": 50304},
        "iter_num": 1 << 40,
        "best_val_loss": random(()),
        "config": settings,
    }


@both_formats
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_zoo_reads_every_dtype_that_torch_writes(tmp_path, dtype, new):
    """Matrices, scalars and empty tensors of each dtype come back bit for bit."""
    tree = {"matrix": random((5, 3), dtype), "scalar": random((), dtype), "none": random((0, 4), dtype)}
    assert same(plain(tree), plain(read_torch(save(tree, tmp_path / "x.pt", new))))


@both_formats
def test_zoo_reads_strided_tensors_and_views(tmp_path, new):
    """Transposed, sliced, stepped and expanded tensors keep their values, and are views of the one storage."""
    whole = random((6, 7))
    tree = [whole, whole.t(), whole[2:5, 1:4], whole[::2, ::3], random((3, 1)).expand(3, 4), whole[0, 0]]
    found = read_torch(save(tree, tmp_path / "x.pt", new))

    assert same(plain(tree), plain(found))
    assert np.shares_memory(found[0].load(), found[3].load())
    assert found[1].load().strides == (4, 28)


@both_formats
def test_a_checkpoint_of_nanogpt_is_read_whole(tmp_path, new):
    """State dicts with metadata, an optimizer's state with integers as keys, settings: all are plain values."""
    tree = checkpoint()
    found = read_torch(save(tree, tmp_path / "x.pt", new))

    assert same(plain(tree), plain(found))
    assert isinstance(found["model"], collections.OrderedDict)


@both_formats
def test_what_torch_adds_to_plain_values_becomes_plain(tmp_path, new):
    """Parameters are tensors; sizes, dtypes and devices have the form the documentation says."""
    parameter = torch.nn.Parameter(random((2, 3)))
    tree = [parameter, torch.Size([2, 3]), torch.bfloat16, torch.device("cuda", 1), torch.device("cpu")]
    tree += [{1, "a"}, frozenset({2}), b"", b"\x00\xff", -(1 << 70), 1 << 1000, 2.5, ("a", [])]
    found = read_torch(save(tree, tmp_path / "x.pt", new))

    assert same_bits(to_array(parameter), found[0].load())
    assert same([(2, 3), "bfloat16", "cuda:1", "cpu", *tree[5:]], found[1:])


@pytest.mark.parametrize("protocol", [2, 3, 4, 5])
def test_every_protocol_of_pickle_is_read(tmp_path, protocol):
    """The argument pickle_protocol of torch.save may be any, but for those below 2, which are text in part."""
    tree = {"a": random((2, 3)), "size": torch.Size([4]), "names": {"x"}, "bytes": b"\xff", "none": None}
    torch.save(tree, tmp_path / "x", pickle_protocol=protocol)

    assert same({**plain(tree), "size": (4,)}, plain(read_torch(tmp_path / "x")))


def test_a_legacy_file_of_any_late_protocol_is_recognised(tmp_path):
    """The magic number stands a few bytes later under protocol 4, whose pickles have frames."""
    for protocol in (2, 3, 4, 5):
        torch.save([random((2, 3))], tmp_path / "x", pickle_protocol=protocol, _use_new_zipfile_serialization=False)
        assert is_torch_file(tmp_path / "x")
        assert same(plain([random((2, 3))]), plain(read_torch(tmp_path / "x")))


def test_a_part_of_a_storage_as_torch_0_3_saved_it(tmp_path):
    """Old files describe a storage as elements 2 to 6 of another one; offsets count from there."""
    content = save([random((2, 2))], tmp_path / "x", new=False).read_bytes()
    tensor, key = random((7,)), re.search(rb"X(....)(\d+)q", content, re.DOTALL)[2]
    view = b"X\x04\x00\x00\x00viewK\x02K\x04\x87t"  # instead of None
    content = re.sub(rb"K\x04N(q.)?t|K\x04Nt", b"K\x07" + view, content)
    data_at = content.rindex(struct.pack("<q", 4))
    (tmp_path / "x").write_bytes(content[:data_at] + struct.pack("<q", 7) + tensor.numpy().tobytes())

    assert key
    assert np.array_equal(read_torch(tmp_path / "x")[0].load(), tensor[2:6].reshape(2, 2).numpy())


def test_an_archive_may_have_any_name(tmp_path):
    """Torch names the directory in the archive after the file, and older ones `archive`."""
    for name in ("model.v2.pt", "ckpt", "größe.pt"):
        assert same(plain([random((2, 3))]), plain(read_torch(save([random((2, 3))], tmp_path / name))))


@pytest.mark.parametrize("mapped", [True, False])
def test_torch_reads_what_zoo_writes(tmp_path, mapped):
    """torch.load with weights_only, mapped or not, finds every dtype, shape and plain value bit for bit."""
    arrays = [to_array(random((5, 3), dtype)) for dtype in DTYPES]
    arrays += [np.array(2.5, np.float32), np.zeros((0, 4), np.float32), np.arange(12.0).reshape(3, 4).T]
    tree = {
        "a": [*arrays],
        "o": collections.OrderedDict(x=(1, -(1 << 70)), y=()),
        3: {"s", "t"},
        "b": b"\xff\x00",
        "": None,
    }
    tree["f"] = [True, False, 1, 0, 255, 65536, -1, -(1 << 31), 1 << 31, 0.1, "ü" * 300]
    write_torch(tmp_path / "x.pt", {**tree, "a": [LazyTensor.of(array) for array in arrays]})

    assert same(tree, plain(torch.load(tmp_path / "x.pt", weights_only=True, mmap=mapped)))
    assert same(tree, plain(read_torch(tmp_path / "x.pt")))


def test_tied_weights_stay_tied(tmp_path):
    """A LazyTensor in two places is stored once, torch's two tensors share it, and reading gives one object again."""
    tied = LazyTensor.of(to_array(random((300, 50))))
    write_torch(tmp_path / "x.pt", {"wte": tied, "other": LazyTensor.of(tied.load()), "head": tied})
    loaded, found = torch.load(tmp_path / "x.pt"), read_torch(tmp_path / "x.pt")

    assert loaded["wte"].data_ptr() == loaded["head"].data_ptr() != loaded["other"].data_ptr()
    assert found["wte"] is found["head"] is not found["other"]
    assert 2 * tied.nbytes < (tmp_path / "x.pt").stat().st_size < 2.2 * tied.nbytes


def test_what_torch_tied_is_tied_when_zoo_writes_it_again(tmp_path):
    """A state dict of a model with a tied head goes through zoo without growing."""
    weight = torch.nn.Parameter(random((40, 30)))
    save({"wte": weight.detach(), "head": weight.detach()}, tmp_path / "x.pt")
    write_torch(tmp_path / "y.pt", read_torch(tmp_path / "x.pt"))
    loaded = torch.load(tmp_path / "y.pt")

    assert loaded["wte"].data_ptr() == loaded["head"].data_ptr()


def test_records_are_aligned_stored_and_named_as_torch_names_them(tmp_path):
    """Every record begins at a multiple of 64 bytes; a small file is these bytes, on every machine."""
    write_torch(tmp_path / "x.pt", {"a": LazyTensor.of(np.arange(7, dtype=np.int8))}, extra={"zoo.json": b"{}"})
    with zipfile.ZipFile(tmp_path / "x.pt") as archive:
        infos = archive.infolist()
        assert archive.testzip() is None
    content = (tmp_path / "x.pt").read_bytes()

    names = ["data.pkl", "byteorder", "data/0", "version", "zoo.json"]
    assert [f"archive/{name}" for name in names] == [info.filename for info in infos]
    for info in infos:
        lengths = struct.unpack_from("<2H", content, info.header_offset + 26)
        assert (info.header_offset + 30 + sum(lengths)) % 64 == 0
        assert (info.compress_type, info.date_time, info.create_system) == (0, (1980, 1, 1, 0, 0, 0), 3)
    write_torch(tmp_path / "y.pt", {"a": LazyTensor.of(np.arange(7, dtype=np.int8))}, extra={"zoo.json": b"{}"})
    assert content == (tmp_path / "y.pt").read_bytes()


def test_extra_records_are_for_zoo_alone(tmp_path):
    """read_extra gives them back, late ones are asked for behind the tensors, torch.load does not see them."""
    order = []
    tensor = LazyTensor((2,), np.dtype(np.float32), lambda: order.append("tensor") or np.float32([1, -2]))
    write_torch(tmp_path / "x", [tensor], extra={"a.json": b"{1}", "b": lambda: order.append("extra") or b"late"})

    assert [read_extra(tmp_path / "x", name) for name in ("a.json", "b", "c")] == [b"{1}", b"late", None]
    assert order == ["tensor", "extra"]
    assert torch.equal(torch.tensor([1.0, -2.0]), torch.load(tmp_path / "x")[0])
    assert read_extra(save([1], tmp_path / "y", new=False), "a.json") is None


def test_writing_and_reading_take_the_memory_of_a_few_chunks(tmp_path):
    """A tensor ten chunks long, which must be transposed too, is never in memory as a whole; all bytes are counted."""
    array = np.arange(10 * CHUNK_BYTES // 4, dtype=np.float32).reshape(-1, 128).T
    counted = []
    tracemalloc.start()
    try:
        write_torch(tmp_path / "x.pt", {"w": LazyTensor.of(array)}, counted.append)
        found = read_torch(tmp_path / "x.pt")["w"].load()
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < 3 * CHUNK_BYTES
    assert sum(counted) == array.nbytes
    assert same_bits(array, found)


@pytest.mark.slow
def test_storages_beyond_4_gb(tmp_path):
    """Sizes and places beyond 32 bits are written so that torch and zoo find what lies behind."""
    big = np.lib.stride_tricks.as_strided(np.arange(1, 65, dtype=np.uint8), (4097, 1 << 14, 64), (0, 0, 1))
    write_torch(tmp_path / "x.pt", [LazyTensor.of(big), LazyTensor.of(np.float32([1.5, -2]))])
    for tensors in (torch.load(tmp_path / "x.pt", mmap=True), plain(read_torch(tmp_path / "x.pt"))):
        assert tensors[1].tolist() == [1.5, -2]
        assert tensors[0][-1, -1, -1] == 64


def test_importing_does_not_import_torch():
    """Torch's import takes longer than a conversion."""
    code = "import sys, zoo.containers.torch.file; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0


@pytest.mark.parametrize("value", [object(), 1j, np.float32(1), frozenset({1}), bytearray(b"x"), 1 << 3000])
def test_what_a_file_cannot_hold_is_refused_before_anything_is_written(tmp_path, value):
    """Values that torch.load would refuse, or that are not plain, name their type."""
    with pytest.raises(CannotHold):
        write_torch(tmp_path / "x.pt", {"a": [value]})
    assert not (tmp_path / "x.pt").exists()


def test_a_tree_without_end_is_refused(tmp_path):
    """A list that contains itself cannot be written, nor read."""
    loop = []
    loop.append(loop)
    with pytest.raises(CannotHold, match="without end"):
        write_torch(tmp_path / "x.pt", loop)
    with pytest.raises(CorruptFile, match="nested too deeply"):
        read_torch(save(loop, tmp_path / "x.pt"))


scalars = st.none() | st.booleans() | st.integers(-(1 << 100), 1 << 100) | st.floats(allow_nan=False)
scalars |= st.text(max_size=9) | st.binary(max_size=9)
keys = st.text(max_size=9) | st.integers(-9, 1 << 40) | st.tuples(st.text(max_size=3), st.integers())


@st.composite
def arrays(draw):
    shape = draw(st.lists(st.integers(0, 5), max_size=4))
    values = (
        np.random.default_rng(draw(st.integers(0, 99))).integers(1, 100, shape).astype(draw(st.sampled_from(NUMPY)))
    )
    return values.T if draw(st.booleans()) else values


def trees(leaves):
    return st.recursive(
        leaves,
        lambda children: (
            st.lists(children, max_size=3)
            | st.tuples(children, children)
            | st.dictionaries(keys, children, max_size=3)
            | st.dictionaries(keys, children, max_size=3).map(collections.OrderedDict)
        ),
        max_leaves=9,
    )


def lazy(tree):
    """The tree with a LazyTensor for each array."""
    if isinstance(tree, np.ndarray):
        return LazyTensor.of(tree)
    if isinstance(tree, dict):
        return type(tree)((key, lazy(value)) for key, value in tree.items())
    return type(tree)(map(lazy, tree)) if isinstance(tree, list | tuple) else tree


@given(trees(scalars | arrays() | st.sets(st.integers() | st.text(max_size=3), max_size=3)))
def test_any_tree_goes_through_torch_and_zoo(tmp_path_factory, tree):
    """What zoo writes, torch and zoo read; what torch then writes in either format, zoo reads."""
    path = tmp_path_factory.mktemp("tree") / "x.pt"
    write_torch(path, lazy(tree))
    loaded = torch.load(path, weights_only=True)

    assert same(tree, plain(loaded))
    assert same(tree, plain(read_torch(path)))
    for new in (True, False):
        assert same(tree, plain(read_torch(save(loaded, path, new))))


# Damaged files


def flip(path, position):
    content = bytearray(path.read_bytes())
    content[position] ^= 1
    path.write_bytes(content)


def small(path, new=True):
    tree = {"a": random((5, 3)), "b": [random((4, 6)).t()[1:], (1, "x")], "c": random((7,), torch.bfloat16)}
    return save(tree, path, new), plain(tree)


def test_a_flipped_bit_in_a_tensor_is_found_when_it_is_loaded(tmp_path):
    """Torch reads it without a word; the other tensors are still good."""
    path, _ = small(tmp_path / "x.pt")
    flip(path, path.read_bytes().index(random((5, 3)).numpy().tobytes()) + 30)
    found = read_torch(path)

    found["c"].load()
    with pytest.raises(CorruptFile, match="checksum of storage '0'"):
        found["a"].load()


def test_a_flipped_bit_in_the_pickle_is_found(tmp_path):
    """A name with a wrong letter is not taken for another name."""
    path, _ = small(tmp_path / "x.pt")
    flip(path, path.read_bytes().index(b"X\x01\x00\x00\x00b") + 5)
    with pytest.raises(CorruptFile, match=r"checksum of record data\.pkl"):
        read_torch(path)


@pytest.mark.parametrize("share", [0.01, 0.3, 0.6, 0.9, 0.999])
@both_formats
def test_a_file_cut_short_says_so(tmp_path, new, share):
    """Wherever the end is missing, it is recognised as a torch file and refused with advice."""
    path, _ = small(tmp_path / "x.pt", new)
    content = path.read_bytes()
    path.write_bytes(content[: max(50, int(share * len(content)))])

    assert is_torch_file(path)
    with pytest.raises(CorruptFile, match="copy or download it again"):
        read_torch(path)


@given(st.data())
def test_a_damaged_archive_is_refused_or_harmless(tmp_path_factory, data):
    """With changed or missing bytes there is a ZooError, or the very same result: an archive has checksums."""
    path, tree = small(tmp_path_factory.mktemp("fuzz") / "x.pt")
    damage(data, path)
    with contextlib.suppress(ZooError):
        assert same(tree, plain(read_torch(path)))
    assert is_torch_file(path) in (True, False)


@given(st.data())
def test_a_damaged_legacy_file_is_refused_or_harmless(tmp_path_factory, data):
    """Without checksums values may change; but nothing else than a ZooError comes out, and shapes hold."""
    path, _ = small(tmp_path_factory.mktemp("fuzz") / "x.pt", new=False)
    damage(data, path)
    with contextlib.suppress(ZooError):
        plain(read_torch(path))


def damage(data, path):
    content = bytearray(path.read_bytes())
    for _ in range(data.draw(st.integers(1, 3))):
        content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
    path.write_bytes(content[: data.draw(st.integers(0, len(content)) | st.just(len(content)))])


@given(st.data())
def test_a_damaged_pickle_with_a_right_checksum_is_refused_or_harmless(tmp_path_factory, data):
    """Whoever forges a file forges the checksum too: a wrong pickle gives a ZooError or plain values, nothing else."""
    path, _ = small(tmp_path_factory.mktemp("fuzz") / "x.pt")
    with zipfile.ZipFile(path) as archive:
        content, records = (
            bytearray(archive.read("x/data.pkl")),
            {f"data/{i}": archive.read(f"x/data/{i}") for i in range(3)},
        )
    for _ in range(data.draw(st.integers(1, 4))):
        content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
    with contextlib.suppress(ZooError):
        plain(read_torch(forge(path, bytes(content), records)))


def forge(path, content, records=None, method=zipfile.ZIP_STORED):
    """An archive around a pickle made by hand."""
    with zipfile.ZipFile(path, "w", method) as archive:
        archive.writestr("archive/data.pkl", content)
        for name, data in (records or {}).items():
            archive.writestr(f"archive/{name}", data)
    return path


def describe(offset, shape, strides, *, of="torch FloatStorage", length=6, rebuild="torch._utils _rebuild_tensor_v2"):
    """The pickle of a lone tensor, whose numbers may lie."""

    def number(value):
        return pickle.dumps(value, 2)[2:-1]

    def named(name):
        return b"c" + name.replace(" ", "\n").encode() + b"\n"

    storage = b"(" + number("storage") + named(of) + number("0") + number("cpu") + number(length) + b"tQ"
    rest = number(offset) + number(shape) + number(strides) + b"\x89" + b"ccollections\nOrderedDict\n)R"
    return b"\x80\x02" + named(rebuild) + b"(" + storage + rest + b"tR."


def test_a_forged_tensor_that_does_not_lie_is_read(tmp_path):
    """The helper of the next tests makes good files if the numbers are good."""
    data = np.arange(1, 7, dtype=np.float32)
    found = read_torch(forge(tmp_path / "x", describe(1, (2, 2), (3, 1)), {"data/0": data.tobytes()})).load()
    assert found.tolist() == [[2, 3], [5, 6]]


@pytest.mark.parametrize(
    "numbers",
    [
        (1, (2, 3), (3, 1)),
        (0, (2, 4), (3, 1)),
        (5, (2,), (1,)),
        (-1, (2,), (1,)),
        (3, (2,), (-1,)),
        (0, (-2, -3), (3, 1)),
        (0, (2, 3), (3,)),
        (1 << 62, (1,), (1,)),
        (0, (1 << 62, 1 << 62), (0, 0)),
        (0, (1 << 40,), (0,)),
        (0.0, (2,), (1,)),
        (0, [2], (1,)),
        (0, (True,), (1,)),
        (0, (1,) * 65, (1,) * 65),
        (0, (0, 1 << 40, 1 << 40), (1, 1, 1)),
        (6, (1,), (1,)),
    ],
)
def test_a_tensor_outside_its_storage_is_refused(tmp_path, numbers):
    """Offsets, shapes and strides that lead elsewhere, backwards or nowhere never become a view."""
    path = forge(tmp_path / "x", describe(*numbers), {"data/0": bytes(range(24)), "data/1": bytes(99)})
    with pytest.raises(CorruptFile):
        read_torch(path)


def test_a_record_shorter_than_its_storage_is_refused(tmp_path):
    """torch.load(mmap=True) reads on in the neighbour."""
    path = forge(tmp_path / "x", describe(0, (2, 3), (3, 1)), {"data/0": bytes(23), "data/1": bytes(99)})
    with pytest.raises(CorruptFile, match="23 bytes where its tensors need 24"):
        read_torch(path)


def test_a_record_that_is_missing_is_refused(tmp_path):
    """A pickle may name a storage that is not in the archive."""
    with pytest.raises(CorruptFile, match="data/0"):
        read_torch(forge(tmp_path / "x", describe(0, (2, 3), (3, 1)), {"data/1": bytes(24)}))


def test_a_local_header_that_differs_from_the_directory_is_refused(tmp_path):
    """Two readers of one file must not see two contents."""
    write_torch(tmp_path / "x", [LazyTensor.of(np.float32([1, 2]))])
    content = (tmp_path / "x").read_bytes()
    local = content.index(b"archive/data/0")
    for position, new in ((local, b"archivf/data/0"), (local - 16, b"zzzz"), (local - 30, b"PK\x03\x05")):
        (tmp_path / "x").write_bytes(content[:position] + new + content[position + len(new) :])
        with pytest.raises(CorruptFile, match="headers"):
            read_torch(tmp_path / "x")


def test_overlapping_records_are_refused(tmp_path):
    """A directory whose sizes make one record reach into the next."""
    forge(tmp_path / "x", describe(0, (2, 3), (3, 1)), {"data/0": bytes(24), "data/1": bytes(24)})
    content = bytearray((tmp_path / "x").read_bytes())
    central = content.rindex(b"archive/data/0") - 46
    for position in (
        central + 20,
        central + 24,
        content.index(b"archive/data/0") - 12,
        content.index(b"archive/data/0") - 8,
    ):
        struct.pack_into("<I", content, position, 60)
    (tmp_path / "x").write_bytes(content)
    with pytest.raises(CorruptFile, match="overlap"):
        read_torch(tmp_path / "x")


@pytest.mark.filterwarnings("ignore:Duplicate name")
def test_a_record_that_is_there_twice_is_refused(tmp_path):
    """Some readers take the first, some the last."""
    with zipfile.ZipFile(tmp_path / "x", "w") as archive:
        for name, data in (("data.pkl", describe(0, (1,), (1,))), ("data/0", bytes(24)), ("data/0", bytes(range(24)))):
            archive.writestr(f"archive/{name}", data)
    with pytest.raises(CorruptFile, match="twice"):
        read_torch(tmp_path / "x")


def test_a_compressed_or_encrypted_archive_is_refused_with_the_reason(tmp_path):
    """Neither can be mapped; somebody zipped the unpacked files again."""
    with pytest.raises(FormatError, match="compressed"):
        read_torch(forge(tmp_path / "x", pickle.dumps([1] * 99, 2), method=zipfile.ZIP_DEFLATED))
    content = bytearray(forge(tmp_path / "x", pickle.dumps([1], 2)).read_bytes())
    content[6] |= 1
    (tmp_path / "x").write_bytes(content)
    with pytest.raises(FormatError, match="encrypted"):
        read_torch(tmp_path / "x")


def test_a_big_endian_file_is_refused(tmp_path):
    """Its numbers would come out as others."""
    with pytest.raises(FormatError, match="big-endian"):
        read_torch(forge(tmp_path / "x", pickle.dumps([1], 2), {"byteorder": b"big"}))
    content = save([1], tmp_path / "x", new=False).read_bytes()
    (tmp_path / "x").write_bytes(
        re.sub(rb"(little_endianq.)\x88", lambda found: found[1] + b"\x89", content, flags=re.DOTALL)
    )
    with pytest.raises(FormatError, match="big-endian"):
        read_torch(tmp_path / "x")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 9\n", "git lfs pull"),
        (b"", "empty"),
        (b"\x89HDF\r\n\x1a\n", "not a file of torch.save"),
        (pickle.dumps({"a": 1}), "not a file of torch.save"),
    ],
)
def test_other_files_are_told_apart(tmp_path, content, message):
    """What is not a torch file is not taken for one, and reading it says why not."""
    (tmp_path / "x").write_bytes(content)
    assert not is_torch_file(tmp_path / "x")
    with pytest.raises(FormatError, match=message):
        read_torch(tmp_path / "x")


def test_another_zip_is_no_torch_file(tmp_path):
    """Numpy's archives are zip files too; a directory, or nothing, is not a file."""
    np.savez(tmp_path / "x.npz", a=np.arange(3))
    for path in (tmp_path / "x.npz", tmp_path, tmp_path / "nothing"):
        assert not is_torch_file(path)
        with pytest.raises(FormatError):
            read_torch(path)
    forge(tmp_path / "y", b"")
    assert is_torch_file(tmp_path / "y")


@pytest.mark.parametrize("dtype", [torch.float8_e4m3fn, torch.uint16, torch.complex64], ids=str)
def test_tensors_of_other_kinds_are_refused_by_name(tmp_path, dtype):
    """Small floats and complex numbers are not weights of a GPT-2."""
    with pytest.raises(FormatError, match=r"float8_e4m3fn|uint16|ComplexFloatStorage"):
        read_torch(save({"a": torch.ones(3).to(dtype)}, tmp_path / "x.pt"))


@pytest.mark.filterwarnings("ignore:torch.quantize_per_tensor")
def test_quantized_and_sparse_tensors_and_bare_storages_are_refused(tmp_path):
    """They name what zoo has no reading of."""
    quantized = torch.quantize_per_tensor(torch.ones(3), 0.1, 3, torch.qint8)
    for value in (quantized, torch.eye(3).to_sparse(), torch.ones(3).untyped_storage(), collections.OrderedDict):
        with pytest.raises(FormatError, match=r"_rebuild_qtensor|_rebuild_sparse_tensor|QInt8Storage|bare"):
            read_torch(save([value], tmp_path / "x.pt"))
    with pytest.raises(FormatError, match="lazy sign"):
        read_torch(save([torch.randn(3, dtype=torch.complex64).conj().imag.clone(), neg()], tmp_path / "x.pt"))


def neg():
    return torch._neg_view(torch.ones(3))


# Files that mean harm


class Evil:
    def __init__(self, function, *arguments):
        self.reduced = (function, arguments)

    def __reduce__(self):
        return self.reduced


@pytest.fixture
def canary(tmp_path):
    """A path where nothing may appear."""
    path = tmp_path / "canary"
    yield path
    assert not path.exists()


@both_formats
def test_a_pickle_that_calls_anything_is_refused_and_named(tmp_path, canary, new):
    """Functions of the system, of Python and of torch itself; nested, as a key, or as an argument of good ones."""
    code = f"open({str(canary)!r}, 'w')"
    evils = [Evil(os.system, f"touch {canary}"), Evil(eval, code), Evil(exec, code), Evil(open, str(canary), "w")]
    evils += [Evil(torch.load, str(canary)), Evil(getattr, "torch", "load") if new else Evil(os.remove, str(canary))]
    evils += [collections.OrderedDict(a=[(Evil(eval, code),)]), {"a": random((2,)), "b": [Evil(os.system, "true")]}]
    for evil in evils:
        with pytest.raises(UnsafeFile, match=r"refers to '[\w.]+'; .*torch\.save\(model\.state_dict\(\), path\)"):
            read_torch(save(evil, tmp_path / "x.pt", new))


@dataclasses.dataclass
class Settings:
    n_head: int
    device: object


class Colour(enum.Enum):
    RED = 1


@both_formats
def test_objects_of_settings_are_opaque(tmp_path, new):
    """What scripts save beside the weights is walked over: plain fields can be read, nothing is imported or called."""
    odd = {
        "args": argparse.Namespace(n_head=3, path=pathlib.PosixPath("/a/b")),
        "config": Settings(5, Colour.RED),
        "loss": np.float64(2.5),
        "rng": np.random.RandomState(3).get_state(),
        "seen": collections.defaultdict(int, a=1),
    }
    found = read_torch(save({"model": {"a": random((2, 3))}, **odd}, tmp_path / "x.pt", new))

    assert found["args"]["n_head"] == 3
    assert found["config"]["n_head"] == 5
    assert list(found["model"]) == ["a"]


def test_a_pickled_module_is_refused_with_its_name(tmp_path):
    """A module pickled whole has no state dict to read."""
    with pytest.raises(UnsafeFile, match=r"torch\.nn\.modules\.linear\.Linear"):
        read_torch(save(torch.nn.Linear(2, 3), tmp_path / "x.pt"))


OS_SYSTEM = b"cos\nsystem\n"
ORDERED = b"ccollections\nOrderedDict\n"


@pytest.mark.parametrize(
    "instructions",
    [
        b"(Vtouch CANARY\nios\nsystem\n.",  # INST
        b"(" + OS_SYSTEM + b"Vtouch CANARY\no.",  # OBJ
        OS_SYSTEM + b"Vtouch CANARY\n\x85R.",  # REDUCE
        b"X\x02\x00\x00\x00osX\x06\x00\x00\x00system\x93X\x0c\x00\x00\x00touch CANARY\x85R.",  # STACK_GLOBAL
        b"ccopyreg\n_reconstructor\n" + OS_SYSTEM + b"c__builtin__\nobject\nN\x87R.",
        ORDERED + b")\x81.",  # NEWOBJ
        ORDERED + b")}\x92.",  # NEWOBJ_EX
        b"(" + ORDERED + b"o.",  # OBJ of something good
        b"(icollections\nOrderedDict\n.",  # INST of something good
        b"\x82\x01.",  # EXT1
        b"\x80\x02ctorch._utils\n_rebuild_parameter\n}b.",  # BUILD on a function
        ORDERED + b")R}b" + b"]}b.",  # BUILD on a list
        ORDERED + b")R}}\x86b.",  # BUILD with state of slots
        b"ctorch\nFloatStorage\n)R.",  # a storage class is not a function
        b"X\x01\x00\x00\x00a)R.",
        b"cbuiltins\neval\n.",
        b"c__builtin__\neval\n.",
        b"c_codecs\ndecode\n.",
        b"ctorch\nload\n.",
        b"ctorch\nos.system\n.",
        b"ctorch._utils._rebuild_tensor_v2\n__globals__\n.",
        b"ccollections\nOrderedDict.__init__\n.",
    ],
)
def test_instructions_that_make_objects_run_nothing(tmp_path, canary, instructions):
    """Whatever the way to a call or an attribute, it is refused before anything happens."""
    content = instructions.replace(b"Vtouch CANARY\n", pickle.dumps(f"touch {canary}", 2)[2:-1])
    with pytest.raises(UnsafeFile):
        read_torch(forge(tmp_path / "x", content))


def test_the_attributes_of_a_state_dict_are_dropped(tmp_path):
    """BUILD on an OrderedDict is what state dicts need; it sets nothing, not even a method."""
    found = read_torch(forge(tmp_path / "x", ORDERED + b")R}X\x05\x00\x00\x00itemsX\x01\x00\x00\x00as" + b"b."))
    assert vars(found) == {}
    assert list(found.items()) == []


def test_an_extension_that_this_process_registered_is_not_called(tmp_path):
    """The codes of copyreg are one more way to a function."""
    copyreg.add_extension("os", "getcwd", 77)
    try:
        with pytest.raises(UnsafeFile):
            read_torch(forge(tmp_path / "x", b"\x82\x4d)R."))
    finally:
        copyreg.remove_extension("os", "getcwd", 77)


LIST_OF_100_000 = b"](" + b"N" * 100_000 + b"eq\x00"


@pytest.mark.parametrize(
    "instructions",
    [
        b"Nr\xff\xff\xff\xff.",  # a memo of 4 billion places
        b"X\xff\xff\xff\xffabc.",
        b"\x8d" + b"\xff" * 8 + b"abc.",
        b"\x8e" + b"\xff" * 8 + b"abc.",
        b"\x96" + b"\x00\x00\x00\x00\x00\x01\x00\x00" + b"abc.",  # a bytearray of 1 TB
        b"\x8b\xff\xff\xff\x7fabc.",
        b"\x95" + b"\xff" * 8 + b"N.",
        b"]" * 200_000 + b"a" * 199_999 + b".",  # nested without end
        b"N" + b"\x85" * 200_000 + b".",
        b"(" * 200_000 + b".",
        b"]q\x00h\x00a.",  # contains itself
        b"]q\x00" + b"".join(b"](h%ch%ceq%c" % (i, i, i + 1) for i in range(60)) + b".",  # a tree of 2^60 leaves
        b"Nq\x00" + b"".join(b"h%ch%c\x86q%c" % (i, i, i + 1) for i in range(60)) + b"}h\x3cNs.",  # a hash as long
        LIST_OF_100_000 + b"](" + b"ctorch\nSize\nh\x00\x85R" * 20_000 + b"e.",  # copies: 16 GB
        b"X\x00\x00\x01\x00"
        + b"a" * 65536
        + b"q\x00]("
        + b"c_codecs\nencode\nh\x00X\x06\x00\x00\x00latin1\x86R" * 20_000
        + b"e.",
        b"I" + b"9" * 1_000_000 + b"\n.",
    ],
    ids=lambda value: repr(value[:12]),
)
def test_bombs_go_off_in_no_memory(tmp_path, instructions):
    """Lengths, indexes, nesting and copies that would fill memory, stack or time are refused, or mean nothing."""
    path = forge(tmp_path / "x", instructions)
    tracemalloc.start()
    try:
        read_torch(path)
    except CorruptFile:
        pass
    finally:
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
    assert peak < 300 << 20


def test_a_pickle_of_absurd_length_is_not_even_begun(tmp_path):
    """One byte of a pickle can take two hundred of memory."""
    with pytest.raises(CorruptFile, match="too many"):
        read_torch(forge(tmp_path / "x", b"](" + b"\x8f" * MAX_PICKLE_BYTES + b"e."))


def test_garbage_behind_a_legacy_file_is_refused(tmp_path):
    """The last storage ends the file."""
    path, _ = small(tmp_path / "x", new=False)
    path.write_bytes(path.read_bytes() + b"more")
    with pytest.raises(CorruptFile, match="describes"):
        read_torch(path)


def test_a_legacy_storage_of_another_length_is_refused(tmp_path):
    """The number before the values must be the one in the pickle."""
    content = save([random((11,))], tmp_path / "x", new=False).read_bytes()
    position = content.rindex(struct.pack("<q", 11))
    for lie in (10, 12, -1, 1 << 40):
        (tmp_path / "x").write_bytes(content[:position] + struct.pack("<q", lie) + content[position + 8 :])
        with pytest.raises(CorruptFile, match="length"):
            read_torch(tmp_path / "x")


def test_changing_a_loaded_array_changes_no_file(tmp_path):
    """The map is private: training on the weights of a file leaves the file as it is."""
    path, _ = small(tmp_path / "x.pt")
    before = path.read_bytes()
    read_torch(path)["a"].load()[...] = 1
    assert before == path.read_bytes()


def test_a_file_from_a_stream_is_read(tmp_path):
    """torch.save to memory names the archive `archive`."""
    buffer = io.BytesIO()
    torch.save({"a": random((2, 3))}, buffer)
    (tmp_path / "x").write_bytes(buffer.getvalue())
    assert same(plain({"a": random((2, 3))}), plain(read_torch(tmp_path / "x")))
