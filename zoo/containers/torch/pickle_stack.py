"""A stack machine for the instructions of pickle that build plain data, such as numbers, strings, lists and dicts."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from zoo.containers.torch.tree import Opaque, check_key


class PickleStack:
    """The stack, its marks and the memo."""

    def __init__(self) -> None:
        self.stack: list[Any] = []
        self.outer: list[list[Any]] = []  # the stacks below the marks
        self.memo: dict[int, Any] = {}

    def push(self, value: Any) -> None:
        self.stack.append(value)

    def mark(self) -> None:
        self.outer.append(self.stack)
        self.stack = []

    def items(self) -> list[Any]:
        """Take what was pushed since the last mark."""
        items, self.stack = self.stack, self.outer.pop()
        return items

    def put(self, index: int | None) -> None:
        self.memo[len(self.memo) if index is None else index] = self.stack[-1]

    def push_tuple(self, length: int) -> None:
        if len(self.stack) < length:
            raise IndexError("a tuple of more than there is")
        self.stack[-length:] = [tuple(self.stack[-length:])]

    def extend(self, items: list[Any]) -> None:
        if type(self.stack[-1]) is Opaque:
            return
        if type(self.stack[-1]) is not list:
            raise TypeError("appends to something that is not a list")
        self.stack[-1].extend(items)

    def update(self, items: list[Any]) -> None:
        if not isinstance(self.stack[-1], dict):
            raise TypeError("sets an item of something that is not a dict")
        for key, value in zip(items[::2], items[1::2], strict=True):
            self.stack[-1][check_key(key)] = value

    def set_item(self) -> None:
        value, key = self.stack.pop(), self.stack.pop()
        self.update([key, value])

    def add(self, items: list[Any]) -> None:
        if type(self.stack[-1]) is not set:
            raise TypeError("adds to something that is not a set")
        self.stack[-1].update(map(check_key, items))


PUSH = {"BININT", "BININT1", "BININT2", "LONG1", "LONG4", "BINFLOAT"}
PUSH |= {"BINUNICODE", "SHORT_BINUNICODE", "BINUNICODE8", "BINBYTES", "SHORT_BINBYTES", "BINBYTES8"}

NEW: dict[str, Callable[[], Any]] = {
    "NONE": lambda: None,
    "NEWTRUE": lambda: True,
    "NEWFALSE": lambda: False,
    "EMPTY_LIST": list,
    "EMPTY_DICT": dict,
    "EMPTY_SET": set,
    "EMPTY_TUPLE": tuple,
}

STEPS: dict[str, Callable[[Any, Any], object]] = {
    "PROTO": lambda *_: None,
    "FRAME": lambda *_: None,
    "MARK": lambda machine, _: machine.mark(),
    "BINPUT": PickleStack.put,
    "LONG_BINPUT": PickleStack.put,
    "MEMOIZE": PickleStack.put,
    "BINGET": lambda machine, index: machine.push(machine.memo[index]),
    "LONG_BINGET": lambda machine, index: machine.push(machine.memo[index]),
    # The strings of Python 2, which pickletools takes for Latin-1 and torch for UTF-8.
    "BINSTRING": lambda machine, text: machine.push(text.encode("latin-1").decode()),
    "SHORT_BINSTRING": lambda machine, text: machine.push(text.encode("latin-1").decode()),
    "TUPLE": lambda machine, _: machine.push(tuple(machine.items())),
    "TUPLE1": lambda machine, _: machine.push_tuple(1),
    "TUPLE2": lambda machine, _: machine.push_tuple(2),
    "TUPLE3": lambda machine, _: machine.push_tuple(3),
    "FROZENSET": lambda machine, _: machine.push(frozenset(map(check_key, machine.items()))),
    "APPEND": lambda machine, _: machine.extend([machine.stack.pop()]),
    "APPENDS": lambda machine, _: machine.extend(machine.items()),
    "SETITEM": lambda machine, _: machine.set_item(),
    "SETITEMS": lambda machine, _: machine.update(machine.items()),
    "ADDITEMS": lambda machine, _: machine.add(machine.items()),
}
