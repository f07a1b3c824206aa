"""zoo diff."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from zoo.cli._params import FORMAT, PATH, SIZE
from zoo.cli._show import counter, show_json, show_table
from zoo.errors import ZooError
from zoo.models.registry import Size

if TYPE_CHECKING:
    from zoo.examine.diff import Diff, TensorDiff

_SHOWN = 20


@click.command()
@click.argument("a", type=PATH)
@click.argument("b", type=PATH)
@click.option("--from-a", type=FORMAT, help="Format of A; recognised by its content if not given.")
@click.option("--from-b", type=FORMAT, help="Format of B.")
@click.option("--size", type=SIZE, help="The model that both must be, or a JSON file of a config.")
@click.option("--atol", default=0.0, show_default=True, help="Difference of two values that counts as none.")
@click.option("--all", "show_all", is_flag=True, help="Show every tensor, also those that are the same.")
@click.option("--json", "as_json", is_flag=True, help="Print everything as JSON.")
@click.pass_context
def diff(
    ctx: click.Context,
    /,
    a: Path,
    b: Path,
    from_a: str | None,
    from_b: str | None,
    size: Size | None,
    atol: float,
    show_all: bool,
    as_json: bool,
) -> None:
    """Compare two checkpoints of any formats, tensor by tensor, after mapping both to zoo's names.

    The exit status is 0 if they are the same model, 1 if they differ, 2 if one cannot be read.

    \b
    Examples:
      zoo diff gpt2m.safetensors models/355M
      zoo diff gpt2m.safetensors gpt2m-bf16.safetensors --atol 0.01
    """
    from zoo.api.checkpoints import diff as compare

    try:
        with counter("tensors") as on_tensor:
            found = compare(a, b, formats=(from_a, from_b), size=size, atol=atol, on_tensor=on_tensor)
    except ZooError as error:
        click.echo(f"Error: {' '.join(str(error).split())}", err=True)
        ctx.exit(2)
    if as_json:
        show_json(found.to_dict())
    else:
        _show(found, show_all=show_all)
    ctx.exit(0 if found.same else 1)


def _show(found: Diff, *, show_all: bool) -> None:
    for name, (first, second) in found.config.items():
        note = "" if name in found.config_matters else " (does not change what the model computes)"
        click.echo(f"config: {name} is {first} and {second}{note}")
    shown = found.tensors if show_all else found.different[:_SHOWN]
    if shown:
        header = ["tensor", "dtypes", "max abs", "max rel", "max ULP", "cosine", "values"]
        show_table(header, [_cells(each) for each in shown], right=header[2:])
    if rest := len(found.different) - len(shown):
        click.echo(f"... and {rest} more; --all shows them" if rest > 0 else "", nl=rest > 0)
    total, n = len(found.tensors), len(found.different)
    what = "agree" + (f" to {found.atol:g}" if found.atol else " bit for bit")
    click.echo(f"same: all {total} tensors {what}" if found.same else f"different: {n} of {total} tensors")


def _cells(each: TensorDiff) -> list[str]:
    dtypes = " ".join(dict.fromkeys(each.dtypes))
    if each.same or each.why:
        return [each.name, dtypes, *([each.why or "same"] + [""] * 4)]
    ulp = "" if each.max_ulp is None else f"{each.max_ulp:,}"
    return [
        each.name,
        dtypes,
        f"{each.max_abs:.3g}",
        f"{each.max_rel:.3g}",
        ulp,
        f"{each.cosine:.9f}",
        f"{each.n_different:,}",
    ]
