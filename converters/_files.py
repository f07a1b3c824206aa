"""Small things that every reader needs: maps of files, JSON that may be hostile, names that stay inside a directory."""

from __future__ import annotations

import json
import mmap
from pathlib import Path
from typing import Any

from zoo.errors import CorruptFile, FormatError, UnsafeFile

LFS_MAGIC = b"version https://git-lfs"
MAX_JSON_BYTES = 100 << 20
"""No index or header of a GPT-2 comes near it; a damaged length must not become an allocation."""


def map_file(path: Path) -> mmap.mmap:
    """Map a file privately: what is written into the arrays (by training, say) never reaches the file.

    Raises:
        FormatError: it cannot be opened, is empty, or is a Git LFS pointer.
    """
    try:
        with path.open("rb") as file:
            data = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_COPY)
    except ValueError as error:  # mmap's word for an empty file
        raise CorruptFile(path, "is empty; copy or download it again") from error
    except OSError as error:
        raise FormatError(path, f"cannot be read ({error.strerror})") from error
    if data[: len(LFS_MAGIC)] == LFS_MAGIC:
        raise FormatError(path, "is a Git LFS pointer, not the file itself; run `git lfs pull` in its repository")
    return data


def parse_json(text: bytes, path: Path, what: str = "it") -> dict[str, Any]:
    """Parse a JSON object.

    Raises:
        CorruptFile: it is not one, or a key stands twice in it.
    """

    def unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        if len(dict(pairs)) != len(pairs):
            raise ValueError("a key stands twice")
        return dict(pairs)

    try:
        parsed = json.loads(text, object_pairs_hook=unique)
    except (ValueError, RecursionError) as error:
        raise CorruptFile(path, f"{what} is no valid JSON ({error}); copy or download it again") from error
    if not isinstance(parsed, dict):
        raise CorruptFile(path, f"{what} is JSON, but no object")
    return parsed


def read_json(path: Path) -> dict[str, Any]:
    """Read a file that holds one JSON object.

    Raises:
        FormatError: it cannot be read, is too large to be one, or is a Git LFS pointer.
        CorruptFile: it is no JSON object.
    """
    data = map_file(path)
    if len(data) > MAX_JSON_BYTES:
        raise CorruptFile(path, f"has {len(data):,} bytes, too many for a JSON file of a checkpoint")
    return parse_json(data[:], path)


def write_json(path: Path, content: dict[str, Any]) -> None:
    """Write a JSON file as people like to read it; keys stay in their order."""
    path.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")


def inside(directory: Path, name: object, source: Path) -> Path:
    """Return the file of this name in a directory.

    Raises:
        UnsafeFile: the name, which `source` gives, is no plain file name, so that it might lead elsewhere.
    """
    if not isinstance(name, str) or not name or name in (".", "..") or set(name) & set("/\\\0"):
        raise UnsafeFile(source, f"names the file {name!r}, which is not inside its directory; it is not followed")
    return directory / name
