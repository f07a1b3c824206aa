"""zoo verify."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import click

from zoo.cli._params import FORMAT, PATH, SIZE
from zoo.cli._show import show_json
from zoo.errors import ZooError
from zoo.models.registry import Size

_MARKS = {"ok": "ok     ", "failed": "FAILED ", "skipped": "skipped"}


@click.command()
@click.argument("checkpoint", type=PATH)
@click.option("--against", type=PATH, help="Another checkpoint, whose logits must agree.")
@click.option("--prompt", "prompts", multiple=True, help="Text to run, instead of the built-in English.")
@click.option("--from", "format", type=FORMAT, help="Its format; recognised by its content if not given.")
@click.option("--size", type=SIZE, help="The model it must be, or a JSON file of a config.")
@click.option("--run/--no-run", default=True, show_default=True, help="Run the model, or look at the file only.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
@click.pass_context
def verify(
    ctx: click.Context,
    /,
    checkpoint: Path,
    against: Path | None,
    prompts: tuple[str, ...],
    format: str | None,
    size: Size | None,
    run: bool,
    as_json: bool,
) -> None:
    """Look whether a checkpoint is what it should be: whole, finite, and not rearranged.

    A forgotten transpose of a square matrix, or query and key exchanged, passes every check of shapes; it shows when
    the model runs, because some other arrangement then predicts plain English better. That needs a trained model.

    The exit status is 0 if nothing failed, 1 if something did, 2 if --against cannot be read.

    \b
    Examples:
      zoo verify models/355M
      zoo verify gpt2m.safetensors --against models/355M --json
    """
    from zoo.api.checkpoints import verify as look
    from zoo.examine.verify import PROMPTS

    try:
        checks = look(checkpoint, against=against, prompts=prompts or PROMPTS, format=format, size=size, run=run)
    except ZooError as error:
        click.echo(f"Error: {' '.join(str(error).split())}", err=True)
        ctx.exit(2)
    failed = any(check.status == "failed" for check in checks)
    if as_json:
        show_json({"checkpoint": str(checkpoint), "ok": not failed, "checks": [dataclasses.asdict(c) for c in checks]})
    else:
        for check in checks:
            click.echo(f"{_MARKS[check.status]}  {check.name}: {check.detail}")
    ctx.exit(1 if failed else 0)
