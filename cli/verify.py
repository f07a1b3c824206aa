"""zoo verify."""

from __future__ import annotations

import dataclasses

import click

from zoo.cli._options import from_option, json_option, size_option
from zoo.cli._params import CHECKPOINT
from zoo.cli._progress import count_progress, resolve
from zoo.cli._show import show_json, show_list
from zoo.models.registry import Size

_MARKS = {"ok": "ok", "failed": "FAILED", "skipped": "skipped"}


@click.command()
@click.argument("checkpoint", type=CHECKPOINT)
@click.option("--against", type=CHECKPOINT, help="Another checkpoint, whose logits must agree.")
@click.option("--prompt", "prompts", multiple=True, help="Text to run instead of the built-in English; repeatable.")
@from_option
@size_option
@click.option("--run/--no-run", default=True, help="Run the model, or look at the file only.")
@json_option
@click.pass_context
def verify(
    ctx: click.Context,
    /,
    checkpoint: str,
    against: str | None,
    prompts: tuple[str, ...],
    format: str | None,
    size: Size | None,
    run: bool,
    as_json: bool,
) -> None:
    """Check that a checkpoint is intact, finite, and not rearranged.

    A forgotten transpose of a square matrix, or query and key exchanged, passes every check of shapes. It shows when
    the model runs: another arrangement then predicts plain English better. That check needs a trained model.

    The exit status is 0 if nothing failed, and 1 if a check failed or a file cannot be read.

    \b
    Examples:
      zoo verify models/355M
      zoo verify gpt2m.safetensors --against models/355M --json
    """
    from zoo.api.checkpoints import verify as look
    from zoo.examine.verify import PROMPTS

    path, other = resolve(checkpoint), resolve(against) if against else None
    with count_progress() as on_progress:
        checks = look(
            path, against=other, prompts=prompts or PROMPTS, format=format, size=size, run=run, on_progress=on_progress
        )
    failed = any(check.status == "failed" for check in checks)
    if as_json:
        show_json({"checkpoint": checkpoint, "ok": not failed, "checks": [dataclasses.asdict(c) for c in checks]})
    else:
        for check in checks:
            show_list([(_MARKS[check.status].ljust(7), f"{check.name}: {check.detail}")], indent=0)
    ctx.exit(1 if failed else 0)
