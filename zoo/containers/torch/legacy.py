"""The files of torch.save before torch 1.6: five pickles, then the storages one after the other, without a checksum.

magic number, protocol version, facts of the machine, the object, the keys of the storages in their order; then of each
storage its number of elements, in 8 bytes, and the elements.
"""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import numpy as np

from zoo.containers.files import map_file
from zoo.containers.torch.pickle_reader import MAX_PICKLE_BYTES, read_pickle
from zoo.containers.torch.storage import DAMAGED, Bytes, Storage
from zoo.containers.torch.tree import check_size
from zoo.errors import CorruptFile, FormatError

_MAGIC = 0x1950A86A20F9469CFC6C
_VERSION = 1001
_COUNT_BYTES = 8


def is_torch_legacy(start: bytes) -> bool:
    """Whether a file with this beginning is one."""
    return _MAGIC.to_bytes(10, "little") in start[:32]  # behind a few bytes that depend on the pickle's protocol


def read_torch_legacy(path: Path) -> Any:
    """Read a file; see read_torch."""
    data: Bytes = np.frombuffer(map_file(path), np.uint8)
    file = io.BytesIO(data[:MAX_PICKLE_BYTES].tobytes())
    magic, version, machine = (read_pickle(file, path)[0] for _ in range(3))
    if magic != _MAGIC or version != _VERSION or not isinstance(machine, dict):
        raise CorruptFile(path, f"begins as a torch file does, but goes on otherwise; {DAMAGED}")
    if machine.get("little_endian") is not True:
        raise FormatError(path, "was written on a big-endian machine, which zoo does not read; save it on another one")
    tree, storages = read_pickle(file, path)
    keys, _ = read_pickle(file, path)
    if not isinstance(keys, list) or not all(isinstance(key, str) for key in keys) or set(keys) != set(storages):
        raise CorruptFile(path, f"its tensors and its storages do not belong together; {DAMAGED}")
    _place(path, data, file.tell(), [storages[key] for key in keys])
    check_size(tree, path)
    return tree


def _place(path: Path, data: Bytes, position: int, storages: list[Storage]) -> None:
    for storage in storages:
        count = int.from_bytes(data[position : position + _COUNT_BYTES].tobytes(), "little")
        if count * storage.itemsize != storage.nbytes:
            raise CorruptFile(path, f"{storage.name} has not the length that its tensors need; {DAMAGED}")
        position += _COUNT_BYTES
        storage.place(data[position : position + storage.nbytes], None)
        position += storage.nbytes
    if position != len(data):
        raise CorruptFile(path, f"has {len(data):,} bytes where it describes {position:,}; copy or download it again")
