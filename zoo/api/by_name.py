"""Public functions accept names and addresses where the functions behind them take paths."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from functools import wraps
from pathlib import Path
from typing import ParamSpec, TypeVar

from zoo.hub.resolve import find_checkpoint

_P = ParamSpec("_P")
_R = TypeVar("_R")


def by_name(function: Callable[_P, _R], *arguments: str) -> Callable[_P, _R]:
    """Return the function with some arguments resolved first: a name, an address or a run becomes a path.

    Downloads are reported to the call's own on_progress, if it has one.
    """
    signature = inspect.signature(function)

    @wraps(function)
    def resolved(*args: _P.args, **kwargs: _P.kwargs) -> _R:
        given = signature.bind(*args, **kwargs)
        for name in arguments:
            if isinstance(source := given.arguments.get(name), str | Path):
                given.arguments[name] = find_checkpoint(source, on_progress=given.arguments.get("on_progress"))
        return function(*given.args, **given.kwargs)

    return resolved
