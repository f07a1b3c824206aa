"""Where training text comes from: files, directories, patterns, JSON lines and stdin, as one stream of documents."""

from __future__ import annotations

import glob
import json
import re
import sys
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

from zoo.core.paths import missing
from zoo.errors import FormatError

SUFFIXES = (".txt", ".md", ".jsonl")
"""Files of a directory that count as text."""

_BLOCK = 1 << 22  # characters read at a time
_PIECE = 1 << 20  # a longer document comes in pieces

# White space after anything else: no word of GPT-2's goes over it, so that tokens before and after are those of the
# whole. Blanks and line ends only, since regular expressions differ in what else is white space.
_BETWEEN_WORDS = re.compile(r"\S(?=[ \n])")
_SEARCHED = 1 << 16  # characters, from the end of a piece


class Continuation(str):
    """A piece of text that goes on with the document before it, rather than being one of its own."""

    __slots__ = ()


def find_texts(sources: Sequence[str | Path]) -> list[Path]:
    """Return the files that some paths, directories and patterns mean, in a fixed order. "-" is stdin.

    Args:
        sources: a directory means all .txt, .md and .jsonl files below it; a pattern may have *, ? and **.

    Raises:
        FormatError: one of them means no file.
    """
    found: list[Path] = []
    for source in sources:
        path = Path(source)
        if str(source) == "-" or path.is_file():
            found.append(path)
        elif path.is_dir():
            inside = sorted(each for each in path.rglob("*") if each.suffix in SUFFIXES and each.is_file())
            if not inside:
                raise FormatError(path, f"has no {', '.join(SUFFIXES)} files to train on")
            found += inside
        elif matches := sorted(glob.glob(str(source), recursive=True)):  # noqa: PTH207 - patterns may be absolute
            found += [Path(match) for match in matches if Path(match).is_file()]
        else:
            raise missing(path, "file, directory or pattern to train on")
    return found


def read_documents(path: Path, *, field: str = "text", separator: str | None = "<|endoftext|>") -> Iterator[str]:
    """Yield the documents of one file, in little memory: a long one comes in pieces, cut between words.

    Args:
        path: .jsonl has one document a line, in a field of an object; any other file is text. "-" is stdin.
        field: of the objects of .jsonl.
        separator: ends a document inside a text file; None takes the file as one document.

    Yields:
        documents; a Continuation is the next piece of the one before. A document of .jsonl comes whole.

    Raises:
        FormatError: the file cannot be read, is not UTF-8, or a line of .jsonl has no such field.
    """
    try:
        if path.suffix == ".jsonl":
            yield from _json_lines(path, field)
        else:
            yield from _split(_blocks(path), separator)
    except UnicodeDecodeError as error:
        raise FormatError(path, f"is not text in UTF-8 (byte {error.start:,}); convert it, or leave it out") from error
    except OSError as error:
        raise FormatError(path, f"cannot be read: {error.strerror or error}") from error


def _blocks(path: Path) -> Iterator[str]:
    if str(path) == "-":
        while block := sys.stdin.read(_BLOCK) if sys.stdin else "":
            yield block
        return
    with path.open(encoding="utf-8", newline="") as file:
        while block := file.read(_BLOCK):
            yield block


def _split(blocks: Iterator[str], separator: str | None) -> Iterator[str]:
    held, kind = "", str
    for block in blocks:
        held += block
        if separator:
            *whole, held = held.split(separator)
            for document in whole:
                if document:
                    yield kind(document)
                kind = str
        if len(held) > _PIECE:
            ends = [match.end() for match in _BETWEEN_WORDS.finditer(held, max(0, len(held) - _SEARCHED))]
            if ends:
                yield kind(held[: ends[-1]])
                held, kind = held[ends[-1] :], Continuation
    if held:
        yield kind(held)


def _json_lines(path: Path, field: str) -> Iterator[str]:
    with path.open(encoding="utf-8") as file:
        for i, line in enumerate(file, start=1):
            if not line.strip():
                continue
            try:
                row = json.loads(line)
            except (ValueError, RecursionError) as error:
                raise FormatError(path, f"line {i} is not JSON ({error})") from error
            if not isinstance(row, dict) or not isinstance(row.get(field), str):
                known = ", ".join(row) if isinstance(row, dict) else "none"
                raise FormatError(
                    path, f"line {i} has no text in a field {field!r} (fields: {known}); name it with field=NAME"
                )
            if row[field]:
                yield row[field]


def cut_characters(documents: Iterable[str], n_first: int) -> tuple[Iterator[str], Iterator[str]]:
    """Split a stream of documents after so many characters, inside a document if need be.

    The second part must be read after the first.
    """
    stream = iter(documents)
    rest: list[str] = []

    def first() -> Iterator[str]:
        room = n_first
        for document in stream:
            if len(document) > room:
                rest.append(document[room:])
                if room:
                    yield type(document)(document[:room])
                return
            yield document
            room -= len(document)

    def second() -> Iterator[str]:
        yield from rest
        yield from stream

    return first(), second()
