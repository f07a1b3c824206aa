"""zoo convert."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import click

from zoo.cli._options import force_option, from_option, json_option, out_option, quiet_option
from zoo.cli._params import CHECKPOINT, DTYPE, FORMAT, OUTPUT, SIZE, SIZE_IN_BYTES
from zoo.cli._progress import byte_progress, resolve
from zoo.cli._show import show_json
from zoo.cli.conversion_report import show_plan, show_report
from zoo.models.registry import Size


@click.command()
@click.argument("source_argument", metavar="[SOURCE]", type=CHECKPOINT, required=False)
@click.argument("out_argument", metavar="[OUT]", type=OUTPUT, required=False)
@click.option("--source", type=CHECKPOINT, help="The same as SOURCE.")
@out_option("The same as OUT.")
@from_option
@click.option(
    "--size",
    type=SIZE,
    help="Model that SOURCE must be (355M, gpt2-medium, ...), or a JSON file of a config. Without SOURCE, the model to "
    "download.",
)
@click.option("--to", type=FORMAT, help="Format to write.  [default: the one of OUT's suffix]")
@click.option(
    "--dtype", type=DTYPE, help="Cast to this dtype, or quantise to an encoding of the format: int4, q8_0, ..."
)
@click.option(
    "--max-shard-size",
    "max_shard_bytes",
    type=SIZE_IN_BYTES,
    help="Split the weights into files of at most this size (2GB, 500MB).",
)
@click.option(
    "--activation",
    type=click.Choice(["gelu_tanh", "gelu"]),
    help="Write this activation instead of the model's own; the logits differ slightly.",
)
@click.option(
    "--variant",
    help="Variant of the format: no-masks (book), no-prefix (huggingface), untied (gguf).",
)
@click.option("--strict", is_flag=True, help="Refuse if tensors would be left behind (a value head) or zeros added.")
@click.option("--keep-source", is_flag=True, help="Keep downloaded files in the cache; `zoo cache list` shows them.")
@click.option("--verify/--no-verify", default=True, help="Read the output back and compare it with the source.")
@force_option
@click.option(
    "--sync/--no-sync", default=True, show_default=True, help="Wait until the output is safe from a power failure."
)
@click.option("--dry-run", is_flag=True, help="Show what would happen to each tensor; write nothing.")
@json_option
@quiet_option
def convert(source_argument: str | None, out_argument: Path | None, **options: Any) -> None:
    """Convert a checkpoint and prove that nothing changed.

    SOURCE is a file, a directory, the name of a model or an address. OUT appears only when it is complete and has been
    compared with SOURCE, bit for bit.

    \b
    Examples:
      zoo convert --from openai --size 355M --out gpt2m.safetensors
      zoo convert models/355M gpt2m.safetensors
      zoo convert gpt2m.safetensors gpt2m-hf --to huggingface
      zoo convert gpt2m-hf gpt2m.pth --dry-run
      zoo convert gpt2m.safetensors gpt2m-int4.safetensors --dtype int4
    """
    from zoo.conversion.target import format_of_suffix

    source = _one(source_argument, options.pop("source"), "SOURCE", "--source")
    out = _one(out_argument, options.pop("out"), "OUT", "--out")
    if source is None and options["size"] is None:
        raise click.UsageError("Missing argument 'SOURCE', or '--size' of a model to download.")
    if out is None and not (options["dry_run"] and options["to"]):
        raise click.UsageError("Missing argument 'OUT' (with --dry-run, '--to' is enough).")
    target = options.pop("to") or format_of_suffix(out or Path())
    _run(source, out or Path(), target, **options)


def _one(argument: Any, option: Any, name: str, flag: str) -> Any:
    """Return what was given as an argument or as an option, but not both."""
    if argument is not None and option is not None:
        raise click.UsageError(f"Give {name} once: in its place, or as {flag}.")
    return option if argument is None else argument


def _run(
    source: str | None,
    out: Path,
    target: str,
    *,
    format: str | None,
    size: Size | None,
    keep_source: bool,
    dry_run: bool,
    as_json: bool,
    quiet: bool,
    **options: Any,
) -> None:
    from zoo.api.checkpoints import convert as run
    from zoo.api.checkpoints import make_plan
    from zoo.conversion.target import check_shape
    from zoo.core.output import check_output
    from zoo.formats.registry import get_format

    weights = {name: options.pop(name) for name in ("dtype", "max_shard_bytes", "activation", "variant", "strict")}
    check_shape(get_format(target), out)
    if not dry_run:
        check_output(out, force=options["force"])  # before something large is downloaded
    # A cast output has another size, so that the room for it is not known yet.
    beside = out.parent if weights["dtype"] is None and not dry_run else None
    with _checkpoint(source, format, size, keep_source or dry_run, beside) as (path, found):
        if dry_run:
            plan = make_plan(path, target, format=found, size=size, **weights)
            show_json(plan.to_dict()) if as_json else show_plan(plan)
            return
        with byte_progress(quiet=quiet or as_json) as on_progress:
            report = run(path, out, to=target, format=found, size=size, on_progress=on_progress, **weights, **options)
    if as_json:
        show_json(report.to_dict())
    elif not quiet:
        show_report(report)


@contextmanager
def _checkpoint(
    source: str | None, format: str | None, size: Size | None, keep: bool, beside: Path | None
) -> Iterator[tuple[Path, str | None]]:
    """The checkpoint to read and its format: the one named, or the published one of this size."""
    if source is not None:
        yield resolve(source), format
        return
    if not isinstance(size, str):
        raise click.UsageError("Missing argument 'SOURCE': --size is a config, which cannot be downloaded.")
    from zoo.hub.fetch import published

    with (
        byte_progress() as on_progress,
        published(size, format, keep=keep, beside=beside, on_progress=on_progress) as found,
    ):
        yield found
