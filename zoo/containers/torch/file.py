"""The files of torch.save, read and written without torch: its import alone takes longer than a conversion.

Reading maps the file: tensors are views of it, strided as they were saved, and a storage's checksum is compared when a
tensor of it is first loaded. torch itself looks at no checksum, and runs what it finds unless told not to.
https://docs.pytorch.org/docs/stable/notes/serialization.html
"""

from __future__ import annotations

import io
import zipfile
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np

from zoo.containers.files import MAX_JSON_BYTES, map_file
from zoo.containers.torch.legacy import is_torch_legacy, read_torch_legacy
from zoo.containers.torch.pickle_reader import MAX_PICKLE_BYTES, read_pickle
from zoo.containers.torch.pickle_writer import TreePickler
from zoo.containers.torch.tree import check_size
from zoo.containers.torch.zip import PICKLE, ZIP_MAGIC, TorchZip, is_torch_zip
from zoo.core.paths import check_file, is_own_file
from zoo.core.stream import Progress, ignore_progress
from zoo.core.tensors import chunks
from zoo.errors import CorruptFile, FormatError

Extra = Mapping[str, bytes | Callable[[], bytes]]
"""Records by name; a function is called when all tensors are written, so that their source can be hashed meanwhile."""

_ARCHIVE = "archive"
_ALIGNMENT = 64  # of the records, so that mapped arrays suit vector instructions
_LOCAL_HEADER_BYTES = 30 + 20  # what zipfile writes beside name and padding: the header, and sizes in 64 bits
_PADDING = b"FB"  # torch's mark of the header field that only fills
_EPOCH = (1980, 1, 1, 0, 0, 0)  # the earliest date a zip knows: the same content gives the same bytes
_UNIX = 3


def is_torch_file(path: Path) -> bool:
    """Whether a file begins as one of torch.save does, in the format of today or that before torch 1.6."""
    if not is_own_file(path):
        return False
    start = _start(path)
    return is_torch_legacy(start) or (start.startswith(ZIP_MAGIC) and is_torch_zip(path))


def read_torch(path: Path) -> Any:
    """Return what a file of torch.save holds: plain containers, with a LazyTensor for each tensor or parameter.

    A torch.Size becomes a tuple, a torch.dtype its name ("float32"), a torch.device its text ("cuda:0"); attributes of
    a state dict (its _metadata) are dropped. Tensors that are one and the same become one LazyTensor, so that tied
    weights stay tied. In a file from before torch 1.6 the values have no alignment and no checksum.

    Raises:
        UnsafeFile: reading it as torch does would run code or make objects.
        CorruptFile: it is corrupt or truncated.
        FormatError: it is not a torch file, or holds tensors of a kind that zoo does not read.
    """
    start = _start(path)
    if is_torch_legacy(start):
        return read_torch_legacy(path)
    if not start.startswith(ZIP_MAGIC):
        map_file(path)  # says it if the file is empty or a Git LFS pointer
        raise FormatError(path, "is not a file of torch.save; give a .pt, .pth or .bin that torch wrote")
    records = TorchZip(path)
    order = records.read("byteorder", 16)
    if order not in (None, b"little"):  # torch before 2.1 did not say, and ran on little-endian machines
        raise FormatError(path, "was written on a big-endian machine, which zoo does not read; save it on another one")
    tree, storages = read_pickle(io.BytesIO(records.read(PICKLE, MAX_PICKLE_BYTES) or b""), path)
    for key, storage in storages.items():
        record = records.find(f"data/{key}")
        if record is None:
            raise CorruptFile(path, f"the record data/{key[:100]} of a tensor is missing; copy or download it again")
        storage.place(record.data, record.crc)
    check_size(tree, path)
    return tree


def read_extra(path: Path, name: str) -> bytes | None:
    """Return a record that write_torch added; None if there is none.

    Raises:
        CorruptFile: the file is damaged.
        FormatError: it is not a torch file.
    """
    return TorchZip(path).read(name, MAX_JSON_BYTES) if _start(path).startswith(ZIP_MAGIC) else None


def write_torch(
    path: Path, tree: Any, on_bytes: Progress = ignore_progress, extra: Extra = MappingProxyType({})
) -> None:
    """Write a file as torch.save does, a few chunks in memory at a time. The same content gives the same bytes.

    Args:
        path: Path to write to.
        tree: plain containers and values, with a LazyTensor for each tensor. A LazyTensor that stands at two places is
            stored once, and torch.load gives two tensors that share it.
        on_bytes: Callback with the number of bytes written.
        extra: more records for read_extra; torch.load does not see them.

    Raises:
        CannotHold: something in the tree is neither plain nor a tensor, before anything is written.
        OSError: the disk is full, or the path cannot be written.
        ZooError: whatever loading a tensor raises.
    """
    pickler = TreePickler()
    content = pickler.dump(tree)
    with zipfile.ZipFile(path, "w") as archive:
        _write_record(archive, PICKLE, len(content), [content])
        _write_record(archive, "byteorder", 6, [b"little"])
        for key, tensor in enumerate(pickler.tensors):
            pieces = (chunk.view(np.uint8).reshape(-1).data for chunk in chunks(tensor.load()))
            _write_record(archive, f"data/{key}", tensor.nbytes, pieces, on_bytes)
        _write_record(archive, "version", 2, [b"3\n"])
        for name, value in extra.items():
            data = value if isinstance(value, bytes) else value()
            _write_record(archive, name, len(data), [data])


def _write_record(
    archive: zipfile.ZipFile,
    name: str,
    nbytes: int,
    pieces: Iterable[bytes | memoryview],
    on_bytes: Progress = ignore_progress,
) -> None:
    info = zipfile.ZipInfo(f"{_ARCHIVE}/{name}", _EPOCH)
    info.create_system, info.file_size = _UNIX, nbytes
    begin = archive.fp.tell() if archive.fp else 0
    padding = -(begin + _LOCAL_HEADER_BYTES + len(info.filename.encode()) + 4) % _ALIGNMENT
    info.extra = _PADDING + padding.to_bytes(2, "little") + b"Z" * padding
    with archive.open(info, "w", force_zip64=True) as record:
        for piece in pieces:
            record.write(piece)
            on_bytes(len(piece))


def _start(path: Path) -> bytes:
    check_file(path)
    try:
        with path.open("rb") as file:
            return file.read(32)
    except OSError as error:
        raise FormatError(path, f"cannot be read ({error.strerror})") from error
