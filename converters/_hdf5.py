"""HDF5 files of named arrays, through the package h5py: what Keras saves weights in.

h5py finds the arrays; their bytes are then mapped, and written in pieces, at the places it tells. Links and storage
that lead out of the file are refused before anything behind them is opened, as Keras itself refuses them
(keras/src/saving/saving_lib.py: safe_get_h5_group, safe_get_h5_dataset).
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from importlib import import_module
from mmap import mmap
from pathlib import Path
from typing import Any

import numpy as np

from zoo.converters._files import is_shape, map_file
from zoo.errors import CorruptFile, MissingPackage, UnsafeFile, ZooError
from zoo.mapping import Tensors
from zoo.stream import Progress, ignore_progress, write_at
from zoo.tensors import DTYPES, Array, LazyTensor

_BFLOAT16 = DTYPES["bfloat16"]
_MAX_DEPTH = 16  # of groups in groups; Keras needs 6
_MAX_NAMES = 10_000  # of groups and arrays; Keras Hub needs some 50 for a block
_ALIGNMENT = 64  # of the tensors that are written, so that mapped arrays suit vector instructions
_ALIGNED_FROM = 512  # bytes; smaller ones follow each other


def read_hdf5(path: Path) -> dict[str, LazyTensor]:
    """Open an HDF5 file: its arrays by their paths, as views of the mapped file wherever they lie in one piece.

    Raises:
        MissingPackage: h5py is not installed.
        CorruptFile: it is no HDF5 file, or a damaged one.
        UnsafeFile: something in it leads out of the file.
    """
    h5py, data = _h5py(), map_file(path)
    try:
        with h5py.File(path, "r") as file:
            tensors = {name: _tensor(h5py, path, data, name, array) for name, array in _arrays(h5py, path, file)}
        if sum(tensor.nbytes for tensor in tensors.values()) > len(data):
            raise CorruptFile(path, "its arrays overlap: they have more bytes than the file; copy or download it again")
        return tensors
    except ZooError:
        raise
    except Exception as error:  # libhdf5 has many words for damage, and h5py many exceptions
        raise CorruptFile(path, f"is no whole HDF5 file ({_first_line(error)}); copy or download it again") from error


def write_hdf5(path: Path, tensors: Tensors, on_bytes: Progress = ignore_progress) -> None:
    """Write a new file of arrays with axes, one at a time; names are paths, bfloat16 is marked as Keras marks it.

    Raises:
        MissingPackage: h5py is not installed.
        OSError: the disk is full, or the path cannot be written.
        ZooError: whatever loading a tensor raises.
    """
    h5py = _h5py()
    plan = h5py.h5p.create(h5py.h5p.DATASET_CREATE)
    plan.set_alloc_time(h5py.h5d.ALLOC_TIME_EARLY)  # so that every array has its place before there is data
    plan.set_fill_time(h5py.h5d.FILL_TIME_NEVER)
    plan.set_obj_track_times(False)  # the same tensors shall give the same bytes
    placed = []
    with h5py.File(path, "w", alignment_threshold=_ALIGNED_FROM, alignment_interval=_ALIGNMENT) as file:
        for name, tensor in tensors.items():
            bfloat16 = tensor.dtype == _BFLOAT16
            array = file.create_dataset(name, tensor.shape, "V2" if bfloat16 else tensor.dtype, dcpl=plan)
            if bfloat16:
                array.attrs["dtype"] = "bfloat16"
            if tensor.size:
                placed.append((array.id.get_offset(), tensor))
    write_at(path, placed, on_bytes)


def _h5py() -> Any:
    try:
        return import_module("h5py")
    except ImportError as error:
        raise MissingPackage("HDF5 files need the package h5py; run `pip install 'gpt2-zoo[h5]'`") from error


def _first_line(error: Exception) -> str:
    return (str(error) or type(error).__name__).splitlines()[0]


def _arrays(h5py: Any, path: Path, file: Any) -> Iterator[tuple[str, Any]]:
    """Walk through all groups, and give name and array of everything in them."""
    groups, seen, n_names = [("", file)], set(), 0
    while groups:
        prefix, group = groups.pop()
        place = h5py.h5o.get_info(group.id).addr
        if place in seen or prefix.count("/") > _MAX_DEPTH:
            raise CorruptFile(path, f"its group {prefix!r} is inside itself, or deeper than any of Keras")
        seen.add(place)
        for key in group:
            name = f"{prefix}{key}"
            n_names += 1
            if n_names > _MAX_NAMES:
                raise CorruptFile(path, f"has more than {_MAX_NAMES:,} names; it is no checkpoint of a GPT-2")
            if not isinstance(group.get(key, getlink=True), h5py.HardLink):
                raise UnsafeFile(path, f"{name} is a link, which may lead elsewhere; it is not followed")
            item = group[key]
            if isinstance(item, h5py.Group):
                groups.append((f"{name}/", item))
            elif isinstance(item, h5py.Dataset):
                yield name, item


def _tensor(h5py: Any, path: Path, data: mmap, name: str, array: Any) -> LazyTensor:
    if array.is_virtual or array.external:
        raise UnsafeFile(path, f"the values of {name} are in another file, which is not opened")
    shape, dtype = array.shape, _dtype(array)
    if dtype is None or shape is None or not is_shape(shape):
        raise CorruptFile(path, f"{name} has values of a shape or type that zoo does not know ({shape}, {array.dtype})")
    nbytes = math.prod(shape) * dtype.itemsize
    if nbytes > len(data):
        raise CorruptFile(path, f"{name} {shape} would be larger than the file; copy it again")
    if nbytes == 0:
        return LazyTensor.of(np.empty(shape, dtype))
    if array.id.get_create_plist().get_layout() != h5py.h5d.CONTIGUOUS:
        return LazyTensor(shape, dtype, lambda: _load_in_pieces(path, name, shape, dtype))
    offset = array.id.get_offset()
    if offset is None or array.id.get_storage_size() != nbytes or offset + nbytes > len(data):
        raise CorruptFile(path, f"the bytes of {name} are not there; the file may be cut short")
    return LazyTensor(shape, dtype, lambda: np.frombuffer(data, dtype, math.prod(shape), offset).reshape(shape))


def _dtype(array: Any) -> np.dtype[np.generic] | None:
    """The dtype of an array's values, None for what no weights are made of."""
    if array.dtype.kind == "V" and array.dtype.itemsize == 2 and array.attrs.get("dtype") == "bfloat16":
        return _BFLOAT16
    return array.dtype if array.dtype.kind in "biuf" else None


def _load_in_pieces(path: Path, name: str, shape: tuple[int, ...], dtype: np.dtype[np.generic]) -> Array:
    """Read an array that is compressed or spread over the file, as only other tools than Keras make them."""
    try:
        with _h5py().File(path, "r") as file:
            values: Array = file[name][()]
    except Exception as error:
        raise CorruptFile(path, f"{name} cannot be read ({_first_line(error)}); copy it again") from error
    return np.asarray(values).view(dtype).reshape(shape)
