"""Read the pickle in a torch.save file without running anything in it.

Python's own unpicklers call what the pickle names, and keep it from harm only by looking at the names; the C one also
allocates a memo as long as the largest index (LONG_BINPUT 0xffffffff: 32 GB). This one lets pickletools, of the
standard library, split the bytes into instructions, and knows only those that build plain containers: no instruction
is left that could import, call or set anything. Calling a global means one of the few functions named below.
"""

from __future__ import annotations

import pickletools
from collections import OrderedDict
from collections.abc import Callable, Sized
from pathlib import Path
from typing import Any, BinaryIO

from zoo.containers.torch.pickle_stack import NEW, PUSH, STEPS, PickleStack
from zoo.containers.torch.storage import DAMAGED, Part, Storage, is_count
from zoo.containers.torch.tree import (
    PLAIN_FUNCTIONS,
    Global,
    Opaque,
    check_tree,
    find_dtype,
    find_storage_class,
    is_foreign,
)
from zoo.core.tensors import LazyTensor
from zoo.errors import CorruptFile, FormatError, UnsafeFile

MAX_PICKLE_BYTES = 16 << 20
"""A GPT-2's has some 50 kB."""

_MAX_STEPS = 80_000
"""Instructions. The largest GPT-2 with its optimizer has 68,000."""

_MAX_INTEGER_BITS = 1024
"""numpy's random generators have states of 128."""

_ONLY_TENSORS = (
    "zoo runs nothing in a file and loads tensors and plain containers only, so save those alone, "
    "with `torch.save(model.state_dict(), path)` say"
)


def read_pickle(file: BinaryIO, path: Path) -> tuple[Any, dict[str, Storage]]:
    """Read one pickle, up to its end.

    Args:
        file: File to read from; it is left behind the pickle.
        path: Path for error messages.

    Returns:
        The tree, and the storages of its tensors by key; their place is not known yet.

    Raises:
        UnsafeFile: it refers to anything but tensors and plain containers.
        CorruptFile: it is damaged.
        FormatError: it holds tensors of a kind that zoo does not read.
    """
    machine = _Machine(path)
    try:
        tree = machine.run(file)
    except FormatError:
        raise
    except (ValueError, LookupError, TypeError, AttributeError, ArithmeticError, Warning) as error:
        raise CorruptFile(path, f"its pickle cannot be read ({str(error)[:100]}); {DAMAGED}") from error
    check_tree(tree, path)
    return tree, machine.storages


