"""Parse the files of a vocabulary: JSON objects of tokens and ids, lists of merges, lists of tokens."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from zoo.core.paths import check_json
from zoo.errors import FormatError

_MAX_MERGE = 1 << 14  # characters of a line

Merges = tuple[tuple[str, str], ...]


def parse_text(data: bytes, path: Path | str) -> str:
    """Decode a file's UTF-8, with or without a byte order mark.

    Raises:
        FormatError: it is not UTF-8, or a Git LFS pointer.
    """
    if data.startswith(b"version https://git-lfs"):
        raise FormatError(path, "is a Git LFS pointer, not the file itself; run `git lfs pull` beside it")
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise FormatError(path, f"is not UTF-8 text ({error}); copy the file again") from error


def parse_json(data: bytes, path: Path | str) -> Any:
    """Parse a JSON file.

    Raises:
        FormatError: it is not JSON.
    """
    text = parse_text(data, path)
    check_json(data, path)
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:
        raise FormatError(path, f"is not JSON ({error}); copy the file again") from error


def parse_object(data: bytes, path: Path | str) -> dict[str, Any]:
    """Parse a JSON file that must hold an object.

    Raises:
        FormatError: it does not.
    """
    found = parse_json(data, path)
    if not isinstance(found, dict):
        raise FormatError(path, f"holds a JSON {type(found).__name__}, not an object; copy the file again")
    return found


def check_tokens(tokens: Any, path: Path | str) -> dict[str, int]:
    """Return a JSON object of tokens and ids, checked.

    Raises:
        FormatError: it is something else, or an id is not a non-negative integer.
    """
    if not isinstance(tokens, Mapping):
        raise FormatError(path, f"holds a JSON {type(tokens).__name__}, not tokens and ids; copy it again")
    for token, i in tokens.items():
        if not token:
            raise FormatError(path, "holds an empty token; take it out")
        if type(i) is not int or not 0 <= i < 2**31:
            raise FormatError(path, f"has {i!r} as id of {token!r}, not an integer; copy the file again")
    return dict(tokens)


def parse_merges(data: bytes, path: Path | str) -> Merges:
    """Parse merges.txt, the most important merge first; its line "#version: 0.2" is optional.

    Raises:
        FormatError: a line is not two tokens.
    """
    merges = []
    # Only \n ends a line here: str.splitlines would also break at characters that tokens may hold.
    for number, line in enumerate(parse_text(data, path).split("\n"), start=1):
        pair = line.removesuffix("\r").split(" ")
        if pair == [""] or (number == 1 and line.startswith("#version")):
            continue
        if len(line) > _MAX_MERGE:
            raise FormatError(path, f"line {number} has {len(line):,} characters, too many; copy the file again")
        if len(pair) != 2 or not all(pair):
            raise FormatError(path, f"line {number} is {line[:80]!r}, not two tokens; copy the file again")
        merges.append((pair[0], pair[1]))
    return tuple(merges)


def parse_lines(data: bytes, path: Path | str) -> dict[str, int]:
    """Parse vocab.txt: one token a line, whose number is its id."""
    lines = parse_text(data, path).replace("\r\n", "\n").removesuffix("\n").split("\n")
    return {line: i for i, line in enumerate(lines)}
