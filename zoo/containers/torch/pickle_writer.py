"""Write a tree of plain containers and tensors as the pickle of torch.save: instructions of protocol 2, by hand.

Python's picklers must import what they name, and zoo names parts of torch without importing it.
"""

from __future__ import annotations

import pickle
import struct
from collections import OrderedDict
from collections.abc import Iterable
from typing import Any

import numpy as np

from zoo.containers.torch.storage import STORAGES
from zoo.core.tensors import LazyTensor
from zoo.errors import CannotHold

_CLASSES = {dtype: name for name, dtype in STORAGES.items()}
_PROTOCOL = b"\x80\x02"


class TreePickler:
    """Collects the pickle of a tree.

    Attributes:
        tensors: Tensors met so far, each once; a tensor's place is the key of its storage.
    """

    def __init__(self) -> None:
        self.tensors: list[LazyTensor] = []
        self._keys: dict[int, int] = {}
        self._out = bytearray(_PROTOCOL)

    def dump(self, tree: Any) -> bytes:
        """Return the pickle.

        Raises:
            CannotHold: something in the tree is not a plain container, value or tensor, or the tree contains itself.
        """
        try:
            self._save(tree)
        except RecursionError as error:
            raise CannotHold("a torch file of zoo's cannot hold a container that is nested without end") from error
        return bytes(self._out) + pickle.STOP

    def _save(self, node: Any) -> None:
        if isinstance(node, LazyTensor):
            self._save_tensor(node)
        elif isinstance(node, dict):
            self._out += _ordered_dict() if isinstance(node, OrderedDict) else pickle.EMPTY_DICT
            self._save_all((part for item in node.items() for part in item), pickle.SETITEMS)
        elif isinstance(node, tuple):
            self._save_all(node, pickle.TUPLE)
        elif isinstance(node, list):
            self._out += pickle.EMPTY_LIST
            self._save_all(node, pickle.APPENDS)
        elif isinstance(node, set):
            self._out += _global("__builtin__", "set") + pickle.EMPTY_LIST
            self._save_all(sorted(node, key=repr), pickle.APPENDS)  # the order of a set changes from run to run
            self._out += pickle.TUPLE1 + pickle.REDUCE
        else:
            self._out += _scalar(node)

    def _save_all(self, nodes: Iterable[Any], instruction: bytes) -> None:
        self._out += pickle.MARK
        for node in nodes:
            self._save(node)
        self._out += instruction

    def _save_tensor(self, tensor: LazyTensor) -> None:
        """Write what torch writes: _rebuild_tensor_v2(storage, offset, shape, strides, requires_grad, hooks)."""
        if tensor.dtype not in _CLASSES:
            raise CannotHold(f"a torch file of zoo's cannot hold a tensor of dtype {tensor.dtype}; cast it first")
        key = self._keys.setdefault(id(tensor), len(self.tensors))
        if key == len(self.tensors):
            self.tensors.append(tensor)
        strides = tuple(int(np.prod(tensor.shape[axis + 1 :], dtype=np.int64)) for axis in range(len(tensor.shape)))
        self._out += _global("torch._utils", "_rebuild_tensor_v2") + pickle.MARK + pickle.MARK
        self._out += _scalar("storage") + _global("torch", _CLASSES[tensor.dtype])
        self._out += _scalar(str(key)) + _scalar("cpu") + _scalar(tensor.size) + pickle.TUPLE + pickle.BINPERSID
        for part in (0, tensor.shape, strides, False):
            self._save(part)
        self._out += _ordered_dict() + pickle.TUPLE + pickle.REDUCE


def _global(module: str, name: str) -> bytes:
    return pickle.GLOBAL + f"{module}\n{name}\n".encode()


def _ordered_dict() -> bytes:
    return _global("collections", "OrderedDict") + pickle.EMPTY_TUPLE + pickle.REDUCE


def _scalar(value: Any) -> bytes:
    if value is None:
        return pickle.NONE
    if isinstance(value, bool):
        return pickle.NEWTRUE if value else pickle.NEWFALSE
    if isinstance(value, int):
        return _int(value)
    if isinstance(value, float):
        return pickle.BINFLOAT + struct.pack(">d", value)
    if isinstance(value, str):
        text = value.encode("utf-8", "surrogatepass")
        return pickle.BINUNICODE + struct.pack("<I", len(text)) + text
    if isinstance(value, bytes):  # protocol 2 has no bytes
        arguments = _scalar(value.decode("latin-1")) + _scalar("latin1") + pickle.TUPLE2
        return _global("_codecs", "encode") + arguments + pickle.REDUCE
    raise CannotHold(f"a torch file of zoo's cannot hold a {type(value).__name__}; turn it into plain values first")


def _int(value: int) -> bytes:
    if -1 << 31 <= value < 1 << 31:
        return pickle.BININT + struct.pack("<i", value)
    data = pickle.encode_long(value)
    if len(data) > 0xFF:
        raise CannotHold("a torch file of zoo's cannot hold an integer of more than 255 bytes; write it as a string")
    return pickle.LONG1 + bytes([len(data)]) + data
