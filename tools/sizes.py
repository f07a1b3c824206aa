"""Print the longest files and functions; fail if one exceeds its limit (docs/decisions/013-size-limits.md)."""

from __future__ import annotations

import ast
import sys
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
FOLDERS = ("zoo", "converters", "cli", "tools", "benchmarks")
LINKS = (ROOT / "zoo" / "converters", ROOT / "zoo" / "cli")
FILE_LIMIT, FUNCTION_LIMIT = 250, 40
EXCEPTIONS = {"zoo/hub/push.py make_card": "most lines are the text of the model card"}
"""Name of a file or function that may exceed its limit -> reason."""


def file_sizes() -> Iterator[tuple[int, str]]:
    """Yield the number of lines and the name of each Python and C file."""
    for path in _sources(".py", ".c", ".h"):
        yield path.read_text(encoding="utf-8").count("\n"), path.relative_to(ROOT).as_posix()


def function_sizes() -> Iterator[tuple[int, str]]:
    """Yield the number of lines and the name of each Python function; its docstring does not count."""
    for path in _sources(".py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                yield code_lines(node), f"{path.relative_to(ROOT).as_posix()} {node.name}"


def code_lines(node: ast.FunctionDef | ast.AsyncFunctionDef) -> int:
    """Return a function's number of lines without its decorators and its docstring."""
    first = node.body[0]
    docstring = 0 if ast.get_docstring(node) is None else (first.end_lineno or 0) - first.lineno + 1
    return (node.end_lineno or 0) - node.lineno + 1 - docstring


def too_long() -> list[str]:
    """Return the files and functions that exceed a limit without being an exception, and unnecessary exceptions."""
    found = {
        name: lines
        for sizes, limit in ((file_sizes(), FILE_LIMIT), (function_sizes(), FUNCTION_LIMIT))
        for lines, name in sizes
        if lines > limit
    }
    problems = [f"{name} has {lines} lines" for name, lines in found.items() if name not in EXCEPTIONS]
    return problems + [f"{name} no longer needs its exception" for name in EXCEPTIONS if name not in found]


def _sources(*suffixes: str) -> Iterator[Path]:
    for folder in FOLDERS:
        for path in sorted((ROOT / folder).rglob("*")):
            if path.suffix in suffixes and not any(path.is_relative_to(link) for link in LINKS):
                yield path


def main() -> None:
    """Run from the command line."""
    files, functions = list(file_sizes()), list(function_sizes())
    print(f"{len(files)} files, {sum(lines for lines, _ in files):,} lines")
    for title, rows in (("longest files", files), ("longest functions", functions)):
        print(f"{title}:")
        for lines, name in sorted(rows, reverse=True)[:8]:
            print(f"  {lines:4} {name}")
    if problems := too_long():
        sys.exit("\n".join(problems))


if __name__ == "__main__":
    main()
