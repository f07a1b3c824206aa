"""Helpers of every reader: mapped files, untrusted JSON, and names that stay inside a directory."""

from __future__ import annotations

import json
import math
import mmap
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from zoo.core.paths import check_file, check_json, check_not_lfs
from zoo.errors import CorruptFile, FormatError, UnsafeFile

_MAX_AXES = 8
MAX_JSON_BYTES = 100 << 20
"""No index or header of a GPT-2 comes near it; a damaged length must not become an allocation."""


def map_file(path: Path) -> mmap.mmap:
    """Map a file privately: what is written into the arrays (by training, say) never reaches the file.

    Raises:
        FormatError: it cannot be opened, is empty, or is a Git LFS pointer.
        UnsafeFile: it is a link out of its directory.
    """
    check_file(path)
    try:
        with path.open("rb") as file:
            data = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_COPY)
    except ValueError as error:  # mmap raises it for an empty file
        raise CorruptFile(path, "is empty; copy or download it again") from error
    except OSError as error:
        raise FormatError(path, f"cannot be read ({error.strerror})") from error
    check_not_lfs(data[:64], path)
    return data


def is_shape(axes: Sequence[Any], itemsize: int = 8) -> bool:
    """Return whether numbers in a file can be the lengths of an array's axes."""
    if len(axes) > _MAX_AXES or not all(type(length) is int and 0 <= length < 1 << 48 for length in axes):
        return False
    # numpy multiplies the lengths that are not 0, even if one is.
    return math.prod(max(length, 1) for length in axes) * itemsize < 1 << 62


def parse_json(text: bytes, path: Path, what: str = "it") -> dict[str, Any]:
    """Parse a JSON object.

    Raises:
        CorruptFile: it is not one, a key stands twice in it, or there are far too many values.
    """

    def unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        made = dict(pairs)
        if len(made) != len(pairs):
            raise ValueError("a key stands twice")
        return made

    check_json(text, path)
    try:
        parsed = json.loads(text.decode(), object_pairs_hook=unique)
        if b"\\ud" in text.lower():
            json.dumps(parsed, ensure_ascii=False).encode()  # fails for half a surrogate pair, which no file can hold
    except (ValueError, RecursionError) as error:
        raise CorruptFile(path, f"{what} is not valid JSON ({error}); copy or download it again") from error
    if not isinstance(parsed, dict):
        raise CorruptFile(path, f"{what} is JSON, but no object")
    return parsed


def read_json(path: Path) -> dict[str, Any]:
    """Read a file that holds one JSON object.

    Raises:
        FormatError: it cannot be read, is too large to be one, or is a Git LFS pointer.
        CorruptFile: it is not a JSON object.
    """
    data = map_file(path)
    if len(data) > MAX_JSON_BYTES:
        raise CorruptFile(path, f"has {len(data):,} bytes, too many for a JSON file of a checkpoint")
    return parse_json(data[:], path)


def write_json(path: Path, content: dict[str, Any]) -> None:
    """Write an indented JSON file; keys keep their order."""
    path.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")


def inside(directory: Path, name: object, source: Path) -> Path:
    """Return the file of this name in a directory.

    Raises:
        UnsafeFile: the name, which `source` gives, is not a plain file name, so that it might lead elsewhere.
    """
    if not isinstance(name, str) or not name or name in (".", "..") or set(name) & set("/\\\0"):
        raise UnsafeFile(source, f"names the file {name!r}, which is not inside its directory; it is not followed")
    return directory / name
