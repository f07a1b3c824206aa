"""zoo diff."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from zoo.cli._options import json_option
from zoo.cli._params import CHECKPOINT, FORMAT, NOT_NEGATIVE, SIZE
from zoo.cli._progress import counter, resolve
from zoo.cli._show import say, show_json, show_list, show_table
from zoo.models.registry import Size

if TYPE_CHECKING:
    from zoo.examine.diff import Diff, TensorDiff

_SHOWN = 20


@click.command()
@click.argument("a", type=CHECKPOINT)
@click.argument("b", type=CHECKPOINT)
@click.option("--from-a", type=FORMAT, help="Format of A, if detection fails.")
@click.option("--from-b", type=FORMAT, help="Format of B, if detection fails.")
@click.option("--size", type=SIZE, help="Model that both must be, or a JSON file of a config.")
@click.option("--atol", type=NOT_NEGATIVE, default=0.0, help="Largest difference of two values that counts as none.")
@click.option("--all", "show_all", is_flag=True, help="Show every tensor, also those that are the same.")
@json_option
@click.pass_context
def diff(
    ctx: click.Context,
    /,
    a: str,
    b: str,
    from_a: str | None,
    from_b: str | None,
    size: Size | None,
    atol: float,
    show_all: bool,
    as_json: bool,
) -> None:
    """Compare two checkpoints of any formats, tensor by tensor.

    Both are mapped to zoo's names first. The exit status is 0 if they are the same model, and 1 if they differ or one
    cannot be read.

    \b
    Examples:
      zoo diff gpt2m.safetensors models/355M
      zoo diff gpt2m.safetensors gpt2m-bf16.safetensors --atol 0.01
    """
    from zoo.api.checkpoints import diff as compare

    first, second = resolve(a), resolve(b)
    with counter("tensors") as on_tensor:
        found = compare(first, second, formats=(from_a, from_b), size=size, atol=atol, on_tensor=on_tensor)
    if as_json:
        show_json(found.to_dict())
    else:
        _show(found, show_all=show_all)
    ctx.exit(0 if found.same else 1)


def _show(found: Diff, *, show_all: bool) -> None:
    for name, (first, second) in found.config.items():
        remark = "" if name in found.config_matters else " (does not change what the model computes)"
        say(f"config: {name} is {first} and {second}{remark}")
    shown = found.tensors if show_all else found.different[:_SHOWN]
    if measured := [each for each in shown if not each.why]:
        header = ["tensor", "dtypes", "max abs", "max rel", "max ULP", "cosine", "values"]
        show_table(header, [_cells(each) for each in measured], right=header[2:])
    if others := [(each.name, each.why) for each in shown if each.why]:
        show_list(others, indent=0)
    if (rest := len(found.different) - len(shown)) > 0:
        say(f"... and {rest} more; --all shows them")
    total, n = len(found.tensors), len(found.different)
    what = "agree" + (f" to {found.atol:g}" if found.atol else " bit for bit")
    say(f"same: all {total} tensors {what}" if found.same else f"different: {n} of {total} tensors")


def _cells(each: TensorDiff) -> list[str]:
    dtypes = " ".join(dict.fromkeys(each.dtypes))
    if each.same:
        return [each.name, dtypes, "same", "", "", "", ""]
    ulp = "" if each.max_ulp is None else f"{each.max_ulp:,}"
    numbers = [f"{each.max_abs:.3g}", f"{each.max_rel:.3g}", ulp, f"{each.cosine:.9f}", f"{each.n_different:,}"]
    return [each.name, dtypes, *numbers]
