"""The plain containers a torch.save pickle may hold, and the few globals it may refer to."""

from __future__ import annotations

import sys
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from zoo.containers.torch.storage import DAMAGED, STORAGES
from zoo.core.tensors import LazyTensor
from zoo.errors import CorruptFile, FormatError

_MAX_KEY = 16  # items of a tuple that is a key: it is hashed each time
_MAX_DEPTH = 100  # of containers in containers
_MAX_NODES = 1 << 18  # counted along every way: containers that share parts can make a short pickle an endless tree

_REPEATED = 8 << 20  # bytes of tensors beyond those of the file

_SCALARS = (str, int, float, bool, type(None), bytes)

_DTYPES = {"bool", "float16", "bfloat16", "float32", "float64", "complex32", "complex64", "complex128"}
_DTYPES |= {"int8", "int16", "int32", "int64", "uint8", "uint16", "uint32", "uint64"}
_DTYPES |= {"float8_e4m3fn", "float8_e4m3fnuz", "float8_e5m2", "float8_e5m2fnuz", "float8_e8m0fnu"}


@dataclass(frozen=True)
class Global:
    """The name of a function or class that a pickle may refer to; nothing is imported."""

    name: str


class Opaque(dict[Any, Any]):
    """An object of a class that zoo does not know, such as a script's settings: its attributes, and nothing else.

    The class is not imported, and nothing of it is called.
    """


# Harmless classes of the standard library that scripts save beside weights; the rest of it is refused by name.
_SETTINGS = {"argparse.Namespace", "types.SimpleNamespace", "collections.defaultdict", "copyreg._reconstructor"}
_SETTINGS |= {f"builtins.{name}" for name in ("object", "dict", "list", "int", "long", "float")}
_PATHS = ("PosixPath", "WindowsPath", "PurePosixPath", "PureWindowsPath")


def is_foreign(name: str) -> bool:
    """Whether a global may stand for an opaque object: of no part of torch, nor of Python but for a few classes."""
    module, _, short = name.rpartition(".")
    if name in _SETTINGS or (module in ("pathlib", "pathlib._local") and short in _PATHS):
        return True
    return bool(module) and module.split(".")[0] not in {*sys.stdlib_module_names, "torch"}


def check_tree(node: Any, path: Path) -> None:
    """Refuse a tree that would hang or overflow whoever walks through it.

    Raises:
        CorruptFile: it is nested too deeply, contains itself, or is too large.
        FormatError: something in it is not a plain value, such as a storage that belongs to no tensor.
    """
    room = _MAX_NODES

    def walk(node: Any, depth: int) -> None:
        nonlocal room
        room -= 1
        if depth > _MAX_DEPTH or room < 0:
            problem = "its pickle is nested too deeply" if depth > _MAX_DEPTH else "its pickle holds too many values"
            raise CorruptFile(path, f"{problem} for a checkpoint; {DAMAGED}")
        if isinstance(node, dict | list | tuple):
            for child in node.values() if isinstance(node, dict) else node:
                walk(child, depth + 1)
        elif not isinstance(node, (*_SCALARS, LazyTensor, set, frozenset)):
            problem = f"holds a bare {getattr(node, 'name', 'storage')}, where zoo reads tensors and plain containers"
            raise FormatError(path, f"{problem}; save `model.state_dict()`")

    walk(node, 0)


def check_size(tree: Any, path: Path) -> None:
    """Refuse tensors that overlap, or repeat their elements along axes of stride 0, so that they fill memory and disk.

    torch.save of an expanded tensor makes such axes too, but small ones.

    Raises:
        CorruptFile: all tensors together have many more bytes than the file.
    """
    tensors: dict[int, LazyTensor] = {}
    waiting = [tree]
    while waiting:
        node = waiting.pop()
        if isinstance(node, LazyTensor):
            tensors[id(node)] = node
        elif isinstance(node, dict | list | tuple):
            waiting.extend(node.values() if isinstance(node, dict) else node)
    nbytes, size = sum(tensor.nbytes for tensor in tensors.values()), path.stat().st_size
    if nbytes > size + _REPEATED:
        problem = (
            f"its tensors have {nbytes:,} bytes, but the file {size:,}, so that they repeat its elements too often"
        )
        raise CorruptFile(path, f"{problem}; save their .contiguous() copies instead")


def check_key(value: Any) -> Any:
    """Return the key of a dict or the member of a set, if its hash is quick: that of nested tuples can take for ever.

    Raises:
        TypeError: it is not.
    """
    if isinstance(value, _SCALARS) or _is_short_tuple(value):
        return value
    raise TypeError(f"a {type(value).__name__} as a key")


def _is_short_tuple(value: Any) -> bool:
    return type(value) is tuple and len(value) <= _MAX_KEY and all(isinstance(item, _SCALARS) for item in value)


def find_dtype(name: str) -> str | None:
    """Return "float32" for "torch.float32"; None if the name is not a dtype."""
    module, _, short = name.rpartition(".")
    return short if module == "torch" and short in _DTYPES else None


def find_storage_class(name: str) -> np.dtype[np.generic] | None:
    """Return the dtype of a storage class; None if the name is not one. An untyped storage has bytes."""
    if name == "torch.storage.UntypedStorage":
        return np.dtype(np.uint8)
    module, _, short = name.rpartition(".")
    return STORAGES.get(short) if module == "torch" else None


def _ordered(pairs: Any = ()) -> OrderedDict[Any, Any]:
    return OrderedDict((check_key(key), value) for key, value in pairs)


def _set(items: Any = ()) -> set[Any]:
    return set(map(check_key, items))


def _device(kind: Any, index: Any = None) -> str:
    if type(kind) is not str or type(index) not in (int, type(None)):
        raise TypeError("a device is described wrongly")
    return kind if index is None else f"{kind}:{index}"


def _size(lengths: Any) -> tuple[Any, ...]:
    return tuple(lengths)


def _encode(text: Any, encoding: Any) -> bytes:
    # So protocol 2 stores bytes, which it does not know.
    if type(text) is not str or encoding != "latin1":
        raise ValueError("bytes are described wrongly")
    return text.encode("latin-1")


PLAIN_FUNCTIONS: dict[str, Callable[..., Any]] = {
    "torch.Size": _size,
    "torch.device": _device,
    "collections.OrderedDict": _ordered,
    "builtins.set": _set,
    "builtins.frozenset": lambda items=(): frozenset(_set(items)),
    "builtins.bytes": lambda: b"",
    "_codecs.encode": _encode,
}
"""What stands for each global that builds a plain value."""
