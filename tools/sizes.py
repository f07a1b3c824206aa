"""Print the longest files and functions of the package."""

from __future__ import annotations

import ast
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
FOLDERS = ("zoo", "converters", "cli")


def main() -> None:
    """Run from the command line."""
    files, functions = [], []
    for folder in FOLDERS:
        for path in (ROOT / folder).rglob("*.py"):
            if path.is_relative_to(ROOT / "zoo" / "converters") or path.is_relative_to(ROOT / "zoo" / "cli"):
                continue
            text = path.read_text(encoding="utf-8")
            files.append((text.count("\n"), path.relative_to(ROOT)))
            for node in ast.walk(ast.parse(text)):
                if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                    lines = (node.end_lineno or node.lineno) - node.lineno + 1
                    functions.append((lines, f"{path.relative_to(ROOT)}:{node.lineno} {node.name}"))
    print(f"{len(files)} files, {sum(lines for lines, _ in files):,} lines")
    for title, rows in (("longest files", files), ("longest functions", functions)):
        print(f"{title}:")
        for lines, name in sorted(rows, key=lambda row: -row[0])[:8]:
            print(f"  {lines:4} {name}")


if __name__ == "__main__":
    main()
