"""Options that several commands share, so that they have one name, one meaning and one help."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

import click

from zoo.cli._params import FORMAT, OUTPUT, SIZE

_F = TypeVar("_F", bound=Callable[..., Any])

from_option = click.option("--from", "format", type=FORMAT, help="Format of the checkpoint, if detection fails.")
size_option = click.option(
    "--size", type=SIZE, help="Model that the checkpoint must be (124M, gpt2-medium, ...), or a JSON file of a config."
)
json_option = click.option("--json", "as_json", is_flag=True, help="Print JSON.")
force_option = click.option("--force", is_flag=True, help="Replace an output that exists.")
quiet_option = click.option("--quiet", "-q", is_flag=True, help="Print nothing but errors.")


def out_option(help: str, **attributes: Any) -> Callable[[_F], _F]:
    """Return the option -o, --out: a file or directory to write."""
    return click.option("--out", "-o", type=OUTPUT, help=help, **attributes)
