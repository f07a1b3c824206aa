"""zoo formats."""

from __future__ import annotations

from dataclasses import asdict

import click

from zoo.cli._show import show_json, show_table


@click.command()
@click.option("--json", "as_json", is_flag=True, help="Print the list as JSON.")
def formats(as_json: bool) -> None:
    """List the formats that zoo reads and writes, those of installed plugins too.

    \b
    Example:
      zoo formats
    """
    from zoo.formats.registry import broken_formats, list_formats

    infos = list_formats()
    if as_json:
        show_json([asdict(info) for info in infos])
        return
    rows = [
        [
            info.name,
            " and ".join(verb for verb, can in (("read", info.reads), ("write", info.writes)) if can),
            "directory" if info.is_directory else " ".join(info.suffixes) or "file",
            f"{info.origin} {info.version}",
            info.summary,
        ]
        for info in infos
    ]
    for problem in broken_formats().values():
        click.echo(f"Warning: {problem}", err=True)
    show_table(["name", "zoo can", "as", "from", "what it is"], rows)