class _Machine(PickleStack):
    """The instructions that refer to torch's functions and storages, on top of those that build plain data.

    Attributes:
        storages: Storages that the pickle has referred to so far, by key.
    """

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.path = path
        self.storages: dict[str, Storage] = {}
        self.tensors: dict[Any, LazyTensor] = {}
        self.copied = 0  # items given to functions so far
        self.functions: dict[str, Callable[..., Any]] = {
            **PLAIN_FUNCTIONS,
            "torch._utils._rebuild_tensor_v2": self.tensor,
            "torch._utils._rebuild_tensor_v3": self.odd_tensor,
            "torch._utils._rebuild_parameter": lambda data, _grad, _hooks: data,
        }

    def run(self, file: BinaryIO) -> Any:
        """Follow the instructions up to STOP and return what they built."""
        for step, (opcode, argument, _) in enumerate(pickletools.genops(file)):
            name = opcode.name
            if step > _MAX_STEPS:
                raise ValueError(f"it has more than {_MAX_STEPS:,} instructions")
            if name == "STOP":
                break
            if name in PUSH:
                if isinstance(argument, str):
                    argument.encode()  # raises ValueError for half a surrogate pair, which no file can hold
                if type(argument) is int and argument.bit_length() > _MAX_INTEGER_BITS:
                    raise ValueError("it has an integer of very many digits")
                self.push(argument)
            elif name in NEW:
                self.push(NEW[name]())
            elif name in _STEPS:
                _STEPS[name](self, argument)
            elif name in _OBJECTS:
                of = f" of {str(argument).replace(' ', '.')[:200]!r}" if name == "INST" else ""
                raise UnsafeFile(self.path, f"its pickle makes an object{of} ({name}); {_ONLY_TENSORS}")
            else:
                raise ValueError(f"torch.save does not use the instruction {name}")
        return self.stack.pop()

    def find(self, module: Any, name: Any) -> None:
        """Push a global, if it is one of those a pickle may refer to."""
        full = f"{module}.{name}".replace("__builtin__.", "builtins.", 1)  # Python 2's name, which protocol 2 keeps
        if dtype := find_dtype(full):
            self.push(dtype)
        elif full in self.functions or find_storage_class(full) or is_foreign(full):
            self.push(Global(full))
        else:
            raise UnsafeFile(self.path, f"its pickle refers to {full[:200]!r}; {_ONLY_TENSORS}")

    def find_on_stack(self) -> None:
        name, module = self.stack.pop(), self.stack.pop()
        self.find(module, name)

    def reduce(self) -> None:
        arguments, function = self.stack.pop(), self.stack.pop()
        if self.is_foreign(function):
            self.push(Opaque())
            return
        if type(function) is not Global or function.name not in self.functions or type(arguments) is not tuple:
            raise UnsafeFile(self.path, f"its pickle calls something that is not a function; {_ONLY_TENSORS}")
        # The functions copy, so a short pickle that calls them again and again on one long list could fill the memory.
        self.copied += sum(len(argument) for argument in arguments if isinstance(argument, Sized))
        if self.copied > MAX_PICKLE_BYTES:
            raise ValueError("the same values are copied again and again")
        self.push(self.functions[function.name](*arguments))

    def is_foreign(self, value: Any) -> bool:
        return type(value) is Global and value.name not in self.functions and is_foreign(value.name)

    def new_object(self) -> None:
        """Push what stands for an object of a class that zoo does not know; the arguments are forgotten."""
        _arguments, kind = self.stack.pop(), self.stack.pop()
        if not self.is_foreign(kind):
            raise UnsafeFile(self.path, f"its pickle makes an object (NEWOBJ); {_ONLY_TENSORS}")
        self.push(Opaque())

    def build(self) -> None:
        # A state dict has an attribute _metadata, with the versions of the modules; nobody needs it.
        state = self.stack.pop()
        if type(self.stack[-1]) is Opaque:
            if type(state) is dict:
                self.stack[-1].update(state)
            return
        if type(self.stack[-1]) is not OrderedDict or type(state) is not dict:
            raise UnsafeFile(self.path, f"its pickle sets the attributes of an object; {_ONLY_TENSORS}")

    def storage(self) -> None:
        """Push the part of a storage that a persistent id describes."""
        kind, of, key, _location, length, *view = self.stack.pop()
        dtype = find_storage_class(of.name)
        if kind != "storage" or type(key) is not str or not is_count(length) or dtype is None:
            raise ValueError("a storage is described wrongly")
        described = Storage(self.path, f"storage {key[:100]!r}", length * dtype.itemsize, dtype.itemsize)
        storage = self.storages.setdefault(key, described)
        if storage != described:
            raise ValueError(f"{storage.name} is described twice, differently")
        start = 0
        if view and view[0] is not None:  # torch 0.3 and older saved views of storages
            _key, start, size = view[0]
            if not is_count(start) or not is_count(size) or start + size > length:
                raise ValueError(f"a part of {storage.name} lies outside it")
            length = size
        self.push(Part(storage, dtype, start * dtype.itemsize, length))

    def tensor(
        self, part: Any, offset: Any, shape: Any, strides: Any, _grad: Any, _hooks: Any, metadata: Any = None
    ) -> LazyTensor:
        """Return the tensor; asked twice for the same one, the same object, so that tied weights stay tied."""
        if type(part) is not Part or type(shape) is not tuple or type(strides) is not tuple:
            raise TypeError("a tensor is described wrongly")
        if metadata:
            raise FormatError(self.path, "holds a tensor with a lazy sign or conjugate; save its .clone() instead")
        built = part.tensor(offset, shape, strides)
        return self.tensors.setdefault((id(part.storage), part.start, built.dtype, offset, shape, strides), built)

    def odd_tensor(self, *arguments: Any) -> LazyTensor:
        if type(arguments[6]) is not str:
            raise TypeError("a tensor is described wrongly")
        problem = f"holds a tensor of dtype {arguments[6][:50]}, which zoo does not read"
        raise FormatError(self.path, f"{problem}; convert it, with tensor.float() say, and save it again")


_OBJECTS = {"INST", "OBJ", "NEWOBJ_EX", "EXT1", "EXT2", "EXT4"}

_STEPS: dict[str, Callable[[_Machine, Any], object]] = {
    **STEPS,
    "GLOBAL": lambda machine, argument: machine.find(*argument.split(" ", 1)),
    "STACK_GLOBAL": lambda machine, _: machine.find_on_stack(),
    "NEWOBJ": lambda machine, _: machine.new_object(),
    "REDUCE": lambda machine, _: machine.reduce(),
    "BUILD": lambda machine, _: machine.build(),
    "BINPERSID": lambda machine, _: machine.storage(),
}
