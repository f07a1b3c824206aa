"""The only place that prints: text for people, JSON for scripts. What comes from files is escaped here."""

from __future__ import annotations

import json
import shutil
import sys
from collections.abc import Sequence
from typing import IO, Any

import click


def show_json(value: Any) -> None:
    """Print a value as JSON on stdout."""
    click.echo(json.dumps(value, indent=2))


def say(text: object = "", *, err: bool = False) -> None:
    """Print one line, with everything escaped that could steer a terminal."""
    click.echo(printable(str(text)), err=err)


def note(text: object) -> None:
    """Print a remark on stderr, as one line."""
    say(f"note: {text}", err=True)


def printable(text: str) -> str:
    """Spell out control characters, line ends and direction marks: a name in a file must not steer the terminal."""
    return "".join(char if char.isprintable() else char.encode("unicode_escape").decode() for char in text)


def is_terminal(stream: IO[str] | None) -> bool:
    """Whether stdout or stderr is a terminal; a closed one is None."""
    return stream is not None and stream.isatty()


def width() -> int | None:
    """Return the columns of the terminal that stdout is; None where output goes to a file or a pipe."""
    return shutil.get_terminal_size().columns if is_terminal(sys.stdout) else None


def show_table(header: Sequence[str], rows: Sequence[Sequence[str]], right: Sequence[str] = ()) -> None:
    """Print rows under a header, in columns as wide as their longest cells.

    Where the terminal is too narrow, each row takes two lines: its first cell, and below it the others.

    Args:
        header: names of the columns.
        rows: cells of each row.
        right: columns to align to the right.
    """
    lines = _lines(header, rows, right)
    columns = width()
    if columns and len(header) > 2 and any(len(line) > columns for line in lines):
        lines = _lines(header[1:], [cells[1:] for cells in rows], right)
        lines = [f"{first}\n  {line}" for first, line in zip([header[0], *_column(rows, 0)], lines, strict=True)]
    for line in lines:
        click.echo(line)


def _column(rows: Sequence[Sequence[str]], i: int) -> list[str]:
    return [printable(cells[i]) for cells in rows]


def _lines(header: Sequence[str], rows: Sequence[Sequence[str]], right: Sequence[str]) -> list[str]:
    columns = [[name, *_column(rows, i)] for i, name in enumerate(header)]
    widths = [max(map(len, column)) for column in columns]
    return [
        "  ".join(
            cell.rjust(size) if name in right else cell.ljust(size)
            for name, cell, size in zip(header, cells, widths, strict=True)
        ).rstrip()
        for cells in zip(*columns, strict=True)
    ]


def show_list(rows: Sequence[tuple[str, str]], indent: int = 2) -> None:
    """Print names with a text beside each, wrapped to the terminal's width under itself.

    Args:
        rows: (name, text).
        indent: columns before the names.
    """
    import textwrap

    left = indent + max(len(printable(name)) for name, _ in rows) + 2
    columns = width()
    for name, text in rows:
        shown = printable(text)
        lines = textwrap.wrap(shown, max(20, columns - left), break_on_hyphens=False) if columns else [shown]
        for i, line in enumerate(lines or [""]):
            click.echo((" " * indent + printable(name) if i == 0 else "").ljust(left) + line)


def human_bytes(nbytes: float) -> str:
    """Write a size in bytes with a decimal unit: 497759232 -> "497.8 MB"."""
    for unit in ("B", "kB", "MB", "GB"):
        if nbytes < 1000:
            return f"{nbytes:.0f} B" if unit == "B" else f"{nbytes:.1f} {unit}"
        nbytes /= 1000
    return f"{nbytes:.1f} TB"


def shape_text(shape: Sequence[int]) -> str:
    """Write a shape: (768, 2304) -> "768 x 2304"."""
    return " x ".join(map(str, shape)) or "scalar"


def count_text(n: int, noun: str) -> str:
    """Write a count with its noun: (1, "tensor") -> "1 tensor", (2, "tensor") -> "2 tensors"."""
    return f"{n:,} {noun}" + ("" if n == 1 else "s")
