"""The safetensors container: 8 bytes of header length, a JSON header, then the tensors' bytes.

The safetensors package can write only what is in memory as a whole, and its numpy reader copies; this reader maps the
file and this writer streams. https://github.com/huggingface/safetensors#format
"""

from __future__ import annotations

import json
import math
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from zoo.containers.files import MAX_JSON_BYTES, is_shape, map_file, parse_json
from zoo.core.paths import is_own_file
from zoo.core.stream import Progress, ignore_progress, write_at
from zoo.core.tensors import DTYPES, Array, LazyTensor, Tensors
from zoo.errors import CannotHold, CorruptFile

_DTYPES: dict[str, np.dtype[np.generic]] = {
    "F64": DTYPES["float64"],
    "F32": DTYPES["float32"],
    "F16": DTYPES["float16"],
    "BF16": DTYPES["bfloat16"],
    "I64": np.dtype(np.int64),
    "I32": np.dtype(np.int32),
    "I16": np.dtype(np.int16),
    "I8": np.dtype(np.int8),
    "U8": np.dtype(np.uint8),
    "BOOL": np.dtype(np.bool_),
}
_CODES = {dtype: code for code, dtype in _DTYPES.items()}
PROVENANCE = "zoo.provenance"
_PROVENANCE_BYTES = 16 << 10  # kept free in the header; zoo.convert keeps the record shorter
_ALIGNMENT = 64  # of the first tensor, so that mapped arrays suit vector instructions


def is_safetensors(path: Path) -> bool:
    """Return whether a file begins like a safetensors file."""
    return is_own_file(path) and _starts_right(path)


def _starts_right(path: Path) -> bool:
    with path.open("rb") as file:
        start = file.read(9)
    return len(start) == 9 and int.from_bytes(start[:8], "little") <= MAX_JSON_BYTES and start[8:] == b"{"


def read_metadata(path: Path) -> dict[str, str]:
    """Return the metadata of a safetensors file; {} where there is none.

    Raises:
        CorruptFile: the header is damaged.
    """
    return _read_header(path, memoryview(map_file(path)))[0]


def read_provenance(path: Path, metadata: Mapping[str, str]) -> dict[str, Any]:
    """Return the provenance in a file's metadata, {} where there is none.

    Raises:
        CorruptFile: it is not the JSON that zoo writes.
    """
    return parse_json(metadata.get(PROVENANCE, "{}").encode(), path, "its provenance")


def read_safetensors(path: Path) -> tuple[dict[str, LazyTensor], dict[str, str]]:
    """Open a safetensors file: its tensors as views of the mapped file, and its metadata.

    Raises:
        CorruptFile: the header is damaged, or does not describe exactly the bytes that are there.
    """
    data = memoryview(map_file(path))
    metadata, entries, start = _read_header(path, data)
    parsed = [(name, *_parse_entry(path, name, entry)) for name, entry in entries.items()]
    tensors, end = {}, 0
    for name, dtype, shape, (begin, stop) in sorted(parsed, key=lambda entry: entry[3]):
        nbytes = math.prod(shape) * dtype.itemsize
        if begin != end or stop - begin != nbytes or start + stop > len(data):
            raise CorruptFile(path, f"the bytes of tensor {name} are not where they must be; the file may be truncated")
        tensors[name] = LazyTensor(shape, dtype, _view(data, dtype, shape, start + begin))
        end = stop
    if start + end != len(data):
        raise CorruptFile(path, f"has {len(data):,} bytes where its header describes {start + end:,}; copy it again")
    return tensors, metadata


def _view(data: memoryview, dtype: np.dtype[np.generic], shape: tuple[int, ...], offset: int) -> Any:
    def load() -> Array:
        return np.frombuffer(data, dtype, math.prod(shape), offset).reshape(shape)

    return load


def _read_header(path: Path, data: memoryview) -> tuple[dict[str, str], dict[str, Any], int]:
    length = int.from_bytes(data[:8], "little")
    if length > min(len(data) - 8, MAX_JSON_BYTES):
        raise CorruptFile(path, "is not a safetensors file, or its header is truncated")
    header = parse_json(bytes(data[8 : 8 + length]), path, "its header")
    metadata = header.pop("__metadata__", {})
    if not isinstance(metadata, dict) or not all(isinstance(value, str) for value in metadata.values()):
        raise CorruptFile(path, "the metadata in its header is not a map of strings")
    return metadata, header, 8 + length


def _parse_entry(path: Path, name: str, entry: Any) -> tuple[np.dtype[np.generic], tuple[int, ...], tuple[int, int]]:
    try:
        code, shape, (begin, end) = entry["dtype"], tuple(entry["shape"]), entry["data_offsets"]
    except (TypeError, KeyError, ValueError) as error:
        raise CorruptFile(path, f"the header entry of tensor {name} is incomplete") from error
    if not is_shape(shape) or not is_shape((begin,)) or not is_shape((end,)):
        raise CorruptFile(path, f"the header entry of tensor {name} has impossible numbers")
    if not isinstance(code, str) or code not in _DTYPES:
        raise CorruptFile(path, f"tensor {name} has dtype {code!r}, which zoo does not know")
    return _DTYPES[code], shape, (begin, end)


def write_safetensors(
    path: Path,
    tensors: Tensors,
    metadata: Mapping[str, str],
    provenance: Callable[[], dict[str, Any]] = dict,
    on_bytes: Progress = ignore_progress,
) -> None:
    """Write a safetensors file, a few chunks in memory at a time. The same content gives the same bytes.

    Args:
        path: Path to write to.
        tensors: Tensors in the order in which they will lie in the file.
        metadata: Metadata of the header.
        provenance: returns what is stored as JSON in the metadata, under PROVENANCE. Called after the tensors
            are written: it may wait until the source is hashed. The header has room kept for the record.
        on_bytes: Callback with the number of bytes written.

    Raises:
        OSError: the disk is full, or the path cannot be written.
        ZooError: whatever loading a tensor raises.
    """
    entries: dict[str, Any] = {}
    end = 0
    for name, tensor in tensors.items():
        begin, end = end, end + tensor.nbytes
        entries[name] = {
            "dtype": _CODES[tensor.dtype],
            "shape": list(tensor.shape),
            "data_offsets": [begin, end],
        }
    length = len(_encode(entries, metadata)) + _PROVENANCE_BYTES
    length += -(length + 8) % _ALIGNMENT
    path.touch()
    os.truncate(path, 8 + length + end)
    places = [8 + length + entry["data_offsets"][0] for entry in entries.values()]
    write_at(path, zip(places, tensors.values(), strict=True), on_bytes)
    text = _encode(entries, {**metadata, PROVENANCE: json.dumps(provenance(), sort_keys=True)})
    if len(text) > length:
        raise CannotHold(f"the record of provenance is longer than the {_PROVENANCE_BYTES:,} bytes kept for it")
    with path.open("r+b") as file:
        file.write(length.to_bytes(8, "little") + text.ljust(length))


def _encode(entries: dict[str, Any], metadata: Mapping[str, str]) -> bytes:
    header = {"__metadata__": dict(sorted(metadata.items())), **entries}
    return json.dumps(header, separators=(",", ":")).encode()
