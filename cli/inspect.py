"""zoo inspect."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from zoo.cli._params import FORMAT, PATH, SIZE
from zoo.cli._show import counter, human_bytes, printable, shape_text, show_json, show_table
from zoo.models.registry import Size

if TYPE_CHECKING:
    from zoo.core.statistics import Statistics


@click.command()
@click.argument("checkpoint", type=PATH)
@click.option("--from", "format", type=FORMAT, help="Its format; recognised by its content if not given.")
@click.option("--size", type=SIZE, help="The model it must be, or a JSON file of a config.")
@click.option("--stats", is_flag=True, help="Read every tensor: mean, standard deviation, range, NaN and infinity.")
@click.option("--html", type=PATH, help="Write a page with tables and plots of everything, for a browser.")
@click.option("--plot", type=PATH, help="Draw norms and values layer by layer: a .png, .pdf or .svg file.")
@click.option("--force", is_flag=True, help="Replace a page or plot that exists.")
@click.option("--json", "as_json", is_flag=True, help="Print everything as JSON.")
def inspect(
    checkpoint: Path,
    format: str | None,
    size: Size | None,
    stats: bool,
    html: Path | None,
    plot: Path | None,
    force: bool,
    as_json: bool,
) -> None:
    """Show what is in a checkpoint: its format, config, origin and tensors.

    \b
    Examples:
      zoo inspect models/124M
      zoo inspect gpt2m.safetensors --stats
      zoo inspect gpt2m.safetensors --html report.html --plot weights.png
    """
    if html or plot:
        _write_report(checkpoint, format, size, html, plot, force=force)
        return
    from zoo.api.checkpoints import open_checkpoint
    from zoo.core.statistics import statistics
    from zoo.examine.summary import facts

    found, opened = open_checkpoint(checkpoint, format=format, size=size)
    measured = {name: statistics(tensor) for name, tensor in opened.tensors.items()} if stats else {}
    summary: dict[str, Any] = {
        "path": str(checkpoint),
        "format": found.name,
        "config": opened.config.to_dict(),
        "n_parameters": opened.config.n_parameters,
        **facts(opened),
    }
    if as_json:
        tensors = {
            name: {
                "shape": list(tensor.shape),
                "dtype": tensor.stored_as,
                "bytes": tensor.stored_nbytes,
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
            tensor.stored_as,
            human_bytes(tensor.stored_nbytes),
            *_cells(measured.get(name)),
        ]
        for name, tensor in opened.tensors.items()
    ]
    header = ["tensor", "shape", "dtype", "size"]
    numbers = ["mean", "std", "min", "max", "NaN", "inf"] if stats else []
    show_table(header + numbers, rows, right=["size", *numbers])
    # Whether the tensors are those of the config is told last, as an error, so that the table helps to see why.
    found.to_ours(opened)


def _write_report(
    checkpoint: Path,
    format: str | None,
    size: Size | None,
    html: Path | None,
    plot: Path | None,
    *,
    force: bool,
) -> None:
    from zoo.core.output import atomic_output, check_output
    from zoo.examine.summary import make_report

    for out in filter(None, (html, plot)):
        check_output(out, force=force)
    with counter("tensors") as on_tensor:
        report = make_report(checkpoint, format=format, size=size, on_tensor=on_tensor)
    if html:
        from zoo.cli._html import page

        with atomic_output(html, force=force) as temporary:
            temporary.write_text(page(report), encoding="utf-8")
        click.echo(html)
    if plot:
        from zoo.plot.parameters import plot_weights

        plot_weights(report, plot, force=force)
        click.echo(plot)


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
