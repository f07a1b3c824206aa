"""The reference part of docs/python-api.md: signature and docstring of every public name."""

from __future__ import annotations

import inspect
import re
from types import ModuleType
from typing import Any

import zoo
import zoo.train

_TITLES = {"zoo": zoo, "zoo.train": zoo.train}


def api_reference() -> str:
    """Return the whole reference, as Markdown."""
    parts = []
    for title, module in _TITLES.items():
        parts.append(f"### {title}\n")
        names = sorted((name for name in module.__all__ if not name.startswith("__")), key=str.lower)
        parts += [_entry(module, name) for name in names]
    return "\n".join(parts)


def _entry(module: ModuleType, name: str) -> str:
    """One name: what it is called with, and its docstring; of a class the public methods' first lines, too."""
    value = getattr(module, name)
    lines = [f"#### {module.__name__}.{name}\n"]
    if callable(value):
        shown = "" if inspect.isclass(value) and issubclass(value, Exception) else _signature(name, value) + "\n\n"
        lines.append(f"```text\n{shown}{inspect.getdoc(value)}\n```\n")
        if inspect.isclass(value) and (methods := _methods(value)):
            lines += [*methods, ""]
    else:
        lines.append(f"A constant: `{type(value).__name__}`.\n")
    return "\n".join(lines)


def _signature(name: str, value: Any) -> str:
    found = inspect.signature(value)
    if inspect.isclass(value):
        found = found.replace(return_annotation=inspect.Signature.empty)
    text = re.sub(r"(: |-> )'([^']*)'", r"\1\2", str(found)).replace("<factory>", "...")
    text = re.sub(r"<function (\w+) at 0x[0-9a-f]+>", r"\1", text)
    if len(name + text) <= 96:
        return name + text
    inside, _, rest = text[1:].rpartition(")")
    return f"{name}(\n" + "".join(f"    {part},\n" for part in _split(inside)) + f"){rest}"


def _split(inside: str) -> list[str]:
    """Split parameters at the commas that are not inside brackets."""
    parts, depth, start = [], 0, 0
    for i, char in enumerate(inside):
        depth += (char in "[({") - (char in "])}")
        if char == "," and not depth:
            parts.append(inside[start:i].strip())
            start = i + 1
    return [*parts, inside[start:].strip()]


def _methods(value: type) -> list[str]:
    """List the public methods and properties that a class defines itself."""
    found = []
    for name, own in vars(value).items():
        member = getattr(own, "__func__", own)
        if name.startswith("_") or not (inspect.isfunction(member) or isinstance(member, property)):
            continue
        summary = (inspect.getdoc(member) or "").split("\n", maxsplit=1)[0]
        shown = name if isinstance(member, property) else f"{name}()"
        found.append(f"- `{shown}`: {summary}")
    return found
