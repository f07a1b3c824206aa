"""zoo list."""

from __future__ import annotations

from dataclasses import dataclass

import click

from zoo.cli._options import json_option
from zoo.cli._show import human_bytes, note, show_json, show_table
from zoo.errors import UnknownName
from zoo.models.registry import get_config, list_aliases, list_models, registered_names


@click.command("list")
@click.argument("pattern", default="*")
@json_option
def list_(pattern: str, as_json: bool) -> None:
    """List the models that zoo knows by name.

    PATTERN is a shell pattern over names and aliases. The last column says where the weights are. Sizes of models that
    are not downloaded are those of float32.

    \b
    Examples:
      zoo list
      zoo list 'gpt2-*' --json
    """
    names = list_models(pattern)
    if not names:
        raise UnknownName("model", pattern, registered_names())
    weights = {name: _find_weights(name) for name in names}
    if as_json:
        show_json(
            {
                name: {
                    "aliases": list_aliases(name),
                    "n_parameters": get_config(name).n_parameters,
                    "weights": weights[name].where,
                    "bytes": weights[name].nbytes,
                    "config": get_config(name).to_dict(),
                }
                for name in names
            }
        )
        return
    rows = []
    for name in names:
        config = get_config(name)
        sizes = (config.n_parameters, config.n_layers, config.width, config.context_length)
        found = weights[name]
        cells = (human_bytes(found.nbytes) if found.nbytes else "", found.where)
        rows.append([name, ", ".join(list_aliases(name)), *(f"{size:,}" for size in sizes), *cells])
    header = ["name", "aliases", "parameters", "layers", "width", "context", "size", "weights"]
    show_table(header, rows, right=header[2:7])
    if any(found.where == "none" for found in weights.values()):
        note("models without weights are for training and tests: `zoo train --size NAME`")


@dataclass(frozen=True)
class _Weights:
    """Where the weights of a model are, and how large."""

    where: str
    nbytes: int | None


def _find_weights(name: str) -> _Weights:
    from zoo.hub.model_cache import Cache
    from zoo.hub.resolve import PACKAGED, find_checkpoint
    from zoo.hub.source_table import read_table

    if name == PACKAGED:
        return _Weights("in zoo", find_checkpoint(name).stat().st_size)
    if entry := Cache().find(name):
        return _Weights("downloaded", entry.size)
    if name in read_table():
        return _Weights("online", 4 * get_config(name).n_parameters)
    return _Weights("none", None)
