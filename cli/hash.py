"""zoo hash."""

from __future__ import annotations

import click

from zoo.cli._options import from_option, json_option, size_option
from zoo.cli._params import CHECKPOINT
from zoo.cli._progress import resolve
from zoo.cli._show import say, show_json
from zoo.models.registry import Size


@click.command("hash")
@click.argument("checkpoints", nargs=-1, required=True, type=CHECKPOINT)
@from_option
@size_option
@json_option
def hash_(checkpoints: tuple[str, ...], format: str | None, size: Size | None, as_json: bool) -> None:
    """Print a content hash of each checkpoint. Lossless conversions of a model share one hash.

    Format, order, names, padding of the vocabulary and the way a tied head is stored do not count; dtypes do.

    \b
    Examples:
      zoo hash gpt2m.safetensors models/355M
    """
    from zoo.api.checkpoints import content_hash

    hashes = {each: content_hash(resolve(each), format=format, size=size) for each in checkpoints}
    if as_json:
        show_json(hashes)
        return
    for name, value in hashes.items():
        say(f"{value}  {name}")
