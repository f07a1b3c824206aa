"""Write the GGUF container; reader.py describes it."""

from __future__ import annotations

import json
import os
import struct
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from zoo.containers.gguf.quants import encoded
from zoo.containers.gguf.reader import ARRAY, MAGIC, STRING, TYPES, VERSION, Value, padded
from zoo.core.stream import Progress, ignore_progress, write_at
from zoo.core.tensors import LazyTensor
from zoo.errors import CannotHold

PROVENANCE = "zoo.provenance"
_PROVENANCE_BYTES = 16 << 10  # kept free for it; zoo.convert keeps the record shorter
_CODES = {name: code for code, name in TYPES.items()}
_U4, _I4, _F4, _BOOL, _F8 = 4, 5, 6, 7, 12  # of enum gguf_type


def write_gguf(
    path: Path,
    metadata: Mapping[str, Value | np.float32],
    tensors: Mapping[str, tuple[str, LazyTensor]],
    provenance: Callable[[], dict[str, Any]],
    on_bytes: Progress = ignore_progress,
) -> None:
    """Write a GGUF file, a few tensors in memory at a time. The same content gives the same bytes.

    Args:
        path: Path to write to.
        metadata: value by key, in the order of the file. An int becomes a uint32, a float a float64, a numpy number
            what it is.
        tensors: type and values by name, in the order of the file.
        provenance: returns what is stored as JSON under PROVENANCE, as the last key. Called after the tensors
            are written: it may wait until the source is hashed. The room kept for the record is filled with spaces.
        on_bytes: Callback with the number of bytes written.

    Raises:
        CannotHold: values do not fit the type of their tensor, or the provenance not its room.
        OSError: the disk is full, or the path cannot be written.
        ZooError: whatever loading a tensor raises.
    """
    header = bytearray(MAGIC + struct.pack("<IQQ", VERSION, len(tensors), len(metadata) + 1))
    for key, value in metadata.items():
        header += _text(key) + _value(value)
    room = len(header) + len(_text(PROVENANCE)) + 4 + 8
    header += _text(PROVENANCE) + _value(" " * _PROVENANCE_BYTES)
    offset, placed = 0, []
    for name, (type_name, tensor) in tensors.items():
        header += _text(name) + struct.pack(f"<I{len(tensor.shape)}Q", len(tensor.shape), *tensor.shape[::-1])
        header += struct.pack("<IQ", _CODES[type_name], offset)
        placed.append((offset, encoded(name, tensor, type_name)))
        offset = padded(offset + placed[-1][1].nbytes)
    start = padded(len(header))
    path.write_bytes(header)
    os.truncate(path, start + offset)
    write_at(path, [(start + offset, tensor) for offset, tensor in placed], on_bytes)
    text = json.dumps(provenance(), sort_keys=True).encode()
    if len(text) > _PROVENANCE_BYTES:
        raise CannotHold(f"the record of where the weights came from has {len(text):,} bytes, too many for a GGUF file")
    with path.open("r+b") as file:
        file.seek(room)
        file.write(text)


def _text(text: str) -> bytes:
    data = text.encode()
    return len(data).to_bytes(8, "little") + data


def _value(value: Value | np.float32) -> bytes:
    """Return a value after its type."""
    if isinstance(value, str):
        return struct.pack("<I", STRING) + _text(value)
    if isinstance(value, list):
        return struct.pack("<IIQ", ARRAY, STRING, len(value)) + b"".join(map(_text, value))
    if isinstance(value, bool):
        return struct.pack("<I?", _BOOL, value)
    if isinstance(value, int):
        return struct.pack("<II", _U4, value)
    if isinstance(value, np.float32):
        return struct.pack("<If", _F4, value)
    if isinstance(value, float):
        return struct.pack("<Id", _F8, value)
    return struct.pack("<IIQ", ARRAY, _I4, value.size) + value.astype("<i4").tobytes()
