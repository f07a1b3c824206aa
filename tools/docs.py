"""Write the generated parts of the docs: docs/cli.md from the commands' help, the reference of
docs/python-api.md from the docstrings, the tables of docs/formats.md and README.md from the formats.

    python tools/docs.py           # write
    python tools/docs.py --check   # exit 1 if something is not what it would write
"""

from __future__ import annotations

import argparse
import re
import sys
from pathlib import Path

import click
from api_reference import api_reference

from zoo.cli._group import Context
from zoo.cli.main import main as zoo_command
from zoo.formats.base import Format
from zoo.formats.config_map import ConfigMap
from zoo.formats.registry import format_names, get_format
from zoo.formats.rules import Table

DOCS = Path(__file__).resolve().parents[1] / "docs"


def cli_page() -> str:
    """Every command's --help, as users see it in 100 columns."""
    parts = ["# Command line\n\nWritten by `python tools/docs.py` from the commands themselves.\n"]
    for path, command in _commands("zoo", zoo_command):
        context = Context(command, info_name=path, terminal_width=100, max_content_width=100, show_default=True)
        parts.append(f"## {path}\n\n```text\n{command.get_help(context)}\n```\n")
    return "\n".join(parts)


def _commands(path: str, command: click.Command) -> list[tuple[str, click.Command]]:
    found = [(path, command)]
    if isinstance(command, click.Group):
        for name in sorted(command.commands):
            found += _commands(f"{path} {name}", command.commands[name])
    return found


def format_section(found: Format) -> str:
    """Return the section of a format: its summary, rules, config and limits."""
    verbs = " and ".join(verb for verb, can in (("reads", found.reads), ("writes", found.writes)) if can)
    shape = "a directory" if found.is_directory else "a file" + "".join(f" `{suffix}`" for suffix in found.suffixes)
    dtypes = ", ".join((*found.dtypes, *found.encodings))
    lines = [f"## {found.name}\n", f"{found.summary}.\n", f"zoo {verbs} it; {shape}; dtypes: {dtypes}.\n"]
    lines += [f"`--variant {name}`: {text}.\n" for name, text in found.variants.items()]
    return "\n".join([*lines, *_layout(found.table), *_config(found.config_map)])


def _layout(table: Table) -> list[str]:
    lines = ["| in the format | in zoo | axes, read from left to right |", "|---|---|---|"]
    for rule in table.rules:
        theirs = (rule.theirs,) if isinstance(rule.theirs, str) else rule.theirs
        lines.append(f"| {', '.join(f'`{name}`' for name in theirs)} | `{rule.ours}` | {rule.how or 'same'} |")
    for copy in table.copies:
        fate = "written too" if copy.written else "not written"
        lines.append(f"| `{copy.name}` | a copy of `{copy.source}` in tied models: compared when read, {fate} | |")
    for buffer in table.derived:
        fate = "written too" if buffer.written else "not written"
        lines.append(f"| `{buffer.name}` | a buffer that follows from the config: compared when read, {fate} | |")
    return [*lines, ""]


def _config(config_map: ConfigMap) -> list[str]:
    lines = []
    if config_map.fields:
        lines += ["| config key | zoo's field |", "|---|---|"]
        lines += [f"| {', '.join(f'`{key}`' for key in item.keys)} | `{item.ours}` |" for item in config_map.fields]
        lines.append("")
    if config_map.constants:
        must = ", ".join(f"`{constant.theirs}` {constant.value!r}" for constant in config_map.constants)
        lines.append(f"Must be: {must}.\n")
    if config_map.implied:
        derived = {"vocab_rows": "equal to vocab_size", "inner_width": "4 x width"}
        only = ", ".join(
            f"{name} {derived[name] if value == 0 and name in derived else repr(value)}"
            for name, value in config_map.implied.items()
        )
        lines.append(f"Holds only models with: {only}.\n")
    return lines


def formats_page(page: str) -> str:
    """Insert the sections of all formats into their page."""
    return _between("tables", "\n".join(format_section(get_format(name)) for name in format_names()), page)


def readme(page: str) -> str:
    """Insert the table of formats into the README."""
    lines = ["| format | zoo | what it is |", "|---|---|---|"]
    for found in map(get_format, format_names()):
        verbs = " and ".join(verb for verb, can in (("reads", found.reads), ("writes", found.writes)) if can)
        lines.append(f"| `{found.name}` | {verbs} | {found.summary} |")
    return _between("formats", "\n".join(lines), page)


def _between(marker: str, content: str, page: str) -> str:
    pattern = rf"(<!-- {marker} -->\n).*?(<!-- /{marker} -->)"
    return re.sub(pattern, lambda found: f"{found[1]}{content}\n{found[2]}", page, flags=re.DOTALL)


def main() -> None:
    """Run from the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--check", action="store_true")
    check = parser.parse_args().check
    api, formats, front = DOCS / "python-api.md", DOCS / "formats.md", DOCS.parent / "README.md"
    pages = {
        DOCS / "cli.md": cli_page(),
        api: _between("reference", api_reference(), api.read_text(encoding="utf-8")),
        formats: formats_page(formats.read_text(encoding="utf-8")),
        front: readme(front.read_text(encoding="utf-8")),
    }
    stale = [path for path, text in pages.items() if not path.exists() or path.read_text(encoding="utf-8") != text]
    if check and stale:
        sys.exit(f"stale: {', '.join(path.name for path in stale)}; run `python tools/docs.py`")
    for path in stale:
        path.write_text(pages[path], encoding="utf-8")


if __name__ == "__main__":
    main()
