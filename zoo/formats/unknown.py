"""Describe a path that no format reads: its container, its first names, and the nearest format's objection."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

from zoo.containers.safetensors import is_safetensors, read_safetensors
from zoo.containers.torch.file import is_torch_file, read_torch
from zoo.core.tensors import LazyTensor
from zoo.errors import FormatError, ZooError
from zoo.formats.base import Format

_SHOWN = 6
_HINT = "`zoo formats` shows all formats, format=NAME chooses one"


def why_unknown(path: Path, formats: Iterable[Format]) -> str:
    """Return a sentence on what a path is and why no format reads it."""
    if path.is_dir():
        return _directory(path, list(formats))
    if not path.is_file():
        return "is a device or a pipe, not a file"
    with path.open("rb") as file:
        start = file.read(64)
    if start.startswith(b"version https://git-lfs"):
        return "is a Git LFS pointer, not the file itself; run `git lfs pull` in its repository"
    if not start:
        return "is empty"
    try:
        if is_safetensors(path):
            kind, tree = "a safetensors file", read_safetensors(path)[0]
        elif is_torch_file(path):
            kind, tree = "a torch file", read_torch(path)
        else:
            return f"is in no format that zoo knows; {_HINT}"
    except ZooError as error:
        return _reason(error, path)
    names = _names(tree)
    if not names:
        return f"is {kind} without tensors ({_list(tree)}); {_HINT}"
    near = _nearest(path, names, formats)
    return (
        f"is {kind} with {len(names)} tensors ({_shorten(names)}) in a layout that zoo does not know; {near or _HINT}"
    )


def _directory(path: Path, formats: list[Format]) -> str:
    inside = sorted(child.name for child in path.iterdir())
    below = [name for name in inside if any(_takes(each, path / name) for each in formats)]
    if below:
        shown = _shorten(below)
        return f"is a directory with checkpoints in it ({shown}); give the path of one of them"
    listing = _shorten(inside) if inside else "nothing"
    return f"is a directory without a checkpoint that zoo recognises (it has {listing}); see `zoo formats`"


def _names(tree: Any, depth: int = 3) -> list[str]:
    """Return the names of tensors in a tree of dicts, without the keys that lead there."""
    if not isinstance(tree, dict) or depth == 0:
        return []
    found = [str(name) for name, value in tree.items() if isinstance(value, LazyTensor)]
    return found or [name for value in tree.values() for name in _names(value, depth - 1)]


def _list(tree: Any) -> str:
    return f"a dict of {_shorten([str(key) for key in tree])}" if isinstance(tree, dict) else f"a {type(tree).__name__}"


def _shorten(names: list[str]) -> str:
    return ", ".join(name[:100] for name in names[:_SHOWN]) + (", ..." if len(names) > _SHOWN else "")


def _nearest(path: Path, names: list[str], formats: Iterable[Format]) -> str:
    """Return the format that has most of the names, and its objection."""
    scores = {each: _score(each, names) for each in formats if each.reads}
    best = max(scores, key=lambda each: scores[each], default=None)
    if best is None or not scores[best]:
        return ""
    try:
        best.read(path)
    except FormatError as error:
        return f"the nearest format, {best.name}, objects: {_reason(error, path)}"
    return f"the nearest format is {best.name}: try format={best.name}"


def _score(format: Format, names: list[str]) -> int:
    """Count the names of a format's table that end one of these names."""
    rules = [(rule.theirs,) if isinstance(rule.theirs, str) else rule.theirs for rule in format.table.rules]
    theirs = {name.replace("{i}", "0") for rule in rules for name in rule}
    return sum(any(name == each or name.endswith(f".{each}") for name in names) for each in theirs)


def _reason(error: ZooError, path: Path) -> str:
    return str(error).removeprefix(f"{path}: ")


def _takes(found: Format, path: Path) -> bool:
    """Return whether a format recognises a path. Links are not followed, and unreadable files belong to no format."""
    try:
        return not path.is_symlink() and found.sniff(path)
    except OSError:
        return False
