"""zoo formats."""

from __future__ import annotations

from dataclasses import asdict

import click

from zoo.cli._options import json_option
from zoo.cli._show import note, show_json, show_list


@click.command()
@json_option
def formats(as_json: bool) -> None:
    """List the formats that zoo reads and writes.

    Formats of installed plugins are included.

    \b
    Example:
      zoo formats
    """
    from zoo.formats.registry import broken_formats, list_formats

    infos = list_formats()
    if as_json:
        show_json([asdict(info) for info in infos])
        return
    for problem in broken_formats().values():
        note(problem)
    rows = []
    for info in infos:
        verbs = " and ".join(verb for verb, can in (("read", info.reads), ("write", info.writes)) if can)
        kind = "directory" if info.is_directory else " ".join(info.suffixes) or "file"
        plugin = "" if info.origin == "zoo" else f", plugin {info.origin} {info.version}"
        rows.append((info.name, f"{info.summary} ({verbs}; {kind}{plugin})"))
    show_list(rows, indent=0)
