"""zoo convert."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from zoo.cli._params import DTYPE, FORMAT, PATH, SIZE, SIZE_IN_BYTES
from zoo.cli._show import byte_progress, human_bytes, printable, shape_text, show_json, show_table
from zoo.models.registry import Size

if TYPE_CHECKING:
    from zoo.conversion.plan import Plan
    from zoo.conversion.run import Report


@click.command()
@click.option("--source", type=PATH, help="Checkpoint to read: a file, a directory; without it --size is downloaded.")
@click.option("--from", "format", type=FORMAT, help="Its format; recognised by its content if not given.")
@click.option("--size", type=SIZE, help="The model it must be (355M, gpt2-medium, ...), or a JSON file of a config.")
@click.option("--out", type=PATH, help="File or directory to write.")
@click.option("--to", type=FORMAT, help="Format to write; known from the suffix of --out if not given.")
@click.option("--dtype", type=DTYPE, help="Cast to this dtype, or quantise to one of the target's: int4, q8_0, ...")
@click.option(
    "--max-shard-size", type=SIZE_IN_BYTES, help="Spread the weights over files of at most this (2GB, 500MB)."
)
@click.option(
    "--activation",
    type=click.Choice(["gelu_tanh", "gelu"]),
    help="Write this activation instead of the model's own; logits differ slightly.",
)
@click.option("--strict", is_flag=True, help="Refuse if tensors would be left behind (a value head) or zeros added.")
@click.option("--keep-source", is_flag=True, help="Keep what was downloaded in the cache (zoo cache list shows it).")
@click.option("--verify/--no-verify", default=True, help="Read the output back and compare it with the source.")
@click.option("--force", is_flag=True, help="Replace an output that exists.")
@click.option("--dry-run", is_flag=True, help="Show what would be done to each tensor, and write nothing.")
@click.option("--json", "as_json", is_flag=True, help="Print the report, or the plan, as JSON.")
@click.option("--quiet", "-q", is_flag=True, help="Print nothing but errors.")
def convert(
    source: Path | None,
    format: str | None,
    size: Size | None,
    out: Path | None,
    to: str | None,
    dtype: str | None,
    max_shard_size: int | None,
    activation: str | None,
    strict: bool,
    keep_source: bool,
    verify: bool,
    force: bool,
    dry_run: bool,
    as_json: bool,
    quiet: bool,
) -> None:
    """Convert a checkpoint to another format, and prove that nothing changed.

    The output appears under its name only when it is whole and compared, bit for bit, with the source.

    \b
    Examples:
      zoo convert --from openai --size 355M --out gpt2m.safetensors
      zoo convert --source models/355M --size 355M --out gpt2m.safetensors
      zoo convert --source gpt2m.safetensors --to huggingface --out gpt2m-hf
      zoo convert --source gpt2m-hf --out gpt2m.pth --dry-run
      zoo convert --source gpt2m.safetensors --out gpt2m-int4.safetensors --dtype int4
    """
    from zoo.api.checkpoints import convert as run
    from zoo.api.checkpoints import make_plan
    from zoo.conversion.run import format_of_suffix

    if source is None and size is None:
        raise click.UsageError("Missing option '--source', or '--size' of a model to download.")
    if out is None and not (dry_run and to):
        raise click.UsageError("Missing option '--out' (with --dry-run, '--to' is enough).")
    target = to or format_of_suffix(out or Path())
    options: dict[str, Any] = {"dtype": dtype, "max_shard_bytes": max_shard_size}
    options |= {"activation": activation, "strict": strict}
    beside = out.parent if out and not dry_run and dtype is None else None  # a cast output has another size
    with _checkpoint(source, format, size, out, force, keep_source or dry_run, beside) as (path, found):
        if dry_run:
            plan = make_plan(path, target, format=found, size=size, **options)
            show_json(plan.to_dict()) if as_json else _show_plan(plan)
            return
        with byte_progress(quiet=quiet or as_json) as on_progress:
            report = run(
                path,
                out or Path(),
                to=target,
                format=found,
                size=size,
                **options,
                verify=verify,
                force=force,
                on_progress=on_progress,
            )
    if as_json:
        show_json(report.to_dict())
    elif not quiet:
        _show_report(report)


@contextmanager
def _checkpoint(
    source: Path | None,
    format: str | None,
    size: Size | None,
    out: Path | None,
    force: bool,
    keep: bool,
    beside: Path | None,
) -> Iterator[tuple[Path, str | None]]:
    """The checkpoint to read and its format: the one named, or the published one of this size."""
    if source is not None:
        from zoo.hub.resolve import find_checkpoint

        yield find_checkpoint(source), format
        return
    if not isinstance(size, str):
        raise click.UsageError("Missing option '--source': --size is no model that could be downloaded.")
    from zoo.core.output import check_output
    from zoo.hub.fetch import published

    if out is not None:
        check_output(out, force=force)  # before something large is downloaded
    with published(size, format, keep=keep, beside=beside) as found:
        yield found


def _show_plan(plan: Plan) -> None:
    rows = [
        [
            ", ".join(step.sources),
            shape_text(next(iter(step.sources.values()))),
            step.operation,
            ", ".join(step.targets),
            shape_text(next(iter(step.targets.values()))),
            step.dtype,
        ]
        for step in plan.steps()
    ]
    show_table(["source", "shape", "operation", "target", "shape", "dtype"], rows)
    for drop in plan.drops:
        click.echo(f"dropped: {drop.name}, {drop.why} (compared before anything is written)")
    for name in plan.added():
        click.echo(f"added: {name}")
    for note in plan.notes:
        click.echo(printable(f"note: {note}"))
    click.echo(f"{plan.source_format.name} -> {plan.target_format.name}, {human_bytes(plan.nbytes)}, {_kept(plan)}")


def _kept(done: Plan | Report) -> str:
    return "lossless" if done.lossless else "not lossless"


def _show_report(report: Report) -> None:
    head = "tied head" if report.tied else "untied head"
    click.echo(
        f"{report.out}: {report.tensors} tensors, {report.n_parameters:,} parameters ({head}), "
        f"{human_bytes(report.bytes_written)}, {report.source_format} -> {report.target_format}"
    )
    if report.prefix:
        click.echo(f"  prefix:  {report.prefix!r} stood before the source's names")
    if report.dropped:
        whys = sorted(set(report.dropped.values()))
        click.echo(f"  dropped: {len(report.dropped)} tensors, each compared first: {'; '.join(whys)}")
    if report.added:
        click.echo(f"  added:   {len(report.added)} tensors that follow from others, such as {report.added[0]}")
    for cast, count in report.cast.items():
        click.echo(f"  cast:    {count} tensors {cast}")
    if report.encoding:
        click.echo(f"  stored:  matrices as {report.encoding}")
    for note in report.notes:
        click.echo(printable(f"  note:    {note}"))
    checked = "read back and equal bit for bit" if report.verified else "not read back"
    memory = f", {human_bytes(report.peak_memory)} of memory" if report.peak_memory is not None else ""
    click.echo(f"  {_kept(report)}; {checked}; {report.seconds:.2f} s{memory}")
