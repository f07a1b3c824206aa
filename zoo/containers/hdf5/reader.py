"""HDF5 files of named arrays, through the package h5py: what Keras saves weights in.

h5py finds the arrays, in a process of its own (worker.py); their bytes are then mapped, and written in pieces, at
the places it tells. Links and storage that lead out of the file are refused before anything behind them is opened, as
Keras itself refuses them (keras/src/saving/saving_lib.py: safe_get_h5_group, safe_get_h5_dataset).
"""

from __future__ import annotations

import math
import os
from importlib import import_module
from importlib.util import find_spec
from mmap import mmap
from pathlib import Path
from typing import Any

import numpy as np

from zoo.containers.files import is_shape, map_file
from zoo.containers.hdf5.worker_process import WorkerProcess
from zoo.core.stream import Progress, ignore_progress, write_at
from zoo.core.tensors import DTYPES, Array, LazyTensor, Tensors
from zoo.errors import CorruptFile, MissingPackage

_BFLOAT16 = DTYPES["bfloat16"]
_ALIGNMENT = 64  # of the tensors that are written, so that mapped arrays suit vector instructions
_ALIGNED_FROM = 512  # bytes; smaller ones follow each other
_NEEDED = "HDF5 files need the package h5py; run `pip install 'gpt2-zoo[h5]'`"


def read_hdf5(path: Path) -> dict[str, LazyTensor]:
    """Open an HDF5 file: its arrays by their paths, as views of the mapped file wherever they lie in one piece.

    Raises:
        MissingPackage: h5py is not installed.
        CorruptFile: it is not an intact HDF5 file.
        UnsafeFile: something in it leads out of the file.
    """
    if find_spec("h5py") is None:
        raise MissingPackage(_NEEDED)
    data = map_file(path)
    answer, _ = _worker.ask(path, {"path": os.path.realpath(path)})
    tensors = {found["name"]: _tensor(path, data, found) for found in answer["arrays"]}
    if sum(tensor.nbytes for tensor in tensors.values()) > len(data):
        raise CorruptFile(path, "its arrays overlap: they have more bytes than the file; copy or download it again")
    return tensors


def _tensor(path: Path, data: mmap, found: dict[str, Any]) -> LazyTensor:
    name, shape, offset = found["name"], tuple(found["shape"]), found["offset"]
    dtype = _BFLOAT16 if found["dtype"] == "bfloat16" else np.dtype(found["dtype"])
    if not is_shape(shape, dtype.itemsize):
        raise CorruptFile(path, f"{name} has the impossible shape {shape}; copy or download it again")
    size = math.prod(shape)
    if size == 0:
        return LazyTensor.of(np.empty(shape, dtype))
    if offset is not None:
        return LazyTensor(shape, dtype, lambda: np.frombuffer(data, dtype, size, offset).reshape(shape))

    def load() -> Array:
        """Read an array that is compressed or spread over the file, as only other tools than Keras make them."""
        _, content = _worker.ask(path, {"path": os.path.realpath(path), "name": name}, f"{name} cannot be read: ")
        if len(content) != size * dtype.itemsize:
            raise CorruptFile(path, f"{name} cannot be read: its values are not all there; copy it again")
        return np.frombuffer(content, dtype).reshape(shape)

    return LazyTensor(shape, dtype, load)


def write_hdf5(path: Path, tensors: Tensors, on_bytes: Progress = ignore_progress) -> None:
    """Write a new file of arrays with axes, one at a time; names are paths, bfloat16 is marked as Keras marks it.

    Raises:
        MissingPackage: h5py is not installed.
        OSError: The path cannot be written, for example because the disk is full.
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
        raise MissingPackage(_NEEDED) from error


_worker = WorkerProcess()
