"""zoo inspect."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from zoo.cli._options import force_option, from_option, json_option, size_option
from zoo.cli._params import CHECKPOINT, OUTPUT
from zoo.cli._progress import counter, resolve
from zoo.cli._show import human_bytes, say, shape_text, show_json, show_list, show_table
from zoo.models.registry import Size

if TYPE_CHECKING:
    from zoo.core.statistics import Statistics
    from zoo.core.tensors import Tensors


@click.command()
@click.argument("checkpoint", type=CHECKPOINT)
@from_option
@size_option
@click.option("--stats", is_flag=True, help="Read every tensor: mean, standard deviation, range, NaN and infinity.")
@click.option("--html", type=OUTPUT, help="Write tables and plots of everything to this HTML file.")
@click.option("--plot", type=OUTPUT, help="Draw norms and values layer by layer into a .png, .pdf or .svg file.")
@force_option
@json_option
def inspect(
    checkpoint: str,
    format: str | None,
    size: Size | None,
    stats: bool,
    html: Path | None,
    plot: Path | None,
    force: bool,
    as_json: bool,
) -> None:
    """Show the format, config, origin and tensors of a checkpoint.

    \b
    Examples:
      zoo inspect models/124M
      zoo inspect gpt2m.safetensors --stats
      zoo inspect gpt2m.safetensors --html report.html --plot weights.png
    """
    from zoo.examine.summary import in_layer_order

    path = resolve(checkpoint)
    if html or plot:
        _write_report(path, format, size, html, plot, force=force)
        return
    from zoo.examine.summary import facts
    from zoo.formats.opening import open_path

    found, opened = open_path(path, format=format, size=size)
    tensors = in_layer_order(found, opened)
    measured = _measure(tensors) if stats else {}
    summary: dict[str, Any] = {
        "path": checkpoint,
        "format": found.name,
        "config": opened.config.to_dict(),
        "n_parameters": opened.config.n_parameters,
        **facts(opened),
    }
    if as_json:
        show_json({**summary, "tensors": _as_json(tensors, measured)})
        return
    _show_summary(summary)
    _show_tensors(tensors, measured)
    # Whether the tensors are those of the config is told last, as an error, so that the table helps to see why.
    found.to_ours(opened)


def _measure(tensors: Tensors) -> dict[str, Statistics]:
    from zoo.core.progress import counted
    from zoo.core.statistics import statistics

    with counter("tensors") as on_tensor:
        report = (lambda _, done, total: on_tensor(done, total)) if on_tensor else None
        return {name: statistics(tensor) for name, tensor in counted(tensors.items(), "", len(tensors), report)}


def _as_json(tensors: Tensors, measured: dict[str, Statistics]) -> dict[str, Any]:
    return {
        name: {
            "shape": list(tensor.shape),
            "dtype": tensor.stored_as,
            "bytes": tensor.stored_nbytes,
            **(measured[name].to_dict() if measured else {}),
        }
        for name, tensor in tensors.items()
    }


def _write_report(
    path: Path,
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
        report = make_report(path, format=format, size=size, on_tensor=on_tensor)
    if html:
        from zoo.cli._html import page

        with atomic_output(html, force=force) as temporary:
            temporary.write_text(page(report), encoding="utf-8")
        say(html)
    if plot:
        from zoo.plot.parameters import plot_weights

        plot_weights(report, plot, force=force)
        say(plot)


def _show_summary(summary: dict[str, Any]) -> None:
    say(f"{summary['path']}: {summary['format']}, {summary['n_parameters']:,} parameters")
    rows = [("config:", ", ".join(f"{name} {value}" for name, value in summary["config"].items()))]
    rows.append(("vocabulary:", summary["vocabulary"]))
    if summary["prefix"]:
        rows.append(("prefix:", summary["prefix"]))
    rows += [("origin:", f"{key} {value}") for key, value in summary["provenance"].items()]
    rows += [("note:", text) for text in summary["notes"]]
    show_list(rows)


def _show_tensors(tensors: Tensors, measured: dict[str, Statistics]) -> None:
    """Print the table of tensors; counts of NaN and infinity only where there are some."""
    header, numbers = ["tensor", "shape", "dtype", "size"], ["mean", "std", "min", "max"] if measured else []
    bad = any(each.nan or each.inf for each in measured.values())
    rows = []
    for name, tensor in tensors.items():
        cells = [name, shape_text(tensor.shape), tensor.stored_as, human_bytes(tensor.stored_nbytes)]
        if measured:
            each = measured[name]
            cells += [f"{value:.3g}" for value in (each.mean, each.std, each.min, each.max)]
            cells += [str(each.nan), str(each.inf)] if bad else []
        rows.append(cells)
    if bad:
        numbers += ["NaN", "inf"]
    show_table(header + numbers, rows, right=["size", *numbers])
    if measured and not bad:
        say("every value is finite")
