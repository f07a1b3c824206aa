"""zoo inspect."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from zoo.cli._params import FORMAT, PATH, SIZE
from zoo.cli._show import human_bytes, printable, shape_text, show_json, show_table
from zoo.config import GPTConfig

if TYPE_CHECKING:
    from zoo.statistics import Statistics


@click.command()
@click.argument("checkpoint", type=PATH)
@click.option("--from", "format", type=FORMAT, help="Its format; recognised by its content if not given.")
@click.option("--size", type=SIZE, help="The model it must be, or a JSON file of a config.")
@click.option("--stats", is_flag=True, help="Read every tensor: mean, standard deviation, range, NaN and infinity.")
@click.option("--json", "as_json", is_flag=True, help="Print everything as JSON.")
def inspect(checkpoint: Path, format: str | None, size: str | GPTConfig | None, stats: bool, as_json: bool) -> None:
    """Show what is in a checkpoint: its format, config, origin and tensors.

    \b
    Examples:
      zoo inspect models/124M
      zoo inspect gpt2m.safetensors --stats
    """
    from zoo.plan import open_checkpoint
    from zoo.statistics import statistics

    found, opened = open_checkpoint(checkpoint, format=format, size=size)
    measured = {name: statistics(tensor) for name, tensor in opened.tensors.items()} if stats else {}
    summary: dict[str, Any] = {
        "path": str(checkpoint),
        "format": found.name,
        "config": opened.config.to_dict(),
        "n_parameters": opened.config.n_parameters,
        "prefix": opened.prefix,
        "vocabulary": "none" if not opened.vocabulary else "GPT-2's" if opened.vocabulary.is_gpt2 else "its own",
        "provenance": dict(opened.provenance),
        "notes": list(opened.notes),
    }
    if as_json:
        tensors = {
            name: {
                "shape": list(tensor.shape),
                "dtype": str(tensor.dtype),
                "bytes": tensor.nbytes,
                **(measured[name].to_dict() if stats else {}),
            }
            for name, tensor in opened.tensors.items()
        }
        show_json({**summary, "tensors": tensors})
        return
    _show_summary(summary)
    rows = [
        [
            name,
            shape_text(tensor.shape),
            str(tensor.dtype),
            human_bytes(tensor.nbytes),
            *_cells(measured.get(name)),
        ]
        for name, tensor in opened.tensors.items()
    ]
    header = ["tensor", "shape", "dtype", "size"]
    numbers = ["mean", "std", "min", "max", "NaN", "inf"] if stats else []
    show_table(header + numbers, rows, right=["size", *numbers])
    # Whether the tensors are those of the config is told last, as an error, so that the table helps to see why.
    found.to_ours(opened)


def _show_summary(summary: dict[str, Any]) -> None:
    config = ", ".join(f"{name} {value}" for name, value in summary["config"].items())
    click.echo(f"{summary['path']}: {summary['format']}, {summary['n_parameters']:,} parameters")
    click.echo(f"  config:     {config}")
    click.echo(f"  vocabulary: {summary['vocabulary']}")
    if summary["prefix"]:
        click.echo(f"  prefix:     {printable(summary['prefix'])}")
    for key, value in summary["provenance"].items():
        click.echo(printable(f"  origin:     {key} {value}"))
    for note in summary["notes"]:
        click.echo(printable(f"  note:       {note}"))


def _cells(measured: Statistics | None) -> list[str]:
    if measured is None:
        return []
    values = (measured.mean, measured.std, measured.min, measured.max)
    return [*(f"{value:.4g}" for value in values), str(measured.nan), str(measured.inf)]
