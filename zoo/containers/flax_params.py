"""Nested dicts of arrays in MessagePack, as flax.serialization writes them.

https://github.com/google/flax, flax/serialization.py: an array is an extension of type 1 whose content is MessagePack
again, [shape, name of the dtype, bytes]. One of more than 2**30 bytes is cut into flat chunks in a dict of its own.
"""

from __future__ import annotations

import math
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from zoo.containers.files import is_shape, map_file
from zoo.containers.msgpack import Extension, bytes_head, decode, encode, extension_head, list_head, map_head
from zoo.core.stream import Progress, ignore_progress, write_at
from zoo.core.tensors import DTYPES, LazyTensor, Tensors
from zoo.errors import CorruptFile

MAX_CHUNK_BYTES = 2**30  # flax/serialization.py: MAX_CHUNK_SIZE
_CHUNKED = "__msgpack_chunked_array__"
_ARRAY = 1  # flax/serialization.py: _MsgpackExtType.ndarray
_DTYPES = {str(dtype): dtype for dtype in (*DTYPES.values(), *map(np.dtype, ("?", "i1", "u1", "i4", "u4", "i8")))}


def read_flax(path: Path) -> dict[str, LazyTensor]:
    """Open a file and return its arrays by their keys, joined with "/", as views of the mapped file.

    Raises:
        CorruptFile: it is not such a file or is corrupt.
    """
    return dict(_flatten(path, decode(path, memoryview(map_file(path))), ""))


def write_flax(path: Path, tensors: Tensors, on_bytes: Progress = ignore_progress) -> None:
    """Write a new file, one array at a time: byte for byte what flax.serialization.to_bytes makes of the dicts.

    Args:
        path: Path to write.
        tensors: by their keys, joined with "/".
        on_bytes: Callback with the number of bytes written.

    Raises:
        OSError: the disk is full, or the path cannot be written.
        ZooError: whatever loading a tensor raises.
    """
    placed, offset = [], 0
    with path.open("wb") as file:
        for piece in _encode(_nest(tensors)):
            if isinstance(piece, LazyTensor):
                placed.append((offset, piece))
                offset = file.seek(offset + piece.nbytes)
            else:
                offset += file.write(piece)
    os.truncate(path, offset)
    write_at(path, placed, on_bytes)


def _flatten(path: Path, tree: Any, name: str) -> Iterator[tuple[str, LazyTensor]]:
    """Yield the name and tensor of every leaf."""
    if isinstance(tree, Extension) and name:
        yield name, _array(path, name, tree)
    elif isinstance(tree, dict) and _CHUNKED in tree:
        yield name, _join(path, name, tree)
    elif isinstance(tree, dict):
        for key, inner in tree.items():
            if "/" in key:
                raise CorruptFile(path, f"has the key {key[:80]!r} with a slash in it; it is not a checkpoint of flax")
            yield from _flatten(path, inner, f"{name}/{key}" if name else key)
    else:
        raise CorruptFile(path, f"has a {type(tree).__name__} at {name or 'its top'}, where flax has dicts and arrays")


def _array(path: Path, name: str, value: Any) -> LazyTensor:
    content = decode(path, value.content) if isinstance(value, Extension) and value.kind == _ARRAY else None
    match content:
        case [list(axes), str(dtype_name), memoryview() as data] if dtype_name in _DTYPES:
            shape, dtype = _shape(path, name, axes), _DTYPES[dtype_name]
        case _:
            raise CorruptFile(path, f"{name} is not an array of numbers; it is not a checkpoint of weights")
    if math.prod(shape) * dtype.itemsize != len(data):
        raise CorruptFile(path, f"{name} {shape} has {len(data):,} bytes of {dtype}; copy or download it again")
    return LazyTensor(shape, dtype, lambda: np.frombuffer(data, dtype).reshape(shape))


def _shape(path: Path, name: str, axes: list[Any]) -> tuple[int, ...]:
    if not is_shape(axes):
        raise CorruptFile(path, f"{name} has an impossible shape; copy or download it again")
    return tuple(axes)


def _join(path: Path, name: str, tree: dict[str, Any]) -> LazyTensor:
    """Join an array that was split into chunks."""
    shape = _shape(path, name, _numbered(tree.get("shape")))
    pieces = [_array(path, name, value) for value in _numbered(tree.get("chunks"))]
    if {len(piece.shape) for piece in pieces} != {1} or len({piece.dtype for piece in pieces}) != 1:
        raise CorruptFile(path, f"the chunks of {name} are not flat arrays of one dtype; copy or download it again")
    if sum(piece.size for piece in pieces) != math.prod(shape):
        raise CorruptFile(path, f"the chunks of {name} do not add up to its shape {shape}; copy or download it again")
    return LazyTensor(shape, pieces[0].dtype, lambda: np.concatenate([p.load() for p in pieces]).reshape(shape))


def _numbered(pairs: Any) -> list[Any]:
    """The values of {"0": ..., "1": ...}, which is how flax writes a tuple."""
    keys = map(str, range(len(pairs))) if isinstance(pairs, dict) else ()
    return [pairs[key] for key in keys if key in pairs]


def _nest(tensors: Tensors) -> dict[str, Any]:
    """Turn names with slashes into nested dicts; large arrays become dicts of chunks."""
    tree: dict[str, Any] = {}
    for name, tensor in tensors.items():
        *parents, last = name.split("/")
        node = tree
        for parent in parents:
            node = node.setdefault(parent, {})
        node[last] = tensor if tensor.nbytes <= MAX_CHUNK_BYTES else _cut(tensor)
    return tree


def _cut(tensor: LazyTensor) -> dict[str, Any]:
    length = MAX_CHUNK_BYTES // tensor.dtype.itemsize

    def chunk(start: int) -> LazyTensor:
        size = min(length, tensor.size - start)
        return LazyTensor((size,), tensor.dtype, lambda: tensor.load().reshape(-1)[start : start + size])

    chunks = {str(i): chunk(start) for i, start in enumerate(range(0, tensor.size, length))}
    return {_CHUNKED: True, "shape": {str(i): axis for i, axis in enumerate(tensor.shape)}, "chunks": chunks}


def _encode(value: Any) -> Iterator[bytes | LazyTensor]:
    """Yield the file in pieces: the bytes around the arrays, and the arrays."""
    if isinstance(value, LazyTensor):
        shape = list_head(len(value.shape)) + b"".join(map(encode, value.shape))
        content = list_head(3) + shape + encode(str(value.dtype)) + bytes_head(value.nbytes)
        yield extension_head(_ARRAY, len(content) + value.nbytes) + content
        yield value
    elif isinstance(value, dict):
        yield map_head(len(value))
        for key, inner in value.items():
            yield encode(key)
            yield from _encode(inner)
    else:
        yield encode(value)
