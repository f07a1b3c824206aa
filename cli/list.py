"""zoo list."""

from __future__ import annotations

import click

from zoo.cli._show import show_json, show_table
from zoo.models.registry import get_config, list_aliases, list_models


@click.command("list")
@click.argument("pattern", default="*")
@click.option("--json", "as_json", is_flag=True, help="Print the configs as JSON.")
def list_(pattern: str, as_json: bool) -> None:
    """List the models zoo knows by name.

    PATTERN is a shell pattern over names and aliases.

    \b
    Examples:
      zoo list
      zoo list 'gpt2-*' --json
    """
    names = list_models(pattern)
    if as_json:
        show_json(
            {
                name: {
                    "aliases": list_aliases(name),
                    "n_parameters": get_config(name).n_parameters,
                    "config": get_config(name).to_dict(),
                }
                for name in names
            }
        )
        return
    rows = []
    for name in names:
        config = get_config(name)
        sizes = (config.n_parameters, config.n_layers, config.width, config.n_heads, config.context_length)
        rows.append([name, *(f"{size:,}" for size in sizes), ", ".join(list_aliases(name))])
    header = ["name", "parameters", "layers", "width", "heads", "context", "aliases"]
    show_table(header, rows, right=header[1:6])
