"""zoo hash."""

from __future__ import annotations

from pathlib import Path

import click

from zoo.cli._params import FORMAT, PATH, SIZE
from zoo.cli._show import show_json
from zoo.models.registry import Size


@click.command("hash")
@click.argument("checkpoints", nargs=-1, required=True, type=PATH)
@click.option("--from", "format", type=FORMAT, help="Their format; recognised by its content if not given.")
@click.option("--size", type=SIZE, help="The model they must be, or a JSON file of a config.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def hash_(checkpoints: tuple[Path, ...], format: str | None, size: Size | None, as_json: bool) -> None:
    """Print a hash of what each of CHECKPOINTS computes with: the same for all lossless conversions of one model.

    Format, order, names, padding of the vocabulary and the way a tied head is stored do not count; dtypes do.

    \b
    Examples:
      zoo hash gpt2m.safetensors models/355M
    """
    from zoo.api.checkpoints import content_hash

    hashes = {str(path): content_hash(path, format=format, size=size) for path in checkpoints}
    if as_json:
        show_json(hashes)
        return
    for path, value in hashes.items():
        click.echo(f"{value}  {path}")
